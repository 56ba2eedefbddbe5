"""Contexts: append-only logs of tokens with the messages they came from, each owned by an agent.

Rule 1: plain values in and out; nothing here waits, tokenises or knows the engine.
Rule 2: another uid's context does not exist (NotFound), another agent's of one's own uid is Denied.
Rule 3: the log changes only by commit(), when a turn or an append has ended.
"""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aios_sdk.errors import Busy, Denied, NotFound, QuotaExceeded
from aiosd.kernel.model import AgentId, ContextId, JobId

Message = dict[str, str]


@dataclass(slots=True)
class Context:
    """One conversation.

    tokens      the log, C int32
    messages    what the log says, as far as it came from messages (raw prompts leave none)
    is_open     the log ends inside an assistant's turn, which the next message must close first
    wants_reply the log ends after a message that asks for an answer
    busy_with   the job or call that holds the context, if any
    """

    id: ContextId
    agent: AgentId
    model: str
    created_ms: int
    used_ms: int
    name: str | None = None
    tokens: array[int] = field(default_factory=lambda: array("i"))
    messages: list[Message] = field(default_factory=list)
    is_open: bool = False
    wants_reply: bool = False
    parent: ContextId | None = None
    busy_with: JobId | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # orders short calls on it


@dataclass(frozen=True, slots=True)
class Turn:
    """What a call adds to a context: tokens for the log, and what they mean."""

    tokens: array[int]
    messages: tuple[Message, ...] = ()
    is_open: bool = False
    wants_reply: bool = False


class ContextStore:
    """All contexts of the daemon, in memory: they live as long as it does."""

    def __init__(self, per_agent: int, per_uid: int) -> None:
        self._per_agent = per_agent
        self._per_uid = per_uid
        self._contexts: dict[ContextId, Context] = {}
        self._n_by_agent: Counter[AgentId] = Counter()
        self._n_by_uid: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._contexts)

    def create(self, agent: AgentId, model: str, now_ms: int, name: str | None = None) -> Context:
        """A new, empty context.  QuotaExceeded past a limit."""
        if self._n_by_agent[agent] >= self._per_agent:
            raise QuotaExceeded(
                f"agent {agent.name} has {self._per_agent} contexts, the limit; delete some",
                limit=self._per_agent,
                used=self._n_by_agent[agent],
            )
        if self._n_by_uid[agent.uid] >= self._per_uid:
            raise QuotaExceeded(
                f"uid {agent.uid} has {self._per_uid} contexts, which is the limit; delete some",
                limit=self._per_uid,
                used=self._n_by_uid[agent.uid],
            )
        context = Context(new_context_id(), agent, model, now_ms, now_ms, name)
        self._contexts[context.id] = context
        self._n_by_agent[agent] += 1
        self._n_by_uid[agent.uid] += 1
        return context

    def get(self, context: str, agent: AgentId, *, is_admin: bool = False) -> Context:
        """The agent's own context.  is_admin: other agents' of the uid too, no other uid's."""
        found = self._contexts.get(ContextId(context))
        if found is None or found.agent.uid != agent.uid:
            raise NotFound(f"no context {context!r}", context=context)
        if found.agent != agent and not is_admin:
            raise Denied(f"context {context!r} belongs to agent {found.agent.name}")
        return found

    def all(self) -> Iterator[Context]:
        return iter(self._contexts.values())

    def count_by_agent(self) -> Counter[AgentId]:
        return self._n_by_agent

    def delete(self, context: Context) -> None:
        """Busy while a job runs on it."""
        check_idle(context)
        del self._contexts[context.id]
        self._n_by_agent -= Counter({context.agent: 1})
        self._n_by_uid -= Counter({context.agent.uid: 1})


def new_context_id() -> ContextId:
    """Unguessable, so that an id is no hint of how many contexts others have."""
    return ContextId("c" + secrets.token_hex(8))


def check_idle(context: Context) -> None:
    """Busy, with data.job, while a job or call holds the context."""
    if context.busy_with is not None:
        raise Busy(
            f"context {context.id} is busy with job {context.busy_with}; wait for it or cancel it",
            job=context.busy_with,
        )


def commit(context: Context, turn: Turn, reply: str | None, now_ms: int) -> None:
    """Add a turn that has ended: its tokens (the reply's too), its messages, the reply's words.

    A reply after a turn without messages goes on with the last assistant message, if that is open.
    """
    goes_on = not turn.messages and context.is_open
    context.tokens.extend(turn.tokens)
    context.messages.extend(turn.messages)
    if reply is not None:
        last = context.messages[-1] if context.messages else None
        if goes_on and last is not None and last["role"] == "assistant":
            context.messages[-1] = {**last, "content": last["content"] + reply}
        elif turn.is_open:
            context.messages.append({"role": "assistant", "content": reply})
    context.is_open = turn.is_open
    context.wants_reply = turn.wants_reply
    context.used_ms = now_ms


def describe(context: Context, residence: str, snapshot_bytes: int) -> dict[str, Any]:
    """The result of context.info."""
    return {
        "context": context.id,
        **({"name": context.name} if context.name is not None else {}),
        "agent": context.agent.name,
        "uid": context.agent.uid,
        "model": context.model,
        "n_tokens": len(context.tokens),
        "n_messages": len(context.messages),
        "residence": residence,
        "snapshot_bytes": snapshot_bytes,
        "busy": context.busy_with is not None,
        **({"parent": context.parent} if context.parent is not None else {}),
        "created_ms": context.created_ms,
        "used_ms": context.used_ms,
    }
