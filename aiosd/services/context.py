"""Contexts: append-only logs of tokens with the messages they came from, each owned by an agent.

Rule 1: what memory says is in the database first: every change is written, then made.
Rule 2: the log changes only at its end (a turn that has ended) or by rewinding to an earlier state.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aios_sdk.errors import Busy, NotFound, QuotaExceeded
from aiosd.kernel.model import AgentId, ContextId, JobId
from aiosd.services import entries, saved_agents, saved_contexts
from aiosd.services.database import Database, Transaction
from aiosd.services.entries import Entry, Message, Place
from aiosd.services.retention import Held, Retention, to_drop
from aiosd.services.saved_contexts import SavedContext

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """One conversation.

    tokens      the log, C int32
    log         what the turns said, one Entry each
    busy_with   the job or call that holds the context, if any
    """

    id: ContextId
    agent: AgentId
    model: str
    created_ms: int
    used_ms: int
    name: str | None = None
    parent: ContextId | None = None
    tokens: array[int] = field(default_factory=lambda: array("i"))
    log: list[Entry] = field(default_factory=list)
    n_bytes: int = 0
    busy_with: JobId | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # orders short calls on it

    @property
    def messages(self) -> list[Message]:
        """What the log says, as far as it came from messages (raw prompts leave none)."""
        return entries.messages(self.log)

    def add(self, entry: Entry, tokens: array[int]) -> None:
        """A turn joins the log, in memory."""
        self.log.append(entry)
        self.tokens.extend(tokens)

    @property
    def is_open(self) -> bool:
        """The log ends inside an assistant's turn, which the next message must close first."""
        return bool(self.log) and self.log[-1].is_open

    @property
    def wants_reply(self) -> bool:
        """The log ends after a message that asks for an answer."""
        return bool(self.log) and self.log[-1].wants_reply


@dataclass(frozen=True, slots=True)
class Turn:
    """What a call adds to a context: tokens for the log, and what they mean."""

    tokens: array[int]
    messages: tuple[Message, ...] = ()
    is_open: bool = False
    wants_reply: bool = False


