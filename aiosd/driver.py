"""Carries out the kernel's actions and tells it what happened; the only caller of Kernel.handle.

Rule 1: everything here runs on the event loop.  The engine thread's messages come in through
from_engine(), by call_soon_threadsafe.
Rule 2: no re-entrancy.  A socket write can call back synchronously (pause_writing), so post()
appends to an inbox and returns if a drain is under way.
Rule 3: the driver holds each job's words until its call takes them; the kernel never sees them.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from aiosd.admission import Admission
from aiosd.engine import thread
from aiosd.engine.base import Ending, JobSpec, Output, TokenLogprob
from aiosd.engine.thread import Close, EngineDied, EngineThread, Forget, Open, Progress, RunHome
from aiosd.journal import Journal
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import (
    AgentId,
    ContextId,
    Cost,
    JobId,
    Outcome,
    Priority,
)
from aiosd.timeline import Timeline

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended, with all the words it gave.  ending is None if the engine had no say.
    calls: what it said from the marker on."""

    outcome: Outcome
    ending: Ending | None
    text: str
    tokens: array[int]
    logprobs: tuple[TokenLogprob, ...]
    n_cached: int
    cost: Cost
    calls: str = ""


@dataclass(slots=True)
class JobRecord:
    """One job on the loop's side: what the engine needs, who listens, what it said so far."""

    spec: JobSpec
    agent: AgentId
    priority: Priority
    done: asyncio.Future[JobResult]
    meter: Callable[[int], None] | None = None  # is told how many tokens it has taken more
    on_output: Callable[[Output], None] | None = None
    on_state: Callable[[str, int | None], None] | None = None
    is_open: bool = False  # the engine knows it
    texts: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    tokens: array[int] = field(default_factory=lambda: array("i"))
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ending: Ending | None = None
    n_cached: int = 0
    spoke_ns: int = 0  # when its last words came


class Observer(Protocol):
    """Is told, on the loop, what happens to jobs; it must be quick and not call the driver."""

    def job_changed(self, record: JobRecord, state: str, *, is_parked: bool) -> None: ...
    def tokens_came(self, n_tokens: int, since_ns: int) -> None: ...
    def job_ended(self, record: JobRecord, result: JobResult) -> None: ...


