"""Which slots the chosen lanes get: neighbours, where that costs less than it brings.

Lanes whose slots are not neighbours fall into more sub-batches (FACTS, "Slots must be
neighbours").  A pure function over small numbers; nothing here knows a job or changes a slot.

Costs are counted in copied tokens.  Copying 1024 tokens between slots took 22 ms, about as long
as one step of 8 lanes, so a step is worth 1024.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from aiosd.kernel.model import SlotId

STEP_COST = 1024
GAP_COST = 160
"""What a gap between lanes costs per step.  8 lanes took 19 % longer with one gap, 72 % with
seven: 10 to 19 % each, of 1024."""

COPY_COST = 100
"""What a copy costs before its first token: small ones took about 2 ms."""

LONG_STEPS = 8
"""Lanes with fewer steps before them stay where they are: nothing is gained by the time their
turn is over."""

UNBOUNDED_STEPS = 256
"""How long lanes without a bound are taken to run: llm.generate's own default length."""


class Use(enum.IntEnum):
    """What a slot holds; whoever needs a slot takes the smallest it finds."""

    FREE = 0
    IDLE = 1  # a context without a job
    WAITING = 2  # its job is paused, or its reader is slow
    AWAITED = 3  # a context without a job, that is expected to have one soon
    READY = 4  # its job is so far back in the line that it loses the slot anyway
    SOON = 5  # its job is among the next to run
    LANE = 6  # one of the lanes to be placed: never taken


EVICTION_COST = {
    Use.FREE: 0,
    Use.IDLE: 1024,
    Use.WAITING: 1280,
    Use.AWAITED: 1408,
    Use.READY: 1536,
    Use.SOON: 8192,
}
"""Saving it now, loading it again if and when it is wanted.  By kind and not by size: the size
of a context whose job the kernel didn't see is unknown, and a lost snapshot costs far more."""

NEVER = 10**9
"""What it costs under a quantum to push out someone whose turn is next, so that it happens only
where there is no other slot: switching between residents is to cost no copy."""


class Claim(NamedTuple):
    """What a slot holds, and who goes first among its like (the smallest order)."""

    use: Use
    order: int = 0


FREE = Claim(Use.FREE)
LANE = Claim(Use.LANE)


class Seat(NamedTuple):
    """A lane to be placed: the slot its context is in, if any, and how much there is to copy."""

    home: SlotId | None
    n_tokens: int = 0


Plan = tuple[SlotId, ...]
"""A slot for each seat, in the order of the seats."""


def place(seats: Sequence[Seat], claims: Sequence[Claim], n_steps: int | None) -> Plan:
    """A slot for each seat: all different, at the least cost.

    Who else is in one of these slots has to be saved and cleared first; a seat with a home
    elsewhere is to be moved.  claims has one entry per slot, LANE exactly at the seats' homes.
    n_steps is how long the lanes may be expected to stay together, None: no bound.
    """
    n_new = sum(seat.home is None for seat in seats)
    at_home = [seat.home for seat in seats if seat.home is not None]
    if not n_new and n_gaps(at_home) == 0:
        return tuple(at_home)
    may_move = n_steps is None or n_steps >= LONG_STEPS
    plans = [_fill(seats, _victims(range(len(claims)), claims)[:n_new])]
    for start in range(len(claims) - len(seats) + 1):
        inside = range(start, start + len(seats))
        targets = _victims(inside, claims)
        if n_new:
            plans.append(_fill(seats, targets[:n_new]))
        if may_move:
            plans.append(_gather(seats, inside, targets))
    return min(plans, key=lambda plan: (_cost(plan, seats, claims, n_steps), plan))


def _victims(slots: range, claims: Sequence[Claim]) -> list[SlotId]:
    """The slots that may be taken, in the order in which they are."""
    takeable = (SlotId(slot) for slot in slots if claims[slot].use is not Use.LANE)
    return sorted(takeable, key=lambda slot: (claims[slot], slot))


def _fill(seats: Sequence[Seat], targets: Sequence[SlotId]) -> Plan:
    """Who has a home stays there; the others take the targets from left to right."""
    left = iter(sorted(targets))
    return tuple(next(left) if seat.home is None else seat.home for seat in seats)


def _gather(seats: Sequence[Seat], inside: range, targets: Sequence[SlotId]) -> Plan:
    """Everyone into the window: who has a home in it stays, the others fill it up."""
    left = iter(sorted(targets))
    return tuple(
        seat.home if seat.home is not None and seat.home in inside else next(left) for seat in seats
    )


def n_gaps(slots: Sequence[int]) -> int:
    """How often the next of these slots is not the neighbour."""
    ordered = sorted(slots)
    return sum(b - a > 1 for a, b in itertools.pairwise(ordered))


def _cost(
    plan: Plan, seats: Sequence[Seat], claims: Sequence[Claim], n_steps: int | None
) -> tuple[int, int]:
    """What the plan costs, in copied tokens; between equals, the sum of the claims' order."""
    steps = UNBOUNDED_STEPS if n_steps is None else n_steps
    cost, order = GAP_COST * steps * n_gaps(plan), 0
    for slot, seat in zip(plan, seats, strict=True):
        if slot == seat.home:
            continue
        if seat.home is not None:
            cost += COPY_COST + seat.n_tokens
        use = claims[slot].use
        is_back_too_soon = use is Use.SOON and n_steps is not None
        cost += NEVER if is_back_too_soon else EVICTION_COST[use]
        order += claims[slot].order
    return cost, order
