"""The SDK's act(): the daemon's tools, the agent's own, and the two together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import Agent, AsyncAgent, Cancelled, NotFound, ToolCall
from aios_sdk.acting import CallResult, Step
from aiosd.kernel.model import AgentId
from aiosd.services.tools.model import Progress, Tool, ToolResult
from tests.server.harness import served
from tests.server.scripted import ScriptedModel, calling

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ASK = "What are twice 4 and half of 8?"


class Doubler:
    """A source of one tool, in the daemon."""

    name = "doubler"

    def tools(self) -> Sequence[Tool]:
        return [Tool("double", "Double a number.", NUMBER, self.name)]

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        return ToolResult(str(2 * arguments["n"]))

    async def close(self) -> None:
        pass


@contextlib.contextmanager
def acting(tmp_path: Path, *answers: str) -> Iterator[str]:
    """The socket of a daemon whose model gives these answers."""
    with served(tmp_path, ScriptedModel(answers), slot_tokens=2048) as daemon:
        daemon.loop.call_soon_threadsafe(daemon.tools.add, Doubler())
        yield daemon.config.socket


def halve(n: int) -> float:
    """Halve a number."""
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n / 2


BOTH = calling(("double", {"n": 4}), ("halve", {"n": 8}))
CALLED = [("double", {"n": 4}), ("halve", {"n": 8})]
BROUGHT = [("double", "8", False), ("halve", "4.0", False)]


def called(steps: Sequence[Step]) -> list[tuple[str, dict[str, object]]]:
    return [(step.name, step.arguments) for step in steps if isinstance(step, ToolCall)]


def brought(steps: Sequence[Step]) -> list[tuple[str, str, bool]]:
    results = [step for step in steps if isinstance(step, CallResult)]
    return [(step.name, step.content, step.is_error) for step in results]


def words(steps: Sequence[Step]) -> str:
    return "".join(step for step in steps if isinstance(step, str))


def test_an_act_calls_both_kinds_of_tools_and_ends_with_the_answer(tmp_path: Path) -> None:
    with (
        acting(tmp_path, BOTH, "They are 8 and 4.") as socket,
        Agent("ada", socket=socket, logprobs=1) as agent,  # which an act doesn't take: left out
    ):
        with agent.fork() as other:
            assert other.tool(halve) is halve  # the fork's own
        assert agent.tool(halve) is halve
        with agent.act_stream(ASK, tools=["double"]) as stream:
            steps = list(stream)
        assert called(steps) == CALLED
        assert brought(steps) == BROUGHT
        assert words(steps) == str(stream.result) == "They are 8 and 4."
        assert (stream.result.finish, stream.result.rounds) == ("stop", 1)
        assert [(m.call.name, m.round, m.content) for m in stream.result.calls] == [
            ("double", 1, "8"),
            ("halve", 1, "4.0"),
        ]
        assert stream.result.usage.output_tokens > 20  # of both llm.acts together
        said = agent.context().read()["messages"]
        roles = [message["role"] for message in said]
        assert roles[-5:] == ["user", "assistant", "tool", "tool", "assistant"]


def test_what_a_function_raises_is_told_and_the_model_may_try_again(tmp_path: Path) -> None:
    answers = (calling(("halve", {"n": 7})), calling(("halve", {"n": 6})), "Three.")
    with acting(tmp_path, *answers) as socket, Agent("ada", socket=socket) as agent:
        done = agent.act(ASK, tools=[halve])  # given to this act alone
        assert [(made.content, made.is_error, made.round) for made in done.calls] == [
            ("error: ValueError: 7 is odd", True, 1),
            ("3.0", False, 2),
        ]
        assert (done.text, done.rounds) == ("Three.", 2)


def test_rounds_are_counted_over_both_kinds_of_calls(tmp_path: Path) -> None:
    answers = (calling(("halve", {"n": 4})), calling(("double", {"n": 2})), "Enough.")
    with acting(tmp_path, *answers) as socket, Agent("ada", socket=socket) as agent:
        done = agent.act(ASK, tools=["double", halve], max_rounds=2, tool_choice="required")
        assert (done.text, done.rounds, done.finish) == ("Enough.", 2, "rounds")


def test_the_last_round_has_to_be_an_answer(tmp_path: Path) -> None:
    answers = (calling(("halve", {"n": 4})), "Enough.")
    with acting(tmp_path, *answers) as socket, Agent("ada", socket=socket) as agent:
        done = agent.act(ASK, tools=["double", halve], max_rounds=1)
        assert (done.text, done.rounds, done.finish) == ("Enough.", 1, "rounds")
        assert [made.call.name for made in done.calls] == ["halve"]


def test_an_act_that_is_left_is_cancelled_and_the_agent_goes_on(tmp_path: Path) -> None:
    with acting(tmp_path, BOTH, "Never said.") as socket, Agent("ada", socket=socket) as agent:
        steps = agent.act_stream(ASK, tools=["double", halve])
        for step in steps:
            assert called([step]) == CALLED[:1]
            break
        with pytest.raises(Cancelled, match="left before its end"):
            _ = steps.result
        assert agent.generate("And now?", max_tokens=3).job
        with pytest.raises(NotFound, match="triple"):
            agent.act("Again.", tools=["triple"])


def test_the_asyncio_twin_does_the_same_with_coroutines_too(tmp_path: Path) -> None:
    async def run(socket: str) -> None:
        async with AsyncAgent("ada", socket=socket) as agent:

            @agent.tool
            async def halve(n: int) -> float:
                """Halve a number."""
                await asyncio.sleep(0)
                return n / 2

            stream = agent.act_stream(ASK, tools=["double"])
            steps = [step async for step in stream]
            assert (called(steps), brought(steps)) == (CALLED, BROUGHT)
            assert words(steps) == (await stream.result()).text == "They are 8 and 4."
            async with agent.act_stream("Again.", tools=["double"]) as left:
                async for step in left:
                    assert called([step])
                    break
            with pytest.raises(Cancelled, match="left before its end"):
                await left.result()
            assert (await agent.generate("Thanks.", max_tokens=3)).job

    with acting(tmp_path, BOTH, "They are 8 and 4.", BOTH) as socket:
        asyncio.run(run(socket))
