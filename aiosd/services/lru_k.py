"""LRU-K: which of the things in a small memory goes first.  Pure: no clock, no bytes, no contents.

The victim is the one whose K-th last use is longest ago; those used fewer than K times go before
all others, least recently used first.  One use is no evidence that there will be another, so a scan
over many things once doesn't drive out the few that are used again and again.  K = 1 is LRU.
Source: O'Neil, O'Neil, Weikum, "The LRU-K page replacement algorithm", SIGMOD 1993.

What was evicted is remembered for a while (their "retained information"): else a thing that comes
back could never show that it does.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class LruK(Generic[K]):
    """Uses of keys, and the victim among those that are in."""

    def __init__(self, k: int = 2, n_remembered: int = 1024) -> None:
        self._k = k
        self._n_remembered = n_remembered
        self._now = 0  # uses so far: the only time there is
        self._uses: dict[K, deque[int]] = {}  # of what is in; the last k, oldest first
        self._past: OrderedDict[K, deque[int]] = OrderedDict()  # of what was evicted, oldest first
        self._heap: list[tuple[int, int, K]] = []  # may hold entries that are out of date

    def __contains__(self, key: K) -> bool:
        return key in self._uses

    def __len__(self) -> int:
        return len(self._uses)

    def use(self, key: K) -> None:
        """The key is used; it is in from now on."""
        self._now += 1
        uses = self._uses.get(key)
        if uses is None:
            uses = self._uses[key] = self._remembered(key)
        uses.append(self._now)
        heapq.heappush(self._heap, (*self._rank(uses), key))
        if len(self._heap) > 4 * len(self._uses) + 64:
            self._heap = [(*self._rank(uses), key) for key, uses in self._uses.items()]
            heapq.heapify(self._heap)

    def evict(self) -> K:
        """Take out the victim.  There must be something in."""
        while True:
            kth, last, key = heapq.heappop(self._heap)
            uses = self._uses.get(key)
            if uses is not None and self._rank(uses) == (kth, last):
                break
        self._past[key] = self._uses.pop(key)
        if len(self._past) > self._n_remembered:
            self._past.popitem(last=False)
        return key

    def forget(self, key: K) -> None:
        """The key is out, and as if it had never been."""
        self._uses.pop(key, None)
        self._past.pop(key, None)

    def _remembered(self, key: K) -> deque[int]:
        return self._past.pop(key) if key in self._past else deque(maxlen=self._k)

    def _rank(self, uses: deque[int]) -> tuple[int, int]:
        """The least goes first: the K-th last use (0: there is none), then the last one."""
        return (uses[0] if len(uses) == self._k else 0, uses[-1])
