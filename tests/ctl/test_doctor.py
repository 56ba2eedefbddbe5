"""`aiosctl doctor`: what it finds, what it says to do, and that it leaves all as it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from aiosctl import checkup
from aiosctl.finding import State
from aiosctl.promise import Report
from tests.ctl.conftest import Ctl, start
from tests.ctl.peer import CORE, STATUS, Call, Peer, generation

GIB = 2**30
MODEL = {"name": "m", "path": "/m.gguf", "loaded": True, "kind": "chat"}


def status(**snapshots: int) -> dict[str, Any]:
    held = {"ram_bytes": 0, "ram_limit_bytes": GIB, "file_bytes": 0, "file_limit_bytes": 2 * GIB}
    core = {**CORE, "snapshots": {**held, **snapshots}}
    return {**STATUS, "cores": [core], "disk_free_bytes": 10 * GIB}


# ---------------------------------------------------------------- each look


def test_a_socket_that_everybody_may_use_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        assert checkup.socket(str(path)).state is State.OK
        path.chmod(0o660)
        assert "and group" in checkup.socket(str(path)).words
        path.chmod(0o666)
        found = checkup.socket(str(path))
        assert found.state is State.PROBLEM
        assert "set socket_mode to 0660 or 0600" in found.words


def test_a_path_without_a_socket_is_a_problem_with_a_way_out(tmp_path: Path) -> None:
    assert "start a daemon" in checkup.socket(str(tmp_path / "none")).words
    (tmp_path / "file").touch()
    found = checkup.socket(str(tmp_path / "file"))
    assert (found.state, "is no socket" in found.words) == (State.PROBLEM, True)


def test_memory_that_is_promised_must_be_there() -> None:
    assert checkup.memory(status(), 4 * GIB, None).state is State.OK
    short = checkup.memory(status(), GIB // 2, None)
    assert (short.state, "lower --snapshot-ram" in short.words) == (State.PROBLEM, True)
    assert checkup.memory(status(ram_bytes=GIB), GIB // 2, None).state is State.OK
    assert checkup.memory(status(), 4 * GIB, GIB).state is State.PROBLEM


def test_a_disk_that_is_all_but_full_is_a_problem_and_a_small_one_is_noted() -> None:
    assert checkup.disk(status()).state is State.OK
    assert checkup.disk({**status(), "disk_free_bytes": GIB}).state is State.NOTE
    assert checkup.disk({**status(), "disk_free_bytes": 1000}).state is State.PROBLEM
    assert checkup.disk(STATUS).state is State.UNKNOWN


def test_what_tools_are_confined_with_is_told() -> None:
    def found(abi: int, why_not: str = "", *, has_seccomp: bool = True) -> State:
        kept = "cgroup v2" if not why_not else "each process alone"
        here = {
            "landlock_abi": abi,
            "has_seccomp": has_seccomp,
            "memory": kept,
            "processes": kept,
            "why_not": why_not,
        }
        return checkup.confinement({**STATUS, "confinement": here}).state

    assert (found(7), found(5), found(0)) == (State.OK, State.NOTE, State.PROBLEM)
    assert found(7, "it is not writable") is State.NOTE
    assert found(7, has_seccomp=False) is State.PROBLEM
    assert checkup.confinement(STATUS).state is State.UNKNOWN


def test_slots_longer_than_the_model_was_trained_for_are_a_problem() -> None:
    info = {**MODEL, "n_ctx_train": 2048, "weights": "Q8_0", "bytes": 1, "has_fast_kernels": True}
    assert [f.state for f in checkup.model(info, 2048)] == [State.OK, State.OK]
    assert [f.state for f in checkup.model(info, 4096)] == [State.PROBLEM, State.OK]
    assert checkup.model({**info, "has_chat_template": False}, 2048)[0].state is State.NOTE


def test_weights_without_fast_kernels_are_told_with_what_to_do() -> None:
    found = checkup.weights({**MODEL, "weights": "Q4_1", "bytes": 99, "has_fast_kernels": False})
    assert found.state is State.NOTE
    assert found.words.startswith("Q4_1, 99B: this CPU has no fast kernels for them")
    assert "Q8_0" in found.words
    assert checkup.weights(MODEL).state is State.UNKNOWN


def test_versions_that_differ_are_noted() -> None:
    assert checkup.versions("1.0", "1.0", "1.0").state is State.OK
    assert checkup.versions("1.1", "1.1", "1.0").state is State.NOTE


def test_what_differs_is_a_problem_only_where_it_was_promised() -> None:
    report = Report(done=["forked"], differing=["answer 1 from its token 3 on, in the crowd"])
    assert report.finding(is_promised=True).state is State.PROBLEM
    assert report.finding(is_promised=False).state is State.NOTE
    assert Report(done=["forked"]).finding(is_promised=True).state is State.OK
    assert Report(missing=["all"]).finding(is_promised=True).state is State.UNKNOWN


# ---------------------------------------------------------------- the command


def equip(peer: Peer) -> None:
    """What the trial asks for, answered as a daemon does whose answers never change."""
    peer.answers["sys.status"] = status()
    peer.answers["context.append"] = {"context": "c9", "n_tokens": 12}
    peer.answers["llm.generate"] = generation("same", tokens=[1, 2, 3])


@pytest.fixture
def well(peer: Peer) -> Peer:
    """A daemon of which we are an admin."""
    equip(peer)
    peer.answers["sys.hello"] = lambda call: {
        "protocol": 1,
        "server": {"name": "aiosd", "version": "0.1.0"},
        "uid": 1000,
        "agent": call.params["agent"],
        "session": "s1",
        "limits": {},
        "rights": ["llm", "context", "admin"],
        "models": ["smollm2"],
    }
    return peer


def states(text: str) -> dict[str, str]:
    return {check["check"]: check["state"] for check in json.loads(text)["checks"]}


def test_all_is_well(ctl: Ctl, well: Peer) -> None:
    done = ctl("doctor", "--json")
    found = states(done.stdout)
    assert (done.returncode, json.loads(done.stdout)["well"]) == (0, True)
    assert found["promise 1"] == "ok"
    assert set(found) == {
        "socket", "daemon", "install", "permissions", "memory", "disk", "confinement", "model",
        "weights", "promise 1",
    }  # fmt: skip


def test_the_policy_is_put_back_and_no_context_is_left(ctl: Ctl, well: Peer) -> None:
    assert ctl("doctor").returncode == 0
    settings = [{k: v for k, v in p.items() if v is not None} for p in well.asked("sys.policy")]
    assert settings == [
        {"policy": "rr", "quantum_tokens": 1},
        {"policy": "rr", "quantum_tokens": 16, "lanes": 4},
    ]
    made = len(well.asked("context.create")) + len(well.asked("context.fork"))
    assert made == len(well.asked("context.delete")) == 4


def test_an_answer_that_changes_is_a_problem_and_exit_code_1(ctl: Ctl, well: Peer) -> None:
    lock, seen = threading.Lock(), set()

    def answer(call: Call) -> dict[str, Any]:
        with lock:
            again = call.params.get("prompt") in seen
            seen.add(call.params.get("prompt"))
        return generation("x", tokens=[1, 2, 4] if again else [1, 2, 3])

    well.answers["llm.generate"] = answer
    done = ctl("doctor")
    assert done.returncode == 1
    assert "problem  promise 1" in done.stdout
    assert "answer 1 from its token 3 on, in the crowd" in done.stdout
    assert "the promise does not hold" in done.stdout


def test_without_the_right_it_says_what_it_could_not_check(ctl: Ctl, peer: Peer) -> None:
    equip(peer)
    done = ctl("doctor")
    assert done.returncode == 0
    assert "not checked: slices of one token (needs the right 'admin')" in done.stdout
    assert peer.asked("sys.policy") == []


def test_without_a_daemon_it_says_so_and_what_to_do(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl("--socket", str(tmp_path / "none.sock"), "--json", "doctor")
    assert (done.returncode, states(done.stdout)) == (1, {"socket": "problem", "daemon": "problem"})


def test_seconds_0_leaves_the_model_alone(ctl: Ctl, well: Peer) -> None:
    assert "promise" not in ctl("doctor", "--seconds", "0").stdout
    assert well.asked("llm.generate") == []


def test_ctrl_c_in_the_middle_puts_the_policy_back(well: Peer) -> None:
    reached = threading.Event()

    def answer(call: Call) -> dict[str, Any]:
        if len(well.asked("sys.policy")) == 1:  # in the crowd
            reached.set()
            call.connection.receive()  # its end
        return generation("same", tokens=[1, 2, 3])

    well.answers["llm.generate"] = answer
    with start(well, "doctor") as process:
        assert reached.wait(20)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
    assert well.asked("sys.policy")[-1]["policy"] == "rr"
    assert len(well.asked("sys.policy")) == 2
    assert len(well.asked("context.delete")) == 1
