"""Every event in every state of the job it is about: what is said, and where the job is then."""

from __future__ import annotations

from typing import get_args

import pytest

from aiosd.kernel import events as ev
from aiosd.kernel.model import AgentId, JobState, LaneReport, Outcome
from tests.kernel.words import (
    CANCELLED,
    DONE,
    FAILED,
    INTERRUPT,
    Said,
    Script,
    awaited,
    cancelled,
    clear,
    did,
    done,
    drained,
    dropped,
    finish,
    first_token,
    limited,
    paused,
    reprioritised,
    resumed,
    run,
    stalled,
    submitted,
    tell,
)

READY, RUNNING, STALLED = JobState.READY, JobState.RUNNING, JobState.STALLED
PAUSED, CANCELLING = JobState.PAUSED, JobState.CANCELLING
DELAYED = JobState.DELAYED
ENDED = None
State = JobState | None

# One lane, quantum 16.  "x" is the job the events are about, "r" the other; the Run under way is
# bounded, so that nothing but the event can interrupt it.
X_AGENT = AgentId(1000, "x's")
X = submitted("x", agent=X_AGENT)
X_WAITS = (submitted("r"), X, done(did("r")))
X_RUNS = (X, submitted("r"), done(did("x")))
SET_UPS: dict[State, tuple[ev.Event, ...]] = {
    READY: X_WAITS,
    RUNNING: X_RUNS,
    STALLED: (*X_WAITS, stalled("x")),
    PAUSED: (*X_WAITS, paused("x")),
    DELAYED: (*X_RUNS, limited(X_AGENT, 60), done(did("x", 61))),
    CANCELLING: (*X_RUNS, cancelled("x")),
    ENDED: (*X_WAITS, cancelled("x")),
}

R_STARTS: list[Said] = [tell("r", "running"), run(("r", 1))]  # beside X, which is still in slot 0
QUANTUM_4 = ev.PolicyChanged(quantum_tokens=4)
FIRST_TOKEN = first_token("x")
PRIORITY = reprioritised("x")
NO_LIMIT = limited(X_AGENT, None)
TIME = ev.TimePassed()

