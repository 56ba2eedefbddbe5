"""What a context's log says: one Entry per turn, from which its messages and states follow.

Rule 1: plain values; nothing here waits, tokenises or knows the engine or the database.
Rule 2: an Entry is never changed.  A reply that goes on with an earlier message is a Part of its
own turn, marked so; the whole message is put together by messages().
Rule 3: so every earlier state is still there: rewinding and forking are cut() and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

Message = dict[str, Any]
"""role and content, and what more a message may have in syscalls.MESSAGES; tools: those that the
model was told of with it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What some of a turn's tokens say; offsets count from the turn's first token.

    message  a message; if goes_on, what it adds to the content of the last one
    start    where a reply's own tokens begin; None for a message that was given
    end      where the message is complete; None where that isn't known (see with_end)
    """

    message: Message
    start: int | None = None
    end: int | None = None
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One turn: how many tokens it added, what they say, and how it left the log."""

    n_tokens: int
    parts: tuple[Part, ...] = ()
    is_open: bool = False
    wants_reply: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a log: before turn number `turn`, or `offset` tokens into it."""

    turn: int
    offset: int


def entry(
    before: Sequence[Entry],
    n_tokens: int,
    messages: Sequence[Message],
    *,
    is_open: bool,
    wants_reply: bool,
    reply: str | None = None,
    n_reply_tokens: int = 0,
    calls: Sequence[Message] = (),
) -> Entry:
    """The turn that follows `before`: n_tokens in all, the last n_reply_tokens of them the reply's.

    A reply after a turn without messages goes on with the last assistant message, if that is open.
    calls: what the reply calls, as tool_calls has it.
    """
    parts = [Part(message) for message in messages]
    if parts and not is_open:
        parts[-1] = replace(parts[-1], end=n_tokens)  # nothing follows it
    if reply is not None:
        start = n_tokens - n_reply_tokens
        said: Message = {"content": reply} | ({"tool_calls": list(calls)} if calls else {})
        was_open = bool(before) and before[-1].is_open
        if not messages and was_open and _last_role(before) == "assistant":
            parts.append(Part(said, start, n_tokens, goes_on=True))
        elif is_open:
            parts.append(Part({"role": "assistant"} | said, start, n_tokens))
    return Entry(n_tokens, tuple(parts), is_open, wants_reply)


def messages(log: Sequence[Entry]) -> list[Message]:
    """The messages of the whole log, new dicts."""
    found: list[Message] = []
    for turn in log:
        for part in turn.parts:
            if part.goes_on:
                last, more = found[-1], part.message
                last["content"] += more["content"]
                if "tool_calls" in more:
                    last["tool_calls"] = [*last.get("tool_calls", ()), *more["tool_calls"]]
            else:
                found.append(dict(part.message))
    return found


def n_messages(log: Sequence[Entry]) -> int:
    return sum(not part.goes_on for turn in log for part in turn.parts)


def place(log: Sequence[Entry], n_tokens: int) -> Place:
    """Where the first n_tokens end: as late as possible, so that turns that add no tokens stay.
    ValueError beyond the log."""
    turn, left = 0, n_tokens
    while turn < len(log) and log[turn].n_tokens <= left:
        left -= log[turn].n_tokens
        turn += 1
    if left < 0 or (left and turn == len(log)):
        raise ValueError(f"{n_tokens} tokens, the log has {sum(t.n_tokens for t in log)}")
    return Place(turn, left)


def place_of_message(log: Sequence[Entry], n_kept: int) -> Place | tuple[int, int]:
    """Where the first n_kept messages end.

    If no token offset is known for that: (turn, part), the last part to keep.  The caller finds
    the offset (the tokens of the turn's messages up to there, rendered without an opening for the
    assistant, must begin the turn's tokens), notes it by with_end() and asks again.
    ValueError if there are fewer messages.
    """
    if n_kept == 0:
        return Place(0, 0)
    spots = [
        (turn, index, part) for turn, one in enumerate(log) for index, part in enumerate(one.parts)
    ]
    n_seen = 0
    for (turn, index, part), (_, _, following) in pairwise([*spots, (0, 0, Part({}))]):
        n_seen += not part.goes_on
        if n_seen == n_kept and not following.goes_on:
            if part.end is None:
                return turn, index
            is_whole = part.end == log[turn].n_tokens
            return Place(turn + 1, 0) if is_whole else Place(turn, part.end)
    raise ValueError(f"{n_kept} messages, the log has {n_seen}")


def with_end(turn: Entry, index: int, end: int) -> Entry:
    """The turn, knowing where its part ends."""
    known = replace(turn.parts[index], end=end)
    return replace(turn, parts=(*turn.parts[:index], known, *turn.parts[index + 1 :]))


def cut(
    log: Sequence[Entry], at: Place, text_of: Callable[[int, int], str]
) -> tuple[int, Entry | None]:
    """(how many whole turns stay, what stays of the next one).

    Within a turn, messages known to end by then stay, with those before them.  A reply that is cut
    keeps the words of its tokens, text_of(first, end) by offsets in the whole log, and is open;
    what it called is then among these words.  A cut after a given message leaves the log as if that
    had been appended alone; one inside the tokens of given messages leaves tokens that no message
    accounts for.
    """
    if at.offset == 0:
        return at.turn, None
    whole = log[at.turn]
    first_token = sum(turn.n_tokens for turn in log[: at.turn])
    given = tuple(part for part in whole.parts if part.start is None)
    reply = next((part for part in whole.parts if part.start is not None), None)
    if reply is not None and reply.start is not None and reply.start <= at.offset:
        words = text_of(first_token + reply.start, first_token + at.offset)
        said = {k: v for k, v in reply.message.items() if k != "tool_calls"} | {"content": words}
        part = replace(reply, message=said, end=at.offset)
        return at.turn, Entry(at.offset, (*given, part), is_open=True)
    if not given:  # its first tokens came raw, or only open the reply
        return at.turn, Entry(at.offset, is_open=at.turn > 0 and log[at.turn - 1].is_open)
    ends = [part.end for part in given]
    n_kept = max((i + 1 for i, end in enumerate(ends) if end and end <= at.offset), default=0)
    wants_reply = (
        n_kept > 0
        and ends[n_kept - 1] == at.offset
        and given[n_kept - 1].message.get("role") != "assistant"
    )
    return at.turn, Entry(at.offset, given[:n_kept], wants_reply=wants_reply)


def _last_role(log: Sequence[Entry]) -> str | None:
    for turn in reversed(log):
        for part in reversed(turn.parts):
            if not part.goes_on:
                return part.message.get("role")
    return None
