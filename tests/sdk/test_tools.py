"""client.tools, and the functions that an agent runs itself."""

from __future__ import annotations

import asyncio
from enum import Enum

import pytest

from aios_sdk import AsyncClient, BadTool, Client, InvalidParams, ToolCall, ToolFailed
from aios_sdk.owntools import MAX_ANSWER_CHARS, OwnTools
from tests.sdk.peer import Conversation
from tests.sdk.test_client import Serve

TOOL = {
    "name": "add", "description": "Add.", "parameters": {"type": "object"}, "source": "python",
    "irreversible": False, "ordered": True, "max_parallel": 1, "timeout_s": 60.0,
    "running": 0, "waiting": 0,
}  # fmt: skip
SUM = {"content": "3", "structured": {"result": 3}, "is_error": False, "duration_ms": 4}
CALLS = [{"id": "c1", "name": "add", "arguments": {"a": 1}}]


def answers(peer: Conversation) -> None:
    peer.hello()
    peer.answer("tool.list", {"tools": [TOOL]})
    call = peer.expect("tool.call")
    assert call.params == {"name": "add", "arguments": {"a": 1, "b": 2}}
    peer.reply(call, SUM)
    call = peer.expect("tool.call")
    assert call.params == {"name": "add", "arguments": {}, "deadline_ms": 5}
    peer.refuse(call, "tool_failed", "it took too long")
    call = peer.expect("tool.call_all")
    assert call.params == {"calls": CALLS}
    peer.reply(call, {"results": [{"id": "c1", "name": "add", "result": SUM}]})
    peer.expect_end()


def test_tools_are_listed_and_called(serve: Serve) -> None:
    with Client(serve(answers)) as client:
        assert client.tools.list() == [TOOL]
        assert client.tools.call("add", {"a": 1, "b": 2}) == SUM
        with pytest.raises(ToolFailed, match="too long"):
            client.tools.call("add", deadline_ms=5)
        [outcome] = client.tools.call_all([{"id": "c1", "name": "add", "arguments": {"a": 1}}])
        assert outcome["result"]["content"] == "3"


def test_the_asyncio_twin_does_the_same(serve: Serve) -> None:
    async def run(path: str) -> None:
        async with AsyncClient(path) as client:
            assert await client.tools.list() == [TOOL]
            assert await client.tools.call("add", {"a": 1, "b": 2}) == SUM
            with pytest.raises(ToolFailed, match="too long"):
                await client.tools.call("add", deadline_ms=5)
            calls = client.tools.call_all([{"id": "c1", "name": "add", "arguments": {"a": 1}}])
            assert (await calls)[0]["id"] == "c1"

    asyncio.run(run(serve(answers)))


# ---------------------------------------------------------------- an agent's own functions


class Fruit(Enum):
    APPLE = "apple"
    PEAR = "pear"


def price(fruit: Fruit, n: int = 1) -> dict[str, int]:
    """What fruit costs, in cents."""
    return {"cents": {Fruit.APPLE: 30, Fruit.PEAR: 45}[fruit] * n}


async def weather(place: str) -> str:
    """The weather of a place."""
    await asyncio.sleep(0)
    return f"rain in {place}"


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("c7", name, arguments)


def test_a_function_is_called_with_what_its_hints_say_and_answers_as_text() -> None:
    own = OwnTools(is_async=False)
    own.add(price)
    assert own.run(call("price", fruit="pear", n=2)) == {
        "role": "tool", "tool_call_id": "c7", "name": "price", "content": '{"cents": 90}',
    }  # fmt: skip
    [spec] = own.specs()
    assert spec["description"] == "What fruit costs, in cents."
    assert spec["parameters"]["required"] == ["fruit"]


def test_what_a_function_raises_is_an_answer_and_so_is_an_unknown_name() -> None:
    own = OwnTools(is_async=False)
    own.add(price)
    answer = own.run(call("price", fruit="brick"))
    assert answer["content"] == "error: ValueError: 'brick' is not a valid Fruit"
    assert own.run(call("dance"))["content"] == "error: LookupError: this agent has no tool dance"


def test_ctrl_c_in_a_function_ends_the_agent() -> None:
    def stop() -> None:
        """Stop."""
        raise KeyboardInterrupt

    own = OwnTools(is_async=False)
    own.add(stop)
    with pytest.raises(KeyboardInterrupt):
        own.run(call("stop"))


def test_a_long_answer_is_cut_and_says_so() -> None:
    def talk() -> str:
        """Talk."""
        return "a" * (MAX_ANSWER_CHARS + 1)

    own = OwnTools(is_async=False)
    own.add(talk)
    content = own.run(call("talk"))["content"]
    assert content == "a" * MAX_ANSWER_CHARS + f" (cut: it had {MAX_ANSWER_CHARS + 1} characters)"


def test_coroutines_take_an_async_agent() -> None:
    with pytest.raises(BadTool, match="weather is a coroutine"):
        OwnTools(is_async=False).add(weather)
    own = OwnTools(is_async=True)
    own.add(weather)
    own.add(price)
    assert asyncio.run(own.run_async(call("weather", place="Rome")))["content"] == "rain in Rome"
    assert asyncio.run(own.run_async(call("price", fruit="apple")))["content"] == '{"cents": 30}'


def test_an_acts_tools_are_the_agents_own_and_those_it_is_given_besides() -> None:
    own = OwnTools(is_async=True)
    own.add(price)
    more, names = own.with_more([weather, price, "price", "clock", "git.*"])
    assert names == ["clock", "git.*"]
    assert [spec["name"] for spec in more.specs()] == ["price", "weather"]
    assert [spec["name"] for spec in own.specs()] == ["price"]  # unchanged
    with pytest.raises(BadTool, match="already"):
        own.add(price)
    with pytest.raises(InvalidParams, match="7 is no tool"):
        own.with_more([7])  # type: ignore[list-item]  # what is tested


def test_the_decorator_takes_a_name_and_a_description_too() -> None:
    own = OwnTools(is_async=False)

    def plain(n: int) -> int:
        return n + 1

    with pytest.raises(BadTool, match="plain needs a docstring"):
        own.decorate(plain, {})
    made = own.decorate(None, {"name": "next", "description": "The next number."})(plain)
    assert made is plain
    [spec] = own.specs()
    assert (spec["name"], spec["description"]) == ("next", "The next number.")
    assert own.run(call("next", n=1))["content"] == "2"
