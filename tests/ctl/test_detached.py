"""`run --detach` and `job attach`: answers that don't need someone who waits."""

from __future__ import annotations

import json
import signal
from typing import Any

from aios_sdk.errors import NotFound
from tests.ctl.conftest import LIMIT_S, Ctl, start
from tests.ctl.peer import WAIT_S, Call, Peer, generation
from tests.ctl.test_terminal import Terminal, show, terminals

__all__ = ["terminals"]  # the fixture, which pytest finds by its name here


def goes_on(call: Call) -> dict[str, Any]:
    """A job that has been accepted and has written nothing yet."""
    call.chunk(job="j7", state="queued", position=3)
    assert call.connection.receive() is None  # the client leaves, and cancels nothing
    raise OSError


def hangs(call: Call) -> dict[str, Any]:
    call.say("Once upon")
    call.say(" a time")
    call.wait_for_cancel()  # of job.attach, which leaves the job alone
    raise OSError


def test_detach_prints_the_id_at_once_and_leaves(ctl: Ctl, peer: Peer) -> None:
    peer.answers["llm.generate"] = goes_on
    done = ctl("run", "--detach", "Hi", "--seed", "7")
    assert (done.stdout, done.stderr, done.returncode) == ("j7\n", "", 0)
    (params,) = peer.asked("llm.generate")
    assert (params["detach"], params["stream"], params["seed"]) == (True, True, 7)


def test_detach_tells_a_person_how_to_come_back(terminals: list[Terminal], peer: Peer) -> None:
    peer.answers["llm.generate"] = goes_on
    terminal = show(terminals, peer, "run", "--detach", "Hi")
    assert terminal.end() == 0
    assert terminal.seen == "j7\naiosctl: attach with: aiosctl job attach j7\n"


def test_detach_and_json_is_the_id_in_a_document(ctl: Ctl, peer: Peer) -> None:
    peer.answers["llm.generate"] = goes_on
    assert json.loads(ctl("run", "--detach", "Hi", "--json").stdout) == {"job": "j7"}


def test_detach_excludes_what_needs_the_answer(ctl: Ctl, peer: Peer) -> None:
    for option in ("--usage", "--stream", "--no-stream"):
        done = ctl("run", "--detach", "Hi", option)
        assert done.returncode == 2
        assert "--detach doesn't wait for the answer" in done.stderr
    assert peer.requests == []


def test_attach_prints_the_words_from_a_token_on(ctl: Ctl, peer: Peer) -> None:
    done = ctl("job", "attach", "j7")
    assert (done.stdout, done.stderr, done.returncode) == ("Hello there.\n", "", 0)
    ctl("job", "attach", "j7", "--from-token", "40")
    assert peer.asked("job.attach") == [
        {"job": "j7", "from_token": 0, "stream": True},
        {"job": "j7", "from_token": 40, "stream": True},
    ]


def test_attach_and_json_is_the_result(ctl: Ctl) -> None:
    done = ctl("job", "attach", "j7", "--json")
    assert json.loads(done.stdout) == generation("Hello there.")


def test_attach_to_nothing_is_not_found(ctl: Ctl, peer: Peer) -> None:
    peer.answers["job.attach"] = NotFound("no job 'j7'; it may have ended")
    done = ctl("job", "attach", "j7")
    assert done.returncode == 5
    assert "'aiosctl ps --all' shows what there is" in done.stderr


def test_ctrl_c_leaves_the_job_running_and_says_so(peer: Peer) -> None:
    peer.answers["job.attach"] = hangs
    with start(peer, "job", "attach", "j7", "--from-token", "40") as process:
        assert process.stdout is not None
        assert process.stdout.read(16) == b"Once upon a time"
        process.send_signal(signal.SIGINT)
        assert peer.cancelled.get(timeout=WAIT_S) is not None
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert (stdout, process.returncode) == (b"\n", 130)
    assert stderr == b"aiosctl: j7 goes on; attach with: aiosctl job attach j7 --from-token 42\n"
    assert peer.asked("job.cancel") == []


def test_a_lost_connection_says_how_to_go_on(ctl: Ctl, peer: Peer) -> None:
    def dies(call: Call) -> dict[str, Any]:
        call.say("Once upon")
        raise ConnectionResetError

    peer.answers["job.attach"] = dies
    done = ctl("job", "attach", "j7")
    assert (done.stdout, done.returncode) == ("Once upon\n", 3)
    assert done.stderr.endswith(
        "; when the daemon answers, attach with: aiosctl job attach j7 --from-token 1\n"
    )
