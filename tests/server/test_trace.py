"""The timeline as a trace: whose it is, what of it is shown to whom, and its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiosd.engine.spans import Activity, Span
from aiosd.kernel.model import AgentId, ContextId, JobId, SlotId
from aiosd.server import trace
from aiosd.timeline import Timeline
from tests.server.harness import RawPeer, served

ALICE, BOB = AgentId(1000, "alice"), AgentId(1001, "bob")
CONTEXTS = {ContextId("A"): ALICE, ContextId("B"): BOB}
MS = 1_000_000


def timeline(*spans: Span, max_spans: int = 100) -> Timeline:
    made = Timeline(max_spans, CONTEXTS)
    made.add(spans)
    return made


def span(activity: Activity, began_ms: int, ended_ms: int, context: str = "A") -> Span:
    job = JobId("j" + context) if activity in (Activity.PREFILL, Activity.DECODE) else None
    n_prompt, n_output = {"prefill": (7, 1), "decode": (0, 4)}.get(activity.value, (0, 0))
    known = None if activity is Activity.CLEAR else ContextId(context)
    slot = SlotId(0)
    began_ns, ended_ns = began_ms * MS, ended_ms * MS
    return Span(activity, slot, began_ns, ended_ns, known, job, n_prompt, n_output, 1)


def made(spans: Timeline, uid: int) -> list[dict[str, Any]]:
    result = trace.chrome_trace(
        spans.since(0), lambda a: a.uid == uid, n_slots=1, began_ns=0, ended_ns=1000 * MS
    )
    events: list[dict[str, Any]] = result["traceEvents"]
    return [event for event in events if event["ph"] != "M"]


TURNS = (
    span(Activity.PREFILL, 0, 100),
    span(Activity.DECODE, 100, 200),
    span(Activity.PARK, 200, 203),
    span(Activity.CLEAR, 203, 204),
    span(Activity.PREFILL, 204, 400, "B"),
    span(Activity.PARK, 400, 402, "B"),
    span(Activity.CLEAR, 402, 403),
    span(Activity.RESUME, 403, 405),
    span(Activity.DECODE, 405, 500),
)


def test_each_stay_in_a_slot_is_a_slice_around_what_was_done_in_it() -> None:
    slices = [event for event in made(timeline(*TURNS), 1000) if event["ph"] == "X"]
    assert [(e["name"], e["cat"], e["ts"], e["dur"]) for e in slices] == [
        ("alice", "stay", 0, 204_000),
        ("prefill", "prefill", 0, 100_000),
        ("decode", "decode", 100_000, 100_000),
        ("park", "park", 200_000, 3_000),
        ("clear", "clear", 203_000, 1_000),
        ("alice", "stay", 403_000, 97_000),
        ("resume", "resume", 403_000, 2_000),
        ("decode", "decode", 405_000, 95_000),
    ]
    assert slices[0]["args"] == {
        "uid": 1000, "agent": "alice", "context": "A", "prompt_tokens": 7, "output_tokens": 5,
    }  # fmt: skip


def test_another_uid_sees_the_total_load_and_nothing_else() -> None:
    events = made(timeline(*TURNS), 4711)
    assert {event["ph"] for event in events} == {"C"}
    assert [event["args"]["lanes"] for event in events] == [1, 1, 0.96, 1, 0.95] + [0] * 5
    assert "alice" not in repr(events)
    assert not any(context in repr(events) for context in ("'A'", "'B'", "jA", "jB"))


def test_what_is_not_known_to_be_ones_own_is_not_shown() -> None:
    stray = span(Activity.RESUME, 0, 1, "gone")
    assert made(timeline(stray, span(Activity.CLEAR, 1, 2)), 1000) == []


def test_the_oldest_go_first_and_are_counted() -> None:
    spans = timeline(*TURNS, max_spans=3)
    assert [owned.span for owned in spans.since(0)] == list(TURNS[-3:])
    assert spans.n_forgotten == 6
    assert [owned.span for owned in spans.since(404 * MS)] == list(TURNS[-2:])


def test_a_trace_shows_parks_and_resumes_of_a_real_daemon(tmp_path: Path) -> None:
    with (
        served(tmp_path, slots=1, lanes=1, quantum=2) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        created: Any = peer.ask("context.create", system="One.").result
        for context in (created["context"], None, created["context"]):
            params = {} if context is None else {"context": context}
            reply = peer.ask("llm.generate", prompt="x", max_tokens=3, ignore_eos=True, **params)
            assert reply.error is None
        result: Any = peer.ask("sys.trace").result
    names = [event["name"] for event in result["traceEvents"] if event["ph"] == "X"]
    assert {"prefill", "decode", "park", "clear", "resume", "raw"} <= set(names)


def test_a_trace_is_bounded_and_says_what_it_left_out() -> None:
    n_spans = trace.MAX_EVENTS // 2 + 7
    spans = timeline(
        *(span(Activity.DECODE, number, number + 1) for number in range(n_spans)), max_spans=n_spans
    )
    result = trace.chrome_trace(
        spans.since(0), lambda _: True, n_slots=1, began_ns=0, ended_ns=n_spans * MS
    )
    assert result["otherData"]["n_dropped"] == 7
    slices = [event for event in result["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == n_spans - 7 + 1  # and the one stay
    assert len([e for e in result["traceEvents"] if e["ph"] == "C"]) <= trace.MAX_LOADS
