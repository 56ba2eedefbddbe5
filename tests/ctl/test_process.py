"""`aiosctl agent run|ps|logs|wait|signal|stop|inspect`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from aios_sdk.errors import Denied
from tests.ctl.conftest import Ctl, start
from tests.ctl.peer import OUTPUT, Call, Peer, process


def test_run_shows_what_it_writes_and_exits_as_it_does(ctl: Ctl, peer: Peer) -> None:
    done = ctl("agent", "run", "bob", "--", "python", "-c", "print(1)")
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "oh no\n", 3)
    [params] = peer.asked("agent.spawn")
    assert params == {"name": "bob", "command": "python", "args": ["-c", "print(1)"]}


def test_run_says_what_else_ended_it(ctl: Ctl, peer: Peer) -> None:
    ended = {"state": "ended", "ended_ms": 0, "signal": "SIGKILL", "ended_by": "wall_time"}
    peer.answers["agent.wait"] = process("bob", **ended)
    done = ctl("agent", "run", "bob", "--", "true")
    assert done.stderr == "oh no\naiosctl: agent bob ended: ended by SIGKILL: its time was up\n"
    assert done.returncode == 137


def test_run_passes_limits_grants_and_the_files_it_names(
    ctl: Ctl, peer: Peer, tmp_path: Path
) -> None:
    script = tmp_path / "bob.py"
    script.touch()
    ctl(
        "agent", "run", "bob", "--restart", "always", "--detach", "--tokens", "5", "--time", "60",
        "--memory", "1G", "--read", "/srv", "--network", "--env", "A=b=c", "--right", "llm",
        "--", "/bin/python", str(script), "none.py",
    )  # fmt: skip
    [params] = peer.asked("agent.spawn")
    assert params == {
        "name": "bob",
        "command": "/bin/python",
        "args": [str(script), "none.py"],
        "env": {"A": "b=c"},
        "limits": {"tokens": 5, "wall_s": 60, "memory_bytes": 2**30},
        "grants": {"read": ["/srv", str(script)], "network": True},
        "rights": ["llm"],
        "restart": "always",
        "detach": True,
    }


def test_detached_it_is_named_and_left(ctl: Ctl, peer: Peer) -> None:
    assert ctl("agent", "run", "bob", "--detach", "--", "true").stdout == "bob\n"
    assert not peer.asked("agent.logs")
    done = ctl("agent", "run", "bob", "--detach", "--json", "--", "true")
    assert json.loads(done.stdout) == {"agent": "bob", "process": "p1", "pid": 4243}


def test_ctrl_c_asks_it_to_end_and_waits_for_that(peer: Peer) -> None:
    peer.answers["agent.logs"] = until_it_is_told_to_end
    with start(peer, "agent", "run", "bob", "--", "sleep", "9") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"hello\n"
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=20)
    assert (out, running.returncode) == (b"", 3)
    assert [p["signal"] for p in peer.asked("agent.signal")] == ["term"]


def until_it_is_told_to_end(call: Call) -> dict[str, Any]:
    ended = {"lines": [], "next": 1, "dropped": 0, "state": "ended"}
    if len(call.connection.peer.asked("agent.logs")) == 1:
        call.chunk(lines=OUTPUT[:1])
        call.wait_for_cancel()
    return ended


def test_without_the_right_it_says_how_to_get_it(ctl: Ctl, peer: Peer) -> None:
    peer.answers["agent.spawn"] = Denied("agent.spawn needs the right 'spawn'", right="spawn")
    done = ctl("agent", "run", "bob", "--", "true")
    assert done.returncode == 4
    assert "[access] rights" in done.stderr


def test_ps_lists_them_below_their_parents(ctl: Ctl) -> None:
    lines = [line.split() for line in ctl("agent", "ps", "--ended").stdout.splitlines()]
    assert [(line[0], line[1], line[3], line[4]) for line in lines] == [
        ("AGENT", "PARENT", "PID", "STATE"),
        ("boss", "aiosctl", "4243", "running"),
        ("boss.worker", "boss", "4243", "running"),
        ("poet", "aiosctl", "4243", "stopped"),
        ("old", "aiosctl", "-", "ended"),
    ]
    assert lines[-1][-3:] == ["exit", "code", "3"]


def test_jobs_of_agents_that_the_daemon_runs_name_their_parents(ctl: Ctl, peer: Peer) -> None:
    rows = [process("carol"), process("alice", parent="carol")]
    peer.answers["agent.processes"] = {"processes": rows}
    lines = [line.split()[:3] for line in ctl("ps").stdout.splitlines()]
    assert lines == [["JOB", "AGENT", "PARENT"], ["j2", "bob", "-"], ["j1", "alice", "carol"]]


def test_logs_are_printed_where_they_were_written(ctl: Ctl, peer: Peer) -> None:
    for more in ((), ("--follow",)):
        done = ctl("agent", "logs", "bob", "-n", "5", *more)
        assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "oh no\n", 0)
    assert [params["lines"] for params in peer.asked("agent.logs")] == [5, 5]


def test_wait_tells_the_end_or_fails(ctl: Ctl, peer: Peer) -> None:
    assert ctl("agent", "wait", "bob").stdout == "exit code 3\n"
    peer.answers["agent.wait"] = process("bob")
    done = ctl("agent", "wait", "bob", "--timeout", "0.5")
    assert (done.stdout, done.returncode) == ("running\n", 1)
    assert peer.asked("agent.wait")[-1]["timeout_ms"] == 500


def test_stop_kills_what_does_not_end(ctl: Ctl, peer: Peer) -> None:
    peer.answers["agent.wait"] = process("bob")
    assert ctl("agent", "stop", "bob", "--grace", "0").stdout == "bob\n"
    assert [p["signal"] for p in peer.asked("agent.signal")] == ["term", "kill"]


@pytest.mark.parametrize("name", ["stop", "cont", "term", "kill"])
def test_signal_sends_one(ctl: Ctl, peer: Peer, name: str) -> None:
    assert ctl("agent", "signal", "bob", name).returncode == 0
    assert peer.asked("agent.signal") == [{"agent": "bob", "signal": name}]


def test_inspect_shows_all_of_it(ctl: Ctl) -> None:
    lines = ctl("agent", "inspect", "bob").stdout.splitlines()
    shown = dict(line.split("  ", 1) for line in lines)
    found = {key.strip(): value.strip() for key, value in shown.items()}
    assert found["command"] == "/usr/bin/python3 agent.py"
    assert found["limit tokens"] == "1000"
    assert found["bound: memory"] == "2 GiB of each process"
    assert found["not: disk"] == "no look"
