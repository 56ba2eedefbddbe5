"""Notes in the database: rows, links, and what each agent uses.  Functions for Database.write and
read; each is a unit.

Rule: a quota is checked in the write that would break it, so that no two calls pass it together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aios_sdk.errors import Busy, NotFound, QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services import documents
from aiosd.services.database import Transaction
from aiosd.services.documents import Kind, Owner

NOTE_BYTES = 128  # what a note counts for beside its text: its row and its place in the indexes
MAX_LINKS = 64  # of one note: the oldest stay

NONE, WAITING, DONE, FAILED = "none", "waiting", "done", "failed"
"""How far the model's part of a note is."""


@dataclass(frozen=True, slots=True)
class Note:
    """What an agent remembers.

    keywords, summary  written by the model for an agentic note
    doc                its number in the search
    """

    id: str
    agent: AgentId
    content: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    created_ms: int
    updated_ms: int
    used_ms: int
    keywords: tuple[str, ...] = ()
    summary: str = ""
    links: tuple[str, ...] = ()
    enrichment: str = NONE
    doc: int = 0

    @property
    def n_bytes(self) -> int:
        """What it counts for in limits."""
        texts = (self.content, self.summary, *self.tags, *self.keywords)
        n_text = sum(len(text.encode("utf-8", "replace")) for text in texts)
        return NOTE_BYTES + n_text + len(_json(self.metadata))

    @property
    def searchable(self) -> str:
        """The text that finds it."""
        parts = (self.content, self.summary, " ".join(self.keywords), " ".join(self.tags))
        return "\n".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Quota:
    """In bytes, as notes count; n_waiting: a uid's notes that wait for the model."""

    of_agent: int
    of_uid: int
    n_waiting: int


@dataclass(frozen=True, slots=True)
class Usage:
    n_notes: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Changed:
    """removed: documents, for Search.committed(); touched: other notes whose links changed."""

    note: Note
    removed: tuple[int, ...] = ()
    touched: tuple[str, ...] = ()


def owner_of(agent: AgentId) -> Owner:
    return Owner(Kind.MEMORY, agent)


# ---------------------------------------------------------------- writing


def add(t: Transaction, note: Note, quota: Quota) -> Changed:
    """A new note.  QuotaExceeded names both numbers; Busy: too many wait for the model."""
    if note.enrichment == WAITING:
        _check_waiting(t, note.agent, quota)
    _count(t, note.agent, 1, note.n_bytes, quota)
    note = replace(note, doc=documents.put(t, owner_of(note.agent), note.searchable, note.tags))
    _write(t, note)
    return Changed(note)


def change(t: Transaction, agent: AgentId, id_: str, quota: Quota, **fields: Any) -> Changed:
    """Some of a note's fields, by their names.  NotFound; QuotaExceeded names both numbers."""
    old = load(t, agent, id_)
    if "content" in fields and old.enrichment != NONE:
        fields["enrichment"] = WAITING  # what the model wrote was about something else
    new = replace(old, **fields)
    if new.enrichment == WAITING != old.enrichment:
        _check_waiting(t, agent, quota)
    _count(t, agent, 0, new.n_bytes - old.n_bytes, quota)
    removed: list[int] = []
    if (new.searchable, new.tags) != (old.searchable, old.tags):
        removed = documents.remove(t, owner_of(agent), [old.doc])
        new = replace(new, doc=documents.put(t, owner_of(agent), new.searchable, new.tags))
    _write(t, new)
    return Changed(new, tuple(removed))


def delete(t: Transaction, agent: AgentId, id_: str) -> Changed:
    old = load(t, agent, id_)
    removed = documents.remove(t, owner_of(agent), [old.doc])
    t.execute("DELETE FROM memory_notes WHERE id = ?", (id_,))
    _count(t, agent, -1, -old.n_bytes, None)
    return Changed(old, tuple(removed), old.links)


