"""memory.* over the socket: notes that last, are found, have a quota, and are nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import AsyncClient, Client
from aios_sdk.errors import Denied, InvalidParams, NotFound, QuotaExceeded, TooLarge
from aiosd import config
from aiosd.kernel.model import AgentId
from aiosd.server.daemon import Daemon
from tests.server.harness import served


@contextlib.contextmanager
def remembering(tmp_path: Path, **flags: Any) -> Iterator[tuple[Daemon, Client]]:
    with served(tmp_path, **flags) as daemon, Client(daemon.config.socket, agent="ada") as client:
        yield daemon, client


def test_a_note_is_there_as_it_was_given_also_after_a_restart(tmp_path: Path) -> None:
    with remembering(tmp_path) as (_, client):
        metadata: dict[str, object] = {"n": [1, {"x": None}]}
        id_ = client.memory.add("tea\0 ☕\n", tags=["b", "a", "b"], metadata=metadata)
    with remembering(tmp_path) as (_, client):
        note = client.memory.get(id_)
        assert note["content"] == "tea\0 ☕\n"
        assert note["tags"] == ["b", "a"]
        assert note["metadata"] == metadata
        assert note["links"] == []
        assert note["enrichment"] == "none"
        assert note["created_ms"] == note["updated_ms"] <= note["used_ms"]
        assert [hit["memory"] for hit in client.memory.search("tea")["results"]] == [id_]


def test_updates_change_what_is_given_and_what_is_found(tmp_path: Path) -> None:
    with remembering(tmp_path) as (_, client):
        id_ = client.memory.add("likes tea", tags=["drink"], metadata={"a": 1})
        client.memory.update(id_, content="likes coffee")
        assert client.memory.search("tea")["results"] == []
        [found] = client.memory.search("coffee", tags=["drink"])["results"]
        assert (found["memory"], found["metadata"]) == (id_, {"a": 1})
        client.memory.update(id_, tags=[], metadata={})
        note = client.memory.get(id_)
        assert (note["content"], note["tags"], note["metadata"]) == ("likes coffee", [], {})
        assert client.memory.search("coffee", tags=["drink"])["results"] == []
        client.memory.delete(id_)
        with pytest.raises(NotFound, match=f"no memory '{id_}'"):
            client.memory.get(id_)
        assert client.memory.search("coffee")["results"] == []
        with pytest.raises(InvalidParams, match="at least one of content, tags, metadata"):
            client.memory.update(id_)


def test_pages_follow_each_other_whatever_is_deleted_between(tmp_path: Path) -> None:
    with remembering(tmp_path) as (_, client):
        ids = [client.memory.add(f"note {n}") for n in range(5)]
        page = client.memory.page(limit=2)
        shown = [note["memory"] for note in page["notes"]]
        client.memory.delete(shown[-1])
        rest = client.memory.page(limit=10, after=page["next"])
        assert "next" not in rest
        assert sorted(shown + [note["memory"] for note in rest["notes"]]) == sorted(ids)
        assert len(list(client.memory.list())) == 4


def test_a_quota_says_both_numbers_and_a_refused_note_leaves_nothing(tmp_path: Path) -> None:
    limits = config.Limits(memory_bytes=1000, memory_note_bytes=1024)
    with remembering(tmp_path, limits=limits) as (_, client):
        kept = client.memory.add("x" * 500)
        used = client.memory.stats()["bytes"]
        assert 500 < used < 1000
        with pytest.raises(QuotaExceeded, match=f"{used} bytes.*limit of 1000") as refused:
            client.memory.add("y" * 500)
        assert refused.value.data == {"limit": 1000, "used": used}
        with pytest.raises(QuotaExceeded):
            client.memory.update(kept, content="x" * 890)
        with pytest.raises(TooLarge, match="limit is 1024"):
            client.memory.add("y" * 1100)
        assert client.memory.search("y" * 500)["results"] == []
        assert client.memory.stats()["notes"] == 1
        client.memory.delete(kept)
        assert client.memory.stats()["bytes"] == 0
        client.memory.add("y" * 500)


def test_an_agents_own_limit_counts_before_the_one_for_all(tmp_path: Path) -> None:
    with remembering(tmp_path) as (_, client):
        client.call("agent.limits", agent="ada", memory_bytes=1000)
        assert client.memory.stats()["quota_bytes"] == 1000
        with pytest.raises(QuotaExceeded, match="limit of 1000"):
            client.memory.add("x" * 1000)
        client.call("agent.limits", agent="ada", memory_bytes=0)  # the default again
        client.memory.add("x" * 1000)


def test_all_agents_of_a_uid_share_a_limit(tmp_path: Path) -> None:
    limits = config.Limits(memory_bytes_per_uid=1000)
    with remembering(tmp_path, limits=limits) as (daemon, client):
        client.memory.add("x" * 600)
        bob = Client(daemon.config.socket, agent="bob")
        with bob, pytest.raises(QuotaExceeded, match=f"uid {os.getuid()}"):
            bob.memory.add("x" * 600)


def test_another_agent_neither_reads_nor_counts_nor_finds(tmp_path: Path) -> None:
    with remembering(tmp_path) as (daemon, client):
        id_ = client.memory.add("a secret")
        with Client(daemon.config.socket, agent="bob") as bob:
            assert bob.memory.search("secret")["results"] == []
            assert bob.memory.page()["notes"] == []
            assert bob.memory.stats()["notes"] == 0
            for call in (
                lambda: bob.memory.get(id_),
                lambda: bob.memory.update(id_, content="mine"),
                lambda: bob.memory.delete(id_),
                lambda: bob.memory.search("secret", agent="ada"),
                lambda: bob.memory.page(agent="ada"),
                lambda: bob.memory.stats(agent="ada"),
                lambda: bob.memory.add("planted", agent="ada"),
            ):
                with pytest.raises(Denied):
                    call()
        assert client.memory.get(id_)["content"] == "a secret"


def test_a_grant_opens_the_notes(tmp_path: Path) -> None:
    with remembering(tmp_path) as (daemon, client):
        id_ = client.memory.add("a secret")
        ada = AgentId(os.getuid(), "ada")
        grant = daemon.access.grant(ada, "bob", "memory", "", mode="read")
        asyncio.run_coroutine_threadsafe(grant, daemon.loop).result(20)
        with Client(daemon.config.socket, agent="bob") as bob:
            assert bob.memory.get(id_)["content"] == "a secret"
            assert len(bob.memory.search("secret", agent="ada")["results"]) == 1
            assert [note["memory"] for note in bob.memory.list(agent="ada")] == [id_]
            with pytest.raises(Denied):
                bob.memory.delete(id_)


def test_another_uid_is_told_that_there_is_no_such_note(tmp_path: Path) -> None:
    with remembering(tmp_path) as (daemon, client):
        id_ = client.memory.add("a secret")
        session = next(iter(daemon.sessions_of(os.getuid())))
        assert session.agent is not None
        session.agent = AgentId(os.getuid() + 1, "ada")
        try:
            for missing in (id_, "m0"):
                with pytest.raises(NotFound) as refused:
                    client.memory.get(missing)
                assert str(refused.value) == f"no memory '{missing}'"
                assert refused.value.data == {"memory": missing}
            assert client.memory.search("secret")["results"] == []
            assert client.memory.stats()["notes"] == 0
        finally:
            session.agent = AgentId(os.getuid(), "ada")


def test_notes_leave_the_ram_at_the_mark_and_come_back_when_used(tmp_path: Path) -> None:
    with remembering(tmp_path, memory_hot=4000) as (_, client):
        ids = [client.memory.add(f"{n} " + "x" * 800) for n in range(6)]
        stats = client.memory.stats()
        assert (stats["notes"], stats["hot_notes"]) == (6, 3)
        assert stats["hot_bytes"] <= 3200
        assert (stats["evictions"], stats["faults"], stats["hot_limit_bytes"]) == (3, 0, 4000)
        assert client.memory.get(ids[0])["content"].startswith("0 ")
        stats = client.memory.stats()
        assert (stats["evictions"], stats["faults"], stats["hits"]) == (4, 1, 0)
        client.memory.get(ids[0])
        assert client.memory.stats()["hits"] == 1
        assert len(list(client.memory.list())) == 6  # which counts as no use of any
        assert client.memory.stats()["faults"] == 1


def test_an_agent_that_is_away_gives_its_room_to_others(tmp_path: Path) -> None:
    with remembering(tmp_path, memory_hot=4000, memory_ram=3000) as (daemon, client):
        for n in range(3):
            client.memory.add(f"{n} " + "x" * 800)
        with Client(daemon.config.socket, agent="bob") as bob:
            bob.memory.add("y" * 1000)
            assert bob.memory.stats()["hot_notes"] == 1
        stats = client.memory.stats()
        assert (stats["hot_notes"], stats["evictions"], stats["notes"]) == (0, 3, 3)


def test_when_a_note_was_used_is_known_after_a_restart(tmp_path: Path) -> None:
    with remembering(tmp_path) as (_, client):
        id_ = client.memory.add("tea")
        used_ms = client.memory.get(id_)["used_ms"]
    with remembering(tmp_path) as (_, client):
        [note] = client.memory.page()["notes"]
        assert note["used_ms"] == used_ms


def test_without_an_embedder_a_search_says_that_words_were_used(tmp_path: Path) -> None:
    with remembering(tmp_path) as (_, client):
        client.memory.add("tea")
        found = client.memory.search("tea", mode="vectors")
        assert (found["mode"], len(found["results"])) == ("words", 1)
        assert found["reason"] == "no embedder is loaded: found by words only"
        assert client.memory.search("tea", mode="words").get("reason") is None


def test_limits_of_notes_come_from_the_config(tmp_path: Path) -> None:
    settings = dataclasses.replace(config.load(None, {}), memory_k=3)
    assert (settings.memory_k, settings.memory_hot) == (3, 4 * 2**20)


def test_the_asyncio_client_says_the_same(tmp_path: Path) -> None:
    async def main(socket: str) -> None:
        async with AsyncClient(socket, agent="ada") as client:
            memory = client.memory
            ids = [await memory.add(f"tea {n}", tags=["x"], metadata={"n": n}) for n in range(3)]
            assert (await memory.get(ids[1]))["metadata"] == {"n": 1}
            await memory.update(ids[1], content="coffee")
            await memory.delete(ids[2])
            assert [note["content"] async for note in memory.list()] == ["tea 0", "coffee"]
            assert len((await memory.page(limit=1))["notes"]) == 1
            found = await memory.search("coffee", tags=["x"], mode="words")
            assert [hit["memory"] for hit in found["results"]] == [ids[1]]
            assert (await memory.stats())["notes"] == 2

    with served(tmp_path) as daemon:
        asyncio.run(main(daemon.config.socket))


def test_an_answer_holds_no_more_notes_than_a_frame(tmp_path: Path) -> None:
    limits = config.Limits(frame_bytes=64 * 1024)
    with remembering(tmp_path, limits=limits) as (_, client):
        ids = [client.memory.add(f"tea {n} " + "x" * 20_000) for n in range(5)]
        assert len(client.memory.page()["notes"]) == 2
        assert [note["memory"] for note in client.memory.list()] == ids
        assert len(client.memory.search("tea", k=5)["results"]) == 2
