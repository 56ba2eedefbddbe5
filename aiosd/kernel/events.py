"""The kernel's whole vocabulary: what happened (Event) and what to do about it (Action).

Events are past participles, actions are imperatives.  Both are frozen, so that a journal of
(now_ns, event) replays to the same actions.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.kernel.model import (
    AgentId,
    ContextId,
    Cost,
    JobId,
    Lane,
    LaneReport,
    Outcome,
    Priority,
    SlotId,
)

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Submitted:
    """A new job.  Its context serves no other job (the driver has checked)."""

    job: JobId
    context: ContextId
    agent: AgentId
    priority: Priority


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Someone wants the job to end: its caller, its dead client, its deadline, a shutdown."""

    job: JobId
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RunDone:
    """The Run under way came home, with one report per lane."""

    lanes: tuple[LaneReport, ...]


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The job sampled its first token (arrives while its Run is still under way)."""

    job: JobId


@dataclass(frozen=True, slots=True)
class OutputStalled:
    """The job's client doesn't read: don't choose it any more."""

    job: JobId


@dataclass(frozen=True, slots=True)
class OutputDrained:
    """The job's client reads again."""

    job: JobId


@dataclass(frozen=True, slots=True)
class JobPaused:
    """job.pause"""

    job: JobId


@dataclass(frozen=True, slots=True)
class JobResumed:
    """job.resume"""

    job: JobId


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    """job.priority"""

    job: JobId
    priority: Priority


@dataclass(frozen=True, slots=True)
class ContextDropped:
    """The context is gone and serves no job; its slot may be used again."""

    context: ContextId


@dataclass(frozen=True, slots=True)
class ContextAwaited:
    """The context waits, from the end of its job on if it has one, for something (the answer of a
    tool) that is expected by until_ns: keep it in its slot before those nobody waits for."""

    context: ContextId
    until_ns: int


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """sys.policy; what is None stays as it is."""

    policy: str | None = None
    quantum_tokens: int | None = None
    n_lanes: int | None = None


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """agent.limits: the agent's share among those of its uid, and how fast it may go (None: as
    fast as it can)."""

    agent: AgentId
    weight: int = 1
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class TimePassed:
    """It is Kernel.wake_ns() now."""


Event = (
    Submitted
    | Cancelled
    | RunDone
    | FirstToken
    | OutputStalled
    | OutputDrained
    | JobPaused
    | JobResumed
    | PriorityChanged
    | ContextDropped
    | ContextAwaited
    | PolicyChanged
    | LimitsChanged
    | TimePassed
)

# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the slot's cells as a snapshot of the context, as far as the budget allows."""

    context: ContextId
    slot: SlotId


@dataclass(frozen=True, slots=True)
class Clear:
    """Empty the slot."""

    slot: SlotId


@dataclass(frozen=True, slots=True)
class Load:
    """Bring the context into the (empty) slot: from its snapshot, or nothing, to be read again."""

    context: ContextId
    slot: SlotId


@dataclass(frozen=True, slots=True)
class Move:
    """Move the context's cells to another, empty slot, so that talkers are neighbours."""

    context: ContextId
    source: SlotId
    target: SlotId


@dataclass(frozen=True, slots=True)
class Run:
    """Step these lanes together, until one finishes, has taken its tokens, or Interrupt comes.

    Sorted by slot; at most one Run is under way.
    """

    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Bring the Run under way home after the step it is in."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The job has ended; nothing more is coming for it."""

    job: JobId
    outcome: Outcome
    cost: Cost


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the job's client what happens to it: queued (with its position from 1), running,
    paused, resumed."""

    job: JobId
    state: str
    position: int | None = None


Action = Save | Clear | Load | Move | Run | Interrupt | Finish | Tell
