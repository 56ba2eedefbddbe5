"""Search over what agents keep: by words (FTS5, BM25), by vectors (exact), and both fused by rank.

Memory and storage both keep their texts as documents (documents.py) and ask here.

Rule 1: ready() comes before an owner's first documents.put(), committed() after every put() and
remove() that has been committed.
Rule 2: a document is found by its words as soon as it is committed; its vector is made later, in
batches, owner by owner in turn.  Nothing here waits for a model but a query's own vector.
Rule 3: a result says how it was found; without an embedder that is by words, whatever was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from aios_sdk.errors import EngineFailed, SyscallError, Unavailable
from aiosd.services import documents
from aiosd.services.database import Database, Transaction
from aiosd.services.documents import Mode, Owner
from aiosd.services.vectors import Matrix, Shelf, Vector, VectorSet, nearest

log = structlog.get_logger()
T = TypeVar("T")

FUSION_RANK = 60  # reciprocal rank fusion, Cormack et al. 2009: 1 / (60 + rank)
MIN_CANDIDATES = 50  # of each way, to be fused
MAX_READY = 10_000  # owners remembered to be known to the database


class Embedder(Protocol):
    """Turns texts into vectors.  embed: a row of unit length per text; an urgent call goes before
    those that aren't.  Too long a text counts as far as it fits.  SyscallError: it can't now."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def n_dims(self) -> int: ...
    async def embed(self, texts: Sequence[str], *, is_urgent: bool) -> Matrix: ...


@dataclass(frozen=True, slots=True)
class Hit:
    """score is for comparing within one result: BM25 by words, the cosine by vectors; fused it is
    1 for what is first both ways.  similarity: the cosine, where there is a vector."""

    doc: int
    score: float
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """mode: how it was really done; reason: why not as asked."""

    mode: Mode
    hits: tuple[Hit, ...]
    reason: str | None = None


class _Work(Protocol):
    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


# ---------------------------------------------------------------- asking


