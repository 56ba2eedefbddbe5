"""What each slot did and how long it took: spans, as the engine's thread measured them.

Rule 1: consecutive steps in which a lane did the same are one span, cut after MAX_SPAN_NS, so that
a long Run is seen while it is under way.
Rule 2: a step is one thing for each lane: the first of reading (prefill, reread) and writing
(decode) that it did.  Its time is the whole step's, since the lanes of a step share it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from aiosd.engine.base import StepReport
from aiosd.kernel.events import Clear, Load, Move, Save
from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, SlotId

MAX_SPAN_NS = 100_000_000


class Activity(enum.Enum):
    """What a slot is used for."""

    PREFILL = "prefill"  # its lane reads tokens for the first time
    REREAD = "reread"  # its lane reads what it had read before, and lost
    DECODE = "decode"  # its lane writes
    WAIT = "wait"  # its lane waits for another one's reading, or for its turn to read
    PARK = "park"  # its cells are saved, to make room
    RESUME = "resume"  # a snapshot comes back into it
    MOVE = "move"  # it takes the cells of another slot
    CLEAR = "clear"  # it is given up


@dataclass(frozen=True, slots=True)
class Span:
    """One slot, doing one thing.  job is None for what is done to a context between its turns,
    context for a Clear."""

    activity: Activity
    slot: SlotId
    began_ns: int
    ended_ns: int
    context: ContextId | None = None
    job: JobId | None = None
    n_prompt: int = 0
    n_output: int = 0
    n_steps: int = 0


@dataclass(slots=True)
class _Open:
    """A span that may go on.  Not frozen: this is done for each lane of each step."""

    activity: Activity
    lane: Lane
    began_ns: int
    ended_ns: int = 0
    n_prompt: int = 0
    n_output: int = 0
    n_steps: int = 0

    def span(self) -> Span:
        lane = self.lane
        return Span(
            self.activity, lane.slot, self.began_ns, self.ended_ns, lane.context, lane.job,
            self.n_prompt, self.n_output, self.n_steps,
        )  # fmt: skip


Note = Callable[[tuple[Span, ...]], None]


class Recorder:
    """Makes spans of what the engine's thread did; note() gets them there, in order."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._open: dict[SlotId, _Open] = {}  # of the Run under way
        self._ended: list[Span] = []

    def command(self, command: Save | Clear | Load | Move, began_ns: int, ended_ns: int) -> None:
        """A command between two Runs."""
        match command:
            case Save(context, slot):
                span = Span(Activity.PARK, slot, began_ns, ended_ns, context)
            case Load(context, slot):
                span = Span(Activity.RESUME, slot, began_ns, ended_ns, context)
            case Move(context, _, target):
                span = Span(Activity.MOVE, target, began_ns, ended_ns, context)
            case Clear(slot):
                span = Span(Activity.CLEAR, slot, began_ns, ended_ns)
        self._note((span,))

    def step(self, lanes: list[Lane], report: StepReport, began_ns: int, ended_ns: int) -> None:
        """One step of the Run under way."""
        by_job = {lane.job: lane for lane in lanes}
        is_long = False
        for its in report.lanes:
            lane = by_job[its.job]
            activity = _activity(its, report)
            known = self._open.get(lane.slot)
            if known is None or known.activity is not activity:
                if known is not None:
                    self._ended.append(known.span())
                known = self._open[lane.slot] = _Open(activity, lane, began_ns)
            known.ended_ns = ended_ns
            known.n_prompt += its.n_prompt
            known.n_output += its.n_output
            known.n_steps += 1
            is_long |= ended_ns - known.began_ns >= MAX_SPAN_NS
        if is_long:
            self.flush()

    def flush(self) -> None:
        """The Run came home, or has run for a while: tell what there is."""
        spans = (*self._ended, *(known.span() for known in self._open.values()))
        self._ended.clear()
        self._open.clear()
        if spans:
            self._note(spans)


def _activity(lane: LaneReport, report: StepReport) -> Activity:
    if lane.n_prompt:
        return Activity.PREFILL
    if lane.job in report.rereading:
        return Activity.REREAD
    # Its last token may be the one that says it has ended, which isn't output.
    return Activity.DECODE if lane.n_output or lane.outcome else Activity.WAIT