TABLE: list[tuple[ev.Event, State, list[Said], State]] = [
    (X, ENDED, [tell("x", "queued", 1)], READY),
    (cancelled("x"), READY, [finish("x", CANCELLED)], ENDED),
    (cancelled("x"), RUNNING, [INTERRUPT], CANCELLING),
    (cancelled("x"), STALLED, [finish("x", CANCELLED)], ENDED),
    (cancelled("x"), PAUSED, [finish("x", CANCELLED)], ENDED),
    (cancelled("x"), DELAYED, [finish("x", CANCELLED)], ENDED),
    (cancelled("x"), CANCELLING, [], CANCELLING),
    (cancelled("x"), ENDED, [], ENDED),
    (cancelled("x", Outcome.DEADLINE), READY, [finish("x", Outcome.DEADLINE)], ENDED),
    (FIRST_TOKEN, READY, [], READY),
    (FIRST_TOKEN, RUNNING, [], RUNNING),
    (FIRST_TOKEN, STALLED, [], STALLED),
    (FIRST_TOKEN, PAUSED, [], PAUSED),
    (FIRST_TOKEN, DELAYED, [], DELAYED),
    (FIRST_TOKEN, CANCELLING, [], CANCELLING),
    (FIRST_TOKEN, ENDED, [], ENDED),
    (stalled("x"), READY, [], STALLED),
    (stalled("x"), RUNNING, [INTERRUPT], RUNNING),
    (stalled("x"), STALLED, [], STALLED),
    (stalled("x"), PAUSED, [], PAUSED),
    (stalled("x"), DELAYED, [], STALLED),
    (stalled("x"), CANCELLING, [], CANCELLING),
    (stalled("x"), ENDED, [], ENDED),
    (drained("x"), READY, [], READY),
    (drained("x"), RUNNING, [], RUNNING),
    (drained("x"), STALLED, [INTERRUPT], READY),  # r runs without a bound since nobody waited
    (drained("x"), PAUSED, [], PAUSED),
    (drained("x"), DELAYED, [], DELAYED),
    (drained("x"), CANCELLING, [], CANCELLING),
    (drained("x"), ENDED, [], ENDED),
    (paused("x"), READY, [tell("x", "paused")], PAUSED),
    (paused("x"), RUNNING, [INTERRUPT], RUNNING),
    (paused("x"), STALLED, [tell("x", "paused")], PAUSED),
    (paused("x"), PAUSED, [], PAUSED),
    (paused("x"), DELAYED, [], PAUSED),  # its client was told when the delay began
    (paused("x"), CANCELLING, [], CANCELLING),
    (paused("x"), ENDED, [], ENDED),
    (resumed("x"), READY, [], READY),
    (resumed("x"), RUNNING, [], RUNNING),
    (resumed("x"), STALLED, [], STALLED),
    (resumed("x"), PAUSED, [INTERRUPT], READY),
    (resumed("x"), DELAYED, [], DELAYED),
    (resumed("x"), CANCELLING, [], CANCELLING),
    (resumed("x"), ENDED, [], ENDED),
    (PRIORITY, READY, [], READY),
    (PRIORITY, RUNNING, [], RUNNING),
    (PRIORITY, STALLED, [], STALLED),
    (PRIORITY, PAUSED, [], PAUSED),
    (PRIORITY, DELAYED, [], DELAYED),
    (PRIORITY, CANCELLING, [], CANCELLING),
    (PRIORITY, ENDED, [], ENDED),
    (dropped("X"), ENDED, [], ENDED),
    (dropped("never seen"), ENDED, [], ENDED),
    *[(awaited("X"), state, [], state) for state in SET_UPS],  # for when its job has ended
    (QUANTUM_4, READY, [INTERRUPT], READY),
    (QUANTUM_4, RUNNING, [INTERRUPT], RUNNING),
    (QUANTUM_4, STALLED, [INTERRUPT], STALLED),
    (QUANTUM_4, PAUSED, [INTERRUPT], PAUSED),
    (QUANTUM_4, DELAYED, [INTERRUPT], DELAYED),
    (QUANTUM_4, CANCELLING, [], CANCELLING),  # it was interrupted for the cancel
    (QUANTUM_4, ENDED, [INTERRUPT], ENDED),
    (NO_LIMIT, READY, [], READY),
    (NO_LIMIT, RUNNING, [INTERRUPT], RUNNING),
    (NO_LIMIT, STALLED, [], STALLED),
    (NO_LIMIT, PAUSED, [], PAUSED),
    (NO_LIMIT, DELAYED, [INTERRUPT], READY),  # r runs without a bound
    (NO_LIMIT, CANCELLING, [], CANCELLING),
    (NO_LIMIT, ENDED, [], ENDED),
    (TIME, READY, [], READY),
    (TIME, RUNNING, [], RUNNING),
    (TIME, STALLED, [], STALLED),
    (TIME, PAUSED, [], PAUSED),
    (TIME, DELAYED, [], DELAYED),  # nanoseconds of it
    (TIME, CANCELLING, [], CANCELLING),
    (TIME, ENDED, [], ENDED),
    (done(did("r")), READY, [run(("r", 0, 14))], READY),
    (done(did("x")), RUNNING, [run(("x", 0, 14))], RUNNING),
    (done(did("x", 15)), RUNNING, [tell("r", "running"), run(("r", 1, 16))], READY),
    (done(did("x", 1, DONE)), RUNNING, [finish("x", DONE), *R_STARTS], ENDED),
    (
        done(did("x", 1, FAILED)),
        RUNNING,
        [clear(0), finish("x", FAILED), tell("r", "running"), run(("r", 0))],
        ENDED,
    ),
    (done(did("r")), STALLED, [run(("r", 0))], STALLED),
    (done(did("r")), PAUSED, [run(("r", 0))], PAUSED),
    (done(did("r")), DELAYED, [run(("r", 1))], DELAYED),
    (done(did("x")), CANCELLING, [finish("x", CANCELLED), *R_STARTS], ENDED),
    (done(did("x", 1, DONE)), CANCELLING, [finish("x", CANCELLED), *R_STARTS], ENDED),
    (
        done(did("x", 1, FAILED)),
        CANCELLING,
        [clear(0), finish("x", CANCELLED), tell("r", "running"), run(("r", 0))],
        ENDED,
    ),
    (done(did("r")), ENDED, [run(("r", 0))], ENDED),
]

