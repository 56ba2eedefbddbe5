"""The snapshot store keeps its budget, its order of eviction and its buffers."""

from __future__ import annotations

import ctypes
from array import array

import pytest

from aiosd.engine.base import EngineError, Piece
from aiosd.engine.fake import FakeModel
from aiosd.engine.snapshots import MIN_BUFFER_BYTES, SnapshotStore, _rounded
from aiosd.kernel.model import ContextId, SlotId

UID = 1000
SLOT = SlotId(0)
A, B, C = ContextId("a"), ContextId("b"), ContextId("c")


class Bench:
    """A store and a model whose slot 0 can be made to hold anything."""

    def __init__(self, n_buffers: float) -> None:
        self.model = FakeModel(n_slots=2, slot_tokens=40_000, max_batch_tokens=40_000)
        self.store = SnapshotStore(int(n_buffers * MIN_BUFFER_BYTES))

    def hold(self, *tokens: int) -> array[int]:
        self.model.truncate(SLOT, 0)
        self.model.decode([Piece(SLOT, 0, tokens, False)])
        return array("i", tokens)

    def save(self, context: ContextId, *tokens: int) -> bool:
        return self.store.save(context, UID, self.hold(*tokens), self.model, SLOT)

    def kept(self) -> set[ContextId]:
        return {context for context in (A, B, C) if self.store.n_bytes(context)}

    def restore(self, context: ContextId) -> list[int] | None:
        self.model.truncate(SLOT, 0)
        tokens = self.store.restore(context, self.model, SLOT)
        return None if tokens is None else list(tokens)


def test_a_snapshot_brings_back_the_cells_and_says_which_tokens_they_hold() -> None:
    bench = Bench(4)
    tokens = bench.hold(5, 6, 7)
    [expected] = bench.model.decode([Piece(SLOT, 3, [8], True)])
    expected = expected.copy()
    bench.model.truncate(SLOT, 3)
    assert bench.store.save(A, UID, tokens, bench.model, SLOT)
    tokens.append(99)  # the caller goes on with its array
    for _ in range(2):
        bench.model.truncate(SLOT, 0)
        restored = bench.store.restore(A, bench.model, SLOT)
        assert restored == array("i", [5, 6, 7])
        restored.append(99)  # and with what it got
    [row] = bench.model.decode([Piece(SLOT, 3, [8], True)])
    assert row.tolist() == expected.tolist()


def test_a_context_without_a_snapshot_has_nothing_to_restore() -> None:
    bench = Bench(4)
    assert bench.restore(A) is None
    assert bench.store.n_lost == 0


def test_with_no_budget_nothing_is_kept_and_that_counts_as_lost() -> None:
    bench = Bench(0)
    assert not bench.save(A, 1, 2)
    assert bench.restore(A) is None
    assert (bench.store.buffer_bytes, bench.store.n_lost) == (0, 1)


def test_the_least_recently_saved_goes_first() -> None:
    bench = Bench(2)
    bench.save(A, 1)
    bench.save(B, 2)
    bench.save(C, 3)
    assert bench.kept() == {B, C}
    assert bench.store.n_lost == 1


def test_a_snapshot_that_was_restored_goes_before_all_others_and_is_no_loss() -> None:
    bench = Bench(2)
    bench.save(A, 1)
    bench.save(B, 2)
    bench.restore(B)
    bench.save(C, 3)
    assert bench.kept() == {A, C}
    assert bench.store.n_lost == 0


def test_saving_the_same_again_writes_nothing_and_makes_it_the_youngest() -> None:
    bench = Bench(2)
    bench.save(A, 1)
    bench.save(B, 2)
    tokens = bench.hold(1)
    bench.model.save = None  # type: ignore[method-assign,assignment] # calling it would raise
    assert bench.store.save(A, UID, tokens, bench.model, SLOT)
    del bench.model.save
    bench.save(C, 3)
    assert bench.kept() == {A, C}


def test_a_newer_snapshot_of_a_context_replaces_the_older() -> None:
    bench = Bench(1)
    bench.save(A, 1)
    bench.save(A, 1, 2, 3)
    assert bench.restore(A) == [1, 2, 3]
    bench.save(A, 1, 2, 4)  # as long, and another
    assert bench.restore(A) == [1, 2, 4]
    assert (bench.store.buffer_bytes, bench.store.n_lost) == (MIN_BUFFER_BYTES, 0)


def test_buffers_are_used_again() -> None:
    bench = Bench(4)
    bench.save(A, 1)
    [buffer] = [held.buffer for held in bench.store._held.values()]
    bench.store.forget(A)
    bench.save(B, 2)
    assert [held.buffer for held in bench.store._held.values()] == [buffer]
    assert bench.restore(B) == [2]


def test_waiting_buffers_count_in_the_budget_and_give_way_to_a_bigger_one() -> None:
    bench = Bench(4)
    for context in (A, B, C):
        bench.save(context, 1)
    for context in (A, B, C):
        bench.store.forget(context)
    assert bench.store.buffer_bytes == 3 * MIN_BUFFER_BYTES
    big = range(4 * MIN_BUFFER_BYTES // 12 - 10)  # of 12 bytes each: just below the whole budget
    assert bench.save(A, *(n % 500 for n in big))
    assert bench.store.buffer_bytes == 4 * MIN_BUFFER_BYTES


def test_a_snapshot_bigger_than_the_budget_costs_nobody_else_theirs() -> None:
    bench = Bench(2)
    bench.save(A, 1)
    assert not bench.save(B, *[1] * (2 * MIN_BUFFER_BYTES // 12 + 1))
    assert bench.kept() == {A}
    assert bench.store.n_lost == 1


def test_a_snapshot_that_the_model_refuses_is_dropped_and_the_slot_is_empty() -> None:
    bench = Bench(2)
    bench.save(A, 1, 2)
    bench.store._held[A].buffer[0:4] = b"????"
    assert bench.restore(A) is None
    assert bench.model.n_cells(SLOT) == 0
    assert bench.kept() == set()
    assert bench.store.n_lost == 1


def test_a_snapshot_with_another_number_of_cells_than_tokens_is_dropped() -> None:
    bench = Bench(2)
    bench.save(A, 1, 2)
    bench.store._held[A].tokens.append(3)
    assert bench.restore(A) is None
    assert bench.model.n_cells(SLOT) == 0


def test_a_slot_that_can_not_be_saved_leaves_the_buffer_for_the_next() -> None:
    bench = Bench(1)

    def save(slot: SlotId, buffer: memoryview) -> int:
        room = (ctypes.c_uint8 * 100).from_buffer(buffer)  # as the real one, and still held when
        raise EngineError(f"slot {slot} can't be saved into {len(room)} bytes")  # this is raised

    bench.model.save = save  # type: ignore[method-assign]
    assert not bench.save(A, 1)
    assert bench.store.n_lost == 1
    del bench.model.save
    assert bench.save(B, 1)
    assert bench.store.buffer_bytes == MIN_BUFFER_BYTES


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (1, 65536),
        (65536, 65536),
        (65537, 81920),
        (81921, 98304),
        (17_700_000, 20_971_520),
        (2**20, 2**20),
    ],
)
def test_sizes_are_rounded_up_to_few_kinds(n_bytes: int, expected: int) -> None:
    assert _rounded(n_bytes) == expected
