"""The plan of a step, as a table of examples and as a property."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from aiosd.engine.base import Piece
from aiosd.engine.batch import Reader, plan
from aiosd.kernel.model import SlotId


def reader(slot: int, start: int, length: int, is_alone: bool = False) -> Reader:
    return Reader(SlotId(slot), start, array("i", range(length)), is_alone)


def shape(calls: list[list[Piece]]) -> list[list[tuple[int, int, int, bool]]]:
    return [[(p.slot, p.start, len(p.tokens), p.wants_logits) for p in call] for call in calls]


def test_talkers_share_one_call_sorted_by_slot_and_prefill_comes_after() -> None:
    readers = [reader(3, 9, 10), reader(2, 0, 500), reader(1, 4, 5)]
    assert shape(plan(readers, prefill_tokens=100, max_batch_tokens=512)) == [
        [(1, 4, 1, True), (3, 9, 1, True)],
        [(2, 0, 100, False)],
    ]


def test_the_first_reader_takes_what_it_can_use_and_the_next_the_rest() -> None:
    readers = [reader(5, 10, 40), reader(1, 0, 500), reader(0, 0, 500)]
    assert shape(plan(readers, prefill_tokens=100, max_batch_tokens=512)) == [
        [(1, 0, 70, False), (5, 10, 30, True)]
    ]


def test_a_joint_batch_holds_talkers_and_prefill() -> None:
    readers = [reader(0, 0, 500), reader(1, 4, 5)]
    assert shape(plan(readers, prefill_tokens=8, max_batch_tokens=9, is_joint=True)) == [
        [(0, 0, 8, False), (1, 4, 1, True)]
    ]


def test_a_joint_batch_that_would_be_too_big_stays_two() -> None:
    readers = [reader(0, 0, 500), reader(1, 4, 5)]
    assert shape(plan(readers, prefill_tokens=8, max_batch_tokens=8, is_joint=True)) == [
        [(1, 4, 1, True)],
        [(0, 0, 8, False)],
    ]


def test_who_was_in_a_failed_call_shares_none() -> None:
    readers = [reader(0, 4, 5, True), reader(1, 4, 5), reader(2, 0, 9, True), reader(3, 0, 9)]
    assert shape(plan(readers, prefill_tokens=100, max_batch_tokens=512)) == [
        [(1, 4, 1, True)],
        [(3, 0, 9, True)],
        [(0, 4, 1, True)],
        [(2, 0, 9, True)],
    ]


def test_more_talkers_than_a_batch_holds_take_several_calls() -> None:
    readers = [reader(slot, 1, 2) for slot in range(5)]
    assert shape(plan(readers, prefill_tokens=2, max_batch_tokens=2)) == [
        [(0, 1, 1, True), (1, 1, 1, True)],
        [(2, 1, 1, True), (3, 1, 1, True)],
        [(4, 1, 1, True)],
    ]


@st.composite
def reader_lists(draw: st.DrawFn) -> list[Reader]:
    slots = draw(st.lists(st.integers(0, 15), unique=True, max_size=10))
    readers = []
    for slot in slots:
        length = draw(st.integers(1, 40))
        readers.append(reader(slot, draw(st.integers(0, length - 1)), length, draw(st.booleans())))
    return readers


@given(
    readers=reader_lists(),
    prefill_tokens=st.integers(1, 50),
    max_batch_tokens=st.integers(1, 50),
    is_joint=st.booleans(),
)
def test_every_plan_keeps_the_rules(
    readers: list[Reader], prefill_tokens: int, max_batch_tokens: int, is_joint: bool
) -> None:
    calls = plan(
        readers,
        prefill_tokens=prefill_tokens,
        max_batch_tokens=max_batch_tokens,
        is_joint=is_joint,
    )
    by_slot = {r.slot: r for r in readers}
    pieces = [piece for call in calls for piece in call]
    assert len({piece.slot for piece in pieces}) == len(pieces)  # one piece a lane
    for piece in pieces:
        r = by_slot[piece.slot]
        end = piece.start + len(piece.tokens)
        assert piece.start == r.start
        assert list(piece.tokens) == list(range(piece.start, end))
        assert len(piece.tokens) > 0
        assert piece.wants_logits == (end == len(r.tokens))
    for call in calls:
        assert [p.slot for p in call] == sorted(p.slot for p in call)
        assert sum(len(p.tokens) for p in call) <= max_batch_tokens
        assert len(call) == 1 or not any(by_slot[p.slot].is_alone for p in call)
    talkers = {r.slot for r in readers if len(r.tokens) - r.start == 1}
    assert talkers <= {piece.slot for piece in pieces}
    read = [p for p in pieces if p.slot not in talkers]
    assert sum(len(p.tokens) for p in read) <= prefill_tokens
    prefilling = [r for r in readers if r.slot not in talkers]
    if prefilling:  # the first in line always gets something
        assert prefilling[0].slot in {p.slot for p in read}
