"""llm.act with the real model and real tools: a 135M model calls, and a daemon dies between."""

from __future__ import annotations

import functools
import json

import pytest

from aios_sdk import CallProgress, Client
from aios_sdk.errors import ConnectionLost
from aiosd.confine import landlock
from tests.e2e.conftest import DaemonProcess, Start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not landlock.abi(), reason="no Landlock: no tool's process is confined"),
]

FLAGS = ("--slots", "4", "--slot-tokens", "2048", "--embedder", "none")
SLOW = '''
import time
from aios_sdk.toolbox import report, tool

@tool
def slow() -> str:
    """Wait for a long time."""
    report(0, 1, "begun")
    time.sleep(600)
    return "waited"
'''


def test_a_small_model_calls_a_tool_and_answers(start: Start) -> None:
    daemon = start(*FLAGS)
    with Client(daemon.socket, agent="ada") as client:
        acted = client.act(
            "What time is it?", tools=["clock"], tool_choice="clock", max_rounds=1, temperature=0,
            max_tokens=80,
        )  # fmt: skip
        [made] = acted.calls
        assert made.call.name == "clock"
        assert not made.is_error
        assert json.loads(made.content)["time"].startswith("20")
        assert acted.text
        assert acted.rounds == 1
        assert acted.usage.output_tokens > 0
        # What it asks the calculator may be nonsense: then that is what it is told.
        context = client.context()
        acted = context.act(
            "12 + 30 = ?", tools=["calculator"], tool_choice="required", max_rounds=1,
            max_calls=2, max_tokens=120, temperature=0,
        )  # fmt: skip
        roles = [message["role"] for message in context.read()["messages"]]
        assert acted.rounds in (0, 1)
        assert roles[-1] == "assistant"
        assert roles.count("tool") == len(acted.calls)


def test_a_daemon_killed_in_the_middle_leaves_a_context_that_goes_on(start: Start) -> None:
    daemon = start(*FLAGS)
    daemon.stop()
    tools = daemon.directory / "tools"
    tools.mkdir(mode=0o700)
    (tools / "slow.py").write_text(SLOW)
    config = daemon.directory / "config.toml"
    config.write_text(f'[tools]\ndirectory = "{tools}"\n')
    daemon = DaemonProcess(daemon.directory, *FLAGS, "--config", str(config))
    try:
        with Client(daemon.socket, agent="ada") as client:
            context = client.context()
            waits = functools.partial(context.act_stream, tools=["slow"], tool_choice="slow")
            with waits("Wait.") as steps:
                next(step for step in steps if isinstance(step, CallProgress))
            roles = [message["role"] for message in context.read()["messages"]]
            assert roles[-2:] == ["assistant", "tool"]  # leaving has cancelled it, and that is said
            stream = waits("Wait again.")
            next(step for step in stream if isinstance(step, CallProgress))
            daemon.kill()
            with pytest.raises(ConnectionLost):
                _ = stream.result
        daemon = daemon.again()
        with Client(daemon.socket, agent="ada") as client:
            context = client.context_at(context.id)
            last = context.read()["messages"][-1]
            assert [call["name"] for call in last["tool_calls"]] == ["slow"]
            assert not context.info()["busy"]
            assert context.act("Say hello.", tools=["slow"], tool_choice="none", max_tokens=16).text
    finally:
        daemon.kill()
