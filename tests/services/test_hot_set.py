"""An agent's memory block: what is in it, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.services.hot_set import HotSet


@dataclass(frozen=True)
class Item:
    id: str
    n_bytes: int


def test_at_the_high_water_mark_the_least_used_goes() -> None:
    block: HotSet[Item] = HotSet(limit_bytes=1000, k=2)  # the mark is at 800
    for name in "abcd":
        block.put(Item(name, 200))
    assert (block.n_bytes, block.evictions, len(block)) == (800, 0, 4)
    assert block.get("a") == Item("a", 200)  # its second use
    block.put(Item("e", 100))
    assert (block.n_bytes, block.evictions) == (700, 1)
    assert [name for name in "abcde" if name in block] == ["a", "c", "d", "e"]
    assert block.get("b") is None
    block.fault(Item("b", 200))
    assert (block.faults, block.hits, block.evictions) == (1, 1, 2)
    assert "b" in block
    assert "c" not in block


def test_what_is_larger_than_the_mark_stays_on_the_disk() -> None:
    block: HotSet[Item] = HotSet(limit_bytes=1000, k=2)
    block.put(Item("small", 10))
    block.put(Item("big", 801))
    assert "small" in block
    assert "big" not in block
    block.put(Item("small", 900))  # it grew out of it
    assert len(block) == block.n_bytes == 0


def test_emptying_it_counts_as_evictions_and_dropping_does_not() -> None:
    block: HotSet[Item] = HotSet(limit_bytes=1000, k=2)
    for name in "abc":
        block.put(Item(name, 10))
    block.drop("a")
    assert (block.evictions, block.n_bytes) == (0, 20)
    block.evict_all()
    assert (block.evictions, block.n_bytes, len(block)) == (2, 0, 0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "fault", "get", "drop"]),
            st.integers(0, 5),
            st.integers(0, 120),
        )
    )
)
def test_it_never_holds_more_than_the_mark_and_counts_its_bytes(
    steps: list[tuple[str, int, int]],
) -> None:
    block: HotSet[Item] = HotSet(limit_bytes=200, k=2)
    sizes: dict[str, int] = {}
    for act, number, n_bytes in steps:
        id_ = str(number)
        match act:
            case "get":
                found = block.get(id_)
                assert found is None or found.n_bytes == sizes[id_]
            case "drop":
                block.drop(id_)
                assert id_ not in block
            case _:
                item = Item(id_, n_bytes)
                sizes[id_] = n_bytes
                block.put(item) if act == "put" else block.fault(item)
                assert id_ in block
        assert block.n_bytes <= 160
        assert block.n_bytes == sum(sizes[str(n)] for n in range(6) if str(n) in block)