class Driver:
    """The shell around one Kernel and one EngineThread."""

    def __init__(
        self,
        kernel: Kernel,
        engine: EngineThread,
        *,
        journal_events: int,
        admission: Admission,
        observer: Observer | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.kernel = kernel
        self.jobs: dict[JobId, JobRecord] = {}
        self.n_submitted = 0
        self.journal = Journal(kernel, journal_events)
        self.leaders: dict[JobId, JobId] = {}  # of the Run under way: who waits for whose reading
        self._agents: dict[ContextId, AgentId] = {}  # of contexts that had a job
        self.timeline = Timeline(journal_events, self._agents)
        self._engine = engine
        self._observer = observer
        self._clock_ns = clock_ns
        self.admission = admission
        self._inbox: deque[ev.Event] = deque()
        self._is_draining = False
        self._is_abandoned = False
        self._alarm: asyncio.TimerHandle | None = None  # for Kernel.wake_ns()

    # ------------------------------------------------------------ from the server

    def submit(self, record: JobRecord) -> None:
        """Queue a job.  Busy, with how long to wait, when its queue is full."""
        self.admission.enter(record.agent)
        self.jobs[record.spec.job] = record
        self.n_submitted += 1
        self._agents[record.spec.context] = record.agent
        self.post(ev.Submitted(record.spec.job, record.spec.context, record.agent, record.priority))

    def cancel(self, job: JobId, outcome: Outcome) -> None:
        """End a job; its future resolves when no step works on it.  Unknown ids are ignored."""
        if job in self.jobs:
            self.post(ev.Cancelled(job, outcome))

    def drop_context(self, context: ContextId) -> None:
        """The context was deleted: free its slot and its snapshot."""
        self.post(ev.ContextDropped(context))
        self._agents.pop(context, None)
        self._engine.put(Forget(context))

    def await_answer(self, context: ContextId, within_s: float) -> None:
        """The context's next job is expected within so many seconds, whether its last has ended or
        is about to."""
        until_ns = self._clock_ns() + round(within_s * 1e9)
        self.post(ev.ContextAwaited(context, until_ns))

    def agent_of(self, context: ContextId) -> AgentId | None:
        """Whose the context is, if it had a job and wasn't dropped."""
        return self._agents.get(context)

    def abandon(self) -> None:
        """The engine hangs and is left behind: what is said from now on changes nothing."""
        self._is_abandoned = True

    def post(self, event: ev.Event) -> None:
        """Tell the kernel, and do what it says; returns at once if that is already under way."""
        if self._is_abandoned:
            return
        self._inbox.append(event)
        if self._is_draining:
            return
        self._is_draining = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._is_draining = False
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Have the kernel told when an agent may go on that has used up its tokens per minute."""
        wake_ns = self.kernel.wake_ns()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if wake_ns is not None:
            wait_s = max(0, wake_ns - self._clock_ns()) / 1e9
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(wait_s, self.post, ev.TimePassed())

    # ------------------------------------------------------------ from the engine thread

    def from_engine(self, message: thread.Message) -> None:
        """A message of the engine thread, on the loop."""
        match message:
            case Progress():
                self._progress(message)
            case RunHome(lanes=lanes):
                self.leaders = {}
                self.post(ev.RunDone(lanes))
            case EngineDied(traceback=traceback):
                log.error("engine_bug", exception=traceback)

    def _progress(self, progress: Progress) -> None:
        if progress.leaders is not None:
            self.leaders = progress.leaders
        for job, n_cached in progress.n_cached.items():
            if record := self.jobs.get(job):
                record.n_cached = n_cached
        for job in progress.first_tokens:
            if job in self.jobs:
                self.post(ev.FirstToken(job))
        for ending in progress.endings:
            if record := self.jobs.get(ending.job):
                record.ending = ending
        for output in progress.outputs:
            record = self.jobs.get(output.job)
            if record is None:
                continue  # cancelled meanwhile
            record.texts.append(output.text)
            record.calls.append(output.calls)
            record.tokens.extend(output.tokens)
            record.logprobs.extend(output.logprobs)
            if self._observer is not None and output.tokens:
                now_ns = self._clock_ns()
                if record.spoke_ns:
                    self._observer.tokens_came(len(output.tokens), now_ns - record.spoke_ns)
                record.spoke_ns = now_ns
            if record.meter is not None:
                record.meter(len(output.tokens))
            if record.on_output is not None:
                record.on_output(output)

    # ------------------------------------------------------------ the kernel

    def _handle(self, event: ev.Event) -> None:
        now_ns = self._clock_ns()
        try:
            actions = self.kernel.handle(event, now_ns)
        except Exception:  # a bug, and the journal is what shows how it came to it
            self.journal.note(now_ns, event, None)
            raise
        self.journal.note(now_ns, event, actions)
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: ev.Action) -> None:
        match action:
            case ev.Run(lanes=lanes):
                for lane in lanes:
                    record = self.jobs[lane.job]
                    if not record.is_open:
                        record.is_open = True
                        self._engine.put(Open(record.spec))
                self._engine.put(action)
            case ev.Save() | ev.Clear() | ev.Load() | ev.Move():
                self._engine.put(action)
            case ev.Interrupt():
                self._engine.interrupt()
            case ev.Tell(job=job, state=state, position=position):
                record = self.jobs[job]
                if self._observer is not None:
                    is_parked = self.kernel.jobs[job].is_parked
                    self._observer.job_changed(record, state, is_parked=is_parked)
                if record.on_state is not None:
                    record.on_state(state, position)
            case ev.Finish(job=job, outcome=outcome, cost=cost):
                self._finish(job, outcome, cost)

    def _finish(self, job: JobId, outcome: Outcome, cost: Cost) -> None:
        record = self.jobs.pop(job)
        self.admission.leave(record.agent, cost.total_ns)
        if record.is_open:
            self._engine.put(Close(job))
        if record.meter is not None:
            record.meter(cost.n_prompt)
        result = JobResult(
            outcome=outcome,
            ending=record.ending,
            text="".join(record.texts),
            tokens=record.tokens,
            logprobs=tuple(record.logprobs),
            n_cached=record.n_cached,
            cost=cost,
            calls="".join(record.calls),
        )
        if self._observer is not None:
            self._observer.job_ended(record, result)
        if not record.done.done():
            record.done.set_result(result)
