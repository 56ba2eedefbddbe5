"""Contexts in the database: their logs as rows that are written once, a turn at a time.

Rule 1: each function is one statement of what has happened, to be run inside Database.write() or
read(); several in one write happen together or not at all.
Rule 2: the caller says how many turns it believes are saved; if that is wrong, nothing is written:
memory and file can't drift apart unnoticed.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiosd.kernel.model import AgentId, ContextId
from aiosd.services.database import Transaction
from aiosd.services.entries import Entry, Part
from aiosd.services.retention import Held

_HEAD = "key, id, uid, agent, name, model, parent, created_ms, used_ms, n_bytes"
_TURN = "context, n_tokens, is_open, wants_reply, parts, tokens"


class NotAsSaved(Exception):  # noqa: N818 - says what is found
    """The database holds something else than the caller believes: a bug, or a deleted context."""


@dataclass(slots=True)
class SavedContext:
    """A context as the database holds it.  n_bytes is what it counts for in limits."""

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


def create(transaction: Transaction, context: SavedContext) -> None:
    """A new context without turns (see fork for one with some)."""
    transaction.execute(
        "INSERT INTO contexts (id, uid, agent, name, model, parent, created_ms, used_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            context.id,
            *context.agent,
            context.name,
            context.model,
            context.parent,
            context.created_ms,
            context.used_ms,
        ),
    )


def append(
    transaction: Transaction,
    context: ContextId,
    n_turns: int,
    turn: Entry,
    tokens: array[int],
    *,
    used_ms: int,
) -> None:
    """The turn that follows the n_turns saved ones.  Writes that turn and nothing of the others."""
    if len(tokens) != turn.n_tokens:
        raise ValueError(f"{len(tokens)} tokens for a turn of {turn.n_tokens}")
    parts = _parts_text(turn.parts)
    n_bytes = _size(turn.n_tokens, parts)
    key = _touch(transaction, context, n_turns, used_ms, n_tokens=turn.n_tokens, n_bytes=n_bytes)
    transaction.execute(
        "INSERT INTO turns (context, seq, n_tokens, n_bytes, is_open, wants_reply, parts, tokens)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            n_turns,
            turn.n_tokens,
            n_bytes,
            turn.is_open,
            turn.wants_reply,
            parts,
            to_blob(tokens),
        ),
    )


def rewind(
    transaction: Transaction,
    context: ContextId,
    n_turns: int,
    kept: tuple[int, Entry | None],
    *,
    used_ms: int,
) -> None:
    """Of n_turns saved ones, keep what entries.cut() gave."""
    n_whole, rest = kept
    key = _touch(transaction, context, n_turns, used_ms)
    n_left = n_whole + (rest is not None)
    transaction.execute("DELETE FROM turns WHERE context = ? AND seq >= ?", (key, n_left))
    if rest is not None:
        _copy_cut(transaction, key, key, n_whole, rest)
    _add_up(transaction, key)


def fork(
    transaction: Transaction,
    source: ContextId,
    kept: tuple[int, Entry | None],
    context: SavedContext,
) -> None:
    """A new context with what entries.cut() gave of the source's turns (all: (n_turns, None))."""
    n_whole, rest = kept
    row = transaction.execute(
        "SELECT key, n_turns FROM contexts WHERE id = ?", (source,)
    ).fetchone()
    n_needed = n_whole + (rest is not None)
    if row is None or row[1] < n_needed:
        raise NotAsSaved(_words(source, row and row[1], n_needed))
    create(transaction, context)
    (key,) = transaction.execute("SELECT key FROM contexts WHERE id = ?", (context.id,)).fetchone()
    transaction.execute(
        "INSERT INTO turns (context, seq, n_tokens, n_bytes, is_open, wants_reply, parts, tokens)"
        " SELECT ?, seq, n_tokens, n_bytes, is_open, wants_reply, parts, tokens"
        " FROM turns WHERE context = ? AND seq < ?",
        (key, row[0], n_whole),
    )
    if rest is not None:
        _copy_cut(transaction, row[0], key, n_whole, rest)
    _add_up(transaction, key)


def touch(transaction: Transaction, used_ms: Mapping[ContextId, int]) -> None:
    """Note when contexts were last used; ids that aren't there any more are passed over."""
    transaction.executemany(
        "UPDATE contexts SET used_ms = max(used_ms, ?) WHERE id = ?",
        [(ms, context) for context, ms in used_ms.items()],
    )


def delete(transaction: Transaction, contexts: Iterable[ContextId]) -> int:
    """How many of them there were.  Contexts forked from them stay."""
    return sum(
        transaction.execute("DELETE FROM contexts WHERE id = ?", (context,)).rowcount
        for context in contexts
    )


def load_all(transaction: Transaction) -> Iterator[SavedContext]:
    """Every context with its whole log, in order of creation, one at a time."""
    turns = transaction.execute(f"SELECT {_TURN} FROM turns ORDER BY context, seq")  # noqa: S608 - ours
    row = turns.fetchone()
    for head in transaction.execute(f"SELECT {_HEAD} FROM contexts ORDER BY key"):  # noqa: S608 - ours
        rows: list[tuple[Any, ...]] = []
        while row is not None and row[0] == head[0]:
            rows.append(row)
            row = turns.fetchone()
        yield _context(head, rows)


