"""Turns that begin and end together, on lanes side by side.

Lanes in slots that are no neighbours cost a pass over the model's weights for each gap (FACTS,
"Slots must be neighbours"), and a context changes its slot only by being copied.  So where more
contexts are resident than there are lanes, those that are neighbours have their turns at the same
time: then a change of turns costs neither copies nor gaps.  The price is paid once, when they find
together: a turn is up to half a quantum shorter or longer, and some go before others of their line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from aiosd.kernel.model import Job, SlotId
from aiosd.kernel.placement import n_gaps
from aiosd.kernel.policy import Fifo

MOST_LEAD_QUANTA = 2


def align(policy: Fifo, jobs: Sequence[Job]) -> None:
    """Let the turns that begin now end with the longest of those under way, if that leaves them at
    least half a quantum; else as much later."""
    quantum_tokens = policy.quantum_tokens
    left = [policy.allowance(job) or 0 for job in jobs if job.used_tokens]
    n_tokens = min(max(left, default=quantum_tokens), 3 * quantum_tokens // 2)
    if 2 * n_tokens < quantum_tokens:
        n_tokens += quantum_tokens
    for job in jobs:
        if not job.used_tokens:
            job.extra_tokens = n_tokens - quantum_tokens


def side_by_side(
    policy: Fifo, n_lanes: int, n_soon: int, home: Callable[[Job], SlotId | None]
) -> list[Job]:
    """n_lanes of the first n_soon in the line: the first of them, unless others of the last one's
    class make fewer gaps between their slots.

    Who is in a turn goes on, and the first of that class who isn't goes first: nobody is passed
    over for ever.  Whose turn is used up may be among them, to begin another; whose owner was given
    far more than others are (MOST_LEAD_QUANTA) takes nobody's place.
    home   where a job's context is
    """
    chosen = policy.first(n_lanes)
    homes = [slot for job in chosen if (slot := home(job)) is not None]
    if len(homes) < len(chosen) or n_gaps(homes) == 0:
        return chosen  # who has no slot yet is placed beside the others
    rank = policy.rank(chosen[-1])
    fresh = (job for job in chosen if not job.used_tokens and policy.rank(job) == rank)
    head = next(fresh, None)
    fixed, line, slots = list[Job](), list[Job](), list[SlotId]()
    for place, job in enumerate(policy.first(n_soon)):
        slot = home(job)
        is_free = (not job.used_tokens or policy.is_used_up(job)) and policy.rank(job) == rank
        if place >= n_lanes and policy.lead_tokens(job) > MOST_LEAD_QUANTA * policy.quantum_tokens:
            continue
        if slot is not None and is_free and job is not head:
            line.append(job)
            slots.append(slot)
        elif place < n_lanes:
            fixed.append(job)
    held = [slot for job in fixed if (slot := home(job)) is not None]
    return fixed + [line[place] for place in neighbours(held, slots, len(chosen) - len(fixed))]


def neighbours(fixed: Sequence[SlotId], line: Sequence[SlotId], n: int) -> list[int]:
    """Which n of the line go beside the fixed slots, as places in the line, in order.

    Those that make the fewest gaps; between equals those that leave fewer gaps among the rest, then
    those that come first.
    """
    n_lanes, ordered = len(fixed) + n, sorted([*fixed, *line])
    plans = [list(range(n))]
    for start in range(len(ordered) - n_lanes + 1):
        window = set(ordered[start : start + n_lanes])
        inside = [place for place, slot in enumerate(line) if slot in window][:n]
        outside = (place for place, slot in enumerate(line) if slot not in window)
        plans.append(sorted([*inside, *islice(outside, n - len(inside))]))

    def cost(plan: list[int]) -> tuple[int, int, int]:
        going = {line[place] for place in plan}
        left = [slot for slot in line if slot not in going]
        return n_gaps([*fixed, *going]), n_gaps(left), sum(plan)

    return min(plans, key=cost)
