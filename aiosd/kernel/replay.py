"""The journal: events as plain lists for JSON and back, and running a kernel on them again.

Rule 1: decode() takes nothing on trust; what it doesn't recognise is a ValueError that shows it.
Rule 2: a journal replays to the same actions only from its beginning: with a header, which says how
the kernel was made, the first entry is the first event that kernel saw; else see checkpoint.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import AgentId, ContextId, JobId, LaneReport, Outcome, Priority


@dataclass(frozen=True, slots=True)
class Header:
    """How the kernel of a journal was made."""

    n_slots: int
    n_lanes: int
    policy: str
    quantum_tokens: int

    def encode(self) -> dict[str, object]:
        return {
            "n_slots": self.n_slots,
            "n_lanes": self.n_lanes,
            "policy": self.policy,
            "quantum_tokens": self.quantum_tokens,
        }

    @staticmethod
    def decode(plain: object) -> Header:
        """Raises ValueError for anything that encode() doesn't write."""
        match plain:
            case {
                "n_slots": int(n_slots),
                "n_lanes": int(n_lanes),
                "policy": str(policy),
                "quantum_tokens": int(quantum_tokens),
            }:
                return Header(n_slots, n_lanes, policy, quantum_tokens)
        raise ValueError(f"not a journal's header: {plain!r}")

    def make_kernel(self) -> Kernel:
        """Raises ValueError for settings that can't be."""
        return Kernel(self.n_slots, self.n_lanes, self.policy, self.quantum_tokens)


def replay(
    header: Header, entries: Iterable[tuple[int, ev.Event]]
) -> Iterator[tuple[int, ev.Event, list[ev.Action]]]:
    """Each entry with the actions it led to, checking every invariant on the way."""
    return replay_on(header.make_kernel(), entries)


def replay_on(
    kernel: Kernel, entries: Iterable[tuple[int, ev.Event]]
) -> Iterator[tuple[int, ev.Event, list[ev.Action]]]:
    """The same from a kernel that has seen what came before, e.g. one of a checkpoint."""
    for now_ns, event in entries:
        actions = kernel.handle(event, now_ns)
        kernel.check()
        yield now_ns, event, actions


def encode(now_ns: int, event: ev.Event) -> list[object]:
    """[now_ns, name, field, ...], of ints, strings, None and lists of them."""
    return [now_ns, type(event).__name__, *_fields(event)]


def _fields(event: ev.Event) -> list[object]:
    match event:
        case ev.Submitted(job=job, context=context, agent=agent, priority=priority):
            return [job, context, agent.uid, agent.name, int(priority)]
        case ev.Cancelled(job=job, outcome=outcome):
            return [job, outcome.value]
        case ev.RunDone(lanes=lanes):
            return [[_report(report) for report in lanes]]
        case ev.FirstToken() | ev.OutputStalled() | ev.OutputDrained():
            return [event.job]
        case ev.JobPaused() | ev.JobResumed():
            return [event.job]
        case ev.PriorityChanged(job=job, priority=priority):
            return [job, int(priority)]
        case ev.ContextDropped(context=context):
            return [context]
        case ev.ContextAwaited(context=context, until_ns=until_ns):
            return [context, until_ns]
        case ev.PolicyChanged(policy=policy, quantum_tokens=quantum_tokens, n_lanes=n_lanes):
            return [policy, quantum_tokens, n_lanes]
        case ev.LimitsChanged(agent=agent, weight=weight, tokens_per_minute=tokens_per_minute):
            return [agent.uid, agent.name, weight, tokens_per_minute]
        case ev.TimePassed():
            return []


def _report(report: LaneReport) -> list[object]:
    outcome = None if report.outcome is None else report.outcome.value
    return [report.job, report.n_prompt, report.n_output, outcome]


def decode(plain: object) -> tuple[int, ev.Event]:
    """Raises ValueError for anything that encode() doesn't write."""
    match plain:
        case [int(now_ns), str(name), *fields]:
            return now_ns, _event(name, fields)
    raise ValueError(f"not a journal's entry: {plain!r}")


def _event(name: str, fields: list[object]) -> ev.Event:
    match name, fields:
        case "Submitted", [str(job), str(context), int(uid), str(agent), int(priority)]:
            who = AgentId(uid, agent)
            return ev.Submitted(JobId(job), ContextId(context), who, Priority(priority))
        case "Cancelled", [str(job), str(outcome)]:
            return ev.Cancelled(JobId(job), Outcome(outcome))
        case "RunDone", [list(reports)]:
            return ev.RunDone(tuple(_lane_report(report) for report in reports))
        case "FirstToken", [str(job)]:
            return ev.FirstToken(JobId(job))
        case "OutputStalled", [str(job)]:
            return ev.OutputStalled(JobId(job))
        case "OutputDrained", [str(job)]:
            return ev.OutputDrained(JobId(job))
        case "JobPaused", [str(job)]:
            return ev.JobPaused(JobId(job))
        case "JobResumed", [str(job)]:
            return ev.JobResumed(JobId(job))
        case "PriorityChanged", [str(job), int(priority)]:
            return ev.PriorityChanged(JobId(job), Priority(priority))
        case "ContextDropped", [str(context)]:
            return ev.ContextDropped(ContextId(context))
        case "ContextAwaited", [str(context), int(until_ns)]:
            return ev.ContextAwaited(ContextId(context), until_ns)
        case (
            "PolicyChanged",
            [str() | None as policy, int() | None as quantum, int() | None as n_lanes],
        ):
            return ev.PolicyChanged(policy, quantum, n_lanes)
        case "LimitsChanged", [int(uid), str(agent), int(weight), int() | None as per_minute]:
            return ev.LimitsChanged(AgentId(uid, agent), weight, per_minute)
        case "TimePassed", []:
            return ev.TimePassed()
    raise ValueError(f"not an event of a journal: {name} {fields!r}")


def _lane_report(plain: object) -> LaneReport:
    match plain:
        case [str(job), int(n_prompt), int(n_output), None]:
            return LaneReport(JobId(job), n_prompt, n_output)
        case [str(job), int(n_prompt), int(n_output), str(outcome)]:
            return LaneReport(JobId(job), n_prompt, n_output, Outcome(outcome))
    raise ValueError(f"not a lane's report: {plain!r}")
