"""The scheduler's state machine: one engine, many jobs, few slots.

Rule 1: state changes only inside handle(), and each JobState is one collection (jobs.py).
Rule 2: nothing here blocks, reads a clock, or knows what a token says.
Rule 3: at most one Run is under way; while it is, its slots and contexts are left alone.
Rule 4: the same events at the same times give the same actions.

Whether the Run under way has to come home is worked out from the state after every event, in one
place, so that no event can forget to interrupt; check() asserts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiosd.kernel import events as ev
from aiosd.kernel import policies, turns
from aiosd.kernel.jobs import JobTable, settled_state
from aiosd.kernel.model import (
    AgentId,
    ContextId,
    Counters,
    Job,
    JobId,
    JobState,
    Lane,
    LaneReport,
    Outcome,
    SlotId,
)
from aiosd.kernel.placement import Claim, Use
from aiosd.kernel.policy import Fifo
from aiosd.kernel.rates import Rates
from aiosd.kernel.residency import Context, Residency

PROTECTING_PARKS = 3
"""After so many parks a job loses its slot later than others."""


@dataclass(slots=True)
class _Flight:
    """The Run under way."""

    lanes: tuple[Lane, ...]
    is_bounded: bool  # each lane has so many tokens, since others wait
    is_interrupted: bool = False
    is_outdated: bool = False  # the policy, the quantum, the lanes or limits are others now


class Kernel:
    """handle() takes what happened and returns what to do, in order; the rest is for reading."""

    def __init__(
        self, n_slots: int, n_lanes: int, policy: str = "rr", quantum_tokens: int = 16
    ) -> None:
        """Raises ValueError for settings that can't be."""
        _check_lanes(n_lanes, n_slots)
        self._table = JobTable(policies.make(policy, quantum_tokens))
        self._n_lanes = n_lanes
        self._residency = Residency(n_slots)
        self._weights: dict[AgentId, int] = {}
        self._rates = Rates()
        self._flight: _Flight | None = None
        self._came_home: frozenset[JobId] = frozenset()  # the lanes of the Run just ended
        self.counters = Counters()

    # ------------------------------------------------------------ for reading

    @property
    def jobs(self) -> Mapping[JobId, Job]:
        """The jobs that haven't ended."""
        return self._table.all

    @property
    def counts(self) -> dict[JobState, int]:
        return {state: self._table.n_in(state) for state in JobState}

    @property
    def slots(self) -> tuple[ContextId | None, ...]:
        """The context in each slot."""
        return self._residency.slots

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes of the Run under way; none if the engine is idle."""
        return () if self._flight is None else self._flight.lanes

    @property
    def n_slots(self) -> int:
        return len(self._residency.slots)

    @property
    def n_lanes(self) -> int:
        return self._n_lanes

    @property
    def policy(self) -> str:
        return self._policy.name

    @property
    def quantum_tokens(self) -> int:
        return self._policy.quantum_tokens

    def slot_of(self, context: ContextId) -> SlotId | None:
        known = self._residency.contexts.get(context)
        return None if known is None else known.slot

    def position(self, job: JobId) -> int | None:
        """The job's place among those waiting for a lane, from 1; None if it isn't."""
        known = self.jobs.get(job)
        if known is None or known.state is not JobState.READY:
            return None
        return self._policy.position(known)

    def positions(self) -> dict[JobId, int]:
        """The same of all jobs that wait: one pass, where asking for each would be as many."""
        return {job.id: place for place, job in enumerate(self._policy, start=1)}

    def waited_ns(self, job: JobId, now_ns: int) -> int:
        """The time the job has spent READY so far.  Raises KeyError if it isn't known."""
        known = self.jobs[job]
        waiting = now_ns - known.ready_since_ns if known.state is JobState.READY else 0
        return known.waited_ns + waiting

    def rate_due_ns(self, agent: AgentId) -> int | None:
        """When the agent may go on that has used up its tokens per minute; None if it may now."""
        return self._rates.due_ns(agent)

    def wake_ns(self) -> int | None:
        """When TimePassed is due, if nothing else happens."""
        return self._rates.wake_ns()

    # ------------------------------------------------------------ events

    def handle(self, event: ev.Event, now_ns: int) -> list[ev.Action]:
        """What to do about the event.

        Raises ValueError, and changes nothing, for an event that only a bug can cause: a job or a
        context that is already in use, a RunDone that doesn't fit the Run, settings that can't
        be.  Events about jobs that have ended are normal and do nothing.
        """
        actions = self._react(event, now_ns)
        if self._flight is None:
            actions += self._dispatch(now_ns)
        elif not self._flight.is_interrupted and self._must_come_home(self._flight):
            self._flight.is_interrupted = True
            actions.append(ev.Interrupt())
        self._count(actions)
        return actions

    def _react(self, event: ev.Event, now_ns: int) -> list[ev.Action]:
        match event:
            case ev.Submitted():
                return self._submit(event, now_ns)
            case ev.RunDone(lanes=reports):
                return self._come_home(reports, now_ns)
            case ev.ContextDropped(context=context):
                return self._residency.drop(context)
            case ev.ContextAwaited(context=context, until_ns=until_ns):
                self._residency.note_awaited(context, until_ns)
                return []
            case ev.PolicyChanged():
                self._change_policy(event)
                return []
            case ev.LimitsChanged():
                return self._change_limits(event, now_ns)
            case ev.TimePassed():
                return self._wake(now_ns)
        job = self.jobs.get(event.job)
        if job is None:
            return []  # it ended while the event was on its way
        match event:
            case ev.Cancelled(outcome=outcome):
                return self._cancel(job, outcome, now_ns)
            case ev.FirstToken():
                if job.first_token_ns is None:
                    job.first_token_ns = now_ns
                return []
            case ev.OutputStalled():
                job.is_stalled = True
            case ev.OutputDrained():
                job.is_stalled = False
            case ev.JobPaused():
                job.is_paused = True
            case ev.JobResumed():
                job.is_paused = False
            case ev.PriorityChanged(priority=priority):
                is_in_line = job.state is JobState.READY
                if is_in_line:
                    self._policy.remove(job)
                job.priority = priority
                if is_in_line:
                    self._policy.add(job)
        if self._is_lane(job):
            return []  # takes effect when the Run comes home
        return self._settle(job, now_ns)

    def _submit(self, event: ev.Submitted, now_ns: int) -> list[ev.Action]:
        if event.job in self.jobs:
            raise ValueError(f"job {event.job} was submitted twice")
        self._residency.occupy(event.context, event.job)
        is_delayed = self._rates.is_empty(event.agent)
        job = self._table.add(event, now_ns, is_delayed=is_delayed)
        if is_delayed:
            return self._tell_paused(job)
        if self._flight is None:
            return []  # it starts at once
        return [ev.Tell(job.id, "queued", self._policy.position(job))]

    def _cancel(self, job: Job, outcome: Outcome, now_ns: int) -> list[ev.Action]:
        if job.state is JobState.CANCELLING:
            return []
        if job.state is JobState.RUNNING:
            job.ends_as = outcome
            self._table.enter(job, JobState.CANCELLING, now_ns)
            return []
        return [self._finish(job, outcome, now_ns)]

    def _come_home(self, reports: tuple[LaneReport, ...], now_ns: int) -> list[ev.Action]:
        lanes = self.lanes
        _check_reports(reports, lanes)
        by_job = {report.job: report for report in reports}
        self._flight = None
        self._came_home = frozenset(by_job)
        agents = dict.fromkeys(self.jobs[lane.job].agent for lane in lanes)
        actions: list[ev.Action] = []
        for lane in lanes:
            job, report = self.jobs[lane.job], by_job[lane.job]
            n_tokens = report.n_prompt + report.n_output
            job.n_prompt += report.n_prompt
            job.n_output += report.n_output
            self._policy.charge(job, n_tokens, lane.rank)
            self._rates.charge(job.agent, n_tokens, now_ns)
            self._residency.contexts[lane.context].n_tokens += n_tokens
            if report.outcome is Outcome.FAILED:
                actions += self._residency.vacate(lane.context)  # its cells are undefined
            outcome = job.ends_as or report.outcome
            if outcome is not None:
                actions.append(self._finish(job, outcome, now_ns))
            else:
                actions += self._settle(job, now_ns)
        for agent in agents:
            if self._rates.room(agent, now_ns) is not None:
                actions += self._delay(agent, now_ns)
        return actions

    def _delay(self, agent: AgentId, now_ns: int) -> list[ev.Action]:
        """Hold the agent's jobs, or let them go on, as its tokens per minute say."""
        is_empty = self._rates.is_empty(agent)
        actions: list[ev.Action] = []
        for job in self._table.of_agent(agent):
            if job.is_delayed is not is_empty:
                job.is_delayed = is_empty
                if not self._is_lane(job):
                    actions += self._settle(job, now_ns)
        return actions

    def _wake(self, now_ns: int) -> list[ev.Action]:
        return [
            action for agent in self._rates.refill(now_ns) for action in self._delay(agent, now_ns)
        ]

    def _change_limits(self, event: ev.LimitsChanged, now_ns: int) -> list[ev.Action]:
        if event.weight < 1 or (event.tokens_per_minute or 1) < 1:
            raise ValueError(f"limits can't be less than 1: {event}")
        self._weights.pop(event.agent, None)
        if event.weight != 1:
            self._weights[event.agent] = event.weight
        self._policy.set_weight(event.agent, event.weight)
        self._rates.limit(event.agent, event.tokens_per_minute, now_ns)
        if any(self.jobs[lane.job].agent == event.agent for lane in self.lanes):
            assert self._flight is not None
            self._flight.is_outdated = True
        return self._delay(event.agent, now_ns)

    def _change_policy(self, event: ev.PolicyChanged) -> None:
        name = self.policy if event.policy is None else event.policy
        quantum = self.quantum_tokens if event.quantum_tokens is None else event.quantum_tokens
        n_lanes = self._n_lanes if event.n_lanes is None else event.n_lanes
        _check_lanes(n_lanes, self.n_slots)
        new = policies.make(name, quantum)
        if (name, quantum, n_lanes) == (self.policy, self.quantum_tokens, self._n_lanes):
            return
        if name == self.policy:
            self._policy.quantum_tokens = quantum
        else:
            for agent, weight in self._weights.items():
                new.set_weight(agent, weight)
            self._table.change_policy(new)
        self._n_lanes = n_lanes
        if self._flight is not None:
            self._flight.is_outdated = True

    # ------------------------------------------------------------ what follows

    def _must_come_home(self, flight: _Flight) -> bool:
        """Whether the Run under way holds up something that may not wait for its end."""
        if flight.is_outdated or self._table.n_in(JobState.CANCELLING):
            return True
        if any(
            job.is_stalled or job.is_paused for job in self._table.apart(JobState.RUNNING).values()
        ):
            return True
        if not self._policy:
            return False
        has_free_lane = len(flight.lanes) < self._n_lanes
        ends_turns = self._policy.quantum() is not None and not flight.is_bounded
        return has_free_lane or ends_turns or self._is_outranked(flight)

    def _is_outranked(self, flight: _Flight) -> bool:
        best = self._policy.best_rank()
        return best is not None and best < max(
            self._policy.rank(self.jobs[lane.job]) for lane in flight.lanes
        )

    def _dispatch(self, now_ns: int) -> list[ev.Action]:
        """Start the next Run, if anyone is ready."""
        came_home, self._came_home = self._came_home, frozenset()
        self._policy.note_time(now_ns)
        is_bounded = self._policy.quantum() is not None and len(self._policy) > self._n_lanes
        chosen, rotated = self._choose(is_bounded=is_bounded)
        if not chosen:
            return []
        allowances = self._allowances(chosen, now_ns, is_bounded=is_bounded)
        for job in chosen:
            self._table.enter(job, JobState.RUNNING, now_ns)
        bounds = [tokens for tokens in allowances.values() if tokens is not None]
        slots, actions, evicted = self._residency.seat(
            [job.context for job in chosen],
            claim=self._claims(self.n_slots - len(chosen), now_ns),
            n_steps=sum(bounds) // len(bounds) if bounds else None,
            run=self.counters.runs + 1,
        )
        for context in evicted:
            if context.job is not None:
                actions += self._park(self.jobs[context.job])
        for job in chosen:
            if job.id not in came_home or job.id in rotated:
                job.slices += 1
                self.counters.slices += 1
            actions += self._tell_running(job, now_ns)
        lanes = [
            Lane(job.id, job.context, slot, allowances[job.id], self._policy.rank(job))
            for job, slot in zip(chosen, slots, strict=True)
        ]
        lanes.sort(key=lambda lane: lane.slot)
        self._flight = _Flight(tuple(lanes), is_bounded)
        actions.append(ev.Run(self._flight.lanes))
        return actions

    def _choose(self, *, is_bounded: bool) -> tuple[list[Job], set[JobId]]:
        """Who runs next, and whose turn begins anew."""
        may_gather = is_bounded and self._n_lanes < self.n_slots  # else all slots are lanes
        rotated = self._table.end_turns(self._n_lanes, with_others=may_gather)
        if not may_gather:
            return self._policy.first(self._n_lanes), rotated
        chosen = turns.side_by_side(
            self._policy, self._n_lanes, self.n_slots, lambda job: self.slot_of(job.context)
        )
        again = [job for job in chosen if self._policy.is_used_up(job)]
        for job in again:
            self._table.end_turn(job)
        turns.align(self._policy, chosen)
        return chosen, rotated | {job.id for job in again}

    def _allowances(
        self, chosen: list[Job], now_ns: int, *, is_bounded: bool
    ) -> dict[JobId, int | None]:
        """What each may take: the rest of its turn, and its part of what its agent has left."""
        n_by_agent = Counter(job.agent for job in chosen)
        allowances: dict[JobId, int | None] = {}
        for job in chosen:
            of_turn = self._policy.allowance(job) if is_bounded else None
            room = self._rates.room(job.agent, now_ns)
            of_agent = None if room is None else max(1, room // n_by_agent[job.agent])
            known = [tokens for tokens in (of_turn, of_agent) if tokens is not None]
            allowances[job.id] = min(known, default=None)
        return allowances

    def _claims(self, n_soon: int, now_ns: int) -> Callable[[Context], Claim]:
        """How much a context that isn't chosen is wanted in its slot.  Of those that wait for
        something, the one that has longest to wait goes first.  Of those who aren't among
        the next, the lowest class goes first, then the newest, which has the least to lose; late
        the one with the most tokens, and who has been parked often."""
        soon = {job.id: place for place, job in enumerate(self._policy.first(n_soon))}
        held = (self._residency.contexts[slot] for slot in self.slots if slot is not None)
        most = max((context.n_tokens for context in held), default=0)

        def claim(context: Context) -> Claim:
            if context.job is None and context.awaited_until_ns > now_ns:
                return Claim(Use.AWAITED, -context.awaited_until_ns)
            if context.job is None:
                return Claim(Use.IDLE, context.last_run)
            job = self.jobs[context.job]
            if job.state is not JobState.READY:
                return Claim(Use.WAITING, context.last_run)
            if job.id in soon:
                return Claim(Use.SOON, -soon[job.id])
            reasons = (
                -self._policy.rank(job),
                context.n_tokens == most,
                job.parks >= PROTECTING_PARKS,
            )
            return Claim(Use.READY, _weighed(reasons) - job.ticket)

        return claim

    def _park(self, job: Job) -> list[ev.Action]:
        if job.first_run_ns is None:
            return []  # its context lost the slot, but it never ran there
        job.parks += 1
        job.is_parked = True
        self.counters.parks += 1
        return self._tell_paused(job)

    def _tell_paused(self, job: Job) -> list[ev.Action]:
        if job.is_told_paused:
            return []
        job.is_told_paused = True
        return [ev.Tell(job.id, "paused")]

    def _tell_running(self, job: Job, now_ns: int) -> list[ev.Action]:
        was_told_paused, job.is_told_paused = job.is_told_paused, False
        job.is_parked = False
        if job.first_run_ns is None:
            job.first_run_ns = now_ns
            return [ev.Tell(job.id, "running")]
        return [ev.Tell(job.id, "resumed")] if was_told_paused else []

    def _settle(self, job: Job, now_ns: int) -> list[ev.Action]:
        """Put a job that isn't a lane (any more) where its flags say."""
        state = settled_state(job)
        if state is not job.state:
            self._table.enter(job, state, now_ns)
        return self._tell_paused(job) if job.is_paused or job.is_delayed else []

    def _finish(self, job: Job, outcome: Outcome, now_ns: int) -> ev.Finish:
        self._residency.release(job.context)
        return ev.Finish(job.id, outcome, self._table.remove(job, now_ns))

    @property
    def _policy(self) -> Fifo:
        return self._table.policy

    def _is_lane(self, job: Job) -> bool:
        return job.state in (JobState.RUNNING, JobState.CANCELLING)

    def check(self) -> None:
        """Raises AssertionError unless every invariant holds (between two events)."""
        self._table.check()
        self._residency.check()
        for job in self.jobs.values():
            if self._residency.contexts[job.context].job != job.id:
                raise AssertionError(f"context {job.context} doesn't serve job {job.id}")
            if job.is_parked and self.slot_of(job.context) is not None:
                raise AssertionError(f"job {job.id} is parked, its context is in a slot")
        n_busy = sum(context.job is not None for context in self._residency.contexts.values())
        if n_busy != len(self.jobs):
            raise AssertionError(f"{n_busy} contexts serve {len(self.jobs)} jobs")
        on_lanes = [job.id for job in self.jobs.values() if self._is_lane(job)]
        if sorted(on_lanes) != sorted(lane.job for lane in self.lanes):
            raise AssertionError(f"jobs {on_lanes} run, the lanes are {self.lanes}")
        slots = [lane.slot for lane in self.lanes]
        if slots != sorted(set(slots)):
            raise AssertionError(f"lanes in the slots {slots}: not sorted, or not different")
        for lane in self.lanes:
            if self.slot_of(lane.context) != lane.slot:
                raise AssertionError(f"{lane} is not where its context is")
        flight = self._flight
        if flight is None and self._policy:
            raise AssertionError(f"{len(self._policy)} jobs are ready and the engine is idle")
        if flight is not None and self._must_come_home(flight) and not flight.is_interrupted:
            raise AssertionError("the Run under way ought to have been interrupted")

    def _count(self, actions: list[ev.Action]) -> None:
        counters = self.counters
        for action in actions:
            match action:
                case ev.Run():
                    counters.runs += 1
                case ev.Save():
                    counters.saves += 1
                case ev.Load():
                    counters.loads += 1
                case ev.Move():
                    counters.moves += 1
                case ev.Interrupt():
                    counters.interrupts += 1
                case ev.Finish(outcome=outcome):
                    counters.finished[outcome] = counters.finished.get(outcome, 0) + 1
                case ev.Clear() | ev.Tell():
                    pass


def _weighed(reasons: tuple[int, ...]) -> int:
    """One number that sorts as the tuple does, and before any ticket."""
    number = 0
    for reason in reasons:
        number = number * 4 + reason
    return number << 62


def _check_lanes(n_lanes: int, n_slots: int) -> None:
    if not 1 <= n_lanes <= n_slots:
        raise ValueError(f"n_lanes is {n_lanes}, it must be from 1 to the {n_slots} slots")


def _check_reports(reports: tuple[LaneReport, ...], lanes: tuple[Lane, ...]) -> None:
    came_home = sorted(report.job for report in reports)
    under_way = sorted(lane.job for lane in lanes)
    if not lanes or came_home != under_way:
        raise ValueError(f"a Run of {came_home} came home, under way was {under_way}")
    for report in reports:
        is_known = report.outcome in (None, Outcome.DONE, Outcome.FAILED)
        if report.n_prompt < 0 or report.n_output < 0 or not is_known:
            raise ValueError(f"a lane can't have done this: {report}")
