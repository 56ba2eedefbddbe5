"""`chat` in a pipe: every line is a message; on a terminal see test_terminal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from aios_sdk.errors import Cancelled
from tests.ctl.conftest import LIMIT_S, Ctl, start
from tests.ctl.peer import WAIT_S, Call, Peer, generation


@pytest.fixture
def ids(peer: Peer) -> Iterator[None]:
    """Contexts get c1, c2, …; every message is answered with itself."""
    n_made = 0

    def create(_call: Call) -> dict[str, Any]:
        nonlocal n_made
        n_made += 1
        return {"context": f"c{n_made}"}

    def answer(call: Call) -> dict[str, Any]:
        said = call.params["messages"][-1]["content"]
        call.say(f"You said: {said}")
        return generation(f"You said: {said}")

    peer.answers["context.create"] = create
    peer.answers["llm.generate"] = answer
    return iter(())


@pytest.mark.usefixtures("ids")
def test_every_line_is_a_turn_in_one_context(ctl: Ctl, peer: Peer) -> None:
    done = ctl("chat", "--system", "Be kind.", stdin="one\n\ntwo\n")
    assert (done.stdout, done.stderr) == ("You said: one\nYou said: two\n", "")
    assert peer.asked("context.create") == [{"system": "Be kind."}]
    assert [params["context"] for params in peer.asked("llm.generate")] == ["c1", "c1"]
    assert peer.asked("context.delete") == [{"context": "c1"}]


@pytest.mark.usefixtures("ids")
def test_new_starts_another_context_and_quit_leaves(ctl: Ctl, peer: Peer) -> None:
    done = ctl("chat", stdin="one\n/new\ntwo\n/quit\nthree\n")
    assert done.stdout == "You said: one\nYou said: two\n"
    assert [params["context"] for params in peer.asked("llm.generate")] == ["c1", "c2"]
    assert [params["context"] for params in peer.asked("context.delete")] == ["c1", "c2"]


@pytest.mark.usefixtures("ids")
def test_a_context_of_someone_else_is_used_and_stays(ctl: Ctl, peer: Peer) -> None:
    ctl("chat", "--context", "c7", stdin="hi\n")
    assert peer.asked("llm.generate")[0]["context"] == "c7"
    assert peer.asked("context.delete") == []


@pytest.mark.usefixtures("ids")
def test_keep_keeps_the_context(ctl: Ctl, peer: Peer) -> None:
    ctl("chat", "--keep", stdin="hi\n")
    assert peer.asked("context.delete") == []


def test_nothing_said_makes_no_context(ctl: Ctl, peer: Peer) -> None:
    assert ctl("chat", stdin="").returncode == 0
    assert peer.asked("context.create") == []


@pytest.mark.usefixtures("ids")
def test_commands_begin_with_a_slash_and_two_make_a_message(ctl: Ctl) -> None:
    done = ctl("chat", stdin="/help\n/nonsense\n//etc\n")
    assert done.stdout.startswith("/new ")
    assert done.stdout.endswith("You said: /etc\n")
    assert done.stderr == "aiosctl: no command '/nonsense'; /help lists them\n"


def test_a_wrong_context_is_told_before_anything_is_said(ctl: Ctl, peer: Peer) -> None:
    from aios_sdk.errors import NotFound

    peer.answers["context.info"] = NotFound("no context 'c7'")
    done = ctl("chat", "--context", "c7", stdin="hi\n")
    assert done.returncode == 5
    assert peer.asked("llm.generate") == []


def test_a_failure_ends_it_and_still_removes_the_context(ctl: Ctl, peer: Peer) -> None:
    from aios_sdk.errors import Busy

    peer.answers["llm.generate"] = Busy("too many jobs", retry_after_ms=100)
    done = ctl("chat", stdin="one\ntwo\n")
    assert done.returncode == 6
    assert len(peer.asked("llm.generate")) == 1
    assert peer.asked("context.delete") == [{"context": "c9"}]


def test_ctrl_c_cancels_removes_the_context_and_exits_130(peer: Peer) -> None:
    def answer(call: Call) -> dict[str, Any]:
        call.say("Once")
        call.wait_for_cancel()
        raise Cancelled("cancelled by the client")

    peer.answers["llm.generate"] = answer
    with start(peer, "chat", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a story\n")
        process.stdin.flush()
        assert process.stdout.read(4) == b"Once"
        process.send_signal(signal.SIGINT)
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert (stderr, process.returncode) == (b"", 130)
    assert peer.asked("context.delete") == [{"context": "c9"}]
