"""The SDK's Agent, blocking and asyncio, against a daemon on the fake model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_sdk import Agent, AsyncAgent, ChatMessage, Client, ClientError, NotFound
from tests.server.harness import served


@contextlib.contextmanager
def serving(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path):
        yield str(tmp_path / "s.sock")


HELLO: ChatMessage = {"role": "user", "content": "hello"}


def contexts(socket: str) -> int:
    with Client(socket, agent="looker") as client:
        return len(client.contexts(all=True))


def test_a_string_is_what_the_user_says_and_the_conversation_goes_on(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as socket,
        Agent("ada", system="Be brief.", socket=socket, max_tokens=3, ignore_eos=True) as agent,
    ):
        assert agent.name == "ada"
        assert contexts(socket) == 0  # none before it is needed
        first = agent.generate("hello")
        assert len(first.tokens) == 3  # the agent's own defaults
        with agent.generate_stream("more", max_tokens=4) as stream:
            text = "".join(stream)
        assert len(stream.result.tokens) == 4
        assert agent.context().read()["messages"] == [
            {"role": "system", "content": "Be brief."},
            HELLO,
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "more"},
            {"role": "assistant", "content": text},
        ]
        assert contexts(socket) == 1


def test_forks_go_on_alone_and_all_is_forgotten_at_the_end(tmp_path: Path) -> None:
    with serving(tmp_path) as socket:
        with Agent("ada", socket=socket, max_tokens=3, ignore_eos=True) as agent:
            agent.generate("hello")
            with agent.fork() as left:
                right = left.fork()
                left.generate("left")
                right.generate("right")
                said = [a.context().read()["messages"][2:3] for a in (agent, left, right)]
                assert [m[0]["content"] if m else None for m in said] == [None, "left", "right"]
                assert left.client is agent.client
            assert contexts(socket) == 2  # leaving a fork forgets it alone
            right.generate()  # and the connection serves the others
        assert contexts(socket) == 0
        with pytest.raises(ClientError, match="closed"):
            right.generate("gone")


def test_a_kept_conversation_outlives_its_agent_and_is_found_by_its_id(tmp_path: Path) -> None:
    with serving(tmp_path) as socket:
        with Agent("ada", keep=True, socket=socket) as agent:
            agent.context().append([HELLO])
            id_ = agent.context().id
            agent.fork()  # forks aren't kept with it, but for themselves
            kept = agent.fork(keep=True).context().id
        with Agent("ada", context=id_, socket=socket) as agent:
            assert agent.context().read()["messages"] == [HELLO]
            agent.context().fork()
        with Client(socket) as client:  # what was given isn't the agent's to forget
            assert {id_, kept} <= {info["context"] for info in client.contexts(all=True)}
        assert contexts(socket) == 3


def test_what_an_agent_remembers_and_stores_is_its_own(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as socket,
        Agent("ada", socket=socket) as ada,
        Agent("bob", socket=socket) as bob,
    ):
        note = ada.memory.add("Tea, not coffee.")
        ada.storage.write("a.txt", "ink")
        assert [n["content"] for n in ada.memory.list()] == ["Tea, not coffee."]
        assert [n["content"] for n in bob.memory.list()] == []
        assert list(bob.storage.list()) == []
        assert ada.access.check("memory.add")["allowed"]
        ada.memory.delete(note)
        assert contexts(socket) == 0  # none of that needs a conversation


def test_the_model_is_chosen_once_for_the_conversation(tmp_path: Path) -> None:
    with serving(tmp_path) as socket:
        with Client(socket) as client:
            [model] = [
                m["name"] for m in client.models() if m["loaded"] and m["kind"] != "embedding"
            ]
        with Agent("ada", model=model, socket=socket, max_tokens=2, ignore_eos=True) as agent:
            agent.generate("hello")
            assert agent.context().info()["model"] == model
        with (
            Agent("ada", model="no-such", socket=socket) as agent,
            pytest.raises(NotFound, match="no-such"),
        ):
            agent.generate("hello")


def test_the_asyncio_twin_does_the_same(tmp_path: Path) -> None:
    async def run(socket: str) -> None:
        async with AsyncAgent(
            "ada", system="Be brief.", socket=socket, max_tokens=3, ignore_eos=True
        ) as agent:
            assert agent.name == "ada"
            async with agent.generate_stream("hello") as stream:  # begins the conversation, too
                text = "".join([part async for part in stream])
            assert (await stream.result()).text == text
            forks = [await agent.fork() for _ in range(3)]
            answers = await asyncio.gather(*(fork.generate("more", seed=1) for fork in forks))
            assert len({answer.text for answer in answers}) == 1
            async with forks[0]:
                pass
            with pytest.raises(NotFound):
                await forks[0].generate("gone")
            assert len((await (await forks[1].context()).read())["messages"]) == 5
            assert len((await (await agent.context()).read())["messages"]) == 3

    with serving(tmp_path) as socket:
        asyncio.run(run(socket))
        assert contexts(socket) == 0
