"""Journals: what is written reads back the same, what isn't one is refused, bugs replay."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.kernel import events as ev
from aiosd.kernel.model import (
    AgentId,
    ContextId,
    JobId,
    LaneReport,
    Outcome,
    Priority,
)
from aiosd.kernel.replay import Header, decode, encode, replay
from tests.kernel.words import INTERRUPT, did, done, run, submitted, tell

HEADER = Header(n_slots=4, n_lanes=1, policy="rr", quantum_tokens=16)

JOB, CONTEXT = st.text().map(JobId), st.text().map(ContextId)
COUNT, OUTCOME, PRIORITY = st.integers(), st.sampled_from(Outcome), st.sampled_from(Priority)
REPORT = st.builds(LaneReport, JOB, COUNT, COUNT, st.none() | OUTCOME)
EVENT: st.SearchStrategy[ev.Event] = st.one_of(
    st.builds(ev.Submitted, JOB, CONTEXT, st.builds(AgentId, COUNT, st.text()), PRIORITY),
    st.builds(ev.Cancelled, JOB, OUTCOME),
    st.builds(ev.RunDone, st.lists(REPORT).map(tuple)),
    st.builds(ev.FirstToken, JOB),
    st.builds(ev.OutputStalled, JOB),
    st.builds(ev.OutputDrained, JOB),
    st.builds(ev.JobPaused, JOB),
    st.builds(ev.JobResumed, JOB),
    st.builds(ev.PriorityChanged, JOB, PRIORITY),
    st.builds(ev.ContextDropped, CONTEXT),
    st.builds(ev.ContextAwaited, CONTEXT, COUNT),
    st.builds(ev.PolicyChanged, st.none() | st.text(), st.none() | COUNT, st.none() | COUNT),
)


@given(st.integers(), EVENT)
def test_an_entry_survives_json(now_ns: int, event: ev.Event) -> None:
    assert decode(json.loads(json.dumps(encode(now_ns, event)))) == (now_ns, event)


def test_what_an_entry_looks_like() -> None:
    assert encode(7, submitted("a")) == [7, "Submitted", "a", "A", 1000, "tester", 1]
    assert encode(8, done(did("a", 2, Outcome.DONE, 5))) == [
        8,
        "RunDone",
        [["a", 5, 2, "done"]],
    ]
    assert encode(9, ev.PolicyChanged(n_lanes=2)) == [9, "PolicyChanged", None, None, 2]


@pytest.mark.parametrize(
    "plain",
    [
        None,
        "Submitted",
        [],
        [1],
        ["1", "FirstToken", "a"],
        [1, "Exploded", "a"],
        [1, "FirstToken"],
        [1, "FirstToken", 5],
        [1, "FirstToken", "a", "b"],
        [1, "Submitted", "a", "A", 1000, "tester", 9],
        [1, "Cancelled", "a", "eaten"],
        [1, "RunDone", [["a", 1, 2]]],
        [1, "RunDone", [["a", 1, 2, "eaten"]]],
        [1, "RunDone", "a"],
        [1, "PolicyChanged", 5, None, None],
    ],
    ids=repr,
)
def test_what_is_not_an_entry_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match=r"not a|is not a valid"):
        decode(plain)


def test_a_header_survives_json_and_what_is_none_is_refused() -> None:
    assert Header.decode(json.loads(json.dumps(HEADER.encode()))) == HEADER
    others: list[object] = [None, [], {"n_slots": 4}, {**HEADER.encode(), "policy": 5}]
    for plain in others:
        with pytest.raises(ValueError, match="not a journal's header"):
            Header.decode(plain)


def test_a_journal_replays_to_the_same_actions() -> None:
    entries: list[tuple[int, ev.Event]] = [
        (1, submitted("a")),
        (2, submitted("b")),
        (3, done(did("a", 6))),
    ]
    assert list(replay(HEADER, entries)) == [
        (1, submitted("a"), [tell("a", "running"), run(("a", 0))]),
        (2, submitted("b"), [tell("b", "queued", 1), INTERRUPT]),
        (3, done(did("a", 6)), [run(("a", 0, 10))]),
    ]


def test_a_replay_stops_at_the_event_that_went_wrong() -> None:
    story = replay(HEADER, [(1, submitted("a")), (2, submitted("a"))])
    assert next(story)[0] == 1
    with pytest.raises(ValueError, match="job a was submitted twice"):
        next(story)
