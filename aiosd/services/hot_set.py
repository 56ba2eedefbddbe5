"""An agent's memory block: its notes in RAM, under a limit in bytes.  Pure.

Everything is on the disk all the time.  Past the high-water mark LRU-K lets notes go (an eviction),
so that there is room when one is needed; a note that isn't here is read from the disk (a fault) and
is here afterwards.  One that is larger than the mark is always read from the disk.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from aiosd.services.lru_k import LruK

HIGH_WATER = 0.8  # of the limit, as in the AIOS paper


class Sized(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class HotSet(Generic[T]):
    """evictions, faults, hits: since it was made.  n_changes grows with every put and drop, so that
    whoever reads from the disk can tell that what it read may be old."""

    def __init__(self, limit_bytes: int, k: int) -> None:
        self.limit_bytes = limit_bytes
        self.n_bytes = 0
        self.evictions = 0
        self.faults = 0
        self.hits = 0
        self.n_changes = 0
        self._mark_bytes = int(limit_bytes * HIGH_WATER)
        self._policy: LruK[str] = LruK(k)
        self._items: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._items

    def get(self, id_: str) -> T | None:
        """A hit is a use; a miss is counted by fault(), once it turns out that there is such."""
        item = self._items.get(id_)
        if item is not None:
            self.hits += 1
            self._policy.use(id_)
        return item

    def fault(self, item: T) -> None:
        """It was used, and had to be read from the disk."""
        self.faults += 1
        self._hold(item)

    def put(self, item: T) -> None:
        """It was used, and is now so: new or changed."""
        self.n_changes += 1
        self._hold(item)

    def _hold(self, item: T) -> None:
        self._take(item.id)
        if item.n_bytes > self._mark_bytes:
            return
        self._shrink(self._mark_bytes - item.n_bytes)
        self._items[item.id] = item
        self.n_bytes += item.n_bytes
        self._policy.use(item.id)

    def drop(self, id_: str) -> None:
        """What is here of it is out of date: the next use reads it."""
        self.n_changes += 1
        self._take(id_)
        self._policy.forget(id_)

    def evict_all(self) -> None:
        self._shrink(0)

    def _take(self, id_: str) -> None:
        item = self._items.pop(id_, None)
        if item is not None:
            self.n_bytes -= item.n_bytes

    def _shrink(self, n_bytes: int) -> None:
        while self.n_bytes > n_bytes:
            id_ = self._policy.evict()
            if id_ in self._items:  # else it is being replaced
                self._take(id_)
                self.evictions += 1
