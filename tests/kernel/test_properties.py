"""Random programs: whatever happens in whatever order, the promises hold after every event."""

from __future__ import annotations

import json

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aiosd.kernel import events as ev
from aiosd.kernel.model import (
    AgentId,
    ContextId,
    JobId,
    Lane,
    LaneReport,
    Outcome,
    Priority,
)
from aiosd.kernel.replay import Header, decode, encode, replay
from tests.kernel.world import World, play

POLICY = st.sampled_from(["fifo", "rr", "fair"])
AGENT = st.sampled_from([AgentId(1, "a"), AgentId(1, "b"), AgentId(2, "a")])
QUANTUM = st.sampled_from([1, 2, 4, 16])
ENDS = [Outcome.CANCELLED, Outcome.DEADLINE, Outcome.UNAVAILABLE]


class Programs(RuleBasedStateMachine):
    """Any events in any order that the driver could send."""

    @initialize(n_slots=st.integers(1, 6), data=st.data(), policy=POLICY, quantum=QUANTUM)
    def begin(self, n_slots: int, data: st.DataObject, policy: str, quantum: int) -> None:
        n_lanes = data.draw(st.integers(1, n_slots))
        self.world = World(Header(n_slots, n_lanes, policy, quantum))
        self.n_jobs = self.n_contexts = 0

    def job(self, data: st.DataObject) -> JobId:
        """Any job there ever was, ended ones too, but more often a living one."""
        alive = sorted(self.world.clients)
        ever = [JobId(f"j{number}") for number in range(self.n_jobs)]
        return data.draw(st.sampled_from(alive + alive + ever))

    @rule(data=st.data(), agent=AGENT, priority=st.sampled_from(Priority))
    def submit(self, data: st.DataObject, agent: AgentId, priority: Priority) -> None:
        busy = {client.context for client in self.world.clients.values()}
        idle = sorted(self.world.known - busy)
        fresh = ContextId(f"c{self.n_contexts}")
        context = data.draw(st.sampled_from([*idle, fresh]))
        self.n_contexts += context == fresh
        job, self.n_jobs = JobId(f"j{self.n_jobs}"), self.n_jobs + 1
        self.world.happens(ev.Submitted(job, context, agent, priority))

    @rule(agent=AGENT, weight=st.integers(1, 9), per_minute=st.none() | st.integers(1, 600))
    def change_limits(self, agent: AgentId, weight: int, per_minute: int | None) -> None:
        self.world.happens(ev.LimitsChanged(agent, weight, per_minute))

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.world.now_ns += seconds * 10**9
        self.world.happens(ev.TimePassed())

    @precondition(lambda self: self.n_jobs)
    @rule(data=st.data(), outcome=st.sampled_from(ENDS))
    def cancel(self, data: st.DataObject, outcome: Outcome) -> None:
        self.world.happens(ev.Cancelled(self.job(data), outcome))

    @precondition(lambda self: self.n_jobs)
    @rule(
        data=st.data(),
        kind=st.sampled_from(
            [ev.OutputStalled, ev.OutputDrained, ev.JobPaused, ev.JobResumed, ev.FirstToken]
        ),
    )
    def something_about_a_job(self, data: st.DataObject, kind: type[ev.FirstToken]) -> None:
        self.world.happens(kind(self.job(data)))

    @precondition(lambda self: self.n_jobs)
    @rule(data=st.data(), priority=st.sampled_from(Priority))
    def change_priority(self, data: st.DataObject, priority: Priority) -> None:
        self.world.happens(ev.PriorityChanged(self.job(data), priority))

    @rule(data=st.data(), policy=st.none() | POLICY, quantum=st.none() | QUANTUM)
    def change_policy(self, data: st.DataObject, policy: str | None, quantum: int | None) -> None:
        n_lanes = data.draw(st.none() | st.integers(1, self.world.header.n_slots))
        self.world.happens(ev.PolicyChanged(policy, quantum, n_lanes))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        busy = {client.context for client in self.world.clients.values()}
        context = data.draw(st.sampled_from([*sorted(self.world.known - busy), "unknown"]))
        self.world.happens(ev.ContextDropped(ContextId(context)))

    @rule(data=st.data(), soon_ns=st.integers(-5, 200))
    def await_something(self, data: st.DataObject, soon_ns: int) -> None:
        context = data.draw(st.sampled_from([*sorted(self.world.known), "unknown"]))
        until_ns = self.world.now_ns + soon_ns
        self.world.happens(ev.ContextAwaited(ContextId(context), until_ns))

    @precondition(lambda self: self.world.lanes)
    @rule(data=st.data())
    def come_home(self, data: st.DataObject) -> None:
        lanes = self.world.lanes
        reports = [self.report(lane, data) for lane in lanes]
        is_over = any(
            report.outcome or report.n_prompt + report.n_output >= (lane.max_tokens or 10**9)
            for report, lane in zip(reports, lanes, strict=True)
        )
        if not is_over and not self.world.is_interrupted:
            last = reports[-1]
            reports[-1] = LaneReport(last.job, last.n_prompt, last.n_output, Outcome.DONE)
        self.world.happens(ev.RunDone(tuple(reports)))

    def report(self, lane: Lane, data: st.DataObject) -> LaneReport:
        outcomes = [None, None, None, Outcome.DONE, Outcome.FAILED]
        n_output = data.draw(st.integers(0, 20 if lane.max_tokens is None else lane.max_tokens))
        n_prompt = data.draw(st.sampled_from([0, 0, 5, 64]))
        return LaneReport(lane.job, n_prompt, n_output, data.draw(st.sampled_from(outcomes)))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        for agent in {client.agent for client in world.clients.values()}:
            world.happens(ev.LimitsChanged(agent))
        for job in list(world.clients):
            world.happens(ev.OutputDrained(job))
            world.happens(ev.JobResumed(job))
        for _ in range(2 * self.n_jobs):
            if world.lanes:
                world.happens(ev.RunDone(tuple(ended(lane) for lane in world.lanes)))
        assert sorted(world.ended) == sorted(f"j{number}" for number in range(self.n_jobs))
        assert world.kernel.jobs == {}
        again = [
            actions
            for _, _, actions in replay(
                Header.decode(json.loads(json.dumps(world.header.encode()))),
                [decode(json.loads(json.dumps(encode(*entry)))) for entry in world.journal],
            )
        ]
        assert again == world.said


