"""Vectors of one owner's documents in memory, compared exactly: numpy, float32, unit length.

Rule 1: a row that was written is never written again, so a view taken before stays true while a
worker thread reads it.  What is removed is marked, and dropped when it is half of its block.
Rule 2: rows lie in blocks of bounded size, so that no change of a large set copies all of it.
Rule 3: Shelf keeps the sets of many owners under a limit in bytes; the least recently used goes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

FIRST_ROWS = 16  # of a set's first block; each next is as large as all before, up to
MAX_ROWS = 4096
_BESIDE_BYTES = 100  # per row: its number, its mark, its place in the index of rows


@dataclass(frozen=True, slots=True)
class View:
    """What a worker compares with: rows, their documents, and which of them count, by blocks."""

    rows: tuple[Matrix, ...]
    docs: NDArray[np.int64]
    is_live: NDArray[np.bool_]


class _Block:
    """Some rows of a set; n_rows are written, n_live of them count."""

    __slots__ = ("docs", "is_live", "n_live", "n_rows", "rows")

    def __init__(self, n_room: int, n_dims: int) -> None:
        self.rows: Matrix = np.empty((n_room, n_dims), np.float32)
        self.docs = np.empty(n_room, np.int64)
        self.is_live = np.zeros(n_room, np.bool_)
        self.n_rows = 0
        self.n_live = 0

    @property
    def n_bytes(self) -> int:
        return self.rows.nbytes + _BESIDE_BYTES * len(self.rows)

    def add(self, docs: Sequence[int], vectors: Matrix) -> range:
        """Which rows they became."""
        new = range(self.n_rows, self.n_rows + len(docs))
        self.rows[new.start : new.stop] = vectors
        self.docs[new.start : new.stop] = docs
        self.is_live[new.start : new.stop] = True
        self.n_rows += len(docs)
        self.n_live += len(docs)
        return new


class VectorSet:
    """The vectors of one owner."""

    def __init__(self, n_dims: int) -> None:
        self._n_dims = n_dims
        self._blocks: list[_Block] = []
        self._place_of: dict[int, tuple[_Block, int]] = {}

    def __len__(self) -> int:
        return len(self._place_of)

    @property
    def n_bytes(self) -> int:
        return sum(block.n_bytes for block in self._blocks)

    def put(self, docs: Sequence[int], vectors: Matrix) -> None:
        """Add documents; one that is there already is replaced."""
        self.remove(docs)
        self._append(docs, vectors)

    def _append(self, docs: Sequence[int], vectors: Matrix) -> None:
        begin = 0
        while begin < len(docs):
            block = self._block_with_room()
            end = min(len(docs), begin + len(block.rows) - block.n_rows)
            new = block.add(docs[begin:end], vectors[begin:end])
            self._place_of.update(
                (doc, (block, row)) for doc, row in zip(docs[begin:end], new, strict=True)
            )
            begin = end

    def _block_with_room(self) -> _Block:
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.n_rows == len(last.rows):
            n_room = min(MAX_ROWS, max(FIRST_ROWS, len(self._place_of)))
            last = _Block(n_room, self._n_dims)
            self._blocks.append(last)
        return last

    def remove(self, docs: Iterable[int]) -> None:
        """Documents that aren't there are passed over."""
        for doc in docs:
            place = self._place_of.pop(doc, None)
            if place is None:
                continue
            block, row = place
            block.is_live[row] = False
            block.n_live -= 1
            if block.n_live < block.n_rows // 2 or not block.n_live:
                self._blocks.remove(block)  # views of it stay as they are
                live = np.flatnonzero(block.is_live[: block.n_rows])
                self._append(block.docs[live].tolist(), block.rows[live])

    def view(self) -> View:
        """As it is now, whatever becomes of it."""
        blocks = self._blocks
        return View(
            tuple(block.rows[: block.n_rows] for block in blocks),
            _joined([block.docs[: block.n_rows] for block in blocks], np.int64),
            _joined([block.is_live[: block.n_rows] for block in blocks], np.bool_),
        )


def _joined(parts: list[NDArray[Any]], kind: type[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


def nearest(
    view: View, query: Vector, k: int, among: NDArray[np.int64] | None = None
) -> list[tuple[int, float]]:
    """The k documents of greatest cosine with the query, best first; equals by their numbers."""
    if not view.rows or k < 1:
        return []
    scores = np.concatenate([rows @ query for rows in view.rows])
    counts = view.is_live if among is None else view.is_live & np.isin(view.docs, among)
    rows = np.flatnonzero(counts)
    if len(rows) > k:
        candidates = scores[rows]
        least = np.partition(candidates, len(rows) - k)[len(rows) - k]
        rows = rows[candidates >= least]
    order = np.lexsort((view.docs[rows], -scores[rows]))[:k]
    return [(int(view.docs[row]), float(scores[row])) for row in rows[order]]


class Shelf:
    """The sets of many owners, each known by its key, under a limit in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._sets: OrderedDict[int, VectorSet] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        return sum(each.n_bytes for each in self._sets.values())

    def get(self, key: int) -> VectorSet | None:
        found = self._sets.get(key)
        if found is not None:
            self._sets.move_to_end(key)
        return found

    def put(self, key: int, vectors: VectorSet) -> None:
        self._sets[key] = vectors
        self._sets.move_to_end(key)
        self.trim()

    def trim(self) -> None:
        """Let go of whole sets until the rest is within the limit."""
        n_bytes = self.n_bytes
        while self._sets and n_bytes > self._limit_bytes:
            _, gone = self._sets.popitem(last=False)
            n_bytes -= gone.n_bytes

    def clear(self) -> None:
        self._sets.clear()
