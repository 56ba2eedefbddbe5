"""LRU-K against a model of a few lines, and against LRU where LRU is weak."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.services.lru_k import LruK


class Model:
    """The definition, without thought for speed: all uses of every key, the victim by search."""

    def __init__(self, k: int, n_remembered: int) -> None:
        self.k, self.n_remembered, self.now = k, n_remembered, 0
        self.uses: dict[int, list[int]] = {}
        self.past: list[int] = []  # evicted, oldest eviction first
        self.inside: set[int] = set()

    def use(self, key: int) -> None:
        self.now += 1
        if key in self.past:
            self.past.remove(key)
        elif key not in self.inside:
            self.uses[key] = []
        self.inside.add(key)
        self.uses[key].append(self.now)

    def evict(self) -> int:
        def backward_distance(key: int) -> tuple[float, int]:
            uses = self.uses[key]
            kth = self.now - uses[-self.k] if len(uses) >= self.k else float("inf")
            return kth, self.now - uses[-1]

        victim = max(self.inside, key=backward_distance)
        self.inside.remove(victim)
        self.past.append(victim)
        del self.past[: -self.n_remembered]
        return victim


@settings(deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.one_of(st.integers(0, 9), st.just("evict"), st.tuples(st.integers(0, 9)))),
)
def test_the_victim_is_the_one_by_definition(
    k: int, n_remembered: int, steps: list[object]
) -> None:
    policy: LruK[int] = LruK(k, n_remembered)
    model = Model(k, n_remembered)
    for step in steps:
        match step:
            case int(key):
                policy.use(key)
                model.use(key)
            case (int(key),):
                policy.forget(key)
                model.inside.discard(key)
                model.past = [other for other in model.past if other != key]
            case _:
                if model.inside:
                    assert policy.evict() == model.evict()
        assert {key for key in range(10) if key in policy} == model.inside


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_with_k_of_one_it_is_lru(n_room: int, uses: list[int]) -> None:
    policy: LruK[int] = LruK(1)
    lru: OrderedDict[int, None] = OrderedDict()
    for key in uses:
        if key not in policy and len(policy) == n_room:
            assert policy.evict() == lru.popitem(last=False)[0]
        policy.use(key)
        lru[key] = None
        lru.move_to_end(key)


def hits(k: int, n_room: int, uses: list[int]) -> int:
    policy: LruK[int] = LruK(k)
    n_hits = 0
    for key in uses:
        n_hits += key in policy
        if key not in policy and len(policy) == n_room:
            policy.evict()
        policy.use(key)
    return n_hits


def test_a_scan_does_not_drive_out_what_is_used_again_and_again() -> None:
    """100 rounds: each uses 10 notes that are always used, then 30 that never come back.  There is
    room for 20.  LRU loses the ten in every scan; LRU-2 keeps them once each was used twice."""
    uses: list[int] = []
    for number in range(100):
        uses += range(10)
        uses += range(1000 + 30 * number, 1030 + 30 * number)
    assert hits(1, 20, uses) == 0
    assert hits(2, 20, uses) == 980  # all uses of the ten but the first two of each


def test_without_a_scan_it_is_no_worse_than_lru() -> None:
    uses = list(range(20)) * 50
    assert hits(1, 20, uses) == hits(2, 20, uses) == 980
