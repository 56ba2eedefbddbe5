"""A kernel and an engine in one, without threads: the driver and the engine's thread as one loop.

What the kernel says is done in its order; between any two steps of a Run anything may happen.
Conversations are submitted turn by turn, again after a cancel, and what they answer is kept.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiosd.engine.engine import Engine
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
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
from tests.engine.schedules import Answer, Turn, note

STEP_NS = 10_000_000
MAX_STEPS = 20_000


@dataclass
class Conversation:
    """A context: its log, the turns still to come, what those before gave."""

    context: ContextId
    turns: Sequence[Turn]
    log: array[int] = field(default_factory=lambda: array("i"))
    asked: list[tuple[array[int], Turn]] = field(default_factory=list)  # (log before, turn)
    answers: list[Answer] = field(default_factory=list)
    job: JobId | None = None

    @property
    def next_turn(self) -> Turn | None:
        return self.turns[len(self.answers)] if len(self.answers) < len(self.turns) else None


class Machine:
    """Everything but the text of a socket: submit(), happens(), step(), finish()."""

    def __init__(self, engine: Engine, kernel: Kernel) -> None:
        self.engine = engine
        self.kernel = kernel
        self.conversations: list[Conversation] = []
        self._actions: deque[ev.Action] = deque()
        self._lanes: tuple[Lane, ...] = ()  # of the Run under way
        self._sums: dict[JobId, LaneReport] = {}
        self._is_interrupted = False
        self._now_ns = 0
        self._n_jobs = 0
        self._by_job: dict[JobId, Conversation] = {}
        self._open: set[JobId] = set()
        self._said: dict[JobId, Answer] = {}
        self._outputs: dict[JobId, array[int]] = {}

    # ------------------------------------------------------------ what may happen

    def converse(self, turns: Sequence[Turn], log: array[int] | None = None) -> Conversation:
        """A new context, with what another one had in its log: a fork."""
        context = ContextId(f"c{len(self.conversations)}")
        self.conversations.append(
            Conversation(context, turns, array("i") if log is None else array("i", log))
        )
        return self.conversations[-1]

    def submit(
        self,
        conversation: Conversation,
        priority: Priority = Priority.NORMAL,
        output: array[int] | None = None,
    ) -> None:
        """Its next turn, if it has one and isn't busy; output: what it said before a restart."""
        turn = conversation.next_turn
        if turn is None or conversation.job is not None:
            return
        self._n_jobs += 1
        job = JobId(f"j{self._n_jobs}")
        conversation.job = job
        self._by_job[job] = conversation
        n_before = 0 if output is None else len(output)
        self._said[job] = Answer(n_output=n_before, n_before=n_before)
        self._outputs[job] = array("i") if output is None else output
        agent = AgentId(turn.uid, f"agent-{conversation.context}")
        self.happens(ev.Submitted(job, conversation.context, agent, priority))

    def happens(self, event: ev.Event) -> None:
        """Tell the kernel; what it says is done at once, or when the Run under way is home."""
        self._now_ns += STEP_NS
        self._actions += self.kernel.handle(event, self._now_ns)
        self.kernel.check()
        self._carry_on()

    def step(self) -> bool:
        """One step of the Run under way.  False: there is none."""
        if not self._lanes:
            return False
        report = self.engine.step(self._lanes)
        note(report, self._said)
        for lane in report.lanes:
            before = self._sums[lane.job]
            self._sums[lane.job] = LaneReport(
                lane.job,
                before.n_prompt + lane.n_prompt,
                before.n_output + lane.n_output,
                lane.outcome,
            )
        for job in report.first_tokens:
            self.happens(ev.FirstToken(job))
        if self._is_interrupted or any(self._is_done(lane) for lane in self._lanes):
            reports = tuple(self._sums[lane.job] for lane in self._lanes)
            self._lanes, self._is_interrupted = (), False
            self.happens(ev.RunDone(reports))
        return True

    def restart(self, engine: Engine, kernel: Kernel) -> None:
        """As after kill -9: snapshot files are there, and jobs go on from what was noted of their
        output, which is less than what they gave."""
        self.engine, self.kernel = engine, kernel
        self._actions.clear()
        self._lanes, self._is_interrupted = (), False
        self._by_job.clear()
        self._open.clear()
        for conversation in self.conversations:
            if conversation.job is not None:
                given = self._said[conversation.job].tokens
                conversation.job = None
                self.submit(conversation, output=given[: len(given) * 2 // 3])

    def finish(self) -> None:
        """Nothing disturbs any more: everyone comes to the end of all turns."""
        for _ in range(MAX_STEPS):
            for job, known in list(self.kernel.jobs.items()):
                if known.is_paused:
                    self.happens(ev.JobResumed(job))
                if known.is_stalled:
                    self.happens(ev.OutputDrained(job))
            for conversation in self.conversations:
                self.submit(conversation)
            if not self.step() and not self.kernel.jobs:
                return
        raise AssertionError(f"no end: {self.kernel.counts}")

    # ------------------------------------------------------------ inside

    def _is_done(self, lane: Lane) -> bool:
        so_far = self._sums[lane.job]
        return so_far.outcome is not None or (
            lane.max_tokens is not None and so_far.n_prompt + so_far.n_output >= lane.max_tokens
        )

    def _carry_on(self) -> None:
        while self._actions:
            if isinstance(self._actions[0], ev.Interrupt):
                self._actions.popleft()
                self._is_interrupted = bool(self._lanes)
                continue
            if self._lanes and not isinstance(self._actions[0], ev.Tell | ev.Finish):
                return  # as the engine's thread, which is busy with the Run
            self._carry_out(self._actions.popleft())

    def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.Run(lanes=lanes):
                for lane in lanes:
                    self._open_once(lane.job)
                self._lanes = lanes
                self._sums = {lane.job: LaneReport(lane.job, 0, 0) for lane in lanes}
            case ev.Save(context=context, slot=slot):
                self.engine.save(context, slot)
            case ev.Clear(slot=slot):
                self.engine.release(slot)
            case ev.Load(context=context, slot=slot):
                self.engine.load(context, slot)
            case ev.Move(context=context, source=source, target=target):
                self.engine.move(context, source, target)
            case ev.Finish(job=job, outcome=outcome):
                self._finished(job, outcome)

    def _open_once(self, job: JobId) -> None:
        if job not in self._open:
            self._open.add(job)
            conversation = self._by_job[job]
            turn = conversation.next_turn
            assert turn is not None
            self.engine.open(
                turn.spec(job, conversation.context, conversation.log, self._outputs[job])
            )

    def _finished(self, job: JobId, outcome: Outcome) -> None:
        conversation = self._by_job.pop(job)
        if job in self._open:
            self.engine.close(job)
        conversation.job = None
        if outcome is not Outcome.DONE:
            assert outcome is Outcome.CANCELLED, f"{job} ended as {outcome}"
            return  # as if it had never been; its turn will be asked again
        turn, answer = conversation.next_turn, self._said[job]
        assert turn is not None
        conversation.asked.append((conversation.log, turn))
        conversation.answers.append(answer)
        conversation.log = conversation.log + turn.prompt + answer.tokens

    def jobs_in(self, *states: JobState) -> list[JobId]:
        return [job for job, known in self.kernel.jobs.items() if known.state in states]
