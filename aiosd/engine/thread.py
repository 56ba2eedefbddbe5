"""The engine's thread: commands in through a queue, messages out through post().

Rule 1: commands are carried out in the order they were put.  A Run is one of them: what is put
while it runs waits, so whoever is in a hurry calls interrupt(), which ends it after its step.
Rule 2: every Run comes home exactly once, as RunHome, after all that it said.
Rule 3: what can wait (Stepper.tidy) is done in small pieces when no command has come for a while.
Rule 4: a bug in the engine ends the jobs of its Run, empties their slots, and is told as
EngineDied.  The thread lives on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from aiosd import tracebacks
from aiosd.engine.base import Ending, EngineError, JobSpec, Output, Stepper, StepReport
from aiosd.engine.spans import Note, Recorder
from aiosd.kernel.events import Clear, Load, Move, Run, Save
from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, Outcome, SlotId

MAX_RUN_STEPS = 4096
"""After so many steps a Run comes home, whatever its lanes may take: what waits behind it shall not
wait for ever."""
IDLE_S = 0.25  # longer than the way from a Run's end to the next Run: not idle, then
ADAPT_NS = 500_000_000  # least time between two calls of adapt()

# ---------------------------------------------------------------- in (beside the kernel's actions)


@dataclass(frozen=True, slots=True)
class Open:
    """Make a job known.  If it can't be (a bad grammar), its first Run reports it as failed."""

    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Close:
    """Forget a job, finished or not."""

    job: JobId


@dataclass(frozen=True, slots=True)
class Forget:
    """The context was deleted."""

    context: ContextId


@dataclass(frozen=True, slots=True)
class Call:
    """Run a function on the engine thread; done(result, error) is called there too."""

    function: Callable[[], object]
    done: Callable[[object, Exception | None], None]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread after what was put before."""


Command = Open | Close | Forget | Call | Stop | Save | Clear | Load | Move | Run

# ---------------------------------------------------------------- out


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step of the Run under way brought; posted only if it brought something."""

    outputs: tuple[Output, ...] = ()
    endings: tuple[Ending, ...] = ()
    first_tokens: tuple[JobId, ...] = ()
    n_cached: dict[JobId, int] = field(default_factory=dict)
    leaders: dict[JobId, JobId] | None = None  # StepReport.leaders, if they are others now


@dataclass(frozen=True, slots=True)
class RunHome:
    """The Run came home; one report per lane, in its order, summed over its steps."""

    lanes: tuple[LaneReport, ...]


@dataclass(frozen=True, slots=True)
class EngineDied:
    """A bug: the traceback is for the log.  If it hit a Run, its RunHome says who failed."""

    traceback: str


Message = Progress | RunHome | EngineDied

_BUG = "the engine failed: a bug, the log has its traceback"


@dataclass(slots=True)
class _Sum:
    """What one lane did in a Run so far."""

    lane: Lane
    n_prompt: int = 0
    n_output: int = 0
    outcome: Outcome | None = None

    def report(self) -> LaneReport:
        return LaneReport(self.lane.job, self.n_prompt, self.n_output, self.outcome)

    def is_done(self) -> bool:
        limit = self.lane.max_tokens
        return self.outcome is not None or (
            limit is not None and self.n_prompt + self.n_output >= limit
        )