class ContextStore:
    """All contexts of the daemon: in memory, as the database has them."""

    def __init__(self, database: Database, limits: Retention, per_uid: int) -> None:
        self._database = database
        self._limits = limits
        self._per_uid = per_uid
        self._contexts: dict[ContextId, Context] = {}
        self._n_by_agent: Counter[AgentId] = Counter()
        self._n_by_uid: Counter[int] = Counter()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def limit_bytes(self) -> int | None:
        return self._limits.total_bytes

    def set_limits(self, limits: Retention, per_uid: int) -> None:
        """For contexts to come, and for the next retire()."""
        self._limits = limits
        self._per_uid = per_uid

    async def load(self) -> None:
        """Bring in what an earlier daemon left."""
        for saved in await self._database.read(lambda t: list(saved_contexts.load_all(t))):
            self._n_by_agent[saved.agent] += 1
            self._n_by_uid[saved.agent.uid] += 1
            self._enter(
                Context(
                    saved.id,
                    saved.agent,
                    saved.model,
                    saved.created_ms,
                    saved.used_ms,
                    saved.name,
                    saved.parent,
                    saved.tokens,
                    saved.log,
                    saved.n_bytes,
                )
            )

    # ------------------------------------------------------------ finding

    def get(self, context: str) -> Context:
        """The context, whoever's it is; whether that may be told is the access manager's part."""
        found = self._contexts.get(ContextId(context))
        if found is None:
            raise NotFound(f"no context {context!r}", context=context)
        return found

    def all(self) -> Iterator[Context]:
        return iter(self._contexts.values())

    def count_by_agent(self) -> Counter[AgentId]:
        return self._n_by_agent

    # ------------------------------------------------------------ changing

    async def create(
        self,
        agent: AgentId,
        model: str,
        now_ms: int,
        *,
        since_ms: int,
        name: str | None,
        turn: Turn | None,
    ) -> Context:
        """A new context, with a first turn if there is one.  QuotaExceeded past a limit.

        since_ms: when the agent came, for its own record.
        """
        context = Context(new_context_id(), agent, model, now_ms, now_ms, name)
        entry = None if turn is None else entry_of(context, turn, None, 0)

        def work(transaction: Transaction) -> None:
            saved_contexts.create(transaction, _saved(context))
            saved_agents.add(transaction, agent, since_ms, 0)
            if entry is not None and turn is not None:
                saved_contexts.append(
                    transaction, context.id, 0, entry, turn.tokens, used_ms=now_ms
                )

        def on_commit(_: None) -> None:
            self._enter(context)
            if entry is not None and turn is not None:
                self._grow(context, entry, turn.tokens, now_ms)

        with self._room(agent):
            await self._write(work, on_commit)
        return context

    async def append(
        self,
        context: Context,
        entry: Entry,
        tokens: array[int],
        now_ms: int,
        also: Callable[[Transaction], None] | None = None,
    ) -> None:
        """The turn has ended: it is on the disk when this returns.  also: more for that write."""
        n_turns = len(context.log)

        def work(transaction: Transaction) -> None:
            saved_contexts.append(transaction, context.id, n_turns, entry, tokens, used_ms=now_ms)
            if also is not None:
                also(transaction)

        await self._write(work, lambda _: self._grow(context, entry, tokens, now_ms))

    async def rewind(
        self, context: Context, at: Place, text_of: Callable[[int, int], str], now_ms: int
    ) -> None:
        """Back to an earlier state of the log."""
        n_turns = len(context.log)
        kept = entries.cut(context.log, at, text_of)

        def on_commit(_: None) -> None:
            n_tokens = sum(e.n_tokens for e in context.log[: at.turn]) + at.offset
            self._shrink(context, kept, n_tokens)
            context.used_ms = now_ms

        await self._write(
            lambda t: saved_contexts.rewind(t, context.id, n_turns, kept, used_ms=now_ms),
            on_commit,
        )

    async def fork(
        self,
        source: Context,
        at: Place,
        text_of: Callable[[int, int], str],
        now_ms: int,
        *,
        agent: AgentId,
        since_ms: int,
        name: str | None,
    ) -> Context:
        """A new context of the agent's that starts as the source was at that place."""
        kept = entries.cut(source.log, at, text_of)
        context = Context(new_context_id(), agent, source.model, now_ms, now_ms, name, source.id)
        log, tokens, n_bytes = list(source.log), source.tokens[:], source.n_bytes
        n_tokens = sum(e.n_tokens for e in log[: at.turn]) + at.offset

        def on_commit(_: None) -> None:
            context.log, context.tokens, context.n_bytes = log, tokens, n_bytes
            self._enter(context)
            self._shrink(context, kept, n_tokens)

        def work(transaction: Transaction) -> None:
            saved_contexts.fork(transaction, source.id, kept, _saved(context))
            saved_agents.add(transaction, agent, since_ms, 0)

        with self._room(agent):
            await self._write(work, on_commit)
        return context

    async def delete(self, context: Context) -> None:
        """Busy while a job runs on it."""
        check_idle(context)
        await self._write(
            lambda t: saved_contexts.delete(t, [context.id]), lambda _: self._forget(context)
        )

    async def retire(self, now_ms: int) -> list[Context]:
        """Let go what is past its time or its limits; returns what went."""
        held = [Held(c.id, c.agent, c.used_ms, c.n_bytes) for c in self._contexts.values()]
        busy = frozenset(c.id for c in self._contexts.values() if c.busy_with or c.lock.locked())
        gone = [self._contexts[id_] for id_ in to_drop(held, self._limits, now_ms, busy)]
        if not gone:
            return []

        def on_commit(_: int) -> None:
            for context in gone:
                self._forget(context)

        def work(transaction: Transaction) -> int:
            n_gone = saved_contexts.delete(transaction, [context.id for context in gone])
            saved_agents.forget_unused(transaction)
            return n_gone

        await self._database.write(work, on_commit)
        return gone

    # ------------------------------------------------------------ inside

    async def _write(
        self, work: Callable[[Transaction], T], on_commit: Callable[[T], object]
    ) -> None:
        """What has happened is told: a caller cancelled too late for that isn't cancelled."""
        has_happened = False

        def note(value: T) -> None:
            nonlocal has_happened
            has_happened = True
            on_commit(value)

        try:
            await self._database.write(work, note)
        except asyncio.CancelledError:
            if not has_happened:
                raise

    @contextlib.contextmanager
    def _room(self, agent: AgentId) -> Iterator[None]:
        """Room for one context more, taken while it is being written."""
        self._check_room(agent)
        self._n_by_agent[agent] += 1
        self._n_by_uid[agent.uid] += 1
        try:
            yield
        except BaseException:
            self._n_by_agent -= Counter({agent: 1})
            self._n_by_uid -= Counter({agent.uid: 1})
            raise

    def _check_room(self, agent: AgentId) -> None:
        for who, limit, used in (
            (f"agent {agent.name}", self._limits.per_agent, self._n_by_agent[agent]),
            (f"uid {agent.uid}", self._per_uid, self._n_by_uid[agent.uid]),
        ):
            if limit is not None and used >= limit:
                raise QuotaExceeded(
                    f"{who} has {used} contexts, the limit is {limit}; delete some",
                    limit=limit,
                    used=used,
                )

    def _enter(self, context: Context) -> None:
        """The context is on the disk; its room was taken before."""
        self._contexts[context.id] = context
        self.n_bytes += context.n_bytes

    def _forget(self, context: Context) -> None:
        if self._contexts.pop(context.id, None) is None:
            return
        self._n_by_agent -= Counter({context.agent: 1})
        self._n_by_uid -= Counter({context.agent.uid: 1})
        self.n_bytes -= context.n_bytes

    def _grow(self, context: Context, entry: Entry, tokens: array[int], now_ms: int) -> None:
        context.add(entry, tokens)
        context.used_ms = now_ms
        self._resize(context, context.n_bytes + saved_contexts.entry_bytes(entry))

    def _shrink(self, context: Context, kept: tuple[int, Entry | None], n_tokens: int) -> None:
        n_whole, rest = kept
        context.log = context.log[:n_whole] + ([] if rest is None else [rest])
        context.tokens = context.tokens[:n_tokens]
        self._resize(context, sum(map(saved_contexts.entry_bytes, context.log)))

    def _resize(self, context: Context, n_bytes: int) -> None:
        self.n_bytes += n_bytes - context.n_bytes
        context.n_bytes = n_bytes


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


