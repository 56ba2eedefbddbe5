"""`run`: what goes to the daemon, what comes out, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.ctl.conftest import LIMIT_S, Ctl, command, environment, start
from tests.ctl.peer import WAIT_S, Call, Peer, generation, spoken


def asked(peer: Peer) -> dict[Any, Any]:
    """The params of the one llm.generate."""
    (params,) = peer.asked("llm.generate")
    return params


def test_run_prints_the_answer_and_nothing_else(ctl: Ctl) -> None:
    done = ctl("run", "Hi")
    assert (done.stdout, done.stderr, done.returncode) == ("Hello there.\n", "", 0)


def test_an_answer_that_ends_its_line_gets_no_second_newline(ctl: Ctl, peer: Peer) -> None:
    peer.answers["llm.generate"] = spoken("a\n", "b\n")
    assert ctl("run", "Hi").stdout == "a\nb\n"


def test_an_empty_answer_is_empty(ctl: Ctl, peer: Peer) -> None:
    peer.answers["llm.generate"] = spoken()
    assert ctl("run", "Hi").stdout == ""


def test_words_that_came_without_chunks_are_printed_too(ctl: Ctl, peer: Peer) -> None:
    peer.answers["llm.generate"] = generation("all at once")
    assert ctl("run", "Hi").stdout == "all at once\n"


def test_the_prompt_becomes_a_user_message(ctl: Ctl, peer: Peer) -> None:
    ctl("run", "Why", "is", "it?")
    assert asked(peer) == {
        "messages": [{"role": "user", "content": "Why is it?"}],
        "max_tokens": 256,
        "stream": True,
    }


def test_every_option_reaches_the_daemon(ctl: Ctl, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object"}')
    ctl(
        "run", "Hi", "--max-tokens", "5", "--temperature", "0", "--seed", "7", "--stop", "a",
        "--stop", "b", "--schema", str(tmp_path / "s.json"), "--context", "c1", "--system", "Be.",
        "--priority", "background", "--model", "m", "--timeout", "1.5",
    )  # fmt: skip
    assert asked(peer) == {
        "messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": 7,
        "stop": ["a", "b"],
        "schema": {"type": "object"},
        "context": "c1",
        "priority": "background",
        "model": "m",
        "deadline_ms": 1500,
        "stream": True,
    }


def test_raw_sends_the_prompt_as_it_is(ctl: Ctl, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "g").write_text('root ::= "a"')
    ctl("run", "--raw", "One, two,", "--grammar", str(tmp_path / "g"))
    assert asked(peer)["prompt"] == "One, two,"
    assert asked(peer)["grammar"] == 'root ::= "a"'
    assert "messages" not in asked(peer)


@pytest.mark.parametrize(
    ("args", "stdin", "content"),
    [
        ((), "from stdin\n", "from stdin\n"),
        (("-",), "from stdin", "from stdin"),
        (("Sum up:", "-"), "the notes", "Sum up: the notes"),
        (("not read",), "left alone", "not read"),
    ],
)
def test_the_prompt_may_come_from_stdin(
    ctl: Ctl, peer: Peer, args: tuple[str, ...], stdin: str, content: str
) -> None:
    ctl("run", *args, stdin=stdin)
    assert asked(peer)["messages"][0]["content"] == content


def test_stdin_that_is_no_text_is_refused(ctl: Ctl, peer: Peer) -> None:
    done = ctl("run", stdin=b"ab\xffc")
    assert done.returncode == 2
    assert "isn't UTF-8 text: byte 0xff at offset 2" in done.stderr
    assert peer.requests == []


def test_stdin_has_a_limit(ctl: Ctl, peer: Peer) -> None:
    done = ctl("run", stdin=b"a" * (8 * 1024 * 1024 + 1))
    assert done.returncode == 2
    assert "more than 8388608 bytes" in done.stderr


def test_json_is_the_result_at_the_end(ctl: Ctl) -> None:
    assert json.loads(ctl("run", "Hi", "--json").stdout) == generation("Hello there.")


def test_json_and_stream_is_a_document_a_line(ctl: Ctl) -> None:
    *chunks, last = [
        json.loads(line) for line in ctl("run", "Hi", "--json", "--stream").stdout.splitlines()
    ]
    assert [chunk["text"] for chunk in chunks] == ["Hello", " there", "."]
    assert last == generation("Hello there.")


def test_usage_goes_to_stderr(ctl: Ctl) -> None:
    done = ctl("run", "Hi", "--usage")
    assert done.stdout == "Hello there.\n"
    assert done.stderr == (
        "aiosctl: 12 prompt + 30 cached + 5 output tokens, queued 3ms, first token 120ms, "
        "total 1.5s (40ms waiting), slices 2, parks 1, seed 7, finish stop\n"
    )


def test_news_of_the_job_is_not_for_pipes(ctl: Ctl, peer: Peer) -> None:
    def answer(call: Call) -> dict[str, Any]:
        call.chunk(job="j1", state="queued", position=3)
        call.chunk(job="j1", state="running")
        call.say("Hi.")
        call.chunk(job="j1", state="paused")
        return generation("Hi.")

    peer.answers["llm.generate"] = answer
    done = ctl("run", "Hi")
    assert (done.stdout, done.stderr) == ("Hi.\n", "")


def test_words_are_there_when_they_come_and_ctrl_c_cancels(peer: Peer) -> None:
    def answer(call: Call) -> dict[str, Any]:
        call.say("Once upon")
        call.wait_for_cancel()
        raise OSError  # hang up: nobody waits for the answer

    peer.answers["llm.generate"] = answer
    with start(peer, "run", "Tell me a story") as process:
        assert process.stdout is not None
        assert process.stdout.read(9) == b"Once upon"
        process.send_signal(signal.SIGINT)
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert (stdout, stderr, process.returncode) == (b"\n", b"", 130)


def test_ctrl_c_before_the_first_word_cancels(peer: Peer) -> None:
    waiting = threading.Event()

    def answer(call: Call) -> dict[str, Any]:
        call.chunk(job="j1", state="queued", position=1)
        waiting.set()
        call.wait_for_cancel()
        raise OSError

    peer.answers["llm.generate"] = answer
    with start(peer, "run", "--json", "--stream", "x") as process:
        assert process.stdout is not None
        assert b"queued" in process.stdout.readline()
        assert waiting.wait(WAIT_S)
        process.send_signal(signal.SIGINT)
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert (stderr, process.returncode) == (b"", 130)


def test_a_reader_that_leaves_cancels_the_job(peer: Peer) -> None:
    has_left = threading.Event()

    def answer(call: Call) -> dict[str, Any]:
        call.say("first line\n")
        assert has_left.wait(WAIT_S)
        call.say("second line\n")
        call.wait_for_cancel()
        raise OSError

    peer.answers["llm.generate"] = answer
    with start(peer, "run", "x") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first line\n"
        process.stdout.close()
        has_left.set()
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        assert process.wait(LIMIT_S) == 141


def test_an_error_after_some_words_starts_a_line(ctl: Ctl, peer: Peer) -> None:
    from aios_sdk.errors import EngineFailed

    def answer(call: Call) -> dict[str, Any]:
        call.say("Once")
        raise EngineFailed("the model failed")

    peer.answers["llm.generate"] = answer
    done = ctl("run", "x")
    assert done.stdout == "Once\n"
    assert done.stderr.startswith("aiosctl: the model failed [engine_failed]")
    assert done.returncode == 1


def test_call_reads_values_as_their_types_ask(ctl: Ctl, peer: Peer) -> None:
    ctl("call", "llm.tokenize", "text=123", "special=true")
    ctl("call", "llm.detokenize", "tokens=[1, 2]")
    ctl("call", "x.y", "a=1", "b=word")
    assert peer.asked("llm.tokenize") == [{"text": "123", "special": True}]
    assert peer.asked("llm.detokenize") == [{"tokens": [1, 2]}]
    assert peer.asked("x.y") == [{"a": 1, "b": "word"}]


@pytest.mark.parametrize("args", [("llm.tokenize", "-"), ("llm.tokenize",)])
def test_call_reads_params_from_stdin(ctl: Ctl, peer: Peer, args: tuple[str, ...]) -> None:
    done = ctl("call", *args, stdin='{"text": "Hello"}')
    assert json.loads(done.stdout) == {"tokens": [19556, 665]}
    assert peer.asked("llm.tokenize") == [{"text": "Hello"}]


def test_a_call_that_needs_nothing_leaves_stdin_alone(peer: Peer) -> None:
    reader, writer = os.pipe()  # open, and nothing ever comes
    try:
        done = subprocess.run(
            command("call", "sys.ping"),
            stdin=reader,
            capture_output=True,
            check=False,
            timeout=LIMIT_S,
            env=environment(peer.path),
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.stdout, done.returncode) == (b"{}\n", 0)


def test_call_streams_when_asked(ctl: Ctl) -> None:
    lines = ctl("call", "llm.generate", "prompt=x", "stream=true").stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["Hello", " there", ".", "Hello there."]
