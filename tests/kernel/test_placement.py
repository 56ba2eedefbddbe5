"""Lanes become neighbours where that pays, and nobody is pushed out or moved without need."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.kernel.model import SlotId
from aiosd.kernel.placement import LANE, LONG_STEPS, Claim, Plan, Seat, Use, place

KINDS = {".": Use.FREE, "i": Use.IDLE, "w": Use.WAITING, "r": Use.READY, "s": Use.SOON}


def placed(picture: str, n_new: int = 0, n_steps: int | None = None, n_tokens: int = 100) -> str:
    """Place the lanes of a picture: one letter per slot, capitals are lanes at home, in order;
    A is the first.  New lanes have the letters after these.  The answer shows the lanes only."""
    homes = sorted((letter, slot) for slot, letter in enumerate(picture) if letter.isupper())
    seats = [Seat(SlotId(slot), n_tokens) for _, slot in homes] + [Seat(None)] * n_new
    claims = [LANE if letter.isupper() else Claim(KINDS[letter]) for letter in picture]
    plan = place(seats, claims, n_steps)
    shown = ["."] * len(picture)
    for index, slot in enumerate(plan):
        shown[slot] = chr(ord("A") + index)
    return "".join(shown)


@pytest.mark.parametrize(
    ("picture", "n_new", "n_steps", "then"),
    [
        # the first ones
        ("....", 1, None, "A..."),
        ("....", 3, None, "ABC."),
        ("....", 4, 1, "ABCD"),
        # a new lane goes beside the one at home
        ("..A.", 1, None, ".BA."),
        ("iA..", 1, None, ".AB."),
        ("...A", 2, 1, ".BCA"),
        # lanes at home and together stay, whatever else is free
        ("..AB", 0, None, "..AB"),
        ("BA..", 0, None, "BA.."),
        ("rABr", 0, None, ".AB."),
        # a lane apart comes nearer with one move, if its turn is long
        ("A..B", 0, None, "AB.."),
        ("A..B", 0, LONG_STEPS - 1, "A..B"),
        # nobody is pushed out whose turn is next while turns are bounded ...
        ("AsBs", 0, 64, "A.B."),
        # ... but someone who loses the slot anyway is
        ("ArBr", 0, 64, "AB.."),
        # a short turn takes what is free, a long one the neighbour's
        ("Ai.", 1, 4, "A.B"),
        ("Aii.", 1, 64, "AB.."),
        # idle contexts go before waiting ones, these before ready ones
        ("wi", 1, None, ".A"),
        ("rw", 1, None, ".A"),
        ("sr", 1, None, ".A"),
        ("srwi.", 1, None, "....A"),
    ],
)
def test_where_lanes_go(picture: str, n_new: int, n_steps: int | None, then: str) -> None:
    assert placed(picture, n_new, n_steps) == then


def test_a_long_context_is_not_moved_for_a_short_turn() -> None:
    assert placed("A..B", n_steps=8, n_tokens=100) == "AB.."
    assert placed("A..B", n_steps=8, n_tokens=4000) == "A..B"


def test_among_equals_the_smallest_order_goes() -> None:
    claims = [Claim(Use.IDLE, 7), Claim(Use.IDLE, 3), Claim(Use.IDLE, 5)]
    assert place([Seat(None)], claims, None) == (1,)


def test_the_shorter_context_is_the_one_that_moves() -> None:
    seats = [Seat(SlotId(0), 900), Seat(SlotId(3), 100)]
    claims = [LANE, Claim(Use.FREE), Claim(Use.FREE), LANE]
    assert place(seats, claims, None) == (0, 1)
    assert place([Seat(SlotId(0), 100), Seat(SlotId(3), 900)], claims, None) == (2, 3)


# ---------------------------------------------------------------- properties

KIND = st.sampled_from([use for use in Use if use is not Use.LANE])


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Seat], list[Claim]]:
    n_slots = draw(st.integers(1, 12))
    n_lanes = draw(st.integers(1, n_slots))
    n_home = draw(st.integers(0, n_lanes))
    homes = draw(st.permutations(range(n_slots)))[:n_home]
    tokens = st.integers(0, 1000)
    seats = [Seat(SlotId(home), draw(tokens)) for home in homes]
    seats += [Seat(None)] * (n_lanes - n_home)
    claims = [
        LANE if slot in homes else Claim(draw(KIND), draw(st.integers(0, 9)))
        for slot in range(n_slots)
    ]
    return draw(st.permutations(seats)), claims


STEPS = st.none() | st.integers(1, 100)


def n_moves(seats: list[Seat], plan: Plan) -> int:
    return sum(
        seat.home is not None and seat.home != slot for seat, slot in zip(seats, plan, strict=True)
    )


def n_gaps(plan: Plan) -> int:
    return sum(b - a > 1 for a, b in itertools.pairwise(sorted(plan)))


@given(questions(), STEPS)
def test_slots_are_different_and_exist(
    question: tuple[list[Seat], list[Claim]], n_steps: int | None
) -> None:
    seats, claims = question
    plan = place(seats, claims, n_steps)
    assert len(plan) == len(seats)
    assert len(set(plan)) == len(plan)
    assert set(plan) <= set(range(len(claims)))


@given(questions(), STEPS)
def test_no_lane_takes_the_home_of_another(
    question: tuple[list[Seat], list[Claim]], n_steps: int | None
) -> None:
    seats, claims = question
    for seat, slot in zip(seats, place(seats, claims, n_steps), strict=True):
        assert slot == seat.home or claims[slot].use is not Use.LANE


@given(questions())
def test_lanes_without_a_bound_are_neighbours(question: tuple[list[Seat], list[Claim]]) -> None:
    seats, claims = question
    assert n_gaps(place(seats, claims, None)) == 0


@given(questions(), st.integers(1, LONG_STEPS - 1))
def test_lanes_with_few_steps_before_them_do_not_move(
    question: tuple[list[Seat], list[Claim]], n_steps: int
) -> None:
    seats, claims = question
    assert n_moves(seats, place(seats, claims, n_steps)) == 0


@given(questions(), STEPS)
def test_lanes_that_are_neighbours_stay_where_they_are(
    question: tuple[list[Seat], list[Claim]], n_steps: int | None
) -> None:
    seats, claims = question
    plan = place(seats, claims, n_steps)
    settled = [Seat(slot, 100) for slot in plan]
    held = [LANE if slot in plan else claim for slot, claim in enumerate(claims)]
    if n_gaps(plan) == 0:
        assert place(settled, held, n_steps) == plan


@given(st.integers(3, 12), st.data())
def test_one_lane_apart_costs_one_move_and_no_eviction_among_free_slots(
    n_slots: int, data: st.DataObject
) -> None:
    n_lanes = data.draw(st.integers(2, n_slots - 1))
    homes = [*range(n_lanes - 1), data.draw(st.integers(n_lanes, n_slots - 1))]
    seats = [Seat(SlotId(home), 100) for home in homes]
    claims = [LANE if slot in homes else Claim(Use.FREE) for slot in range(n_slots)]
    plan = place(seats, claims, None)
    assert (n_moves(seats, plan), n_gaps(plan)) == (1, 0)


@given(questions(), st.integers(1, 1000))
def test_under_a_quantum_nobody_whose_turn_is_next_loses_the_slot_without_need(
    question: tuple[list[Seat], list[Claim]], n_steps: int
) -> None:
    seats, claims = question
    plan = place(seats, claims, n_steps)
    n_new = sum(seat.home is None for seat in seats)
    n_others = sum(claim.use not in (Use.SOON, Use.LANE) for claim in claims)
    n_taken = sum(claims[slot].use is Use.SOON for slot in plan)
    assert n_taken == max(0, n_new - n_others)
