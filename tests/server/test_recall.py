"""Recall into generation: what is remembered, before the last user message, and what is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_sdk import Client
from aios_sdk.errors import InvalidParams, Unavailable
from aiosd.engine.chat import ChatTemplate
from aiosd.engine.fake import FakeModel
from aiosd.engine.fake_embedding import FakeEmbedding
from aiosd.server.daemon import Daemon
from aiosd.server.embedder import ModelEmbedder
from aiosd.server.prompts import Prompter
from tests.server.harness import served

SYSTEM = {"role": "system", "content": "Be brief."}
TEA = "What you remember:\n- likes tea"


@contextlib.contextmanager
def asking(tmp_path: Path, *, slot_tokens: int = 1024) -> Iterator[tuple[Daemon, Client]]:
    embedder = ModelEmbedder(FakeEmbedding())
    with (
        served(tmp_path, embedder=embedder, slot_tokens=slot_tokens) as daemon,
        Client(daemon.config.socket, agent="ada") as client,
    ):
        yield daemon, client


def said(client: Client, context: str) -> list[tuple[str, str]]:
    messages = client.context_at(context).read()["messages"]
    return [(message["role"], message["content"]) for message in messages]


def until_embedded(client: Client) -> None:
    while client.memory.stats()["without_vector"]:
        pass  # each turn is a call


def test_what_is_remembered_comes_before_the_last_user_message(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, client):
        note = client.memory.add("likes tea")
        with Client(_socket(tmp_path), agent="bob") as bob:
            bob.memory.add("likes tea, says bob")
        context = client.context(system="Be brief.")
        before = context.read(tokens=True)["tokens"]
        answer = context.ask("tea or milk?", max_tokens=5, recall={})
        assert answer.recalled == [note]
        assert said(client, context.id)[:3] == [
            ("system", "Be brief."),
            ("system", TEA),
            ("user", "tea or milk?"),
        ]
        assert context.read(tokens=True)["tokens"][: len(before)] == before
        log = context.read(tokens=True)["tokens"]
        assert context.ask("and now?", max_tokens=5).recalled is None
        assert context.read(tokens=True)["tokens"][: len(log)] == log  # append-only


def _socket(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


def test_with_nothing_to_recall_the_call_is_as_without(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, client):
        plain = client.ask("tea?", max_tokens=5, seed=1)
        answer = client.ask("tea?", max_tokens=5, seed=1, recall={"k": 2})
        assert (answer.recalled, answer.tokens) == ([], plain.tokens)
        assert answer.usage.prompt_tokens == plain.usage.prompt_tokens


def test_tags_and_similarity_choose_what_is_recalled(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, client):
        tea = client.memory.add("tea", tags=["drink"])
        client.memory.add("tea and the long way to the sea")
        until_embedded(client)
        recall = client.ask("tea", max_tokens=1, recall={"tags": ["drink"]}).recalled
        assert recall == [tea]
        assert client.ask("tea drink", max_tokens=1, recall={"min_score": 0.9}).recalled == [tea]
        assert client.ask("tea", max_tokens=1, recall={"k": 1}).recalled == [tea]


def test_a_similarity_without_an_embedder_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.config.socket, agent="ada") as client:
        note = client.memory.add("likes tea")
        assert client.ask("tea?", max_tokens=1, recall={}).recalled == [note]
        with pytest.raises(Unavailable, match="min_score"):
            client.ask("tea?", max_tokens=1, recall={"min_score": 0.1})


def test_recall_needs_a_user_message(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, client):
        for what in ("a prompt", [1, 2], [SYSTEM]):
            with pytest.raises(InvalidParams, match="before the last user message"):
                client.generate(what, max_tokens=1, recall={})  # type: ignore[arg-type]  # of mixed kinds
        with pytest.raises(InvalidParams, match="k"):
            client.ask("x", recall={"k": 0})


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    with asking(tmp_path, slot_tokens=256) as (_, client):
        long = client.memory.add("tea tea tea " + "water " * 150)
        short = client.memory.add("tea with milk and a lot of sugar in a very big cup")
        client.memory.search("tea")
        answer = client.ask("tea", max_tokens=200, recall={"k": 5})
        assert answer.recalled is not None
        assert long not in answer.recalled
        assert len(answer.tokens) > 0
        client.memory.delete(long)
        assert client.ask("tea", max_tokens=200, recall={"k": 5}).recalled == [short]


def test_a_template_without_later_system_messages_gets_it_in_the_users_words(
    tmp_path: Path,
) -> None:
    strict = (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' and not loop.first %}"
        "{{ raise_exception('system comes first') }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    with asking(tmp_path) as (daemon, client):
        assert isinstance(daemon.model, FakeModel)
        daemon.prompter = Prompter(
            daemon.model, ChatTemplate(strict, control_texts=daemon.model.info.control_texts)
        )
        note = client.memory.add("likes tea")
        context = client.context(system="Be brief.")
        assert context.ask("tea?", max_tokens=3, recall={}).recalled == [note]
        assert said(client, context.id)[1] == ("user", f"{TEA}\n\ntea?")


def test_a_detached_job_keeps_what_it_recalled(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, client):
        note = client.memory.add("likes tea")
        context = client.context()
        answer = context.ask("tea?", max_tokens=5, recall={}, detach=True)
        assert answer.recalled == [note]
        client.memory.delete(note)
        assert client.attach(answer.job).recalled == [note]
        assert said(client, context.id)[0] == ("system", TEA)