def entry_of(
    context: Context,
    turn: Turn,
    reply: str | None,
    n_reply_tokens: int,
    calls: Sequence[Message] = (),
) -> Entry:
    """The Entry of a turn that follows the context's log; the reply's tokens come on top."""
    return entries.entry(
        context.log,
        len(turn.tokens) + n_reply_tokens,
        turn.messages,
        is_open=turn.is_open,
        wants_reply=turn.wants_reply,
        reply=reply,
        n_reply_tokens=n_reply_tokens,
        calls=calls,
    )


def _saved(context: Context) -> SavedContext:
    return SavedContext(
        context.id,
        context.agent,
        context.model,
        context.created_ms,
        context.used_ms,
        context.name,
        context.parent,
    )


def describe(context: Context, residence: str, snapshot_bytes: int) -> dict[str, Any]:
    """The result of context.info."""
    return {
        "context": context.id,
        **({"name": context.name} if context.name is not None else {}),
        "agent": context.agent.name,
        "uid": context.agent.uid,
        "model": context.model,
        "n_tokens": len(context.tokens),
        "n_messages": entries.n_messages(context.log),
        "residence": residence,
        "snapshot_bytes": snapshot_bytes,
        "busy": context.busy_with is not None,
        **({"parent": context.parent} if context.parent is not None else {}),
        "created_ms": context.created_ms,
        "used_ms": context.used_ms,
    }
