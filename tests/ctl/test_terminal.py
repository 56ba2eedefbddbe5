"""What a person sees: aiosctl on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aios_sdk.errors import Cancelled
from tests.ctl.conftest import LIMIT_S, command, environment
from tests.ctl.peer import WAIT_S, Call, Peer, context_info, generation, spoken

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """aiosctl with a terminal at all three ends."""

    def __init__(self, peer: Peer, *args: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command(*args),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(peer.path) | {"COLUMNS": "120", "LINES": "24"} | env,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Read until the text has been shown, beyond what was waited for before."""
        until = time.monotonic() + WAIT_S
        while text not in self.seen[self._mark :]:
            if not self._read(until):
                raise AssertionError(f"{text!r} never came; there was {self.seen!r}")
        self._mark = self.seen.index(text, self._mark) + len(text)

    def press_until(self, number: signal.Signals, text: str) -> None:
        """Send the signal, as a person does who presses a key again if nothing happens: the first
        may come in the moment before the prompt listens."""
        until = time.monotonic() + WAIT_S
        while text not in self.seen[self._mark :] and time.monotonic() < until:
            os.kill(self.process.pid, number)
            patience = time.monotonic() + 2  # a newline alone is no reason to press again
            while text not in self.seen[self._mark :] and self._read(patience):
                pass
        self.wait_for(text)

    _mark = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end; the exit code."""
        until = time.monotonic() + LIMIT_S
        while self._read(until):
            pass
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
        data = b""
        if ready:
            with contextlib.suppress(OSError):  # EIO: the other end is closed
                data = os.read(self._master, 65536)
        self.seen += data.decode().replace("\r\n", "\n")
        return bool(data)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def show(terminals: list[Terminal], peer: Peer, *args: str, **env: str) -> Terminal:
    terminals.append(Terminal(peer, *args, **env))
    return terminals[-1]


def test_a_terminal_gets_colour(terminals: list[Terminal], peer: Peer) -> None:
    terminal = show(terminals, peer, "ps")
    assert terminal.end() == 0
    assert "\x1b[32mrunning" in terminal.seen
    assert COLOUR.sub("", terminal.seen).splitlines()[1].split() == [
        "j1", "alice", "1000", "c1", "running", "normal", "41", "3.2s", "10", "2",
    ]  # fmt: skip


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(
    terminals: list[Terminal], peer: Peer, env: dict[str, str]
) -> None:
    for args in (("ps",), ("status",), ("context", "show", "c1")):
        terminal = show(terminals, peer, *args, **env)
        assert terminal.end() == 0
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", terminal.seen)


def test_a_narrow_terminal_loses_nothing(terminals: list[Terminal], peer: Peer) -> None:
    name = "a-name-of-a-context-that-is-rather-long"
    peer.answers["context.list"] = {"contexts": [context_info("c1", name=name)]}
    terminal = show(terminals, peer, "context", "ls", COLUMNS="60")
    assert terminal.end() == 0
    assert "".join(COLOUR.sub("", terminal.seen).split()).count("…") == 0


def test_an_empty_list_is_said_in_words(terminals: list[Terminal], peer: Peer) -> None:
    terminal = show(terminals, peer, "job", "ls")
    assert terminal.end() == 0
    assert terminal.seen == "aiosctl: no jobs of agent aiosctl; --all shows every agent's\n"


def test_nothing_from_the_model_moves_the_cursor(terminals: list[Terminal], peer: Peer) -> None:
    peer.answers["llm.generate"] = spoken("a\x1b]0;owned\x07b", "\x1b[2J\x9b31m\tc\nd\r\x08")
    terminal = show(terminals, peer, "run", "x")
    assert terminal.end() == 0
    assert terminal.seen == "a]0;ownedb[2J31m\tc\nd\n"


def test_nothing_in_a_name_moves_the_cursor_either(terminals: list[Terminal], peer: Peer) -> None:
    peer.answers["context.list"] = {"contexts": [context_info("c1", model="[red]\x1b[2Jm")]}
    terminal = show(terminals, peer, "context", "ls")
    assert terminal.end() == 0
    assert "[red] [2Jm" in COLOUR.sub("", terminal.seen)
    assert "\x1b[2J" not in terminal.seen


def test_the_place_in_line_is_shown_and_goes_away(terminals: list[Terminal], peer: Peer) -> None:
    def answer(call: Call) -> dict[str, Any]:
        call.chunk(job="j1", state="queued", position=3)
        call.chunk(job="j1", state="running")
        call.say("Hi.")
        call.chunk(job="j1", state="queued", position=1)
        call.chunk(job="j1", state="paused")
        call.chunk(job="j1", state="resumed")
        return generation("Hi.", finish="length")

    peer.answers["llm.generate"] = answer
    terminal = show(terminals, peer, "run", "x")
    assert terminal.end() == 0
    assert terminal.seen == (
        "\x1b7queued, position 3…\x1b8\x1b[JHi."
        "\x1b7[paused; aiosctl job resume j1]\x1b8\x1b[J\n"
        "aiosctl: the answer was cut at 256 tokens; --max-tokens allows more\n"
    )


def test_run_without_a_prompt_does_not_wait_for_typing(
    terminals: list[Terminal], peer: Peer
) -> None:
    terminal = show(terminals, peer, "run")
    assert terminal.end() == 2
    assert terminal.seen.startswith("aiosctl: no prompt: give one")


def test_chat_answers_survives_ctrl_c_and_says_how_to_go_on(
    terminals: list[Terminal], peer: Peer
) -> None:
    def answer(call: Call) -> dict[str, Any]:
        if call.params["messages"][-1]["content"] == "story":
            call.say("Once upon")
            call.wait_for_cancel()
            raise Cancelled("cancelled by the client")
        call.say("Hello.")
        return generation("Hello.")

    peer.answers["llm.generate"] = answer
    terminal = show(terminals, peer, "chat")
    terminal.wait_for("> ")
    terminal.type("story\r")
    terminal.wait_for("Once upon")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("ended; the conversation is as it was before your message")
    terminal.wait_for("> ")
    terminal.type("hi\r")
    terminal.wait_for("Hello.\n")
    terminal.wait_for("> ")
    terminal.press_until(signal.SIGINT, "> ")  # at the prompt: drops the line
    terminal.type("\x04")
    terminal.wait_for("kept; go on with: aiosctl chat --context c9")
    assert terminal.end() == 0
    assert [params["context"] for params in peer.asked("llm.generate")] == ["c9", "c9"]
    assert len(peer.asked("sys.hello")) == 1
    assert peer.asked("context.delete") == []
