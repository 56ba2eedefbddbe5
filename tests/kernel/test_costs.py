"""What the kernel costs: copies between slots and snapshots, and its own work, both counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import AgentId, ContextId, JobId, LaneReport, Outcome, Priority
from aiosd.kernel.replay import Header
from tests.kernel.world import World, play


def copies(world: World) -> tuple[int, int, int]:
    counters = world.kernel.counters
    return (counters.saves, counters.loads, counters.moves)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("quantum", [1, 4, 16, 64])
def test_switching_between_resident_contexts_costs_no_copy(quantum: int) -> None:
    world = World(Header(8, 4, "rr", quantum))
    play(world, [(0, 128)] * 8)
    assert copies(world) == (0, 0, 0)
    # The first one starts alone: turns are shifted once, so that they end together from then on.
    assert 0 <= world.kernel.counters.slices - 8 * 128 // quantum <= 4


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), min_size=1, max_size=8),
    st.sampled_from([1, 4, 16]),
)
@settings(deadline=None)
def test_with_one_lane_and_a_slot_for_each_there_is_never_a_copy(
    lengths: list[tuple[int, int]], quantum: int
) -> None:
    world = World(Header(8, 1, "rr", quantum))
    play(world, lengths)
    assert copies(world) == (0, 0, 0)


@given(st.lists(st.integers(0, 300), min_size=8, max_size=8), st.sampled_from([1, 4, 16]))
@settings(deadline=None, max_examples=30)
def test_with_a_slot_for_each_nothing_is_copied_once_all_have_run(
    prompts: list[int], quantum: int
) -> None:
    world = World(Header(8, 4, "rr", quantum))
    play(world, [(prompt, 2000) for prompt in prompts], max_runs=100)
    assert len(world.clients) == 8
    assert copies(world)[:2] == (0, 0)
    seen: set[ContextId] = set()
    for actions in world.said:
        assert len(seen) < 8 or not any(isinstance(action, ev.Move) for action in actions)
        for action in actions:
            if isinstance(action, ev.Run):
                seen |= {lane.context for lane in action.lanes}
    assert len(seen) == 8


def test_more_jobs_than_slots_cost_at_most_one_save_and_one_load_a_slice() -> None:
    world = World(Header(8, 4, "rr", 16))
    play(world, [(50 + 37 * index % 250, 64 + 29 * index % 64) for index in range(24)])
    counters = world.kernel.counters
    assert counters.loads == counters.parks
    assert counters.loads <= counters.slices - 24  # the first slice of each needs none
    assert counters.saves <= counters.slices + counters.moves
    assert counters.slices <= 24 * (1 + 127 // 16 + 300 // 16)


@pytest.mark.parametrize(("quantum", "most"), [(1, 0.4), (4, 0.9), (16, 0.5), (64, 0.1)])
def test_lanes_settle_into_adjacent_slots(quantum: int, most: float) -> None:
    """4 of 8 slots taken at random would have 1.5 gaps; longer turns pay for more moves."""
    world = World(Header(8, 4, "rr", quantum))
    play(world, [(50 + 37 * index % 250, 64 + 29 * index % 64) for index in range(24)])
    assert world.n_gaps / world.n_runs < most


def test_fifo_lanes_are_always_adjacent() -> None:
    world = World(Header(8, 4, "fifo", 16))
    play(world, [(50 + 37 * index % 250, 64 + 29 * index % 64) for index in range(24)])
    assert world.n_gaps == 0


# ---------------------------------------------------------------- the kernel's own work


def n_instructions(call: Callable[[], object]) -> int:
    """How many of Python's instructions the call executes: a clock that isn't disturbed."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def crowd(n_jobs: int, policy: str) -> Kernel:
    kernel = Kernel(n_slots=8, n_lanes=4, policy=policy)
    for index in range(n_jobs):
        kernel.handle(submission(index), index)
    return kernel


def submission(index: int) -> ev.Submitted:
    job, context = JobId(f"j{index}"), ContextId(f"c{index}")
    return ev.Submitted(job, context, AgentId(1, "a"), Priority.NORMAL)


def came_home(kernel: Kernel) -> ev.RunDone:
    """Everyone took a whole turn, and one is through: the most there is to do."""
    ends = [Outcome.DONE, None, None, None]
    return ev.RunDone(
        tuple(
            LaneReport(lane.job, 0, 16, outcome)
            for lane, outcome in zip(kernel.lanes, ends, strict=False)
        )
    )


def work(n_jobs: int, policy: str) -> dict[str, int]:
    kernel = crowd(n_jobs, policy)
    kernel.handle(came_home(kernel), n_jobs)
    middle = JobId(f"j{n_jobs // 2}")
    return {
        "run done": n_instructions(lambda: kernel.handle(came_home(kernel), n_jobs)),
        "submit": n_instructions(lambda: kernel.handle(submission(n_jobs), n_jobs)),
        "stall": n_instructions(lambda: kernel.handle(ev.OutputStalled(middle), n_jobs)),
        "drain": n_instructions(lambda: kernel.handle(ev.OutputDrained(middle), n_jobs)),
        "position": n_instructions(lambda: kernel.position(middle)),
        "cancel": n_instructions(
            lambda: kernel.handle(ev.Cancelled(middle, Outcome.CANCELLED), n_jobs)
        ),
    }


@pytest.mark.parametrize("policy", ["fifo", "rr", "fair"])
def test_an_event_costs_the_same_with_4096_ready_jobs_as_with_64(policy: str) -> None:
    few, many = work(64, policy), work(4096, policy)
    for event, instructions in many.items():
        assert instructions <= 1.1 * few[event] + 50, event
    assert many["submit"] < (2000 if policy == "fair" else 1000)
    assert many["cancel"] < 1000
    assert many["run done"] < (20_000 if policy == "fair" else 12_000)
