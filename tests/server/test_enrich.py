"""Agentic notes: what the model adds, when, and that it can break nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_sdk import Client, wire
from aios_sdk.errors import Busy, Unavailable
from aios_sdk.results import Note
from aiosd import config
from aiosd.engine.fake import FakeModel
from aiosd.engine.fake_embedding import FakeEmbedding
from aiosd.kernel.model import AgentId
from aiosd.server import enrich
from aiosd.server.daemon import Daemon
from aiosd.server.embedder import ModelEmbedder
from aiosd.services import saved_notes
from tests.server.harness import RawPeer, served

TEA = {"keywords": ["milk", "sugar"], "context": "What they drink.", "tags": ["drink", "habit"]}
Asked = Callable[[saved_notes.Note], str]


@contextlib.contextmanager
def asking(tmp_path: Path, **flags: Any) -> Iterator[tuple[Daemon, Client]]:
    embedder = ModelEmbedder(FakeEmbedding())
    with (
        served(tmp_path, embedder=embedder, slot_tokens=1024, **flags) as daemon,
        Client(daemon.config.socket, agent="ada") as client,
    ):
        yield daemon, client


def until_done(client: Client, id_: str) -> Note:
    while (note := client.memory.get(id_))["enrichment"] == "waiting":
        pass  # each turn is a call
    return note


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Asked], None]:
    """Lets a function answer instead of the model."""

    def answer(with_: Asked) -> None:
        async def ask(_self: enrich.Enricher, note: saved_notes.Note) -> str:
            return with_(note)

        monkeypatch.setattr(enrich.Enricher, "_ask", ask)

    return answer


def test_the_model_writes_about_a_note_under_a_schema_and_in_the_background(
    tmp_path: Path,
) -> None:
    with asking(tmp_path) as (_, client):
        id_ = client.memory.add("likes tea", tags=["mine"], agentic=True)
        assert client.memory.search("tea")["results"][0]["memory"] == id_
        note = until_done(client, id_)  # the fake talks nonsense, but in the schema's form
        assert note["enrichment"] == "done"
        assert (note["content"], note["tags"][0]) == ("likes tea", "mine")
        assert len(note.get("keywords", [])) <= enrich.MAX_WORDS
        assert 1 <= len(note["summary"]) <= enrich.SUMMARY_CHARS


def test_what_was_written_finds_the_note_and_links_it_with_its_neighbours(
    tmp_path: Path, answers: Callable[[Asked], None]
) -> None:
    answers(lambda _: json.dumps(TEA))
    with asking(tmp_path) as (_, client):
        near = client.memory.add("likes tea with milk and sugar")
        far = client.memory.add("backups at night")
        while client.memory.stats()["without_vector"]:
            pass  # each turn is a call
        id_ = client.memory.add("likes tea", tags=["mine"], agentic=True)
        note = until_done(client, id_)
        assert note["tags"] == ["mine", "drink", "habit"]
        assert (note["keywords"], note["summary"]) == (["milk", "sugar"], "What they drink.")
        found = client.memory.search("habit", mode="words", tags=["drink"])["results"]
        assert [hit["memory"] for hit in found] == [id_]
        while not (note := client.memory.get(id_))["links"]:
            pass  # links come right after
        assert note["links"] == [near]
        assert client.memory.get(near)["links"] == [id_]
        assert client.memory.get(far)["links"] == []
        client.memory.delete(id_)
        assert client.memory.get(near)["links"] == []


@pytest.mark.parametrize("said", ["", "no JSON", "[1]", '{"keywords": 1}', '{"keywords": []'])
def test_a_weak_model_leaves_the_note_as_it_was(
    tmp_path: Path, answers: Callable[[Asked], None], said: str
) -> None:
    answers(lambda _: said)
    with asking(tmp_path) as (_, client):
        id_ = client.memory.add("likes tea", tags=["mine"], metadata={"a": 1}, agentic=True)
        note = until_done(client, id_)
        assert note["enrichment"] == "failed"
        assert (note["content"], note["tags"], note["metadata"]) == (
            "likes tea",
            ["mine"],
            {"a": 1},
        )
        assert "keywords" not in note


def test_a_quota_is_kept_by_what_the_model_writes_too(
    tmp_path: Path, answers: Callable[[Asked], None]
) -> None:
    answers(lambda _: json.dumps({**TEA, "context": "x" * 200}))
    with asking(tmp_path, limits=config.Limits(memory_bytes=300)) as (_, client):
        id_ = client.memory.add("likes tea", agentic=True)
        assert until_done(client, id_)["enrichment"] == "failed"
        assert client.memory.stats()["bytes"] < 300


def test_what_waits_is_done_after_a_restart(
    tmp_path: Path, answers: Callable[[Asked], None]
) -> None:
    def not_now(_: saved_notes.Note) -> str:
        raise Unavailable("not now")

    answers(not_now)
    with asking(tmp_path) as (_, client):
        id_ = client.memory.add("likes tea", agentic=True)
        assert client.memory.get(id_)["enrichment"] == "waiting"
    answers(lambda _: json.dumps(TEA))
    with asking(tmp_path) as (_, client):
        assert until_done(client, id_)["enrichment"] == "done"


def test_a_note_that_changes_meanwhile_is_written_about_anew(
    tmp_path: Path, answers: Callable[[Asked], None]
) -> None:
    asked: list[str] = []

    def answer(note: saved_notes.Note) -> str:
        asked.append(note.content)
        return json.dumps({**TEA, "context": f"About {note.content}."})

    answers(answer)
    with asking(tmp_path) as (daemon, client):
        id_ = client.memory.add("tea", agentic=True)
        assert until_done(client, id_)["summary"] == "About tea."
        client.memory.update(id_, content="coffee")
        assert until_done(client, id_)["summary"] == "About coffee."
        client.memory.update(id_, metadata={"a": 1})  # nothing that the model would see
        assert client.memory.get(id_)["enrichment"] == "done"
        assert asked == ["tea", "coffee"]
        ada = AgentId(os.getuid(), "ada")
        read = saved_notes.Note(id_, ada, "tea", (), {}, created_ms=0, updated_ms=0, used_ms=0)
        work = daemon.memory.enrich(read, summary="about what it was")
        assert asyncio.run_coroutine_threadsafe(work, daemon.loop).result(20) is None
        assert client.memory.get(id_)["summary"] == "About coffee."


def test_how_many_may_wait_is_limited(tmp_path: Path, answers: Callable[[Asked], None]) -> None:
    def not_now(_: saved_notes.Note) -> str:
        raise Unavailable("not now")

    answers(not_now)
    limits = config.Limits(memory_waiting_per_uid=2)
    with asking(tmp_path, limits=limits) as (_, client):
        for n in range(2):
            client.memory.add(f"note {n}", agentic=True)
        with pytest.raises(Busy, match=r"2 notes of uid .* limit is 2"):
            client.memory.add("one more", agentic=True)
        client.memory.add("one more")
        assert client.memory.stats()["notes"] == 3


def test_an_agent_that_must_wait_holds_up_no_other(
    tmp_path: Path, answers: Callable[[Asked], None]
) -> None:
    def answer(note: saved_notes.Note) -> str:
        if note.agent.name == "ada":
            raise Busy("too many jobs", retry_after_ms=1, queue_depth=1)
        return json.dumps(TEA)

    answers(answer)
    with asking(tmp_path) as (daemon, client):
        mine = client.memory.add("tea", agentic=True)
        with Client(daemon.config.socket, agent="bob") as bob:
            assert until_done(bob, bob.memory.add("tea", agentic=True))["enrichment"] == "done"
        assert client.memory.get(mine)["enrichment"] == "waiting"


def test_uids_take_turns_and_within_one_its_agents() -> None:
    crowd = [(AgentId(1, f"a{n}"), f"m{n}") for n in range(3)]
    waiting = [*crowd, (AgentId(2, "b"), "m7")]
    turns = enrich.Turns()
    assert [turns.next_of(waiting)[1] for _ in range(6)] == ["m0", "m7", "m1", "m7", "m2", "m7"]
    assert turns.next_of(crowd)[1] == "m0"


def test_notes_never_wait_for_lanes_that_generate(tmp_path: Path) -> None:
    model = FakeModel(n_slots=8, slot_tokens=1024, delay_s=0.05)
    with asking(tmp_path, model=model, slots=8) as (daemon, client):
        talkers = [RawPeer(daemon.config.socket, f"t{n}") for n in range(8)]
        words = {"prompt": "go", "max_tokens": 1000, "ignore_eos": True}
        for talker in talkers:
            talker.send(wire.encode_request(1, "llm.generate", words))
        while len(daemon.driver.jobs) < 8:
            client.ping()
        for n in range(20):
            id_ = client.memory.add(f"note {n}", agentic=True)
            client.memory.get(id_)
            assert client.memory.search(f"note {n}")["results"]
        assert len(daemon.driver.jobs) >= 8  # all of them talk still
        for talker in talkers:
            talker.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_whatever_the_model_says_is_read_within_bounds(text: str) -> None:
    enrich.read(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text() | st.integers()), st.text(), st.lists(st.text()))
def test_what_is_read_is_bounded(words: list[Any], context: str, tags: list[str]) -> None:
    found = enrich.read(json.dumps({"keywords": words, "context": context, "tags": tags}))
    if found is None:
        return
    for many in (found.keywords, found.tags):
        assert len(many) <= enrich.MAX_WORDS
        assert len(set(many)) == len(many)
        assert all(0 < len(one) <= enrich.WORD_CHARS for one in many)
    assert len(found.summary) <= enrich.SUMMARY_CHARS
    assert "\n" not in "".join((*found.keywords, found.summary, *found.tags))