class Search:
    """Asks for documents, and has their vectors made.

    in_worker runs CPU work off the loop.  ram_bytes: for vectors kept at hand.
    """

    def __init__(
        self,
        database: Database,
        embedder: Embedder | None,
        in_worker: _Work,
        *,
        ram_bytes: int,
    ) -> None:
        self._database = database
        self.embedder = embedder
        self._in_worker = in_worker
        self._shelf = Shelf(ram_bytes)
        self._loading: dict[int, _Loading] = {}
        self._ready: set[Owner] = set()
        self._embedder_key = 0
        self._wake = asyncio.Event()

    async def search(
        self, owner: Owner, query: str, k: int, mode: Mode, tags: Sequence[str] = ()
    ) -> Found:
        """The k best documents of the owner that have all the tags."""
        used, reason = mode, None
        vector: Vector | None = None
        if mode is not Mode.WORDS:
            try:
                vector = await self._vector_of(query)
            except SyscallError as error:
                used, reason = Mode.WORDS, error.message
        n_candidates = k if used is not Mode.HYBRID else max(MIN_CANDIDATES, 4 * k)
        key, by_words, among = await self._database.search(
            partial(documents.find, owner=owner, query=query, k=n_candidates, mode=used, tags=tags)
        )
        if key is None:
            return Found(used, (), reason)
        if vector is None:
            return Found(used, tuple(Hit(doc, score) for doc, score in by_words), reason)
        also = [doc for doc, _ in by_words]
        by_vectors, cosines = await self._compare(key, vector, n_candidates, among, also)
        if used is Mode.VECTORS:
            n_pending = await self.n_pending(owner) if len(by_vectors) < k else 0
            if n_pending:
                reason = f"{n_pending} documents have no vector yet"
            return Found(used, tuple(Hit(doc, score, score) for doc, score in by_vectors), reason)
        hits = [
            Hit(doc, score, cosines.get(doc))
            for doc, score in fuse(also, [doc for doc, _ in by_vectors])
        ]
        return Found(used, tuple(hits[:k]), reason)

    async def ready(self, owner: Owner) -> None:
        """To be awaited before the first write with a put() of this owner."""

        def is_there(t: Transaction) -> bool:
            return documents.key_of(t, owner) is not None

        if owner in self._ready:
            return
        if not await self._database.read(is_there):
            await self._database.write(partial(documents.make_owner, owner=owner))
        if len(self._ready) >= MAX_READY:
            self._ready.clear()  # to be asked for again
        self._ready.add(owner)

    async def texts(self, docs: Sequence[int]) -> dict[int, str]:
        """The texts of documents that are there."""

        def work(t: Transaction) -> dict[int, str]:
            select = "SELECT text FROM search_docs WHERE doc = ?"
            rows = {doc: t.execute(select, (doc,)).fetchone() for doc in docs}
            return {doc: row[0] for doc, row in rows.items() if row is not None}

        return await self._database.read(work)

    async def n_pending(self, owner: Owner) -> int:
        """How many of the owner's documents have no vector yet."""

        def work(t: Transaction) -> int:
            return documents.n_without(t, owner, self._embedder_key)

        return 0 if self.embedder is None else await self._database.search(work)

    def committed(self, removed: Iterable[int] = ()) -> None:
        """To be called when a write with put() or remove() has been committed, with the documents
        that were removed (on_commit of Database.write is the place)."""
        by_key: dict[int, list[int]] = {}
        for doc in removed:
            by_key.setdefault(documents.owner_key_of(doc), []).append(doc)
        for key, docs in by_key.items():
            self._change(key, partial(VectorSet.remove, docs=docs))
        self._wake.set()

    async def _vector_of(self, text: str) -> Vector:
        if self.embedder is None:
            raise Unavailable("no embedder is loaded: found by words only")
        rows = await self.embedder.embed([text], is_urgent=True)
        row: Vector = rows[0]
        return row

    async def _compare(
        self, key: int, query: Vector, k: int, among: NDArray[np.int64] | None, also: list[int]
    ) -> tuple[list[tuple[int, float]], dict[int, float]]:
        """The nearest, and the cosines of those and the others asked about."""
        view = (await self._vectors(key)).view()
        asked = np.array(also, np.int64)

        def work() -> tuple[list[tuple[int, float]], dict[int, float]]:
            near = nearest(view, query, k, among)
            return near, dict(nearest(view, query, len(asked), asked)) | dict(near)

        return await self._in_worker(work)

    # ------------------------------------------------------------ vectors at hand

    async def _vectors(self, key: int) -> VectorSet:
        """An owner's vectors, from the database if they aren't at hand."""
        found = self._shelf.get(key)
        if found is not None:
            return found
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = _Loading(asyncio.Lock())
        loading.n_waiting += 1
        try:
            async with loading.lock:  # one reads, the others find it done
                found = self._shelf.get(key) or await self._load(key, loading)
        finally:
            loading.n_waiting -= 1
            if not loading.n_waiting:
                self._loading.pop(key, None)
        return found

    async def _load(self, key: int, loading: _Loading) -> VectorSet:
        assert self.embedder is not None
        vectors = VectorSet(self.embedder.n_dims)
        loading.changes.clear()
        first, last = documents.numbers_of(key)
        while True:
            rows = await self._database.search(
                partial(documents.read_vectors, first=first, last=last, embedder=self._embedder_key)
            )
            if rows:
                matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float32)
                vectors.put([row[0] for row in rows], matrix.reshape(len(rows), -1))
                first = rows[-1][0] + 1
            if len(rows) < documents.LOAD_ROWS:
                break
        for change in loading.changes:  # committed meanwhile: said again it does no harm
            change(vectors)
        self._shelf.put(key, vectors)
        return vectors

    def _change(self, key: int, change: Callable[[VectorSet], object]) -> None:
        """What has been committed, to what is at hand and what is being read."""
        found = self._shelf.get(key)
        if found is not None:
            change(found)
            self._shelf.trim()
        if key in self._loading:
            self._loading[key].changes.append(change)

    # ------------------------------------------------------------ making vectors

    async def start(self) -> None:
        """Before anything is asked: which vectors are of the embedder there is."""
        if self.embedder is not None:
            self._embedder_key = await self._database.write(
                partial(documents.embedder_key, fingerprint=self.embedder.fingerprint)
            )

    async def run(self) -> None:
        """Makes vectors for documents that have none of this embedder.  A task of the daemon."""
        if self.embedder is None:
            return
        last_owner = 0
        while True:
            self._wake.clear()
            try:
                batch = await self._database.search(
                    partial(documents.next_batch, embedder=self._embedder_key, after=last_owner)
                )
                if batch:
                    last_owner = documents.owner_key_of(batch[0][0])
                    await self._embed(batch)
                    continue
            except SyscallError as error:  # a full disk, a shutdown: again when something happens
                log.warning("embedding_waits", reason=error.message)
            except Exception:  # a bug here is no reason to end the daemon
                log.exception("embedding_bug")
            await self._wake.wait()

    async def _embed(self, batch: list[tuple[int, str]]) -> None:
        assert self.embedder is not None
        docs = [doc for doc, _ in batch]
        try:
            rows = await self.embedder.embed([text for _, text in batch], is_urgent=False)
        except EngineFailed as error:
            await self._give_up(batch, error)
            return

        def write(t: Transaction) -> list[int]:
            return documents.write_vectors(t, self._embedder_key, docs, rows)

        def committed(kept: list[int]) -> None:
            mine = np.array([docs.index(doc) for doc in kept], np.intp)
            self._change(
                documents.owner_key_of(docs[0]), lambda vectors: vectors.put(kept, rows[mine])
            )

        await self._database.write(write, committed)

    async def _give_up(self, batch: list[tuple[int, str]], error: EngineFailed) -> None:
        """One by one; what fails alone gets no vector from this embedder, and isn't tried again."""
        if len(batch) > 1:
            for one in batch:
                await self._embed([one])
            return
        doc = batch[0][0]
        log.warning("no_vector", doc=doc, reason=error.message)
        statement = "UPDATE search_docs SET embedder = ? WHERE doc = ?"
        values = (self._embedder_key, doc)
        await self._database.write(lambda t: t.execute(statement, values).rowcount)


@dataclass(slots=True)
class _Loading:
    """Vectors on their way in; changes: committed since the first of them was read."""

    lock: asyncio.Lock
    n_waiting: int = 0
    changes: list[Callable[[VectorSet], object]] = field(default_factory=list)


def fuse(*rankings: Sequence[int]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: documents by the sum of 1 / (60 + rank), scaled so that the first of
    every ranking has 1; equals by their numbers."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, doc in enumerate(ranking, 1):
            scores[doc] = scores.get(doc, 0.0) + 1.0 / (FUSION_RANK + rank)
    best = len(rankings) / (FUSION_RANK + 1)
    return sorted(
        ((doc, score / best) for doc, score in scores.items()), key=lambda hit: (-hit[1], hit[0])
    )
