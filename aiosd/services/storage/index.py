"""Search over text files: their parts are documents of the daemon's search, kept up beside writes.

Rule 1: a write never waits for this.  What is to be indexed is in the database, so that nothing is
forgotten over a crash; an index that lags says so (pending).
Rule 2: a part that an edit left as it was keeps its document, and with it its vector.
Rule 3: what is found is shown only if its file is there now, below the directory that was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from aios_sdk.errors import SyscallError
from aiosd.kernel.model import AgentId
from aiosd.services import documents
from aiosd.services.database import Database, Transaction
from aiosd.services.documents import Kind, Mode, Owner
from aiosd.services.search import Search
from aiosd.services.storage.chunks import Chunk, chunks, snippet, text_of
from aiosd.services.storage.paths import Parts
from aiosd.services.storage.store import Storage
from aiosd.storage_config import StorageConfig

log = structlog.get_logger()

_BATCH = 32
_MORE_THAN_ASKED = 8  # documents asked for per result: parts of one file, files that are gone
_MAX_HITS = 800


@dataclass(frozen=True, slots=True)
class Match:
    """The best part of a file.  offset: where it begins, in bytes."""

    path: str
    version: int
    snippet: str
    offset: int
    score: float


@dataclass(frozen=True, slots=True)
class Matches:
    """mode: how it was really done; reason: why not as asked; pending: files not indexed yet."""

    results: tuple[Match, ...]
    mode: Mode
    reason: str | None
    pending: int


@dataclass(frozen=True, slots=True)
class _ToDo:
    file: int
    root: int
    owner: AgentId
    version: int
    sha256: str | None
    size: int


class Index:
    """run() keeps it up; search() asks."""

    def __init__(
        self,
        database: Database,
        search_: Search,
        storage: Storage,
        config: Callable[[], StorageConfig],
    ) -> None:
        self._database = database
        self._search = search_
        self._storage = storage
        self._config = config

    async def search(
        self, owner: AgentId, query: str, k: int, mode: Mode, below: Parts = ()
    ) -> Matches:
        """The k files that fit best, each with its best part."""
        n_docs = min(_MAX_HITS, k * _MORE_THAN_ASKED)
        if below:
            n_docs = _MAX_HITS
        of = Owner(Kind.STORAGE, owner)
        # First: what is indexed meanwhile may be said to be pending, but never the other way round.
        pending = await self._database.read(lambda t: _n_pending(t, owner))
        found = await self._search.search(of, query, n_docs, mode)
        scores = {hit.doc: hit.score for hit in found.hits}
        rows = await self._database.read(lambda t: _places(t, list(scores)))
        prefix = "/".join(below)
        best: dict[str, tuple[int, int, int]] = {}
        for doc, path, version, start in rows:
            if not prefix or path == prefix or path.startswith(prefix + "/"):
                best.setdefault(path, (doc, version, start))
        shown = dict(list(best.items())[:k])
        texts = await self._search.texts([doc for doc, _, _ in shown.values()])
        return Matches(
            tuple(
                Match(path, version, snippet(texts.get(doc, ""), query), start, scores[doc])
                for path, (doc, version, start) in shown.items()
            ),
            found.mode,
            found.reason,
            pending,
        )

    async def run(self) -> None:
        """Index what was written, for ever.  A task of the daemon."""
        find = _orphans  # once: it looks at every part there is
        while True:
            self._storage.changed.clear()
            try:
                batch = await self._database.read(find)
                if not batch and find is _orphans:
                    find = _to_do
                    continue
                for one in batch:
                    await self._index(one)
                if batch:
                    continue
            except SyscallError as error:  # a full disk, a shutdown: again when something happens
                log.warning("indexing_waits", reason=error.message)
            await self._storage.changed.wait()

    async def _index(self, one: _ToDo) -> None:
        made: list[Chunk] = []
        config = self._config()
        if one.sha256 is not None and 0 < one.size <= config.indexed_bytes:
            sha256 = one.sha256
            try:
                made = await self._storage.with_content(one.owner.uid, sha256, _chunks_of)
            except SyscallError as error:  # replaced and pruned meanwhile, or damaged
                log.info("not_indexed", file=one.file, reason=error.message)
        owner = Owner(Kind.STORAGE, one.owner)
        if made:
            await self._search.ready(owner)
        most = config.indexed_parts
        await self._database.write(
            lambda t: _replace(t, one, owner, made, most), self._search.committed
        )


def _chunks_of(data: bytes) -> list[Chunk]:
    text = text_of(data)
    return [] if text is None else chunks(text)


# ---------------------------------------------------------------- in transactions


def _to_do(t: Transaction) -> list[_ToDo]:
    """Files whose newest version isn't indexed."""
    rows = t.execute(
        "SELECT f.key, f.root, r.uid, r.agent, f.version, f.sha256, f.size FROM storage_files f "
        "JOIN storage_roots r ON r.key = f.root WHERE f.indexed != f.version LIMIT ?",
        (_BATCH,),
    )
    return [_of_row(row) for row in rows]


