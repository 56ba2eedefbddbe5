"""Vectors over the socket: llm.embed, and notes found by what they mean; on the fake model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aios_sdk import Client, wire
from aios_sdk.errors import Busy, NotFound, Unavailable
from aiosd import config, models
from aiosd.engine.embedding import MAX_CALL_TEXTS
from aiosd.engine.fake_embedding import FakeEmbedding
from aiosd.server import embedder
from aiosd.server.daemon import Daemon
from aiosd.server.embedder import ModelEmbedder
from tests.server.harness import RawPeer, served


@contextlib.contextmanager
def asking(tmp_path: Path, model: FakeEmbedding | None) -> Iterator[tuple[Daemon, Client]]:
    made = None if model is None else ModelEmbedder(model)
    with (
        served(tmp_path, embedder=made) as daemon,
        Client(daemon.config.socket, agent="ada") as client,
    ):
        yield daemon, client


def until_embedded(client: Client) -> None:
    while client.memory.stats()["without_vector"]:
        pass  # each turn is a call


@pytest.fixture
def model() -> Iterator[FakeEmbedding]:
    made = FakeEmbedding()
    yield made
    made.gate.set()


def test_embed_gives_a_vector_of_unit_length_per_text(tmp_path: Path, model: FakeEmbedding) -> None:
    with asking(tmp_path, model) as (_, client):
        texts = ["tea and cake", "cake and tea", "x " * 100, *["more"] * 40]
        found = client.embed(texts)
        rows = [np.frombuffer(data, "<f4") for data in found["embeddings"]]
        assert {len(row) for row in rows} == {found["n_dims"]} == {model.n_dims}
        assert rows[0] @ rows[1] == pytest.approx(1)
        assert (found["model"], found["truncated"]) == ("fake-embedding", [2])
        assert client.embed(["x"], model="fake-embedding")["n_dims"] == model.n_dims
        with pytest.raises(NotFound, match="embedding model 'other' is not loaded"):
            client.embed(["x"], model="other")
        [shown] = [one for one in client.models() if one["kind"] == "embedding" and one["loaded"]]
        assert shown["name"] == "fake-embedding"
    assert model.is_closed


def test_without_an_embedder_it_says_what_to_do(tmp_path: Path) -> None:
    refused = pytest.raises(Unavailable, match=r"no embedding model is loaded.*--embedder")
    with asking(tmp_path, None) as (_, client), refused:
        client.embed(["x"])


def test_notes_are_found_by_meaning_and_ranked_both_ways(
    tmp_path: Path, model: FakeEmbedding
) -> None:
    with asking(tmp_path, model) as (daemon, client):
        near = client.memory.add("tea with milk", tags=["x"])
        client.memory.add("a long story of the sea", tags=["x"])
        until_embedded(client)
        found = client.memory.search("tea with milk", k=1, mode="vectors", tags=["x"])
        assert (found["mode"], found["results"][0]["memory"]) == ("vectors", near)
        assert found["results"][0]["similarity"] == pytest.approx(3**0.5 / 2)  # it has a tag too
        found = client.memory.search("tea with milk", k=1)
        assert found["mode"] == "hybrid"
        assert found["results"][0]["score"] == pytest.approx(1)
        assert "reason" not in found
        with Client(daemon.config.socket, agent="bob") as bob:
            assert bob.memory.search("tea with milk", mode="vectors")["results"] == []


def test_adding_and_reading_never_wait_for_vectors(tmp_path: Path, model: FakeEmbedding) -> None:
    model.gate.clear()
    with asking(tmp_path, model) as (_, client):
        ids = [client.memory.add(f"note {n}") for n in range(50)]
        assert client.memory.get(ids[0])["content"] == "note 0"
        assert client.memory.search("note", mode="words", k=100)["mode"] == "words"
        assert client.memory.stats()["without_vector"] == 50
        client.memory.update(ids[0], content="another")
        client.memory.delete(ids[1])
        model.gate.set()
        until_embedded(client)
        assert len(client.memory.search("note", mode="vectors", k=100)["results"]) == 49


def test_another_embedder_makes_the_vectors_anew(tmp_path: Path, model: FakeEmbedding) -> None:
    with asking(tmp_path, model) as (_, client):
        id_ = client.memory.add("tea")
        until_embedded(client)
    with asking(tmp_path, FakeEmbedding("another")) as (_, client):
        until_embedded(client)
        found = client.memory.search("tea", mode="vectors")
        assert [hit["memory"] for hit in found["results"]] == [id_]
        assert client.memory.stats().get("embedder") == "another"


def test_which_embedder_is_loaded_is_in_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "packaged_dir", lambda: tmp_path)
    here = {"models_dir": str(tmp_path)}
    assert embedder.load(config.load(None, {**here, "embedder": "none"})) is None
    assert embedder.load(config.load(None, here)) is None  # the default isn't prepared: words only
    with pytest.raises(models.ModelError, match="no model 'other'"):
        embedder.load(config.load(None, {**here, "embedder": "other"}))
    with pytest.raises(models.ModelError, match="does not exist"):
        embedder.load(config.load(None, {**here, "embedder": str(tmp_path / "no.gguf")}))


def test_a_uids_texts_under_way_are_limited_and_those_of_who_left_are_let_go(
    tmp_path: Path, model: FakeEmbedding
) -> None:
    model.gate.clear()
    with asking(tmp_path, model) as (daemon, client):
        peers = [RawPeer(daemon.config.socket, f"p{n}") for n in range(2)]
        for peer in peers:
            peer.send(wire.encode_request(1, "llm.embed", {"texts": ["x"] * 1024}))
        assert daemon.embedder is not None
        while daemon.embedder._background.n_texts < 2048 - MAX_CALL_TEXTS:
            client.ping()
        with pytest.raises(Busy, match="2048 texts being embedded, limit is 2048"):
            client.embed(["y"])
        for peer in peers:
            peer.close()
        while daemon.embedder._background.n_texts:
            client.ping()
        model.gate.set()
        assert client.embed(["y"])["n_dims"] == model.n_dims
