"""The kernel's nouns: ids, jobs and what a job costs.  Pure data, no behaviour."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

JobId = NewType("JobId", str)
ContextId = NewType("ContextId", str)
SlotId = NewType("SlotId", int)


class AgentId(NamedTuple):
    """Who a job works for: the uid of the socket's peer and the name it gave itself."""

    uid: int
    name: str


class Priority(enum.IntEnum):
    """A job's class.  Smaller goes first where a policy looks at classes (fifo and rr don't)."""

    INTERACTIVE = 0
    NORMAL = 1
    BACKGROUND = 2


class JobState(enum.Enum):
    """Where a job is.  Each state corresponds to one collection in Kernel."""

    READY = "ready"  # in the policy's line
    RUNNING = "running"  # a lane of the Run under way
    STALLED = "stalled"  # its client doesn't read
    PAUSED = "paused"  # someone said job.pause
    DELAYED = "delayed"  # its agent has used up its tokens per minute
    CANCELLING = "cancelling"  # a lane of the Run under way, its result will be dropped


class Outcome(enum.Enum):
    """How a job ended."""

    DONE = "done"  # the engine finished it (stop, length, stop string)
    CANCELLED = "cancelled"
    DEADLINE = "deadline_exceeded"
    FAILED = "engine_failed"
    UNAVAILABLE = "unavailable"  # the daemon is shutting down


@dataclass(slots=True)
class Job:
    """One llm.generate as the kernel sees it: no text, no tokens, only what scheduling needs."""

    id: JobId
    context: ContextId
    agent: AgentId
    priority: Priority
    submitted_ns: int
    state: JobState = JobState.READY
    is_stalled: bool = False
    is_paused: bool = False
    is_delayed: bool = False
    is_parked: bool = False  # lost its slot since it last ran
    ends_as: Outcome | None = None  # what a cancel asked for while it was a lane
    is_told_paused: bool = False  # its client was told so and not yet that it goes on
    ticket: int = 0  # its place in the line; smaller goes first
    used_tokens: int = 0  # of the current turn, first-time tokens only
    extra_tokens: int = 0  # that this turn is longer than a quantum, to end with others'
    n_aged: int = 0  # classes it has gone up by waiting, until its turn is over
    n_prompt: int = 0  # first-time prompt tokens read so far
    n_output: int = 0
    slices: int = 0
    parks: int = 0
    ready_since_ns: int = 0
    waited_ns: int = 0  # time spent READY, summed
    first_run_ns: int | None = None
    first_token_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """A job's place in a Run.

    ``max_tokens`` bounds the first-time tokens (prompt and output) the lane may take before the
    Run comes home; None means no bound.  It is checked between steps, so a prefill piece may
    overshoot it, and every slice makes progress.  Among lanes that read, a smaller rank goes first.
    """

    job: JobId
    context: ContextId
    slot: SlotId
    max_tokens: int | None
    rank: int = 0


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What one lane did during a Run.

    n_prompt   prompt tokens read for the first time (re-reading a lost snapshot isn't counted)
    n_output   tokens sampled
    outcome    None while the job has more to do, else DONE or FAILED
    """

    job: JobId
    n_prompt: int
    n_output: int
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job cost, told once, when it ends.  Times are the kernel's now_ns.

    queue_ns    from its arrival to its first Run, or to its end if it never ran
    waited_ns   all the time it spent READY, the queue included
    """

    slices: int
    parks: int
    n_prompt: int
    n_output: int
    queue_ns: int
    waited_ns: int
    submitted_ns: int
    first_run_ns: int | None
    first_token_ns: int | None
    finished_ns: int

    @property
    def total_ns(self) -> int:
        return self.finished_ns - self.submitted_ns

    @property
    def ttft_ns(self) -> int | None:
        """From its arrival to its first token; None if it had none."""
        return None if self.first_token_ns is None else self.first_token_ns - self.submitted_ns


@dataclass(slots=True)
class Counters:
    """What the kernel has done since it was made; for sys.status and the cost tests."""

    runs: int = 0
    saves: int = 0
    loads: int = 0
    moves: int = 0
    interrupts: int = 0
    slices: int = 0  # given to any job: the context switches of the paper
    parks: int = 0
    finished: dict[Outcome, int] = field(default_factory=dict)
