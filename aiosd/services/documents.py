"""What can be searched, as the database has it: documents of owners, their words, tags and vectors.

Functions for Database.write and Database.search; each is a unit.

Rule 1: a query sees documents of one owner.  Words are counted per uid and kind (a table of its
own for each), so that not even a score tells of another uid's words.
Rule 2: put() and remove() run inside the caller's write: an index can't differ from what it is of.
An owner is made in a write of its own, before: an FTS5 table that is made in a write that then
fails spoils the whole batch's commit.
Rule 3: documents don't change, and a document's number is never used again.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.vectors import Matrix

MAX_TERMS = 64  # different words of a query that count; the rest of a long one adds little
MAX_TERM_CHARS = 256
MAX_QUERY_CHARS = 16_384  # what comes after doesn't count
BATCH_DOCS = 16  # embedded in the background and written at once
BATCH_CHARS = 8192  # likewise; one document may be longer, the embedder cuts it
LOAD_ROWS = 2048  # vectors per read from the database, so that other readers get their turn
_NUMBER_BITS = 32


class Kind(enum.StrEnum):
    """What documents are of."""

    MEMORY = "memory"
    STORAGE = "storage"


class Mode(enum.StrEnum):
    """How documents are found."""

    HYBRID = "hybrid"
    WORDS = "words"
    VECTORS = "vectors"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose documents, and of what kind."""

    kind: Kind
    agent: AgentId


# ---------------------------------------------------------------- inside a write


def put(t: Transaction, owner: Owner, text: str, tags: Iterable[str] = ()) -> int:
    """A new document; returns its number, which is never used again.  Documents don't change:
    remove the old one and put a new one."""
    key, n_numbers = t.execute(
        "UPDATE search_owners SET n_numbers = n_numbers + 1 WHERE (kind, uid, agent) = (?, ?, ?) "
        "RETURNING key, n_numbers",
        (str(owner.kind), owner.agent.uid, owner.agent.name),
    ).fetchone()
    doc = int((key << _NUMBER_BITS) + n_numbers)
    t.execute("INSERT INTO search_docs (doc, text) VALUES (?, ?)", (doc, text))
    t.execute(f"INSERT INTO {_words(owner)} (rowid, text) VALUES (?, ?)", (doc, text))  # noqa: S608 - a name we made
    rows = [(key, tag, doc) for tag in set(tags)]
    t.executemany("INSERT INTO search_tags (owner, tag, doc) VALUES (?, ?, ?)", rows)
    return doc


def remove(t: Transaction, owner: Owner, docs: Iterable[int]) -> list[int]:
    """Documents of this owner; those that aren't there are passed over.  Returns what was removed,
    for Search.committed()."""
    key, removed = key_of(t, owner), []
    for doc in docs:
        row = t.execute("SELECT text FROM search_docs WHERE doc = ?", (doc,)).fetchone()
        if row is None or owner_key_of(doc) != key:
            continue
        words = _words(owner)
        # The table of words keeps no text of its own: it is told what to forget.
        statement = f"INSERT INTO {words} ({words}, rowid, text) VALUES ('delete', ?, ?)"  # noqa: S608 - a name we made
        t.execute(statement, (doc, row[0]))
        t.execute("DELETE FROM search_docs WHERE doc = ?", (doc,))
        removed.append(doc)
    return removed


def make_owner(t: Transaction, owner: Owner) -> None:
    t.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {_words(owner)} USING fts5 (text, "
        "content = 'search_docs', content_rowid = 'doc', "
        "tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    t.execute(
        "INSERT INTO search_owners (kind, uid, agent) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (str(owner.kind), owner.agent.uid, owner.agent.name),
    )


def key_of(t: Transaction, owner: Owner) -> int | None:
    row = t.execute(
        "SELECT key FROM search_owners WHERE (kind, uid, agent) = (?, ?, ?)",
        (str(owner.kind), owner.agent.uid, owner.agent.name),
    ).fetchone()
    return None if row is None else int(row[0])


def _words(owner: Owner) -> str:
    """The table of words of this kind and uid: both are ours, so the name is safe in SQL."""
    return f"search_words_{owner.kind.value}_{int(owner.agent.uid)}"


# ---------------------------------------------------------------- finding


def match_expression(query: str) -> str | None:
    """A query as FTS5 takes it: its different words, each quoted, any of them.  None: no words.

    Whatever a person types is words here; FTS5's own syntax (AND, NEAR, *, column:) never counts.
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFC", query[:MAX_QUERY_CHARS]))
    # The index folds case in its own way, so a term stays as it was typed.
    terms = {word.lower(): word[:MAX_TERM_CHARS] for word in words}
    chosen = list(terms.values())[:MAX_TERMS]
    return " OR ".join(f'"{term}"' for term in chosen) or None


def owner_key_of(doc: int) -> int:
    """Whose document it is, by its number."""
    return doc >> _NUMBER_BITS


def numbers_of(key: int) -> tuple[int, int]:
    """The least and the greatest number an owner's documents can have."""
    return key << _NUMBER_BITS, ((key + 1) << _NUMBER_BITS) - 1


