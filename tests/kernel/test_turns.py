"""Turns that end together, on lanes side by side: where that costs less than it brings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.kernel.events import RunDone, Submitted
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import AgentId, ContextId, Job, JobId, LaneReport, Priority, SlotId
from aiosd.kernel.placement import n_gaps
from aiosd.kernel.policies import make
from aiosd.kernel.replay import Header
from aiosd.kernel.turns import neighbours, side_by_side
from tests.kernel.world import World, play


def slots(*numbers: int) -> list[SlotId]:
    return [SlotId(number) for number in numbers]


def test_the_first_go_where_they_are_neighbours_already() -> None:
    assert neighbours(slots(3), slots(4, 2, 5), 2) == [0, 1]


def test_one_who_makes_neighbours_goes_before_one_who_does_not() -> None:
    assert neighbours(slots(3), slots(4, 7, 5), 2) == [0, 2]


def test_between_equals_those_go_who_leave_the_others_side_by_side() -> None:
    assert neighbours(slots(2), slots(5, 3, 1, 0, 4), 2) == [2, 3]


def test_where_no_choice_makes_neighbours_the_first_go() -> None:
    assert neighbours(slots(0), slots(4, 2, 6), 1) == [0]


def test_the_first_of_a_class_is_not_passed_over_because_of_one_in_a_better_class() -> None:
    line, homes = make("fair", 16), dict[str, SlotId]()
    for name, priority, slot in (
        ("asks", Priority.INTERACTIVE, 0),
        ("first", Priority.NORMAL, 5),
        ("beside", Priority.NORMAL, 1),
    ):
        agent = AgentId(1, name)
        line.add(Job(JobId(name), ContextId(name), agent, priority, 0, ticket=len(homes)))
        homes[name] = SlotId(slot)
    chosen = side_by_side(line, 2, 6, lambda job: homes[job.id])
    assert sorted(job.id for job in chosen) == ["asks", "first"]


@given(st.sets(st.integers(0, 31), min_size=1, max_size=24), st.data())
def test_never_more_gaps_than_the_first_would_make(numbers: set[int], data: st.DataObject) -> None:
    line = slots(*data.draw(st.permutations(sorted(numbers))))
    n_fixed = data.draw(st.integers(0, len(line) - 1))
    fixed, line = line[:n_fixed], line[n_fixed:]
    n = data.draw(st.integers(1, len(line)))
    places = neighbours(fixed, line, n)
    assert len(set(places)) == n
    assert places == sorted(places)
    assert n_gaps([*fixed, *(line[p] for p in places)]) <= n_gaps([*fixed, *line[:n]])


@pytest.mark.parametrize("policy", ["rr", "fair"])
@pytest.mark.parametrize("quantum", [1, 4, 16, 64])
def test_residents_find_together_whatever_their_prompts_were(policy: str, quantum: int) -> None:
    """Taken as they come, 8 of 16 would have more than two gaps a Run."""
    world = World(Header(16, 8, policy, quantum))
    play(world, [(29 * index % 97, 600) for index in range(16)])
    assert world.n_gaps / world.n_runs < 0.5


def test_neighbours_of_one_agent_never_take_the_turns_of_another_for_long() -> None:
    """b's contexts lie beside each other, a's far apart: taken by neighbours alone a would get a
    quarter."""
    kernel = Kernel(n_slots=16, n_lanes=8, policy="fair", quantum_tokens=16)
    given = {"a": 0, "b": 0}
    for index in range(16):
        agent = AgentId(1, "b" if index % 5 else "a")
        job, context = JobId(f"j{index}"), ContextId(f"c{index}")
        kernel.handle(Submitted(job, context, agent, Priority.NORMAL), 0)
    for _ in range(400):
        n_tokens = min(lane.max_tokens or 4 for lane in kernel.lanes)
        reports = tuple(LaneReport(lane.job, 0, n_tokens) for lane in kernel.lanes)
        for lane in kernel.lanes:
            given[kernel.jobs[lane.job].agent.name] += n_tokens
        kernel.handle(RunDone(reports), 0)
    assert sum(given.values()) > 40_000
    assert abs(given["a"] - given["b"]) <= 3 * 8 * 16
