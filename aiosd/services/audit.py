"""The audit: what was denied, asked, approved, and done by right of `admin`, as a chain of hashes.

Rule 1: rows are only added.  A row's hash covers the row and the hash of the one before it, so a
changed, removed or inserted row shows; the head (number and hash of the last one) is kept beside
them and in the daemon's log, so a cut tail shows too.
Rule 2: the oldest go when there are too many: the hash of the last one gone is the anchor that the
rest hangs on.
Rule 3: names of things, never what is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction

MAX_NAME = 512  # characters of a thing's name; a longer one is cut
FILTERS = ("event", "agent", "uid", "kind")
_FIELDS = "time_ms, last_ms, n, event, uid, agent, act, kind, owner_uid, owner, name, decided_by"
_Row = tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision, or n alike.

    event  denied, hidden (denied as not found), asked, withdrawn, refused, approved, admin,
           changed, bounded (a tool's or an agent's process was ended for using too much)
    by     what decided it: owner, right, confirm, timeout, restart…, the bound, or UID:NAME
    """

    time_ms: int
    event: str
    agent: AgentId
    act: str
    kind: str
    owner: AgentId | None
    name: str
    by: str
    n: int = 1
    last_ms: int = 0

    def row(self) -> _Row:
        name = self.name if len(self.name) <= MAX_NAME else self.name[: MAX_NAME - 1] + "…"
        return (
            self.time_ms,
            self.last_ms or self.time_ms,
            self.n,
            self.event,
            *self.agent,
            self.act,
            self.kind,
            *(self.owner or (None, None)),
            name,
            self.by,
        )


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Chain:
    """Where the chain hangs and where it ends, as it was written beside it."""

    anchor: Link
    head: Link


def append(t: Transaction, entries: Sequence[Entry], max_entries: int) -> Link:
    """Add entries; the new head.  Past max_entries the oldest go."""
    chain = read_chain(t)
    head = chain.head
    rows = []
    for entry in entries:
        row = entry.row()
        head = Link(head.seq + 1, _hash(head, row))
        rows.append((head.seq, *row, head.hash))
    marks = ", ".join("?" * (len(_FIELDS.split(",")) + 2))
    t.executemany(f"INSERT INTO audit (seq, {_FIELDS}, hash) VALUES ({marks})", rows)  # noqa: S608 - our own names
    anchor = chain.anchor
    last_gone = head.seq - max_entries
    if last_gone > anchor.seq:
        found = t.execute("SELECT hash FROM audit WHERE seq = ?", (last_gone,)).fetchone()
        if found is not None:  # a broken chain isn't mended here: verify() has to find it
            t.execute("DELETE FROM audit WHERE seq <= ?", (last_gone,))
            anchor = Link(last_gone, found[0])
    t.execute(
        "UPDATE audit_chain SET anchor_seq = ?, anchor_hash = ?, head_seq = ?, head_hash = ?",
        (anchor.seq, anchor.hash, head.seq, head.hash),
    )
    return head


def read_chain(t: Transaction) -> Chain:
    anchor_seq, anchor_hash, head_seq, head_hash = t.execute(
        "SELECT anchor_seq, anchor_hash, head_seq, head_hash FROM audit_chain"
    ).fetchone()
    return Chain(Link(anchor_seq, anchor_hash), Link(head_seq, head_hash))


def read(
    t: Transaction,
    *,
    limit: int,
    since_ms: int = 0,
    before: int | None = None,
    is_hidden_shown: bool = True,
    **filters: str | int,
) -> list[tuple[int, Entry]]:
    """The newest entries that pass, oldest first, with their numbers.  before: a number."""
    where, values = ["last_ms >= ?"], [since_ms]
    asked: list[str | int] = []
    for name, value in filters.items():
        assert name in FILTERS
        where.append(f"{name} = ?")
        asked.append(value)
    if before is not None:
        where.append("seq < ?")
        asked.append(before)
    if not is_hidden_shown:
        where.append("event != 'hidden'")
    rows = t.execute(
        f"SELECT seq, {_FIELDS} FROM audit WHERE {' AND '.join(where)}"  # noqa: S608 - our own names
        " ORDER BY seq DESC LIMIT ?",
        (*values, *asked, limit),
    ).fetchall()
    return [(row[0], _entry(row[1:])) for row in reversed(rows)]


def check_part(t: Transaction, after: Link, up_to: int, n_rows: int) -> tuple[Link, str | None]:
    """Follow the chain for n_rows after a link that holds: how far it holds, and what is wrong."""
    rows = t.execute(
        f"SELECT seq, {_FIELDS}, hash FROM audit WHERE seq > ? AND seq <= ?"  # noqa: S608 - our own names
        " ORDER BY seq LIMIT ?",
        (after.seq, up_to, n_rows),
    ).fetchall()
    for row in rows:
        if row[0] != after.seq + 1:
            return after, f"entry {after.seq + 1} is missing"
        if row[-1] != _hash(after, row[1:-1]):
            return after, f"entry {row[0]} is not as it was written, or what came before it isn't"
        after = Link(row[0], row[-1])
    if not rows and after.seq < up_to:
        return after, f"entry {after.seq + 1} is missing: the end was cut off"
    return after, None


def check_end(t: Transaction, last: Link, chain: Chain) -> str | None:
    """Whether the last link that holds is the head that was kept beside the rows."""
    if last != chain.head:
        return f"entry {last.seq} is the last, the head that was kept is {chain.head.seq}"
    beyond = t.execute("SELECT max(seq) FROM audit").fetchone()[0]
    now = read_chain(t)
    if beyond is not None and beyond > now.head.seq:
        return f"entry {beyond} is beyond the head that was kept, {now.head.seq}"
    return None


def check_noted(t: Transaction, noted: Link) -> str | None:
    """Whether the chain, which is whole, holds a link that was noted elsewhere."""
    row = t.execute("SELECT hash FROM audit WHERE seq = ?", (noted.seq,)).fetchone()
    chain = read_chain(t)
    if row is None and noted.seq < chain.anchor.seq:
        return None  # let go in its time
    found = chain.anchor.hash if noted.seq == chain.anchor.seq else row and row[0]
    return None if found == noted.hash else f"entry {noted.seq} is not the one that was noted"


def _entry(row: _Row) -> Entry:
    time_ms, last_ms, n, event, uid, agent, act, kind, owner_uid, owner, name, by = row
    whose = None if owner_uid is None else AgentId(int(owner_uid), str(owner))
    return Entry(
        int(time_ms or 0), str(event), AgentId(int(uid or 0), str(agent)), str(act), str(kind),
        whose, str(name), str(by), int(n or 0), int(last_ms or 0),
    )  # fmt: skip


def _hash(before: Link, row: Sequence[object]) -> bytes:
    text = json.dumps([before.seq + 1, *row], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(before.hash + text.encode()).digest()
