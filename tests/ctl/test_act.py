"""`act`: words on stdout, calls and what they brought on stderr, Ctrl-C."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.ctl.conftest import LIMIT_S, Ctl, start
from tests.ctl.peer import CALL, WAIT_S, Call, Peer


def test_words_go_to_stdout_and_calls_to_stderr(ctl: Ctl, peer: Peer) -> None:
    done = ctl("act", "What is 6 times 7?", "--tool", "calculator", "--max-rounds", "2")
    assert done.stdout == "Let me see. \nIt is 42.\n"
    assert done.stderr.splitlines() == [
        'aiosctl: calculator {"expression":"6*7"}',
        "aiosctl: half",
        "aiosctl: calculator (12ms): 42",
    ]
    assert peer.asked("llm.act") == [
        {
            "messages": [{"role": "user", "content": "What is 6 times 7?"}],
            "tools": ["calculator"],
            "max_rounds": 2,
            "stream": True,
        }
    ]


def test_every_option_reaches_the_daemon(ctl: Ctl, peer: Peer) -> None:
    ctl(
        "act", "Hi", "--tool", "a", "--tool", "b.*", "--tool-choice", "required", "-n", "5", "-t",
        "0", "--seed", "7", "--context", "c1", "--system", "Be.", "--priority", "background",
        "--timeout", "1.5",
    )  # fmt: skip
    assert peer.asked("llm.act") == [
        {
            "messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}],
            "tools": ["a", "b.*"],
            "tool_choice": "required",
            "max_tokens": 5,
            "temperature": 0.0,
            "seed": 7,
            "context": "c1",
            "priority": "background",
            "deadline_ms": 1500,
            "stream": True,
        }
    ]


def test_without_streaming_it_is_the_answer_alone(ctl: Ctl) -> None:
    done = ctl("act", "Hi", "--no-stream", "--usage")
    assert done.stdout == "It is 42.\n"
    assert done.stderr.startswith("aiosctl: 1 rounds, 1 calls, 12 prompt + 30 cached + 5 output")


def test_json_is_the_result_or_every_chunk(ctl: Ctl) -> None:
    assert json.loads(ctl("act", "Hi", "--json").stdout)["calls"][0]["content"] == "42"
    lines = ctl("act", "Hi", "--json", "--stream").stdout.splitlines()
    assert [json.loads(line).get("tool_result", {}).get("content") for line in lines[:4]] == [
        *(None, None, None),
        "42",
    ]
    assert json.loads(lines[-1])["text"] == "It is 42."


def test_ctrl_c_while_a_tool_runs_cancels_the_act(peer: Peer) -> None:
    def answer(call: Call) -> dict[str, Any]:
        call.chunk(tool_calls=[CALL])
        call.wait_for_cancel()
        raise OSError

    peer.answers["llm.act"] = answer
    with start(peer, "act", "--json", "--stream", "x") as process:
        assert process.stdout is not None
        assert b"calculator" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert (stderr, process.returncode) == (b"", 130)
