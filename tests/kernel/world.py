"""A tiny engine and a suspicious client around one kernel: does what it says, believes nothing.

What is true of a job (is it stalled, was it cancelled, is it a lane) is kept here a second time,
from the events alone, so that a kernel that forgets something is found out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from aiosd.kernel import events as ev
from aiosd.kernel.model import (
    AgentId,
    ContextId,
    JobId,
    JobState,
    Lane,
    LaneReport,
    Outcome,
    Priority,
)
from aiosd.kernel.rates import Rates
from aiosd.kernel.replay import Header


@dataclass
class Client:
    """One job as its client and the engine see it."""

    context: ContextId
    number: int  # order of arrival
    agent: AgentId
    is_delayed: bool = False
    is_stalled: bool = False
    is_paused: bool = False
    asked: Outcome | None = None  # by a cancel, while it ran
    told: str | None = None
    has_run: bool = False
    n_prompt: int = 0
    n_output: int = 0
    parks: int = 0
    runs_waited: int = 0  # Runs that came home since it was last a lane

    @property
    def is_ready(self) -> bool:
        return not (self.is_stalled or self.is_paused or self.is_delayed or self.asked)


@dataclass
class World:
    header: Header
    now_ns: int = 0
    n_lanes: int = 0
    policy: str = ""
    quantum_tokens: int = 0
    clients: dict[JobId, Client] = field(default_factory=dict)
    ended: dict[JobId, Outcome] = field(default_factory=dict)
    cells: dict[int, ContextId] = field(default_factory=dict)  # what is in each slot
    undefined: set[int] = field(default_factory=set)  # slots whose lane failed
    known: set[ContextId] = field(default_factory=set)  # was in a slot at some time
    lanes: tuple[Lane, ...] = ()
    is_interrupted: bool = False
    is_outdated: bool = False  # something else is in force than when the Run began
    journal: list[tuple[int, ev.Event]] = field(default_factory=list)
    said: list[list[ev.Action]] = field(default_factory=list)
    n_runs: int = 0
    n_gaps: int = 0  # of all Runs together
    rates: Rates = field(default_factory=Rates)  # a second set, told the same

    def __post_init__(self) -> None:
        self.kernel = self.header.make_kernel()
        self.n_lanes = self.header.n_lanes
        self.policy = self.header.policy
        self.quantum_tokens = self.header.quantum_tokens

    def happens(self, event: ev.Event) -> None:
        self.now_ns += 10
        before = self.lanes
        self.note(event)
        actions = self.kernel.handle(event, self.now_ns)
        self.kernel.check()
        self.journal.append((self.now_ns, event))
        self.said.append(actions)
        for action in actions:
            self.carry_out(action, before if not isinstance(event, ev.RunDone) else ())
        assert not self.undefined
        self.expect_promptness()
        self.expect_states()

    # -------------------------------------------------------- what events mean

    def note(self, event: ev.Event) -> None:
        match event:
            case ev.Submitted(job=job, context=context, agent=agent):
                self.clients[job] = Client(
                    context, len(self.journal), agent, is_delayed=self.rates.is_empty(agent)
                )
                return
            case ev.LimitsChanged(agent=agent, tokens_per_minute=tokens_per_minute):
                self.is_outdated |= any(
                    self.clients[lane.job].agent == agent for lane in self.lanes
                )
                self.rates.limit(agent, tokens_per_minute, self.now_ns)
                self.note_delays()
                return
            case ev.TimePassed():
                self.rates.refill(self.now_ns)
                self.note_delays()
                return
            case ev.RunDone(lanes=reports):
                self.note_reports(reports)
                return
            case ev.PolicyChanged(policy=policy, quantum_tokens=quantum, n_lanes=n_lanes):
                before = (self.policy, self.quantum_tokens, self.n_lanes)
                self.policy = policy or self.policy
                self.quantum_tokens = quantum or self.quantum_tokens
                self.n_lanes = n_lanes or self.n_lanes
                self.is_outdated |= before != (self.policy, self.quantum_tokens, self.n_lanes)
                return
            case ev.ContextDropped(context=context):
                self.known.discard(context)
                return
            case ev.ContextAwaited():
                return  # which slot is taken first is all that it changes
        client = self.clients.get(event.job)
        if client is None:
            return
        match event:
            case ev.Cancelled(outcome=outcome):
                client.asked = client.asked or outcome
            case ev.OutputStalled():
                client.is_stalled = True
            case ev.OutputDrained():
                client.is_stalled = False
            case ev.JobPaused():
                client.is_paused = True
            case ev.JobResumed():
                client.is_paused = False
            case _:
                pass

    def note_delays(self) -> None:
        for client in self.clients.values():
            client.is_delayed = self.rates.is_empty(client.agent)

    def note_reports(self, reports: tuple[LaneReport, ...]) -> None:
        for report in reports:
            client = self.clients[report.job]
            client.n_prompt += report.n_prompt
            client.n_output += report.n_output
            client.asked = client.asked or report.outcome
            self.rates.charge(client.agent, report.n_prompt + report.n_output, self.now_ns)
            if report.outcome is Outcome.FAILED:
                self.undefined |= {lane.slot for lane in self.lanes if lane.job == report.job}
        lanes = {lane.job for lane in self.lanes}
        for job, client in self.clients.items():
            client.runs_waited = client.runs_waited + 1 if client.is_ready else 0
            if job in lanes:
                client.runs_waited = 0
        self.lanes, self.is_interrupted = (), False
        self.note_delays()

    # -------------------------------------------------------- what actions do

    def carry_out(self, action: ev.Action, busy: tuple[Lane, ...]) -> None:
        busy_slots = {lane.slot for lane in busy}
        match action:
            case ev.Save(context=context, slot=slot):
                assert self.cells[slot] == context
                assert slot not in busy_slots | self.undefined
                for client in self.clients.values():
                    client.parks += client.context == context and client.has_run
            case ev.Clear(slot=slot):
                assert slot in self.cells
                assert slot not in busy_slots
                del self.cells[slot]
                self.undefined.discard(slot)
            case ev.Load(context=context, slot=slot):
                assert slot not in self.cells
                assert context not in self.cells.values()
                assert context in self.known
                self.cells[slot] = context
            case ev.Move(context=context, source=source, target=target):
                assert source not in self.undefined
                assert target not in self.cells
                assert self.cells.pop(source) == context
                self.cells[target] = context
            case ev.Run(lanes=lanes):
                self.start(lanes)
            case ev.Interrupt():
                assert self.lanes
                assert not self.is_interrupted
                self.is_interrupted = True
            case ev.Finish():
                self.end(action)
            case ev.Tell():
                self.listen(action)

    def start(self, lanes: tuple[Lane, ...]) -> None:
        assert lanes
        assert not self.lanes
        self.is_outdated = False
        self.lanes, self.n_runs = lanes, self.n_runs + 1
        ready = [job for job, client in self.clients.items() if client.is_ready]
        assert len(lanes) == min(self.n_lanes, len(ready))
        is_bounded = self.policy != "fifo" and len(ready) > self.n_lanes
        for lane in lanes:
            client = self.clients[lane.job]
            assert client.is_ready
            assert client.context == lane.context
            if lane.context not in self.known:  # a new context gets its slot without a Load
                assert lane.slot not in self.cells
                self.cells[lane.slot] = lane.context
                self.known.add(lane.context)
            assert self.cells[lane.slot] == lane.context
            assert lane.slot not in self.undefined
            assert client.told in ("running", "resumed")
            client.has_run = True
            if is_bounded:
                assert lane.max_tokens is not None
                most = self.quantum_tokens
                if self.n_lanes < self.header.n_slots:  # turns may be moved to end with others
                    most = 3 * most // 2
                assert 1 <= lane.max_tokens <= most
            room = self.rates.room(client.agent, self.now_ns)
            if room is not None:
                assert lane.max_tokens is not None
                assert 1 <= lane.max_tokens <= room
            elif not is_bounded:
                assert lane.max_tokens is None
        slots = [lane.slot for lane in lanes]
        assert slots == sorted(set(slots))
        self.n_gaps += sum(b - a > 1 for a, b in itertools.pairwise(slots))
        if self.header.policy == self.policy == "fifo" and not self.was_policy_changed():
            oldest = sorted(ready, key=lambda job: self.clients[job].number)
            assert {lane.job for lane in lanes} == set(oldest[: self.n_lanes])

    def was_policy_changed(self) -> bool:
        return any(isinstance(event, ev.PolicyChanged) for _, event in self.journal)

    def end(self, finish: ev.Finish) -> None:
        assert finish.job not in self.ended
        client = self.clients.pop(finish.job)
        assert finish.outcome is client.asked
        assert all(lane.job != finish.job for lane in self.lanes)
        cost = finish.cost
        assert (cost.n_prompt, cost.n_output) == (client.n_prompt, client.n_output)
        assert cost.parks == client.parks
        assert (cost.slices > 0) == client.has_run == (cost.first_run_ns is not None)
        assert 0 <= cost.waited_ns <= cost.total_ns
        assert 0 <= cost.queue_ns <= cost.total_ns
        self.ended[finish.job] = finish.outcome

    def listen(self, tell: ev.Tell) -> None:
        client = self.clients[tell.job]
        before = {
            "queued": (None,),
            "running": (None, "queued", "paused"),
            "paused": (None, "queued", "running", "resumed"),
            "resumed": ("paused",),
        }
        assert client.told in before[tell.state]
        assert (tell.state == "running") == (tell.state != "paused" and not client.has_run) or (
            tell.state == "queued"
        )
        assert (tell.position is not None) == (tell.state == "queued")
        client.told = tell.state

    # -------------------------------------------------------- what must be so after each event

    def expect_promptness(self) -> None:
        """Nothing that can't wait is waiting, and the engine isn't idle while anyone is ready."""
        lanes = {lane.job for lane in self.lanes}
        waiting = [
            job for job, client in self.clients.items() if client.is_ready and job not in lanes
        ]
        gone = [job for job, client in self.clients.items() if client.asked and job not in lanes]
        assert not gone, f"{gone} were cancelled, don't run and haven't ended"
        if not self.lanes:
            assert not waiting, f"{waiting} wait beside an idle engine"
            return
        if self.is_interrupted:
            return
        assert not self.is_outdated
        assert all(self.clients[job].is_ready for job in lanes)
        if waiting:
            assert len(self.lanes) >= self.n_lanes
            for lane in self.lanes:
                is_limited = self.rates.room(self.clients[lane.job].agent, self.now_ns) is not None
                assert is_limited or (lane.max_tokens is None) == (self.policy == "fifo")
            if self.policy == "fair":
                assert max(map(self.rank, lanes)) <= min(map(self.rank, waiting))

    def rank(self, job: JobId) -> int:
        known = self.kernel.jobs[job]
        return max(0, known.priority - known.n_aged)

    def expect_states(self) -> None:
        lanes = {lane.job for lane in self.lanes}
        assert set(self.kernel.jobs) == set(self.clients)
        for job, client in self.clients.items():
            if job in lanes:
                state = JobState.CANCELLING if client.asked else JobState.RUNNING
            elif client.is_paused:
                state = JobState.PAUSED
            elif client.is_stalled:
                state = JobState.STALLED
            else:
                state = JobState.DELAYED if client.is_delayed else JobState.READY
            assert self.kernel.jobs[job].state is state
        held = {slot: context for slot, context in enumerate(self.kernel.slots) if context}
        assert held == self.cells


def play(
    world: World,
    lengths: list[tuple[int, int]],
    piece_tokens: int = 32,
    max_runs: int | None = None,
) -> list[JobId]:
    """Submit everything at once and run it to the end, as an engine would step it: a piece of
    prompt or one token for each lane.  Returns the jobs in the order of their ends.
    max_runs: stop in the middle."""
    left = {JobId(f"j{index}"): list(length) for index, length in enumerate(lengths)}
    for job in left:
        context = ContextId(f"c{job[1:]}")
        world.happens(ev.Submitted(job, context, AgentId(1, "a"), Priority.NORMAL))
    for _ in range(max_runs or sum(map(sum, lengths)) + len(lengths)):
        if not world.lanes:
            break
        world.happens(ev.RunDone(tuple(step(world, left, piece_tokens))))
        most = max((client.runs_waited for client in world.clients.values()), default=0)
        assert world.policy == "fifo" or most <= len(lengths)
    assert max_runs or not world.clients
    return list(world.ended)


def step(world: World, left: dict[JobId, list[int]], piece_tokens: int) -> list[LaneReport]:
    """Until one lane is through or has taken its tokens, or for one step if interrupted."""
    took = {lane.job: [0, 0] for lane in world.lanes}
    while True:
        is_over = world.is_interrupted
        for lane in world.lanes:
            rest, mine = left[lane.job], took[lane.job]
            if rest[0]:
                piece = min(rest[0], piece_tokens)
                rest[0], mine[0] = rest[0] - piece, mine[0] + piece
            else:
                rest[1], mine[1] = rest[1] - 1, mine[1] + 1
            is_over |= rest[1] == 0 or sum(mine) >= (lane.max_tokens or 10**9)
        if is_over:
            break
    return [
        LaneReport(job, n_prompt, n_output, None if left[job][1] else Outcome.DONE)
        for job, (n_prompt, n_output) in took.items()
    ]
