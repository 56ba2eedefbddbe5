"""Recall into generation: what an agent remembers, put in front of the last user message.

Everything before that message stays as it is, so that a prefix which others share is shared still.
What is recalled becomes part of the turn as it is committed: the log shows it, and later turns
build on it; nothing is recalled again for words that were said.

Rule: recalling never makes a call fail that would have fitted: what doesn't fit is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aios_sdk.errors import InvalidParams, Unavailable
from aiosd.kernel.model import AgentId
from aiosd.services.access import Target
from aiosd.services.context import Context
from aiosd.services.documents import Mode
from aiosd.services.saved_notes import Note

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon

DEFAULT_K = 3
NOTE_CHARS = 2000  # of each note; a longer one is cut
QUERY_CHARS = 4000  # of the user's message: the embedder reads no more
HEADING = "What you remember:"

Params = dict[str, Any]


async def with_memories(
    daemon: Daemon, agent: AgentId, p: Params, context: Context, now_ms: int
) -> Params:
    """The params with what is recalled among the messages, and `recalled`, the ids of the notes.

    InvalidParams: there is no user message.  Denied: the agent may not read its memory.
    Unavailable: min_score compares vectors, and there is no embedder.
    """
    place = _place(p)
    daemon.access.check(daemon.access.subject(agent), "read", Target("memory", agent))
    notes = await _found(daemon, agent, p["recall"], p["messages"][place]["content"], now_ms)
    plain = {name: value for name, value in p.items() if name != "recall"}
    while notes:
        for messages in (_as_message(p["messages"], place, notes), _in_front(p, place, notes)):
            tried = plain | {"messages": messages, "recalled": [note.id for note in notes]}
            if await _is_taken(daemon, context, tried, _text(notes)):
                return tried
        notes = notes[:-1]
    return plain | {"recalled": []}


def _place(p: Params) -> int:
    """Which of the messages is the last of the user."""
    messages: Sequence[Params] = p.get("messages", ())
    for place in reversed(range(len(messages))):
        if messages[place]["role"] == "user":
            return place
    raise InvalidParams(
        "recall puts what is remembered before the last user message: give messages with one",
        field="recall",
    )


async def _found(
    daemon: Daemon, agent: AgentId, asked: Params, query: str, now_ms: int
) -> list[Note]:
    least = asked.get("min_score")
    if least is not None and daemon.search.embedder is None:
        raise Unavailable(
            "recall.min_score is the least cosine similarity, and no embedding model is loaded"
        )
    _, pairs = await daemon.memory.search(
        agent,
        query[:QUERY_CHARS],
        k=asked.get("k", DEFAULT_K),
        mode=Mode.HYBRID,
        tags=asked.get("tags", ()),
        now_ms=now_ms,
    )
    return [
        note
        for note, hit in pairs
        if least is None or (hit.similarity is not None and hit.similarity >= least)
    ]


def _text(notes: Sequence[Note]) -> str:
    def cut(content: str) -> str:
        return content if len(content) <= NOTE_CHARS else content[: NOTE_CHARS - 1] + "…"

    return "\n- ".join([HEADING, *(cut(note.content) for note in notes)])


def _as_message(messages: Sequence[Params], place: int, notes: Sequence[Note]) -> list[Params]:
    recalled = {"role": "system", "content": _text(notes)}
    return [*messages[:place], recalled, *messages[place:]]


def _in_front(p: Params, place: int, notes: Sequence[Note]) -> list[Params]:
    """For templates that take a system message at the beginning only."""
    messages = list(p["messages"])
    said = messages[place]
    messages[place] = {**said, "content": f"{_text(notes)}\n\n{said['content']}"}
    return messages


async def _is_taken(daemon: Daemon, context: Context, p: Params, text: str) -> bool:
    """Whether the model's template lets that text through, and there is room to answer."""

    def work() -> bool:
        try:
            turn = daemon.prompter.turn(context, p, generate=True)
        except InvalidParams:
            return False
        n_tokens = len(context.tokens) + len(turn.tokens)
        limit = daemon.model.info.slot_tokens
        has_room = limit - n_tokens >= min(p["max_tokens"], limit // 4)
        return has_room and text in daemon.prompter.detokenize(turn.tokens)

    n_chars = sum(len(message["content"]) for message in p["messages"])
    return await daemon.in_worker(work, context.agent.uid, n_chars)
