"""Spans: steps alike become one, commands have one each, and none grows without bound."""

from __future__ import annotations

from aiosd.engine.base import StepReport
from aiosd.engine.spans import MAX_SPAN_NS, Activity, Recorder, Span
from aiosd.kernel.events import Clear, Load, Move, Save
from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, Outcome, SlotId

A, B = JobId("a"), JobId("b")
LANES = [
    Lane(A, ContextId("A"), SlotId(0), None),
    Lane(B, ContextId("B"), SlotId(2), None),
]


def recorded() -> tuple[Recorder, list[Span]]:
    spans: list[Span] = []
    return Recorder(spans.extend), spans


def report(a: tuple[int, int], b: tuple[int, int], rereading: tuple[JobId, ...] = ()) -> StepReport:
    lanes = (LaneReport(A, *a), LaneReport(B, *b))
    return StepReport(lanes, rereading=frozenset(rereading))


def test_steps_in_which_a_lane_did_the_same_are_one_span() -> None:
    recorder, spans = recorded()
    recorder.step(LANES, report((5, 0), (0, 1)), 10, 20)
    recorder.step(LANES, report((3, 1), (0, 1)), 20, 35)
    recorder.step(LANES, report((0, 1), (0, 1)), 35, 40)
    recorder.step(LANES, report((0, 0), (0, 0), rereading=(A,)), 40, 50)
    assert spans == []
    recorder.flush()
    assert spans == [
        Span(Activity.PREFILL, SlotId(0), 10, 35, ContextId("A"), A, 8, 1, 2),
        Span(Activity.DECODE, SlotId(0), 35, 40, ContextId("A"), A, 0, 1, 1),
        Span(Activity.DECODE, SlotId(2), 10, 40, ContextId("B"), B, 0, 3, 3),
        Span(Activity.REREAD, SlotId(0), 40, 50, ContextId("A"), A, 0, 0, 1),
        Span(Activity.WAIT, SlotId(2), 40, 50, ContextId("B"), B, 0, 0, 1),
    ]


def test_a_long_run_is_told_while_it_is_under_way() -> None:
    recorder, spans = recorded()
    recorder.step(LANES, report((0, 1), (0, 1)), 0, MAX_SPAN_NS - 1)
    assert spans == []
    recorder.step(LANES, report((0, 1), (0, 1)), MAX_SPAN_NS - 1, MAX_SPAN_NS)
    assert [(span.slot, span.n_output) for span in spans] == [(0, 2), (2, 2)]
    recorder.flush()
    assert len(spans) == 2


def test_commands_between_runs_have_spans_of_their_own() -> None:
    recorder, spans = recorded()
    context = ContextId("A")
    recorder.command(Save(context, SlotId(1)), 1, 4)
    recorder.command(Clear(SlotId(1)), 4, 5)
    recorder.command(Load(context, SlotId(2)), 5, 7)
    recorder.command(Move(context, SlotId(2), SlotId(3)), 7, 9)
    assert spans == [
        Span(Activity.PARK, SlotId(1), 1, 4, context),
        Span(Activity.CLEAR, SlotId(1), 4, 5),
        Span(Activity.RESUME, SlotId(2), 5, 7, context),
        Span(Activity.MOVE, SlotId(3), 7, 9, context),
    ]


def test_the_step_that_ends_a_job_is_no_waiting_though_it_gave_no_token() -> None:
    recorder, spans = recorded()
    recorder.step(LANES, report((0, 1), (0, 1)), 0, 10)
    ended = LaneReport(A, 0, 0, Outcome.DONE)
    recorder.step(LANES, StepReport((ended, LaneReport(B, 0, 0))), 10, 20)
    recorder.flush()
    assert [(span.job, span.activity, span.ended_ns) for span in spans] == [
        (B, Activity.DECODE, 10),
        (A, Activity.DECODE, 20),
        (B, Activity.WAIT, 20),
    ]
