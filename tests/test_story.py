"""Stories: what of the journal is about a job, and nothing else."""

from __future__ import annotations

from aiosd import story
from aiosd.journal import Entry
from aiosd.kernel import events as ev
from aiosd.kernel.model import Outcome
from aiosd.kernel.replay import Header
from tests.kernel.words import did, done, submitted


def happened(*events: ev.Event) -> list[Entry]:
    """On one slot, under round robin with a quantum of 4."""
    kernel = Header(n_slots=1, n_lanes=1, policy="rr", quantum_tokens=4).make_kernel()
    return [
        Entry(number * 10**6, event, tuple(kernel.handle(event, number * 10**6)))
        for number, event in enumerate(events)
    ]


EVENTS = (
    submitted("a"),
    submitted("b"),
    done(did("a", 1, n_prompt=3)),
    done(did("b", 1, n_prompt=3)),
    ev.FirstToken(submitted("a").job),
    ev.JobPaused(submitted("b").job),
    done(did("a", 1, Outcome.DONE)),
    ev.FirstToken(submitted("a").job),
)


def test_a_story_has_all_that_happened_to_the_job_and_nothing_else() -> None:
    entries = happened(*EVENTS)
    subject = story.subject_of(submitted("a").job, entries)
    assert subject is not None
    told = [(m.now_ns // 10**6, m.event, m.details) for m in story.story(subject, entries)]
    assert told == [
        (0, "submitted", {"agent": "tester", "context": "A", "priority": "normal"}),
        (0, "told", {"state": "running"}),
        (0, "run", {"slot": 0, "lanes": 1}),
        (1, "interrupt", {}),
        (2, "ran", {"prompt_tokens": 3, "output_tokens": 1}),
        (2, "park", {"slot": 0}),
        (2, "told", {"state": "paused"}),
        (3, "resume", {"slot": 0}),
        (3, "told", {"state": "resumed"}),
        (3, "run", {"slot": 0, "lanes": 1, "max_tokens": 4}),
        (4, "first_token", {}),
        (6, "ran", {"prompt_tokens": 0, "output_tokens": 1, "outcome": "done"}),
        (
            6,
            "ended",
            {
                "outcome": "done", "prompt_tokens": 3, "output_tokens": 2, "slices": 2, "parks": 1,
                "queue_ms": 0, "waited_ms": 1, "total_ms": 6,
            },
        ),
    ]  # fmt: skip


def test_a_job_whose_beginning_is_forgotten_has_the_rest() -> None:
    entries = happened(*EVENTS)
    subject = story.subject_of(submitted("a").job, entries)
    assert story.subject_of(submitted("a").job, entries[1:]) is None
    assert subject is not None
    assert story.story(subject, entries[4:])[0].event == "first_token"


def test_a_story_ends_with_the_job_though_its_context_is_parked_then() -> None:
    entries = happened(
        submitted("a"), submitted("b"), done(did("a", 1, Outcome.DONE)), done(did("b", 1))
    )
    assert any(isinstance(action, ev.Save) for action in entries[2].actions or ())
    subject = story.subject_of(submitted("a").job, entries)
    assert subject is not None
    assert [m.event for m in story.story(subject, entries)][-2:] == ["ran", "ended"]
