"""Short words for the kernel's events and actions, so that a test reads as a dialogue."""

from __future__ import annotations

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
    SlotId,
)

AGENT = AgentId(1000, "tester")
DONE, FAILED, CANCELLED = Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED


def submitted(
    job: str,
    context: str | None = None,
    agent: AgentId = AGENT,
    priority: Priority = Priority.NORMAL,
) -> ev.Submitted:
    """A job "a" is on a context "A" unless told otherwise."""
    name = job.upper() if context is None else context
    return ev.Submitted(JobId(job), ContextId(name), agent, priority)


def limited(agent: AgentId, tokens_per_minute: int | None, weight: int = 1) -> ev.LimitsChanged:
    return ev.LimitsChanged(agent, weight, tokens_per_minute)


def cancelled(job: str, outcome: Outcome = CANCELLED) -> ev.Cancelled:
    return ev.Cancelled(JobId(job), outcome)


def done(*reports: LaneReport) -> ev.RunDone:
    return ev.RunDone(reports)


def did(
    job: str, n_output: int = 1, outcome: Outcome | None = None, n_prompt: int = 0
) -> LaneReport:
    return LaneReport(JobId(job), n_prompt, n_output, outcome)


def first_token(job: str) -> ev.FirstToken:
    return ev.FirstToken(JobId(job))


def stalled(job: str) -> ev.OutputStalled:
    return ev.OutputStalled(JobId(job))


def drained(job: str) -> ev.OutputDrained:
    return ev.OutputDrained(JobId(job))


def paused(job: str) -> ev.JobPaused:
    return ev.JobPaused(JobId(job))


def resumed(job: str) -> ev.JobResumed:
    return ev.JobResumed(JobId(job))


def reprioritised(job: str) -> ev.PriorityChanged:
    return ev.PriorityChanged(JobId(job), Priority.BACKGROUND)


def dropped(context: str) -> ev.ContextDropped:
    return ev.ContextDropped(ContextId(context))


def awaited(context: str, until_ns: int = 10**9) -> ev.ContextAwaited:
    return ev.ContextAwaited(ContextId(context), until_ns)


INTERRUPT = ev.Interrupt()


def run(*lanes: tuple[str, int] | tuple[str, int, int]) -> ev.Run:
    """("a", 0) or ("a", 0, 16): the job on context "A" in slot 0, with so many tokens."""
    return ev.Run(
        tuple(
            Lane(
                JobId(lane[0]),
                ContextId(lane[0].upper()),
                SlotId(lane[1]),
                lane[2] if len(lane) == 3 else None,
            )
            for lane in lanes
        )
    )


def tell(job: str, state: str, position: int | None = None) -> ev.Tell:
    return ev.Tell(JobId(job), state, position)


def save(context: str, slot: int) -> ev.Save:
    return ev.Save(ContextId(context), SlotId(slot))


def clear(slot: int) -> ev.Clear:
    return ev.Clear(SlotId(slot))


def load(context: str, slot: int) -> ev.Load:
    return ev.Load(ContextId(context), SlotId(slot))


def move(context: str, source: int, target: int) -> ev.Move:
    return ev.Move(ContextId(context), SlotId(source), SlotId(target))


def finish(job: str, outcome: Outcome) -> tuple[str, str, Outcome]:
    """A Finish as Script.says shows it: without what the job cost."""
    return ("finish", job, outcome)


Said = ev.Action | tuple[str, str, Outcome]


class Script:
    """A kernel spoken to line by line; every line is followed by check().

    Time passes by one nanosecond with each event.
    """

    def __init__(
        self, n_slots: int = 4, n_lanes: int = 1, policy: str = "rr", quantum_tokens: int = 16
    ) -> None:
        self.kernel = Kernel(n_slots, n_lanes, policy, quantum_tokens)
        self.now_ns = 0
        self.finishes: list[ev.Finish] = []

    def says(self, *events: ev.Event) -> list[Said]:
        """The answer to the last event."""
        said: list[Said] = []
        for event in events:
            self.now_ns += 1
            said = []
            for action in self.kernel.handle(event, self.now_ns):
                if isinstance(action, ev.Finish):
                    self.finishes.append(action)
                    said.append(finish(action.job, action.outcome))
                else:
                    said.append(action)
            self.kernel.check()
        return said

    def state(self, job: str) -> JobState | None:
        """None once it has ended."""
        known = self.kernel.jobs.get(JobId(job))
        return None if known is None else known.state

    def slots(self) -> str:
        """The contexts in their slots, a dot for none: "AB..":"""
        return "".join(held or "." for held in self.kernel.slots)
