"""The fair line: shares by weight, classes, ageing, coming back from idling, turns broken off."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.kernel import events as ev
from aiosd.kernel.fair import Fair
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import (
    AgentId,
    ContextId,
    Job,
    JobId,
    LaneReport,
    Outcome,
    Priority,
)

S = 10**9
QUANTUM = 16
A, B, C = AgentId(1, "a"), AgentId(1, "b"), AgentId(2, "c")


class Bench:
    """A kernel whose lanes take exactly what they may, in so many seconds a Run."""

    def __init__(self, n_lanes: int = 1, seconds: int = 0) -> None:
        self.kernel = Kernel(8, n_lanes, "fair", QUANTUM)
        self.now_ns, self.run_ns = 0, seconds * S
        self.tokens: Counter[AgentId] = Counter()
        self.by_job: Counter[JobId] = Counter()
        self.is_interrupted = False

    def says(self, event: ev.Event) -> list[ev.Action]:
        self.now_ns += 1
        actions = self.kernel.handle(event, self.now_ns)
        self.kernel.check()
        self.is_interrupted = ev.Interrupt() in actions
        return actions

    def submit(
        self, job: str, agent: AgentId, priority: Priority = Priority.NORMAL
    ) -> list[ev.Action]:
        return self.says(ev.Submitted(JobId(job), ContextId(job), agent, priority))

    def come_home(self, **more: int) -> None:
        """The Run under way ends: each lane took what it may, or as much as is said."""
        self.now_ns += self.run_ns
        reports = []
        for lane in self.kernel.lanes:
            n = more.get(lane.job, 1 if self.is_interrupted else lane.max_tokens or QUANTUM)
            self.tokens[self.kernel.jobs[lane.job].agent] += n
            self.by_job[lane.job] += n
            reports.append(LaneReport(lane.job, 0, n))
        self.says(ev.RunDone(tuple(reports)))

    def run(self, n_runs: int) -> None:
        for _ in range(n_runs):
            self.come_home()

    def on_lanes(self) -> list[str]:
        return sorted(lane.job for lane in self.kernel.lanes)


def test_uids_get_the_same_however_many_agents_they_have() -> None:
    bench = Bench()
    for number in range(9):
        bench.submit(f"many{number}", AgentId(1, f"agent{number}"))
    bench.submit("one", C)
    bench.run(100)
    assert bench.tokens[C] == 50 * QUANTUM


def test_agents_of_a_uid_get_the_same_however_many_jobs_they_have() -> None:
    bench = Bench()
    for number in range(9):
        bench.submit(f"many{number}", A)
    bench.submit("one", B)
    bench.run(100)
    assert bench.tokens == {A: 50 * QUANTUM, B: 50 * QUANTUM}
    assert max(bench.by_job.values()) == bench.by_job[JobId("one")]


def test_an_agent_of_weight_three_gets_three_times_as_much() -> None:
    bench = Bench()
    bench.says(ev.LimitsChanged(A, weight=3))
    bench.submit("a", A)
    bench.submit("b", B)
    bench.run(100)
    assert bench.tokens == {A: 74 * QUANTUM, B: 25 * QUANTUM}  # the first Run ended when b came


def test_weights_last_over_a_change_of_policy() -> None:
    bench = Bench()
    bench.says(ev.LimitsChanged(A, weight=3))
    bench.says(ev.PolicyChanged("fifo"))
    bench.says(ev.PolicyChanged("fair"))
    bench.submit("a", A)
    bench.submit("b", B)
    bench.run(100)
    assert bench.tokens == {A: 74 * QUANTUM, B: 25 * QUANTUM}  # the first Run ended when b came


def test_who_reads_a_long_prompt_waits_until_the_others_have_had_as_much() -> None:
    bench = Bench()
    bench.submit("a", A)
    bench.submit("b", B)
    bench.come_home(a=10 * QUANTUM)
    bench.run(10)
    assert bench.tokens == {A: 10 * QUANTUM, B: 10 * QUANTUM}


def test_lanes_are_spread_over_uids_and_their_agents() -> None:
    bench = Bench(n_lanes=4)
    for number in range(6):
        bench.submit(f"a{number}", A)
    bench.submit("b0", B)
    bench.submit("c0", C)
    bench.submit("c1", C)
    bench.come_home()  # until now a0 had run alone, and the next three had joined it
    bench.run(3)
    lanes = Counter(bench.kernel.jobs[lane.job].agent for lane in bench.kernel.lanes)
    assert lanes == {A: 1, B: 1, C: 2}


def test_who_comes_back_from_idling_has_saved_nothing_up() -> None:
    bench = Bench()
    bench.submit("a", A)
    bench.submit("b", B)
    bench.run(100)
    late = AgentId(1, "late")
    bench.submit("late", late)
    bench.tokens.clear()
    bench.run(30)
    assert all(abs(bench.tokens[agent] - 10 * QUANTUM) <= QUANTUM for agent in (A, B, late))


def test_who_ran_alone_owes_nothing_to_a_newcomer() -> None:
    bench = Bench()
    bench.submit("a", A)
    bench.run(1000)
    bench.submit("b", B)
    bench.come_home()
    bench.tokens.clear()
    bench.run(20)
    assert abs(bench.tokens[A] - bench.tokens[B]) <= 2 * QUANTUM


def test_leaving_and_coming_back_wipes_out_no_debt() -> None:
    bench = Bench()
    bench.submit("a", A)
    bench.submit("b", B)
    bench.come_home(a=10 * QUANTUM)
    bench.says(ev.Cancelled(JobId("a"), Outcome.CANCELLED))
    bench.submit("again", A)
    bench.run(9)
    assert bench.tokens == {A: 10 * QUANTUM, B: 9 * QUANTUM}


def test_an_interactive_job_interrupts_a_lower_class_and_nobody_of_its_own() -> None:
    bench = Bench()
    bench.submit("background", A, Priority.BACKGROUND)
    bench.submit("waiting", A, Priority.BACKGROUND)
    bench.come_home()
    assert ev.Interrupt() in bench.submit("normal", A)
    bench.come_home()
    assert bench.on_lanes() == ["normal"]
    assert ev.Interrupt() not in bench.submit("another", B)
    assert ev.Interrupt() in bench.submit("interactive", B, Priority.INTERACTIVE)
    bench.come_home()
    assert bench.on_lanes() == ["interactive"]


def test_a_job_made_interactive_goes_first() -> None:
    bench = Bench()
    bench.submit("a", A)
    bench.submit("b", B)
    bench.submit("c", C)
    bench.come_home()
    assert bench.on_lanes() != ["b"]
    actions = bench.says(ev.PriorityChanged(JobId("b"), Priority.INTERACTIVE))
    assert actions == [ev.Interrupt()]
    bench.come_home()
    assert bench.on_lanes() == ["b"]


def test_a_turn_broken_off_goes_on_before_a_new_one_begins() -> None:
    bench = Bench()
    bench.submit("a", A)
    bench.submit("b", B)
    bench.come_home()
    broken_off = bench.on_lanes()
    bench.submit("urgent", C, Priority.INTERACTIVE)
    bench.come_home()
    assert bench.on_lanes() == ["urgent"]
    bench.says(ev.RunDone((LaneReport(JobId("urgent"), 0, 1, Outcome.DONE),)))
    assert bench.on_lanes() == broken_off
    assert bench.kernel.lanes[0].max_tokens == QUANTUM - 2  # one until b came, one until urgent


def test_the_lowest_class_gets_turns_beside_an_endless_stream_of_the_highest() -> None:
    bench = Bench(seconds=1)
    bench.submit("low", A, Priority.BACKGROUND)
    bench.submit("high", B, Priority.INTERACTIVE)
    waits, waited = [], 0
    for _ in range(200):
        bench.come_home()
        waited += 1
        if bench.on_lanes() == ["low"]:
            waits.append(waited)
            waited = 0
    assert len(waits) >= 5
    assert max(waits) <= 2 * 15 + 3  # two classes up, then its share


def test_the_class_of_a_lane_is_its_rank() -> None:
    bench = Bench(n_lanes=3)
    bench.submit("low", A, Priority.BACKGROUND)
    bench.submit("middle", A)
    bench.submit("high", A, Priority.INTERACTIVE)
    bench.come_home()
    assert {lane.job: lane.rank for lane in bench.kernel.lanes} == {
        "low": 2,
        "middle": 1,
        "high": 0,
    }


@pytest.mark.parametrize(
    ("n_parks", "order"), [(2, ["low", "new", "old"]), (3, ["low", "old", "new"])]
)
def test_victims_are_of_the_lowest_class_then_the_newest_unless_it_was_parked_three_times(
    n_parks: int, order: list[str]
) -> None:
    """And last who has the most tokens, which nobody is desperate enough to take here."""
    kernel = Kernel(4, 1, "fair", QUANTUM)
    for number, name in enumerate(("low", "old", "most", "new")):
        priority = Priority.BACKGROUND if name == "low" else Priority.NORMAL
        job = JobId(name)
        kernel.handle(ev.Submitted(job, ContextId(name), AgentId(number, name), priority), 0)
        if name != "low":
            n = 500 if kernel.lanes[0].job == "most" else QUANTUM
            kernel.handle(ev.RunDone((LaneReport(kernel.lanes[0].job, 0, n),)), 0)
        assert kernel.lanes[0].job == name
    for number in range(4):
        job, agent = JobId(f"x{number}"), AgentId(9 + number, "x")
        kernel.handle(ev.Submitted(job, ContextId(job), agent, Priority.INTERACTIVE), 0)
    kernel.jobs[JobId("new")].parks = n_parks
    evicted: list[str] = []
    for _ in range(3):
        actions = kernel.handle(ev.RunDone((LaneReport(kernel.lanes[0].job, 0, QUANTUM),)), 0)
        evicted += [action.context for action in actions if isinstance(action, ev.Save)]
        kernel.check()
    assert evicted == order


AGENTS = st.sampled_from([AgentId(uid, name) for uid in (1, 2, 3) for name in "ab"])


@given(
    st.lists(st.tuples(AGENTS, st.sampled_from(Priority), st.integers(0, 40)), max_size=24),
    st.lists(st.tuples(AGENTS, st.integers(1, 9)), max_size=3),
)
@settings(deadline=None)
def test_the_position_told_is_the_place_in_the_line(
    jobs: list[tuple[AgentId, Priority, int]], weights: list[tuple[AgentId, int]]
) -> None:
    line = Fair(QUANTUM)
    for agent, weight in weights:
        line.set_weight(agent, weight)
    for number, (agent, priority, used) in enumerate(jobs):
        job = Job(JobId(f"j{number}"), ContextId(""), agent, priority, 0, ticket=number)
        line.charge(job, used, line.rank(job))
        line.add(job)
        line.check()
    in_order = list(line)
    assert len(in_order) == len(jobs)
    assert [line.position(job) for job in in_order] == list(range(1, len(jobs) + 1))
    for n in range(len(jobs)):
        assert line.first(n) == in_order[:n]


@given(
    st.lists(AGENTS, min_size=2, max_size=12),
    st.integers(1, 4),
    st.lists(st.integers(0, 3 * QUANTUM), min_size=60, max_size=60),
)
@settings(deadline=None, max_examples=60)
def test_agents_that_always_want_more_never_drift_apart(
    agents: list[AgentId], n_lanes: int, pieces: list[int]
) -> None:
    """VTC's bound: what two agents of a uid were given differs by no more than what one turn can
    take on every lane, however uneven the pieces; turns that end together may take half as much
    again."""
    bench = Bench(n_lanes=n_lanes)
    for number, agent in enumerate(agents):
        for copy in range(n_lanes):  # enough jobs to use whatever the agent is given
            bench.submit(f"j{number}.{copy}", agent)
    bench.run(2)
    bench.tokens.clear()
    for piece in pieces:
        jobs = bench.on_lanes()
        bench.come_home(**({jobs[0]: piece} if piece else {}))
    bound = 3 * n_lanes * 4 * QUANTUM
    for uid in {agent.uid for agent in agents}:
        given_ = [bench.tokens[agent] for agent in set(agents) if agent.uid == uid]
        assert max(given_) - min(given_) <= bound


def test_work_in_another_class_is_no_debt_and_no_credit() -> None:
    bench = Bench(seconds=1)
    bench.submit("a", A)
    bench.run(100)
    bench.submit("newcomer", C, Priority.INTERACTIVE)
    bench.submit("asks", A, Priority.INTERACTIVE)
    bench.run(2)
    bench.by_job.clear()
    bench.run(10)  # nobody ages yet
    assert bench.by_job == {JobId("newcomer"): 5 * QUANTUM, JobId("asks"): 5 * QUANTUM}


def test_changing_class_while_a_lane_charges_the_class_of_the_lane() -> None:
    bench = Bench()
    bench.submit("sly", A, Priority.INTERACTIVE)
    bench.submit("honest", C, Priority.INTERACTIVE)
    bench.come_home()
    for _ in range(40):
        for priority in (Priority.BACKGROUND, Priority.INTERACTIVE):
            if "sly" in bench.on_lanes() or priority is Priority.INTERACTIVE:
                bench.says(ev.PriorityChanged(JobId("sly"), priority))
            if priority is Priority.BACKGROUND:
                bench.come_home()
    assert bench.tokens[A] <= bench.tokens[C] + 2 * QUANTUM


def test_what_was_done_alone_in_one_run_is_no_debt_to_who_comes_after_it() -> None:
    bench = Bench(n_lanes=2)
    bench.submit("a", A, Priority.INTERACTIVE)
    bench.says(ev.RunDone((LaneReport(JobId("a"), 0, 2000, Outcome.DONE),)))
    for number in range(3):
        bench.submit(f"b{number}", C, Priority.INTERACTIVE)
    bench.run(2)
    bench.submit("again", A, Priority.INTERACTIVE)
    bench.come_home()
    bench.by_job.clear()
    bench.run(20)
    assert bench.by_job[JobId("again")] >= 18 * QUANTUM


def test_who_is_broken_off_keeps_what_it_is_owed() -> None:
    bench = Bench()
    bench.submit("much", A)
    bench.submit("little", C)
    bench.come_home(much=20 * QUANTUM)
    bench.submit("urgent", B, Priority.INTERACTIVE)
    bench.come_home()
    assert bench.on_lanes() == ["urgent"]
    bench.says(ev.RunDone((LaneReport(JobId("urgent"), 0, 1, Outcome.DONE),)))
    bench.run(19)
    assert bench.tokens[C] >= 18 * QUANTUM


def test_going_in_and_out_of_the_line_leaves_one_entry_to_age() -> None:
    bench = Bench()
    bench.submit("runs", A)
    bench.submit("waits", B)
    for _ in range(5000):
        bench.says(ev.PriorityChanged(JobId("waits"), Priority.BACKGROUND))
    bench.come_home()
    line = bench.kernel._policy
    assert isinstance(line, Fair)
    assert len(line._ageing) < 100
