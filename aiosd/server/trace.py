"""The timeline in Chrome's trace-event form, which Perfetto and chrome://tracing open.  Pure.

A track per slot: a slice per stay of a context, named after its agent, and in it what was done.
A counter beside them: how many lanes stepped together, everybody's, in steps of LOAD_NS or more,
since total load is everybody's to see, and nothing finer of others is.

Source: "Trace Event Format", the document of Chrome's trace viewer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiosd.engine.spans import Activity, Span
from aiosd.kernel.model import AgentId, ContextId, SlotId
from aiosd.timeline import OwnedSpan

FIRST_TID = 1  # of slot 0.  Source: tracing-chrome issue 32, viewers merge threads 0 and 1
MAX_EVENTS = 20_000  # of one trace, about 4 MiB: well within a frame
LOAD_NS = 100_000_000
MAX_LOADS = 200  # of one trace; a longer one has coarser ones
_ON_LANE = (Activity.PREFILL, Activity.REREAD, Activity.DECODE, Activity.WAIT)


@dataclass(slots=True)
class _Stay:
    """A context in a slot, as far as it was seen."""

    agent: AgentId
    context: ContextId
    spans: list[Span] = field(default_factory=list)


def chrome_trace(
    timeline: list[OwnedSpan],
    may_see: Callable[[AgentId], bool],
    *,
    n_slots: int,
    began_ns: int,
    ended_ns: int,
) -> dict[str, Any]:
    """The trace of what may be seen; began_ns and ended_ns are what was asked for."""
    seen = [
        (owned.agent, owned.span)
        for owned in timeline
        if owned.agent is not None and may_see(owned.agent)
    ]
    # Two events for each span at most: it, and a stay of its own.
    n_dropped = max(0, len(seen) - MAX_EVENTS // 2)
    events = [_metadata("process_name", 0, {"name": "aiosd"})]
    for slot in range(n_slots):
        events.append(_metadata("thread_name", slot, {"name": f"slot {slot}"}))
        events.append(_metadata("thread_sort_index", slot, {"sort_index": slot}))
    events += _load(timeline, began_ns, ended_ns)
    for stay in _stays(seen[n_dropped:]):
        events += _slices(stay)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "began_us": began_ns // 1000,
            "ended_us": ended_ns // 1000,
            "n_slots": n_slots,
            "n_dropped": n_dropped,
        },
    }


def _stays(seen: Iterable[tuple[AgentId, Span]]) -> list[_Stay]:
    stays: list[_Stay] = []
    in_slots: dict[SlotId, _Stay] = {}
    for agent, span in seen:
        stay = in_slots.get(span.slot)
        if span.context is None:
            in_slots.pop(span.slot, None)
            if stay is None:
                continue  # what it held came before this trace, or is another uid's
        elif stay is None or stay.context != span.context:
            stay = in_slots[span.slot] = _Stay(agent, span.context)
            stays.append(stay)
        stay.spans.append(span)
    return stays


def _slices(stay: _Stay) -> list[dict[str, Any]]:
    """The stay, then what was done in it, which the viewer draws below it."""
    who = {"uid": stay.agent.uid, "agent": stay.agent.name, "context": stay.context}
    whole = {
        **who,
        "prompt_tokens": sum(span.n_prompt for span in stay.spans),
        "output_tokens": sum(span.n_output for span in stay.spans),
    }
    first, last = stay.spans[0], stay.spans[-1]
    began_ns = min(span.began_ns for span in stay.spans)
    slices = [_slice((stay.agent.name, "stay"), first.slot, (began_ns, last.ended_ns), whole)]
    for span in stay.spans:
        args: dict[str, Any] = dict(who)
        if span.job is not None:
            args["job"] = span.job
            args["prompt_tokens"], args["output_tokens"] = span.n_prompt, span.n_output
            args["steps"] = span.n_steps
        name = span.activity.value
        slices.append(_slice((name, name), span.slot, (span.began_ns, span.ended_ns), args))
    return slices


def _slice(
    what: tuple[str, str], slot: int, time_ns: tuple[int, int], args: dict[str, Any]
) -> dict[str, Any]:
    name, category = what
    began_us, ended_us = time_ns[0] // 1000, time_ns[1] // 1000
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": began_us,
        "dur": ended_us - began_us,
        "pid": os.getpid(),
        "tid": slot + FIRST_TID,
        "args": args,
    }


def _metadata(name: str, slot: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": os.getpid(), "tid": slot + FIRST_TID, "args": args}


def _load(timeline: list[OwnedSpan], began_ns: int, ended_ns: int) -> list[dict[str, Any]]:
    """How many lanes stepped, on average over each piece of the time, whoever's they were."""
    on_lanes = [owned.span for owned in timeline if owned.span.activity in _ON_LANE]
    if not on_lanes:
        return []
    began_ns = max(began_ns, min(span.began_ns for span in on_lanes))
    piece_ns = max(LOAD_NS, (ended_ns - began_ns) // MAX_LOADS)
    busy_ns: dict[int, int] = {}
    for span in on_lanes:
        at_ns = max(span.began_ns, began_ns)
        while at_ns < span.ended_ns:
            index = (at_ns - began_ns) // piece_ns
            until_ns = min(span.ended_ns, began_ns + (index + 1) * piece_ns)
            busy_ns[index] = busy_ns.get(index, 0) + until_ns - at_ns
            at_ns = until_ns
    return [
        {
            "name": "lanes in use",
            "ph": "C",
            "ts": (began_ns + index * piece_ns) // 1000,
            "pid": os.getpid(),
            "args": {"lanes": round(busy_ns.get(index, 0) / piece_ns, 2)},
        }
        # Not the last: its time isn't over yet.
        for index in range((ended_ns - began_ns) // piece_ns)
    ]