def link(t: Transaction, agent: AgentId, id_: str, others: Sequence[str]) -> tuple[str, ...]:
    """Join a note with others of its agent, both ways; returns those whose links changed."""
    joined = []
    for other in others:
        pair = [_is_of(t, agent, one) and _n_links(t, one) < MAX_LINKS for one in (id_, other)]
        if other == id_ or not all(pair):
            continue
        statement = "INSERT INTO memory_links (note, other) VALUES (?, ?) ON CONFLICT DO NOTHING"
        t.executemany(statement, [(id_, other), (other, id_)])
        joined.append(other)
    return (id_, *joined)


def set_used(t: Transaction, used_ms: Mapping[str, int]) -> None:
    t.executemany(
        "UPDATE memory_notes SET used_ms = max(used_ms, ?) WHERE id = ?",
        [(ms, id_) for id_, ms in used_ms.items()],
    )


def _write(t: Transaction, note: Note) -> None:
    values = (
        note.id,
        note.agent.uid,
        note.agent.name,
        note.content,
        _json(note.tags),
        _json(note.metadata),
        _json(note.keywords),
        note.summary,
        note.enrichment,
        note.doc,
        note.created_ms,
        note.updated_ms,
        note.used_ms,
    )
    t.execute(
        "INSERT INTO memory_notes (id, uid, agent, content, tags, metadata, keywords, summary, "
        "enrichment, doc, created_ms, updated_ms, used_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "content = excluded.content, tags = excluded.tags, metadata = excluded.metadata, "
        "keywords = excluded.keywords, summary = excluded.summary, "
        "enrichment = excluded.enrichment, doc = excluded.doc, "
        "updated_ms = excluded.updated_ms, used_ms = excluded.used_ms",
        values,
    )


def _count(t: Transaction, agent: AgentId, n_notes: int, n_bytes: int, quota: Quota | None) -> None:
    """Add to what the agent uses; what grows must stay within the quota."""
    who = (agent.uid, agent.name)
    used = usage(t, agent).n_bytes
    used_by_uid = t.execute(
        "SELECT coalesce(sum(n_bytes), 0) FROM memory_usage WHERE uid = ?", (agent.uid,)
    ).fetchone()[0]
    if quota is not None and n_bytes > 0:
        for what, have, limit in (
            (f"agent {agent.name}", used, quota.of_agent),
            (f"uid {agent.uid}", used_by_uid, quota.of_uid),
        ):
            if have + n_bytes > limit:
                raise QuotaExceeded(
                    f"the notes of {what} have {have} bytes, {n_bytes} more pass the limit of "
                    f"{limit}; delete some",
                    limit=limit,
                    used=have,
                )
    t.execute(
        "INSERT INTO memory_usage (uid, agent, n_notes, n_bytes) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET n_notes = n_notes + excluded.n_notes, "
        "n_bytes = n_bytes + excluded.n_bytes",
        (*who, n_notes, n_bytes),
    )
    t.execute("DELETE FROM memory_usage WHERE (uid, agent) = (?, ?) AND n_notes = 0", who)


def _check_waiting(t: Transaction, agent: AgentId, quota: Quota) -> None:
    select = "SELECT count(*) FROM memory_notes WHERE enrichment = 'waiting' AND uid = ?"
    n_waiting = t.execute(select, (agent.uid,)).fetchone()[0]
    if n_waiting >= quota.n_waiting:
        raise Busy(
            f"{n_waiting} notes of uid {agent.uid} wait for the model, limit is "
            f"{quota.n_waiting}; add it without agentic, or later",
            retry_after_ms=10_000,
            queue_depth=n_waiting,
        )


def _is_of(t: Transaction, agent: AgentId, id_: str) -> bool:
    return find_agent(t, id_) == agent


def _n_links(t: Transaction, id_: str) -> int:
    select = "SELECT count(*) FROM memory_links WHERE note = ?"
    return int(t.execute(select, (id_,)).fetchone()[0])