# r's Run is bounded only while x waits, so for a job that isn't ready it is started anew first
REFRESH: dict[State, tuple[ev.Event, ...]] = {STALLED: (done(did("r")),), PAUSED: (done(did("r")),)}


def name(value: object) -> str:
    return value.value if isinstance(value, JobState) else type(value).__name__


@pytest.mark.parametrize(
    ("event", "state", "said", "then"),
    TABLE,
    ids=[f"{name(event)}-{name(state)}-{i}" for i, (event, state, _, _) in enumerate(TABLE)],
)
def test_an_event_in_a_state(event: ev.Event, state: State, said: list[Said], then: State) -> None:
    script = Script()
    script.says(*SET_UPS[state])
    if event in (drained("x"), resumed("x")):
        script.says(*REFRESH.get(state, ()))
    assert script.state("x") is state
    assert script.says(event) == said
    assert script.state("x") is then


def test_the_table_has_every_event_in_every_state() -> None:
    bugs = {  # these raise; see below
        *((ev.Submitted, state) for state in SET_UPS if state is not ENDED),
        *((ev.ContextDropped, state) for state in SET_UPS if state is not ENDED),
    }
    covered = {(type(event), state) for event, state, _, _ in TABLE} | bugs
    kinds = get_args(ev.Event)
    assert covered == {(kind, state) for kind in kinds for state in SET_UPS}


LIVE = [state for state in SET_UPS if state is not ENDED]


@pytest.mark.parametrize("state", LIVE, ids=name)
@pytest.mark.parametrize(
    ("event", "words"),
    [
        (submitted("x"), "job x was submitted twice"),
        (submitted("y", "X"), "context X serves job x, it can't serve y too"),
        (dropped("X"), "context X was dropped while it serves job x"),
        (done(did("nobody")), r"a Run of \['nobody'\] came home, under way was \['.'\]"),
        (done(), r"a Run of \[\] came home, under way was \['.'\]"),
        (ev.PolicyChanged(policy="lottery"), "policy 'lottery' is not one of fifo, rr"),
        (ev.PolicyChanged(quantum_tokens=0), "quantum_tokens is 0, the least is 1"),
        (ev.PolicyChanged(n_lanes=5), "n_lanes is 5, it must be from 1 to the 4 slots"),
        (ev.PolicyChanged(n_lanes=0), "n_lanes is 0, it must be from 1 to the 4 slots"),
    ],
)
def test_what_only_a_bug_can_cause_is_an_error_and_changes_nothing(
    event: ev.Event, words: str, state: State
) -> None:
    script, twin = Script(), Script()
    script.says(*SET_UPS[state])
    twin.says(*SET_UPS[state])
    with pytest.raises(ValueError, match=words):
        script.says(event)
    script.kernel.check()
    after = done(did("x" if state in (RUNNING, CANCELLING) else "r"))
    assert script.says(after) == twin.says(after)


@pytest.mark.parametrize(
    "report",
    [did("r", -1), did("r", n_prompt=-1), did("r", 1, CANCELLED)],
    ids=["output", "prompt", "outcome"],
)
def test_a_report_that_cannot_be_is_an_error(report: LaneReport) -> None:
    script = Script()
    script.says(submitted("r"))
    with pytest.raises(ValueError, match="a lane can't have done this"):
        script.says(done(report))
    script.kernel.check()


def test_a_run_that_comes_home_twice_is_an_error() -> None:
    script = Script()
    script.says(submitted("x"), done(did("x", 1, DONE)))
    with pytest.raises(ValueError, match=r"a Run of \['x'\] came home, under way was \[\]"):
        script.says(done(did("x")))


@pytest.mark.parametrize(
    ("n_slots", "n_lanes", "policy", "quantum_tokens", "words"),
    [
        (4, 5, "rr", 16, "n_lanes is 5, it must be from 1 to the 4 slots"),
        (4, 0, "rr", 16, "n_lanes is 0"),
        (0, 0, "rr", 16, "n_lanes is 0"),
        (4, 4, "RR", 16, "policy 'RR' is not one of fifo, rr"),
        (4, 4, "rr", 0, "quantum_tokens is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    n_slots: int, n_lanes: int, policy: str, quantum_tokens: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Script(n_slots, n_lanes, policy, quantum_tokens)