def ended(lane: Lane) -> LaneReport:
    return LaneReport(lane.job, 0, 1, Outcome.DONE)


TestPrograms = Programs.TestCase
TestPrograms.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# ---------------------------------------------------------------- orderly programs

LENGTHS = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), min_size=1, max_size=24)


@given(LENGTHS, st.integers(1, 8), st.data(), QUANTUM)
@settings(deadline=None)
def test_nobody_starves_under_round_robin(
    lengths: list[tuple[int, int]], n_slots: int, data: st.DataObject, quantum: int
) -> None:
    """Between two turns of a ready job no more Runs come home than there are jobs (in play)."""
    n_lanes = data.draw(st.integers(1, n_slots))
    ends = play(World(Header(n_slots, n_lanes, "rr", quantum)), lengths)
    assert len(ends) == len(lengths)


@given(LENGTHS, st.integers(1, 8))
@settings(deadline=None)
def test_with_one_lane_fifo_ends_jobs_in_the_order_they_came(
    lengths: list[tuple[int, int]], n_slots: int
) -> None:
    ends = play(World(Header(n_slots, 1, "fifo", 16)), lengths)
    assert ends == [f"j{index}" for index in range(len(lengths))]


@given(LENGTHS, st.integers(1, 8), st.data())
@settings(deadline=None)
def test_fifo_gives_every_job_one_slice_and_parks_nobody(
    lengths: list[tuple[int, int]], n_slots: int, data: st.DataObject
) -> None:
    world = World(Header(n_slots, data.draw(st.integers(1, n_slots)), "fifo", 16))
    play(world, lengths)
    assert world.kernel.counters.slices == len(lengths)
    assert world.kernel.counters.parks == world.kernel.counters.loads == 0
