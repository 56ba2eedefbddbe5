"""Vectors of one owner's documents in memory, compared exactly: numpy, float32, unit length.

Rule 1: a row that was written is never written again, so a view taken before stays true while a
worker thread reads it.  What is removed is marked, and dropped when it is half of all.
Rule 2: Shelf keeps the sets of many owners under a limit in bytes; the least recently used goes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

FIRST_ROWS = 16
_BESIDE_BYTES = 100  # per row: its number, its mark, its place in the index of rows


@dataclass(frozen=True, slots=True)
class View:
    """What a worker compares with: rows, their documents, and which of them count."""

    rows: Matrix
    docs: NDArray[np.int64]
    is_live: NDArray[np.bool_]


class VectorSet:
    """The vectors of one owner."""

    def __init__(self, n_dims: int) -> None:
        self._rows: Matrix = np.empty((FIRST_ROWS, n_dims), np.float32)
        self._docs = np.empty(FIRST_ROWS, np.int64)
        self._is_live = np.zeros(FIRST_ROWS, np.bool_)
        self._n_rows = 0
        self._row_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def n_bytes(self) -> int:
        return self._rows.nbytes + _BESIDE_BYTES * len(self._rows)

    def put(self, docs: Sequence[int], vectors: Matrix) -> None:
        """Add documents; one that is there already is replaced."""
        self.remove(docs)
        end = self._n_rows + len(docs)
        if end > len(self._rows):
            self._move(max(end, 2 * len(self._row_of), FIRST_ROWS), slack=len(docs))
            end = self._n_rows + len(docs)
        begin = self._n_rows
        self._rows[begin:end] = vectors
        self._docs[begin:end] = docs
        self._is_live[begin:end] = True
        self._row_of.update(zip(docs, range(begin, end), strict=True))
        self._n_rows = end

    def remove(self, docs: Iterable[int]) -> None:
        """Documents that aren't there are passed over."""
        for doc in docs:
            row = self._row_of.pop(doc, None)
            if row is not None:
                self._is_live[row] = False
        if self._n_rows > FIRST_ROWS and len(self._row_of) < self._n_rows // 2:
            self._move(max(FIRST_ROWS, 2 * len(self._row_of)), slack=0)

    def _move(self, n_room: int, slack: int) -> None:
        """Into new arrays, live rows only; views of the old ones stay as they are."""
        live = np.flatnonzero(self._is_live[: self._n_rows])
        n_room = max(n_room, len(live) + slack)
        rows = np.empty((n_room, self._rows.shape[1]), np.float32)
        docs = np.empty(n_room, np.int64)
        is_live = np.zeros(n_room, np.bool_)
        rows[: len(live)] = self._rows[live]
        docs[: len(live)] = self._docs[live]
        is_live[: len(live)] = True
        self._rows, self._docs, self._is_live = rows, docs, is_live
        self._n_rows = len(live)
        self._row_of = {int(doc): row for row, doc in enumerate(docs[: len(live)])}

    def view(self) -> View:
        """As it is now, whatever becomes of it."""
        n = self._n_rows
        return View(self._rows[:n], self._docs[:n], self._is_live[:n].copy())


def nearest(
    view: View, query: Vector, k: int, among: NDArray[np.int64] | None = None
) -> list[tuple[int, float]]:
    """The k documents of greatest cosine with the query, best first; equals by their numbers."""
    if not len(view.docs) or k < 1:
        return []
    scores = view.rows @ query
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
