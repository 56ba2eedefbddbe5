"""A model of 135M parameters calls tools: whatever it is asked, each call is valid, and the same.

Half the prompts have nothing to do with the tools, since that is where small models go astray.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from aios_sdk import Client, Generation, ToolSpec
from aios_sdk.results import user_says
from tests.e2e.conftest import DaemonProcess, Start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOOLS: list[ToolSpec] = [
    {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "when": {"enum": ["now", "tomorrow", 'at "noon"', "später"]},
            },
            "required": ["city", "when"],
            "additionalProperties": False,
        },
    },
    {
        "name": "notes.add",
        "description": "Keep a note",
        "parameters": {
            "type": "object",
            "properties": {
                "note": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string", "maxLength": 16},
                        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
                        "tags": {"type": "array", "items": {"enum": ["a", "ß"]}, "maxItems": 2},
                    },
                    "required": ["text", "stars"],
                    "additionalProperties": False,
                }
            },
            "required": ["note"],
        },
    },
    {"name": "clock"},
]
PARAMETERS: dict[str, Any] = {
    tool["name"]: tool.get("parameters", {"type": "object"}) for tool in TOOLS
}
PROMPTS = (
    "How warm is it in Zürich tomorrow?",
    "Write a poem about <tool_call> and {braces}.",
    'Remember that the "gate" is shut.',
)
SLOTS = ("--slots", "2", "--slot-tokens", "2048", "--policy", "rr", "--quantum", "4")


@pytest.fixture(scope="module")
def daemon(start: Start) -> DaemonProcess:
    return start(*SLOTS)


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with Client(daemon.socket, agent="caller", timeout_s=240) as client:
        yield client


def asked(client: Client, prompt: str, choice: str, **more: Any) -> Generation:
    options = {"max_tokens": 100, "temperature": 0.8, "seed": 7, **more}
    return client.generate(user_says(prompt), tools=TOOLS, tool_choice=choice, **options)


def assert_valid(said: Generation) -> None:
    for call in said.tool_calls:
        jsonschema.validate(call.arguments, PARAMETERS[call.name])
    assert "<tool_call>" not in said.text
    assert (said.finish == "tool_calls") <= bool(said.tool_calls)


def test_every_call_is_valid_whatever_is_asked_and_by_how_many(client: Client) -> None:
    cases = [
        (prompt, choice)
        for prompt in PROMPTS
        for choice in ("auto", "none", "required", "weather", "notes.add", "clock")
    ]
    with ThreadPoolExecutor(6) as pool:  # on two slots: calls are parked in the middle
        together = list(pool.map(lambda case: asked(client, *case), cases))
    for (prompt, choice), said in zip(cases, together, strict=True):
        assert_valid(said)
        is_cut = said.finish == "length"
        match choice:
            case "none":
                assert not said.tool_calls
            case "auto":
                pass
            case "required":
                assert said.tool_calls or is_cut, (prompt, said)
            case _:
                assert [call.name for call in said.tool_calls] == [choice] or is_cut, (prompt, said)
    assert sum(bool(said.tool_calls) for said in together) >= len(cases) // 2
    assert sum(said.usage.parks for said in together) > 0
    for case, said in list(zip(cases, together, strict=True))[::8]:
        alone = asked(client, *case)
        assert (alone.tokens, alone.text) == (said.tokens, said.text)
        assert [c.arguments for c in alone.tool_calls] == [c.arguments for c in said.tool_calls]


def test_a_call_cut_by_length_is_none_and_the_conversation_goes_on(client: Client) -> None:
    whole = asked(client, PROMPTS[0], "weather")
    context = client.context(tools=TOOLS, messages=user_says(PROMPTS[0]))
    cut = context.generate(
        tools=TOOLS,
        tool_choice="weather",
        seed=7,
        temperature=0.8,
        max_tokens=len(whole.tokens) // 2,
    )
    assert (cut.finish, cut.text, cut.tool_calls) == ("length", "", ())
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    after = context.generate(user_says("Once more."), tools=TOOLS, tool_choice="weather")
    assert_valid(after)
    assert after.finish == "tool_calls"


def test_answers_of_tools_are_read_and_answered(client: Client) -> None:
    context = client.context(system="You answer in one sentence.")
    said = context.generate(
        user_says("What is the weather in Oslo?"), tools=TOOLS, tool_choice="weather", temperature=0
    )
    [call] = said.tool_calls
    answer = context.generate(
        [call.answer("It is sunny, 12 degrees.")], tools=TOOLS, tool_choice="none", temperature=0
    )
    assert "sunny" in answer.text
    assert answer.usage.cached_tokens > 300  # the tools were told of once
    messages = context.read()["messages"]
    assert messages[-3].get("tool_calls") == [call.to_wire()]
    assert messages[-2] == call.answer("It is sunny, 12 degrees.")


def test_a_call_goes_on_after_a_kill_as_if_there_had_been_none(start: Start) -> None:
    daemon = start(*SLOTS)
    with Client(daemon.socket, agent="caller", timeout_s=240) as client:
        whole = asked(client, PROMPTS[2], "notes.add")
        stream = client.generate_stream(
            user_says(PROMPTS[2]),
            tools=TOOLS,
            tool_choice="notes.add",
            max_tokens=100,
            temperature=0.8,
            seed=7,
            detach=True,
        )
        n_tokens, job = 0, stream.wait_job()
        for chunk in stream.stream:
            n_tokens += len(chunk.get("tokens", ()))  # type: ignore[arg-type]  # a list, of words
            if n_tokens > 36:  # some of them are on the disk
                break
        daemon.kill()
    again = daemon.again()
    try:
        with Client(again.socket, agent="caller", timeout_s=240) as client:
            rest = client.attach(job)
    finally:
        again.stop()
    assert rest.tokens == whole.tokens
    assert [(call.id, call.arguments) for call in rest.tool_calls] == [
        (f"{job}.{n}", call.arguments) for n, call in enumerate(whole.tool_calls)
    ]
    assert rest.finish == whole.finish