def load(transaction: Transaction, context: ContextId) -> SavedContext | None:
    """One context with its whole log, or None."""
    head = transaction.execute(
        f"SELECT {_HEAD} FROM contexts WHERE id = ?",  # noqa: S608 - our own column names
        (context,),
    ).fetchone()
    if head is None:
        return None
    turns = transaction.execute(
        f"SELECT {_TURN} FROM turns WHERE context = ? ORDER BY seq",  # noqa: S608 - likewise
        (head[0],),
    )
    return _context(head, turns.fetchall())


def held(transaction: Transaction) -> list[Held]:
    """What retention chooses from; all idle, as far as the database knows."""
    rows = transaction.execute("SELECT id, uid, agent, used_ms, n_bytes FROM contexts")
    return [
        Held(ContextId(id_), AgentId(uid, agent), used_ms, n_bytes)
        for id_, uid, agent, used_ms, n_bytes in rows
    ]


def count(transaction: Transaction) -> tuple[int, int]:
    """(contexts, bytes they count for in all)."""
    row: tuple[int, int] = transaction.execute(
        "SELECT count(*), coalesce(sum(n_bytes), 0) FROM contexts"
    ).fetchone()
    return row


def entry_bytes(entry: Entry) -> int:
    """What a turn counts for in limits."""
    return _size(entry.n_tokens, _parts_text(entry.parts))


def to_blob(tokens: array[int]) -> bytes:
    """Little-endian int32, whatever the machine."""
    if sys.byteorder == "big":
        tokens = tokens[:]
        tokens.byteswap()
    return tokens.tobytes()


def from_blob(blob: bytes) -> array[int]:
    tokens = array("i")
    tokens.frombytes(blob)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens


def _context(head: tuple[Any, ...], turns: list[tuple[Any, ...]]) -> SavedContext:
    """From rows of _HEAD and _TURN."""
    _, id_, uid, agent, name, model, parent, created_ms, used_ms, n_bytes = head
    return SavedContext(
        ContextId(id_),
        AgentId(uid, agent),
        model,
        created_ms,
        used_ms,
        name,
        None if parent is None else ContextId(parent),
        from_blob(b"".join(turn[5] for turn in turns)),
        [Entry(turn[1], _parts(turn[4]), bool(turn[2]), bool(turn[3])) for turn in turns],
        n_bytes,
    )


def _touch(
    transaction: Transaction,
    context: ContextId,
    n_turns: int,
    used_ms: int,
    *,
    n_tokens: int = 0,
    n_bytes: int = 0,
) -> int:
    """Bring the context's row up to date, for one turn more if it has tokens; its key."""
    row = transaction.execute(
        "UPDATE contexts SET used_ms = max(used_ms, ?), n_turns = n_turns + ?,"
        " n_tokens = n_tokens + ?, n_bytes = n_bytes + ?"
        " WHERE id = ? AND n_turns = ? RETURNING key",
        (used_ms, n_bytes > 0, n_tokens, n_bytes, context, n_turns),
    ).fetchone()
    if row is None:
        found = transaction.execute(
            "SELECT n_turns FROM contexts WHERE id = ?", (context,)
        ).fetchone()
        raise NotAsSaved(_words(context, found and found[0], n_turns))
    key: int = row[0]
    return key


def _copy_cut(transaction: Transaction, source: int, target: int, seq: int, rest: Entry) -> None:
    """What stays of a turn, as the target's; its tokens are the first of the source's."""
    parts = _parts_text(rest.parts)
    transaction.execute(
        "INSERT OR REPLACE INTO turns"
        " (context, seq, n_tokens, n_bytes, is_open, wants_reply, parts, tokens)"
        " SELECT ?, seq, ?, ?, ?, ?, ?, substr(tokens, 1, ?)"
        " FROM turns WHERE context = ? AND seq = ?",
        (
            target,
            rest.n_tokens,
            _size(rest.n_tokens, parts),
            rest.is_open,
            rest.wants_reply,
            parts,
            4 * rest.n_tokens,
            source,
            seq,
        ),
    )


def _add_up(transaction: Transaction, key: int) -> None:
    transaction.execute(
        "UPDATE contexts SET (n_turns, n_tokens, n_bytes) ="
        " (SELECT count(*), coalesce(sum(n_tokens), 0), coalesce(sum(n_bytes), 0)"
        "  FROM turns WHERE context = key) WHERE key = ?",
        (key,),
    )


def _size(n_tokens: int, parts: str) -> int:
    """At least 1: the parts of an empty turn are "[]"."""
    return 4 * n_tokens + len(parts.encode())


def _parts_text(parts: Iterable[Part]) -> str:
    return json.dumps(
        [[part.message, part.start, part.end, part.goes_on] for part in parts],
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _parts(text: str) -> tuple[Part, ...]:
    if text == "[]":
        return ()
    loaded: list[list[Any]] = json.loads(text)
    return tuple(Part(*fields) for fields in loaded)


def _words(context: ContextId, n_saved: int | None, n_expected: int) -> str:
    if n_saved is None:
        return f"context {context} is not saved"
    return f"context {context} has {n_saved} turns saved, {n_expected} were expected"
