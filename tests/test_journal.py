"""The journal: bounded, and it replays all the same."""

from __future__ import annotations

import gzip
import io
import json
from itertools import pairwise

import pytest

from aiosd import journal
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import JobId
from aiosd.kernel.replay import Header, replay_on
from tests.kernel.world import World, play

HEADER = Header(n_slots=2, n_lanes=2, policy="rr", quantum_tokens=4)


def played(max_entries: int) -> tuple[journal.Journal, World]:
    """A journal of a busy program of which it could keep only the end."""
    world = World(HEADER)
    play(world, [(50, 30), (10, 40), (0, 35), (90, 5), (3, 60)])
    kept = journal.Journal(HEADER.make_kernel(), max_entries)
    for (now_ns, event), actions in zip(world.journal, world.said, strict=True):
        kept.note(now_ns, event, actions)
    return kept, world


@pytest.mark.parametrize("max_entries", [0, 1, 7, 30, 10_000])
def test_what_is_kept_replays_to_the_same_actions(max_entries: int) -> None:
    kept, world = played(max_entries)
    entries = kept.entries()
    assert len(entries) == min(max_entries, len(world.journal))
    again = replay_on(kept.base, [(entry.now_ns, entry.event) for entry in entries])
    assert [tuple(actions) for *_, actions in again] == [entry.actions for entry in entries]


def test_many_lanes_make_a_journal_no_larger() -> None:
    header = Header(n_slots=64, n_lanes=64, policy="rr", quantum_tokens=4)
    world = World(header)
    play(world, [(0, 40)] * 80, max_runs=30)
    kept = journal.Journal(header.make_kernel(), 90)
    for (now_ns, event), actions in zip(world.journal, world.said, strict=True):
        kept.note(now_ns, event, actions)
    entries = kept.entries()
    n_parts = sum(entry.n_parts for entry in entries)
    assert len(entries) < 90 < len(world.journal)
    assert 16 * 90 - 130 < n_parts <= 16 * 90  # one such Run and its reports are 129
    again = replay_on(kept.base, [(entry.now_ns, entry.event) for entry in entries])
    assert [tuple(actions) for *_, actions in again] == [entry.actions for entry in entries]


def test_a_saved_journal_reads_back_and_replays() -> None:
    kept, _ = played(20)
    data = journal.save("1.2", kept.base, kept.entries())
    for file in (data, gzip.decompress(data)):
        saved = journal.load(io.BytesIO(file))
        assert saved.version == "1.2"
        assert saved.entries == [(entry.now_ns, entry.event) for entry in kept.entries()]
        said = [journal.digest(actions) for *_, actions in replay_on(saved.kernel, saved.entries)]
        assert said == saved.digests


def test_while_it_is_saved_nothing_changes_below() -> None:
    kept, world = played(5)
    with kept.held() as (base, entries):
        before = journal.save("1", base, entries)
        for number in range(10):
            kept.note(world.now_ns + number, ev.FirstToken(JobId("gone")), [])
        assert journal.save("1", base, entries) == before
        with pytest.raises(journal.HeldError), kept.held():
            pass
    assert len(kept.entries()) == 5


def test_an_event_that_raised_an_error_is_no_reason_to_stop() -> None:
    kernel = Kernel(1, 1)
    kept = journal.Journal(kernel, 1)
    wrong = ev.RunDone(())
    with pytest.raises(ValueError, match="came home"):
        kernel.handle(wrong, 1)
    kept.note(1, wrong, None)
    kept.note(2, ev.FirstToken(JobId("gone")), [])
    assert [entry.actions for entry in kept.entries()] == [()]
    assert journal.digest(None) is None


GOOD = gzip.decompress(journal.save("1", Kernel(1, 1), []))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "isn't JSON"),
        (b"{}\n", "line 1 isn't its header"),
        (GOOD.replace(b'"aiosd_journal": 1', b'"aiosd_journal": 9'), "format 9; this aiosd reads"),
        (GOOD.replace(b'"base": {', b'"base": {"x": {'), "isn't JSON"),
        (GOOD + b"[]\n", "line 2 is no entry"),
        (GOOD + b'[[1, "Exploded", "a"], null]\n', "not an event of a journal"),
        (GOOD + b"\xff\n", "isn't JSON"),
        (GOOD + b"[" * 100_000 + b"\n", "isn't JSON"),
        (gzip.compress(GOOD)[:-20], "cut short or damaged"),
        (b"\x1f\x8bnot gzip", "cut short or damaged"),
    ],
    ids=range(10),
)
def test_what_is_no_journal_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        journal.load(io.BytesIO(data))


def test_a_saved_journal_is_lines_of_json() -> None:
    kept, _ = played(2)
    header, *lines = gzip.decompress(journal.save("1", kept.base, kept.entries())).splitlines()
    assert json.loads(header)["aiosd_journal"] == 1
    assert [json.loads(line)[0][1] for line in lines] == ["RunDone", "RunDone"]


def test_what_came_in_while_it_was_held_is_let_go_bit_by_bit() -> None:
    kept, _ = played(0)
    n_held = 10 * journal.TRIMMED_AT_ONCE
    with kept.held():
        for number in range(n_held):
            kept.note(10**15 + number, ev.TimePassed(), [])
    sizes = [len(kept.entries())]
    for number in range(11):
        kept.note(10**16 + number, ev.TimePassed(), [])
        sizes.append(len(kept.entries()))
    assert sizes[0] == n_held - journal.TRIMMED_AT_ONCE
    assert max(old - new for old, new in pairwise(sizes)) < journal.TRIMMED_AT_ONCE
    assert sizes[-1] == 0