def _orphans(t: Transaction) -> list[_ToDo]:
    """Parts whose file was pruned before it was known to be deleted."""
    rows = t.execute(
        "SELECT DISTINCT c.file, c.root, r.uid, r.agent, 0, NULL, 0 FROM storage_chunks c "
        "JOIN storage_roots r ON r.key = c.root "
        "WHERE NOT EXISTS (SELECT 1 FROM storage_files WHERE key = c.file) LIMIT ?",
        (_BATCH,),
    )
    return [_of_row(row) for row in rows]


def _of_row(row: tuple[int, int, int, str, int, str | None, int]) -> _ToDo:
    file, root, uid, name, version, sha256, size = row
    return _ToDo(file, root, AgentId(uid, name), version, sha256, size)


def _replace(t: Transaction, one: _ToDo, owner: Owner, made: list[Chunk], most: int) -> list[int]:
    """The file's parts are these now; the documents that are gone."""
    old: dict[str, list[int]] = {}
    rows = t.execute(
        "SELECT c.doc, d.text FROM storage_chunks c JOIN search_docs d ON d.doc = c.doc "
        "WHERE c.file = ?",
        (one.file,),
    )
    for doc, text in rows:
        old.setdefault(text, []).append(doc)
    (n_parts,) = t.execute(
        "SELECT count(*) FROM storage_chunks WHERE root = ? AND file != ?", (one.root, one.file)
    ).fetchone()
    if n_parts + len(made) > most:
        made = []
    t.execute("DELETE FROM storage_chunks WHERE file = ?", (one.file,))
    for chunk in made:
        same = old.get(chunk.text)
        doc = same.pop() if same else documents.put(t, owner, chunk.text)
        t.execute(
            "INSERT INTO storage_chunks (doc, root, file, version, start) VALUES (?, ?, ?, ?, ?)",
            (doc, one.root, one.file, one.version, chunk.start),
        )
    gone = [doc for docs in old.values() for doc in docs]
    removed = documents.remove(t, owner, gone) if gone else []
    t.execute("UPDATE storage_files SET indexed = ? WHERE key = ?", (one.version, one.file))
    return removed


def _places(t: Transaction, docs: list[int]) -> list[tuple[int, str, int, int]]:
    """Where documents are of, in their order, as far as the file is there."""
    places = []
    for doc in docs:
        row = t.execute(
            "SELECT f.path, c.version, c.start FROM storage_chunks c "
            "JOIN storage_files f ON f.key = c.file "
            "WHERE c.doc = ? AND f.sha256 IS NOT NULL",
            (doc,),
        ).fetchone()
        if row is not None:
            places.append((doc, *row))
    return places


def _n_pending(t: Transaction, owner: AgentId) -> int:
    (pending,) = t.execute(
        "SELECT count(*) FROM storage_files f JOIN storage_roots r ON r.key = f.root "
        "WHERE r.uid = ? AND r.agent = ? AND f.indexed != f.version",
        (owner.uid, owner.name),
    ).fetchone()
    return int(pending)
