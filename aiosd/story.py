"""All that the journal knows of one job, in the order in which it happened.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiosd.journal import Entry
from aiosd.kernel import events as ev
from aiosd.kernel.model import AgentId, ContextId, Cost, JobId

MAX_EVENTS = 10_000  # of one story; the newest are kept


@dataclass(frozen=True, slots=True)
class Subject:
    """The job, whose it is and where it works."""

    job: JobId
    agent: AgentId
    context: ContextId


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened; what is in details depends on the event."""

    now_ns: int
    event: str
    details: dict[str, Any]


def subject_of(job: JobId, entries: Iterable[Entry]) -> Subject | None:
    """Who submitted the job; None if the journal doesn't reach back to that."""
    for entry in entries:
        if isinstance(entry.event, ev.Submitted) and entry.event.job == job:
            return Subject(job, entry.event.agent, entry.event.context)
    return None


def story(subject: Subject, entries: Iterable[Entry]) -> list[Moment]:
    """What happened to the job, and to its context while it lived."""
    moments: list[Moment] = []
    is_on_lane = False
    for entry in entries:
        found = list(_of_event(subject.job, entry.event))
        if isinstance(entry.event, ev.RunDone):
            is_on_lane = False
        for action in entry.actions or ():
            if isinstance(action, ev.Run):
                is_on_lane = any(lane.job == subject.job for lane in action.lanes)
            if isinstance(action, ev.Interrupt) and is_on_lane:
                found.append(("interrupt", {}))
            else:
                found += _of_action(subject, action)
            if isinstance(action, ev.Finish) and action.job == subject.job:
                break  # what its context does afterwards is another story
        moments += (Moment(entry.now_ns, event, details) for event, details in found)
        if found and found[-1][0] == "ended":
            break
    return moments


Told = Iterator[tuple[str, dict[str, Any]]]


def _of_event(job: JobId, event: ev.Event) -> Told:
    if isinstance(event, ev.RunDone):
        for report in event.lanes:
            if report.job == job:
                read = {"prompt_tokens": report.n_prompt, "output_tokens": report.n_output}
                ended = {} if report.outcome is None else {"outcome": report.outcome.value}
                yield "ran", read | ended
        return
    if getattr(event, "job", None) != job:
        return
    match event:
        case ev.Submitted(context=context, agent=agent, priority=priority):
            yield (
                "submitted",
                {"agent": agent.name, "context": context, "priority": priority.name.lower()},
            )
        case ev.Cancelled(outcome=outcome):
            yield "cancel_asked", {"outcome": outcome.value}
        case ev.FirstToken():
            yield "first_token", {}
        case ev.OutputStalled():
            yield "reader_stalled", {}
        case ev.OutputDrained():
            yield "reader_drained", {}
        case ev.JobPaused():
            yield "pause_asked", {}
        case ev.JobResumed():
            yield "resume_asked", {}
        case ev.PriorityChanged(priority=priority):
            yield "priority", {"priority": priority.name.lower()}
        case _:
            pass


def _of_action(subject: Subject, action: ev.Action) -> Told:
    match action:
        case ev.Run(lanes=lanes):
            for lane in lanes:
                if lane.job == subject.job:
                    most = {} if lane.max_tokens is None else {"max_tokens": lane.max_tokens}
                    yield "run", {"slot": lane.slot, "lanes": len(lanes)} | most
        case ev.Save(context=context, slot=slot) if context == subject.context:
            yield "park", {"slot": slot}
        case ev.Load(context=context, slot=slot) if context == subject.context:
            yield "resume", {"slot": slot}
        case ev.Move(context=context, source=source, target=target) if context == subject.context:
            yield "move", {"from": source, "slot": target}
        case ev.Tell(job=job, state=state, position=position) if job == subject.job:
            yield "told", {"state": state} | ({} if position is None else {"position": position})
        case ev.Finish(job=job, outcome=outcome, cost=cost) if job == subject.job:
            yield "ended", {"outcome": outcome.value} | _figures(cost)
        case _:
            pass


def _figures(cost: Cost) -> dict[str, int]:
    return {
        "prompt_tokens": cost.n_prompt,
        "output_tokens": cost.n_output,
        "slices": cost.slices,
        "parks": cost.parks,
        "queue_ms": cost.queue_ns // 10**6,
        "waited_ms": cost.waited_ns // 10**6,
        "total_ms": cost.total_ns // 10**6,
    }