# ---------------------------------------------------------------- reading

_COLUMNS = (
    "id, uid, agent, content, tags, metadata, created_ms, updated_ms, used_ms, keywords, summary, "
    "enrichment, doc"
)


def find_agent(t: Transaction, id_: str) -> AgentId | None:
    """Whose note it is, if there is one."""
    row = t.execute("SELECT uid, agent FROM memory_notes WHERE id = ?", (id_,)).fetchone()
    return None if row is None else AgentId(*row)


def load(t: Transaction, agent: AgentId, id_: str) -> Note:
    """NotFound: the agent has no such note."""
    row = t.execute(
        f"SELECT {_COLUMNS} FROM memory_notes WHERE (id, uid, agent) = (?, ?, ?)",  # noqa: S608 - ours
        (id_, agent.uid, agent.name),
    ).fetchone()
    if row is None:
        raise not_found(id_)
    return _note(t, row)


def load_of_docs(
    t: Transaction, agent: AgentId, docs: Sequence[int], n_bytes: int
) -> dict[int, Note]:
    """The agent's notes that these documents are of, the first ones up to so many bytes."""
    notes: dict[int, Note] = {}
    for doc in docs:
        if n_bytes <= 0:
            break
        row = t.execute(
            f"SELECT {_COLUMNS} FROM memory_notes WHERE (doc, uid, agent) = (?, ?, ?)",  # noqa: S608 - ours
            (doc, agent.uid, agent.name),
        ).fetchone()
        if row is not None:
            notes[doc] = _note(t, row)
            n_bytes -= notes[doc].n_bytes
    return notes


def page(
    t: Transaction, agent: AgentId, limit: int, after: str, n_bytes: int
) -> tuple[list[Note], bool]:
    """So many of the agent's notes and so many bytes, in the order of their ids, from the one after
    `after` on; and whether there are more."""
    rows = t.execute(
        f"SELECT {_COLUMNS} FROM memory_notes "  # noqa: S608 - ours
        "WHERE (uid, agent) = (?, ?) AND id > ? ORDER BY id LIMIT ?",
        (agent.uid, agent.name, after, limit + 1),
    )
    notes: list[Note] = []
    for row in rows:
        if len(notes) == limit or (notes and n_bytes <= 0):
            return notes, True
        notes.append(_note(t, row))
        n_bytes -= notes[-1].n_bytes
    return notes, False


def usage(t: Transaction, agent: AgentId) -> Usage:
    row = t.execute(
        "SELECT n_notes, n_bytes FROM memory_usage WHERE (uid, agent) = (?, ?)",
        (agent.uid, agent.name),
    ).fetchone()
    return Usage() if row is None else Usage(*row)


def waiting(t: Transaction) -> list[tuple[AgentId, str]]:
    """Of each agent that has some, the oldest note that waits for the model."""
    rows = t.execute(
        "SELECT uid, agent, min(id) FROM memory_notes WHERE enrichment = 'waiting' "
        "GROUP BY uid, agent ORDER BY uid, agent"
    )
    return [(AgentId(uid, name), id_) for uid, name, id_ in rows]


def _note(t: Transaction, row: tuple[Any, ...]) -> Note:
    id_, uid, name, content, tags, metadata, created, updated, used = row[:9]
    keywords, summary, enrichment, doc = row[9:]
    links = t.execute("SELECT other FROM memory_links WHERE note = ? ORDER BY other", (id_,))
    return Note(
        id=id_,
        agent=AgentId(uid, name),
        content=content,
        tags=tuple(json.loads(tags)),
        metadata=json.loads(metadata),
        created_ms=created,
        updated_ms=updated,
        used_ms=used,
        keywords=tuple(json.loads(keywords)),
        summary=summary,
        links=tuple(other for (other,) in links),
        enrichment=enrichment,
        doc=doc,
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def not_found(id_: str) -> NotFound:
    return NotFound(f"no memory {id_!r}", memory=id_)