class EngineThread:
    """put(), interrupt(), start() and stop() belong to one thread (the event loop's); n_steps and
    busy_since_ns may be read anywhere.

    post           is called on the engine thread with each Message; it must not block
    adapt          is called between steps, at most every half second, e.g. to choose threads
    note           is called on the engine thread with what each slot did (spans.py)
    on_step        is called after each step with the nanoseconds it took; it must not block
    n_steps        steps done, a heartbeat
    busy_since_ns  when the step or command under way began (monotonic), 0 if there is none
    """

    def __init__(
        self,
        stepper: Stepper,
        post: Callable[[Message], None],
        adapt: Callable[[], None] | None = None,
        note: Note = lambda _spans: None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self._recorder = Recorder(note)
        self._leaders: dict[JobId, JobId] = {}  # as they were last told
        self._stepper = stepper
        self._post = post
        self._adapt = adapt
        self._on_step = on_step
        self._adapted_ns = 0
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._refused: dict[JobId, str] = {}  # jobs that couldn't be opened, and why
        self._n_runs_put = 0
        self._n_runs_begun = 0
        self._may_tidy = True
        self._interrupted_run = 0  # this Run, by its number, and those before it shall come home
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self.n_steps = 0
        self.busy_since_ns = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Bring the Run under way home and end the thread.  False: it still runs."""
        self.interrupt()
        self.put(Stop())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def put(self, command: Command) -> None:
        if isinstance(command, Run):
            self._n_runs_put += 1
        self._inbox.put(command)

    def interrupt(self) -> None:
        """Bring the Run that was put last home after the step it is in (after one step, if it has
        not begun).  Without a Run under way it does nothing."""
        self._interrupted_run = self._n_runs_put

    # ---------------------------------------------------------------- on the engine thread

    def _serve(self) -> None:
        while True:
            command = self._next_command()
            self.busy_since_ns = time.monotonic_ns()
            match command:
                case Stop():
                    self.busy_since_ns = 0
                    return
                case Run(lanes):
                    self._n_runs_begun += 1
                    self._run(lanes)
                case _:
                    self._carry_out(command)
            self.busy_since_ns = 0

    def _next_command(self) -> Command:
        """Wait for it, and tidy up meanwhile."""
        idle_since_ns = time.monotonic_ns()
        wait_s: float | None = IDLE_S if self._may_tidy else None
        while True:
            try:
                return (
                    self._inbox.get(timeout=wait_s) if wait_s != 0.0 else self._inbox.get_nowait()
                )
            except Empty:
                wait_s = self._tidy((time.monotonic_ns() - idle_since_ns) / 1e9)

    def _tidy(self, idle_s: float) -> float | None:
        self.busy_since_ns = time.monotonic_ns()
        try:
            return self._stepper.tidy(idle_s)
        except Exception as error:  # a bug in what can wait is no reason to end the thread
            self._post(EngineDied(tracebacks.of(error)))
            self._may_tidy = False
            return None
        finally:
            self.busy_since_ns = 0

    def _carry_out(
        self, command: Open | Close | Forget | Call | Save | Clear | Load | Move
    ) -> None:
        """One command; if it fails its slots are emptied, which costs time and no answer."""
        slots: tuple[SlotId, ...] = ()
        try:
            match command:
                case Open(spec):
                    self._open(spec)
                case Close(job):
                    self._refused.pop(job, None)
                    self._stepper.close(job)
                case Forget(context):
                    self._stepper.forget(context)
                case Call(function, done):
                    _call(function, done)
                case Save(context, slot):
                    slots = (slot,)
                    self._stepper.save(context, slot)
                case Clear(slot):
                    slots = (slot,)
                    self._stepper.release(slot)
                case Load(context, slot):
                    slots = (slot,)
                    self._stepper.load(context, slot)
                case Move(context, source, target):
                    slots = (source, target)
                    self._stepper.move(context, source, target)
            if isinstance(command, Save | Clear | Load | Move):
                self._recorder.command(command, self.busy_since_ns, time.monotonic_ns())
        except Exception as error:  # whatever it is, the thread must go on serving the others
            self._post(EngineDied(tracebacks.of(error)))
            self._empty(slots)

    def _open(self, spec: JobSpec) -> None:
        try:
            self._stepper.open(spec)
        except EngineError as error:
            self._refused[spec.job] = str(error)
        except Exception:
            self._refused[spec.job] = _BUG
            raise

    def _run(self, lanes: tuple[Lane, ...]) -> None:
        sums = {lane.job: _Sum(lane) for lane in lanes}
        self._leaders = {}
        refused = [job for job in sums if job in self._refused]
        if refused:
            self._fail(sums, {job: self._refused[job] for job in refused})
        open_lanes = [lane for lane in lanes if lane.job not in self._refused]
        try:
            for _ in range(MAX_RUN_STEPS if open_lanes else 0):
                self._step(open_lanes, sums)
                if self._interrupted_run >= self._n_runs_begun:
                    break
                if any(lane_sum.is_done() for lane_sum in sums.values()):
                    break
        except Exception as error:  # a bug fails this Run's jobs; the others and the thread live on
            self._post(EngineDied(tracebacks.of(error)))
            self._fail(sums, {job: _BUG for job, its in sums.items() if its.outcome is None})
            self._empty(tuple(lane.slot for lane in lanes))
        self._recorder.flush()
        self._post(RunHome(tuple(lane_sum.report() for lane_sum in sums.values())))

    def _step(self, lanes: list[Lane], sums: dict[JobId, _Sum]) -> None:
        now_ns = self.busy_since_ns = time.monotonic_ns()
        if self._adapt is not None and now_ns - self._adapted_ns >= ADAPT_NS:
            self._adapted_ns = now_ns
            try:
                self._adapt()
            except Exception as error:  # a bug in the tuning is no reason to fail anyone's job
                self._post(EngineDied(tracebacks.of(error)))
                self._adapt = None
        began_ns = time.monotonic_ns()
        report: StepReport = self._stepper.step(lanes)
        self.n_steps += 1
        self._recorder.step(lanes, report, now_ns, time.monotonic_ns())
        leaders, self._leaders = self._leaders, report.leaders
        has_new_leaders = leaders != report.leaders
        if self._on_step is not None:
            self._on_step(time.monotonic_ns() - began_ns)
        for lane in report.lanes:
            lane_sum = sums[lane.job]
            lane_sum.n_prompt += lane.n_prompt
            lane_sum.n_output += lane.n_output
            lane_sum.outcome = lane.outcome
        news = (report.outputs, report.endings, report.first_tokens, report.n_cached)
        if any(news) or has_new_leaders:
            self._post(Progress(*news, report.leaders if has_new_leaders else None))

    def _fail(self, sums: dict[JobId, _Sum], errors: dict[JobId, str]) -> None:
        for job in errors:
            sums[job].outcome = Outcome.FAILED
        endings = tuple(Ending(job, "failed", error=error) for job, error in errors.items())
        self._post(Progress(endings=endings))

    def _empty(self, slots: tuple[SlotId, ...]) -> None:
        for slot in slots:
            try:
                self._stepper.clear(slot)
            except (
                Exception
            ) as error:  # the engine is broken; what uses this slot next fails and says so
                self._post(EngineDied(tracebacks.of(error)))


def _call(function: Callable[[], object], done: Callable[[object, Exception | None], None]) -> None:
    try:
        result = function()
    except Exception as error:  # it belongs to whoever asked
        done(None, error)
    else:
        done(result, None)