def find(
    t: Transaction, *, owner: Owner, query: str, k: int, mode: Mode, tags: Sequence[str]
) -> tuple[int | None, list[tuple[int, float]], NDArray[np.int64] | None]:
    """The owner's key, what its words find, and which documents have all the tags."""
    key = key_of(t, owner)
    if key is None:
        return None, [], None
    wanted = sorted(set(tags))
    marks = ", ".join("?" * len(wanted))
    tagged = (
        f"SELECT doc FROM search_tags WHERE owner = ? AND tag IN ({marks}) "  # noqa: S608 - marks
        f"GROUP BY doc HAVING count(*) = {len(wanted)}"
    )
    tag_values = (key, *wanted)
    by_words: list[tuple[int, float]] = []
    expression = match_expression(query)
    if mode is not Mode.VECTORS and expression is not None:
        words = _words(owner)
        statement = (
            f"SELECT rowid, bm25({words}) AS score FROM {words} "  # noqa: S608 - a name we made
            f"WHERE {words} MATCH ? AND rowid BETWEEN ? AND ? "
            f"{f'AND rowid IN ({tagged})' if wanted else ''} ORDER BY score, rowid LIMIT ?"
        )
        values = (expression, *numbers_of(key), *(tag_values if wanted else ()), k)
        by_words = [(int(doc), -float(score)) for doc, score in t.execute(statement, values)]
    among = None
    if wanted and mode is not Mode.WORDS:
        among = np.array([row[0] for row in t.execute(tagged, tag_values)], np.int64)
    return key, by_words, among


def read_vectors(
    t: Transaction, *, first: int, last: int, embedder: int
) -> list[tuple[int, bytes]]:
    return t.execute(
        "SELECT doc, vector FROM search_vectors JOIN search_docs USING (doc) "
        "WHERE doc BETWEEN ? AND ? AND embedder = ? ORDER BY doc LIMIT ?",
        (first, last, embedder, LOAD_ROWS),
    ).fetchall()


def n_without(t: Transaction, owner: Owner, embedder: int) -> int:
    """How many of the owner's documents have no vector of this embedder."""
    key = key_of(t, owner)
    if key is None:
        return 0
    statement = "SELECT count(*) FROM search_docs WHERE doc BETWEEN ? AND ? AND embedder != ?"
    return int(t.execute(statement, (*numbers_of(key), embedder)).fetchone()[0])


def embedder_key(t: Transaction, *, fingerprint: str) -> int:
    t.execute(
        "INSERT INTO search_embedders (fingerprint) VALUES (?) ON CONFLICT DO NOTHING",
        (fingerprint,),
    )
    select = "SELECT key FROM search_embedders WHERE fingerprint = ?"
    return int(t.execute(select, (fingerprint,)).fetchone()[0])


def next_batch(t: Transaction, *, embedder: int, after: int) -> list[tuple[int, str]]:
    """Documents of the next owner in turn: first those without any vector, then those with one of
    an earlier embedder."""
    for side in ("<", ">"):
        select = f"SELECT min(embedder) FROM search_docs WHERE embedder {side} ?"  # noqa: S608 - from above
        stale = t.execute(select, (embedder,)).fetchone()[0]
        if stale is None:
            continue
        select = "SELECT min(doc) FROM search_docs WHERE embedder = ? AND doc > ?"
        doc = t.execute(select, (stale, numbers_of(after)[1])).fetchone()[0]
        if doc is None:  # nobody after the one who had the last turn
            doc = t.execute(select, (stale, -1)).fetchone()[0]
        rows = t.execute(
            "SELECT doc, text FROM search_docs WHERE embedder = ? AND doc BETWEEN ? AND ? "
            "ORDER BY doc LIMIT ?",
            (stale, doc, numbers_of(owner_key_of(doc))[1], BATCH_DOCS),
        ).fetchall()
        return _short_enough(rows)
    return []


def _short_enough(rows: list[tuple[int, str]]) -> list[tuple[int, str]]:
    n_chars = 0
    for number, (_, text) in enumerate(rows):
        n_chars += len(text)
        if n_chars > BATCH_CHARS:
            return rows[: max(1, number)]
    return rows


def write_vectors(t: Transaction, embedder: int, docs: Sequence[int], rows: Matrix) -> list[int]:
    """Those of documents that are still there."""
    kept = []
    for doc, row in zip(docs, rows, strict=True):
        statement = "UPDATE search_docs SET embedder = ? WHERE doc = ?"
        if t.execute(statement, (embedder, doc)).rowcount == 0:
            continue
        t.execute(
            "INSERT INTO search_vectors (doc, vector) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET vector = excluded.vector",
            (doc, row.astype("<f4").tobytes()),
        )
        kept.append(doc)
    return kept
