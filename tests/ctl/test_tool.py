"""`tool`: what agents can call, from the command line."""

from __future__ import annotations

import json
import signal
import threading
from typing import Any

from aios_sdk.errors import ToolFailed
from tests.ctl.conftest import LIMIT_S, Ctl, start
from tests.ctl.peer import WAIT_S, Call, Peer


def test_ls_shows_what_there_is(ctl: Ctl) -> None:
    lines = ctl("tool", "ls").stdout.splitlines()
    assert lines[0].split() == [
        "TOOL", "SOURCE", "IRREVERSIBLE", "RUNNING", "WAITING", "USUALLY", "DESCRIPTION",
    ]  # fmt: skip
    assert lines[1].split() == [
        *("calculator", "builtin", "no", "0", "0", "12ms"),
        *("Work", "out", "an", "expression."),
    ]


def test_show_tells_the_arguments(ctl: Ctl) -> None:
    assert ctl("tool", "show", "calculator").stdout == (
        "Work out an expression.\n\nexpression  string, required\n"
    )


def test_check_says_what_holds_and_what_doesnt(ctl: Ctl) -> None:
    assert ctl("tool", "check", "calculator").stdout == (
        "tool            calculator\n"
        "source          builtin\n"
        "irreversible    no\n"
        "asks a person   yes\n"
        "reads           /usr and /lib\n"
        "writes          a private directory\n"
        "network         none\n"
        "bound: time     10 s for a call\n"
        "not: processes  no cgroup\n"
    )


def test_call_reads_values_as_the_tool_asks_and_prints_the_text(ctl: Ctl, peer: Peer) -> None:
    assert ctl("tool", "call", "calculator", "expression=6*7").stdout == "42\n"
    ctl("tool", "call", "calculator", "expression=42", "digits=3", "word=x", "list=[1]")
    ctl("tool", "call", "calculator", "--args", '{"expression": "1"}')
    assert [call["arguments"] for call in peer.asked("tool.call")] == [
        {"expression": "6*7"},
        {"expression": "42", "digits": 3, "word": "x", "list": [1]},
        {"expression": "1"},
    ]
    assert json.loads(ctl("tool", "call", "calculator", "--json").stdout)["structured"] == {
        "result": 42
    }


def test_a_tool_that_could_not_do_it_or_failed_is_exit_code_1(ctl: Ctl, peer: Peer) -> None:
    peer.answers["tool.call"] = {
        "content": "no such city",
        "is_error": True,
        "duration_ms": 1,
    }
    done = ctl("tool", "call", "weather")
    assert (done.returncode, done.stdout) == (1, "no such city\n")
    peer.answers["tool.call"] = ToolFailed("weather: it ended without an answer")
    done = ctl("tool", "call", "weather")
    assert (done.returncode, done.stdout) == (1, "")
    assert "weather: it ended without an answer" in done.stderr


def test_bad_arguments_are_usage_errors(ctl: Ctl) -> None:
    for words in (("x",), ("a=1", "a=2"), ("--args", "["), ("--args", "[]")):
        assert ctl("tool", "call", "calculator", *words).returncode == 2


def test_ctrl_c_cancels_the_call(peer: Peer) -> None:
    called = threading.Event()

    def hangs(call: Call) -> dict[str, Any]:
        call.chunk(progress=1.0)
        called.set()
        call.wait_for_cancel()
        raise OSError  # hang up: nobody waits for the answer

    peer.answers["tool.call"] = hangs
    with start(peer, "tool", "call", "calculator", "--args", "{}") as process:
        assert called.wait(WAIT_S)
        process.send_signal(signal.SIGINT)
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        assert process.wait(LIMIT_S) == 130
