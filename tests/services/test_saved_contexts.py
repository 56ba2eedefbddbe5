"""Contexts in the database: written a turn at a time, forked, rewound, and read back whole."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator
from dataclasses import replace

import pytest

from aiosd.kernel.model import AgentId, ContextId, JobId
from aiosd.services import saved_agents, saved_contexts, saved_jobs
from aiosd.services.database import Transaction
from aiosd.services.entries import Entry, Part, Place, cut
from aiosd.services.saved_contexts import NotAsSaved, SavedContext
from aiosd.services.saved_jobs import SavedJob
from tests.services.opened import ALICE, BOB, in_memory, new_context, save_turns, turn


@pytest.fixture
def db() -> Iterator[Transaction]:
    with in_memory() as transaction:
        yield transaction


def loaded(db: Transaction) -> dict[str, SavedContext]:
    """By id; n_bytes is looked at in tests of its own."""
    return {c.id: replace(c, n_bytes=0) for c in saved_contexts.load_all(db)}


def test_a_context_comes_back_as_it_was(db: Transaction) -> None:
    full = SavedContext(
        ContextId("c1"), BOB, "model", 3, 4, "a name", ContextId("c0"), array("i", [-1, 2**31 - 1])
    )
    saved_contexts.create(db, full)
    full.log.append(Entry(2, (Part({"role": "user", "content": 'é "\0'}, None, 2),), False, True))
    saved_contexts.append(db, full.id, 0, full.log[0], full.tokens, used_ms=4)
    assert loaded(db) == {"c1": full}


def test_tokens_are_kept_as_little_endian_int32(db: Transaction) -> None:
    assert saved_contexts.to_blob(array("i", [1, -2])) == bytes([1, 0, 0, 0, 254, 255, 255, 255])
    assert saved_contexts.from_blob(bytes([1, 0, 0, 0])) == array("i", [1])


def test_contexts_come_in_order_of_creation_with_their_own_turns(db: Transaction) -> None:
    expected = [save_turns(db, "z", 3), save_turns(db, "a", 0), save_turns(db, "m", 2)]
    assert list(loaded(db).values()) == expected


def test_one_context_is_loaded_by_its_id(db: Transaction) -> None:
    save_turns(db, "c1", 2)
    save_turns(db, "c2", 3)
    every = {context.id: context for context in saved_contexts.load_all(db)}
    assert saved_contexts.load(db, ContextId("c2")) == every[ContextId("c2")]
    assert saved_contexts.load(db, ContextId("c3")) is None


def test_committing_a_turn_writes_two_rows_however_long_the_log(db: Transaction) -> None:
    context = save_turns(db, "c1", 100)
    connection: sqlite3.Connection = db._connection
    n_before = connection.total_changes
    made, tokens = turn(context.log, 100)
    saved_contexts.append(db, context.id, 100, made, tokens, used_ms=7)
    assert connection.total_changes - n_before == 2


def test_a_turn_that_does_not_follow_the_saved_ones_is_refused(db: Transaction) -> None:
    save_turns(db, "c1", 2)
    with pytest.raises(NotAsSaved, match="context c1 has 2 turns saved, 3 were expected"):
        saved_contexts.append(db, ContextId("c1"), 3, Entry(0), array("i"), used_ms=9)
    with pytest.raises(NotAsSaved, match="context c2 is not saved"):
        saved_contexts.append(db, ContextId("c2"), 0, Entry(0), array("i"), used_ms=9)
    with pytest.raises(ValueError, match="1 tokens for a turn of 2"):
        saved_contexts.append(db, ContextId("c1"), 2, Entry(2), array("i", [1]), used_ms=9)


def test_rewinding_cuts_rows_and_what_is_appended_then_follows(db: Transaction) -> None:
    context = save_turns(db, "c1", 5)  # turns of 5, 6, 7, 8, 9 tokens
    kept = cut(context.log, Place(2, 6), lambda first, end: "cut")
    saved_contexts.rewind(db, context.id, 5, kept, used_ms=8)
    question = Part({"role": "user", "content": "question 2"})
    reply = Part({"role": "assistant", "content": "cut"}, 5, 6)
    context.tokens = context.tokens[:17]
    context.log = [*context.log[:2], Entry(6, (question, reply), is_open=True)]
    context.used_ms = 8
    assert kept == (2, context.log[2])
    assert loaded(db) == {"c1": context}
    made, tokens = turn(context.log, 9)
    saved_contexts.append(db, context.id, 3, made, tokens, used_ms=9)
    assert loaded(db)["c1"].tokens == context.tokens + tokens
    saved_contexts.rewind(db, context.id, 4, (0, None), used_ms=10)
    assert loaded(db)["c1"].tokens == array("i")
    assert saved_contexts.count(db) == (1, 0)


def test_a_rewind_from_another_state_than_the_saved_one_is_refused(db: Transaction) -> None:
    save_turns(db, "c1", 2)
    for n_turns in (1, 4):
        words = f"context c1 has 2 turns saved, {n_turns} were expected"
        with pytest.raises(NotAsSaved, match=words):
            saved_contexts.rewind(db, ContextId("c1"), n_turns, (1, None), used_ms=9)


def test_a_fork_has_the_turns_up_to_its_place_and_a_life_of_its_own(db: Transaction) -> None:
    source = save_turns(db, "c1", 3)  # turns of 5, 6, 7 tokens
    fork = replace(new_context("c2"), parent=source.id)
    kept = cut(source.log, Place(2, 6), lambda first, end: f"words {first} to {end}")
    saved_contexts.fork(db, source.id, kept, fork)
    assert kept[1] is not None
    expected = replace(fork, tokens=source.tokens[:17], log=[*source.log[:2], kept[1]])
    assert loaded(db) == {"c1": source, "c2": expected}
    assert kept[1].parts[-1].message["content"] == "words 16 to 17"

    assert saved_contexts.delete(db, [source.id]) == 1  # the parent may go first
    assert loaded(db) == {"c2": expected}
    grandchild = replace(new_context("c3"), parent=fork.id)
    saved_contexts.fork(db, fork.id, (3, None), grandchild)
    assert loaded(db)["c3"].tokens == expected.tokens
    saved_contexts.rewind(db, fork.id, 3, (0, None), used_ms=9)
    assert loaded(db)["c3"].log == expected.log


def test_a_fork_of_what_is_not_saved_is_refused_and_leaves_nothing(db: Transaction) -> None:
    save_turns(db, "c1", 1)
    with pytest.raises(NotAsSaved, match="context c1 has 1 turns saved, 2 were expected"):
        saved_contexts.fork(db, ContextId("c1"), (2, None), new_context("c2"))
    with pytest.raises(NotAsSaved, match="context c0 is not saved"):
        saved_contexts.fork(db, ContextId("c0"), (0, None), new_context("c2"))
    assert list(loaded(db)) == ["c1"]


def test_deleting_takes_the_turns_along(db: Transaction) -> None:
    for id_ in ("c1", "c2", "c3"):
        save_turns(db, id_, 2)
    assert saved_contexts.delete(db, [ContextId("c1"), ContextId("c3"), ContextId("gone")]) == 2
    assert list(loaded(db)) == ["c2"]
    assert db.execute("SELECT count(*) FROM turns").fetchone() == (2,)


def test_the_time_of_use_only_goes_forward(db: Transaction) -> None:
    save_turns(db, "c1", 1)
    saved_contexts.touch(db, {ContextId("c1"): 50, ContextId("gone"): 60})
    assert loaded(db)["c1"].used_ms == 50
    saved_contexts.touch(db, {ContextId("c1"): 40})
    assert loaded(db)["c1"].used_ms == 50


def test_bytes_are_counted_for_each_and_in_all(db: Transaction) -> None:
    saved_contexts.create(db, new_context("c1"))
    saved_contexts.append(db, ContextId("c1"), 0, Entry(3), array("i", [1, 2, 3]), used_ms=6)
    saved_contexts.create(db, new_context("c2", BOB))
    assert [(h.id, h.agent, h.used_ms, h.n_bytes) for h in saved_contexts.held(db)] == [
        ("c1", ALICE, 6, 14),  # 12 of tokens, 2 of parts
        ("c2", BOB, 5, 0),
    ]
    assert saved_contexts.count(db) == (2, 14)


def test_two_contexts_of_one_id_are_refused(db: Transaction) -> None:
    saved_contexts.create(db, new_context("c1"))
    with pytest.raises(sqlite3.IntegrityError):
        saved_contexts.create(db, new_context("c1"))


def test_agents_figures_add_up_and_go_with_their_last_context(db: Transaction) -> None:
    saved_agents.add(db, ALICE, 100, 7)
    saved_agents.add(db, ALICE, 200, 5)
    saved_agents.add(db, AgentId(0, "alice"), 300, 1)
    save_turns(db, "c1", 1)
    assert saved_agents.load_all(db) == {ALICE: (100, 12), AgentId(0, "alice"): (300, 1)}
    assert saved_agents.forget_unused(db) == 1
    assert saved_agents.load_all(db) == {ALICE: (100, 12)}
    saved_contexts.delete(db, [ContextId("c1")])
    saved_jobs.create(db, SavedJob(JobId("j1"), ALICE, None, {}, array("i"), 1, 10))
    assert saved_agents.forget_unused(db) == 0  # a job of theirs is left
    saved_jobs.delete(db, JobId("j1"))
    assert saved_agents.forget_unused(db) == 1
