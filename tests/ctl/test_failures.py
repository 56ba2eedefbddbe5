"""What goes wrong: one line that says what to do, and the exit code scripts rely on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aios_sdk.errors import ERRORS
from aios_sdk.syscalls import PROTOCOL_VERSION
from tests.ctl.conftest import Ctl, command, environment
from tests.ctl.peer import Peer, generation

# As nobody, with everything imported before the change: the interpreter may be root's alone.
AS_NOBODY = """
import gettext, locale, os, sys
import aios_sdk.client, aiosctl.ping
from aiosctl.__main__ import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(["ping"]))
"""


@pytest.mark.parametrize(
    ("code", "exits"),
    [
        ("invalid_params", 2),
        ("unknown_method", 2),
        ("protocol", 1),
        ("not_found", 5),
        ("exists", 1),
        ("denied", 4),
        ("busy", 6),
        ("quota_exceeded", 6),
        ("too_large", 1),
        ("context_full", 1),
        ("cancelled", 1),
        ("deadline_exceeded", 1),
        ("engine_failed", 1),
        ("tool_failed", 1),
        ("unavailable", 1),
        ("internal", 1),
    ],
)
def test_every_error_code_has_its_exit_code(ctl: Ctl, peer: Peer, code: str, exits: int) -> None:
    peer.answers["sys.status"] = ERRORS[code]("what happened")
    done = ctl("status")
    assert done.returncode == exits
    assert done.stdout == ""
    assert done.stderr.startswith(f"aiosctl: what happened [{code}]")
    assert done.stderr.count("\n") == 1


def test_the_table_above_has_every_code() -> None:
    marks = test_every_error_code_has_its_exit_code.pytestmark  # type: ignore[attr-defined]  # pytest's
    assert {code for code, _ in marks[0].args[1]} == set(ERRORS)


@pytest.mark.parametrize(
    ("code", "data", "advice"),
    [
        ("busy", {"retry_after_ms": 1500, "queue_depth": 9}, "try again in 1.5s"),
        ("busy", {"job": "j7"}, "wait for job j7, or end it with 'aiosctl job kill j7'"),
        ("quota_exceeded", {"used": 10, "limit": 10}, "used 10 of 10"),
        ("denied", {"right": "admin"}, "it needs the right 'admin'"),
        ("internal", {"id": "e42"}, "look for e42 in its log"),
        ("not_found", {}, "'aiosctl context ls --all' shows what there is"),
    ],
)
def test_the_daemons_figures_become_advice(
    ctl: Ctl, peer: Peer, code: str, data: dict[str, object], advice: str
) -> None:
    peer.answers["llm.generate"] = ERRORS[code]("no context 'c1'", **data)
    assert advice in ctl("run", "x").stderr


def test_no_daemon_says_where_and_how_to_start_one(ctl: Ctl, socket_dir: Path) -> None:
    nowhere = socket_dir / "none.sock"
    done = ctl("ping", env={"AIOSD_SOCKET": str(nowhere)})
    assert done.returncode == 3
    assert done.stderr == (
        f"aiosctl: no daemon at {nowhere} (there is no socket); start one with 'aiosd &' or "
        "'systemctl start aiosd', or name its socket with --socket\n"
    )


def test_a_socket_that_a_killed_daemon_left_is_no_daemon(ctl: Ctl, socket_dir: Path) -> None:
    stale = socket_dir / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    done = ctl("ping", "--socket", str(stale))
    assert done.returncode == 3
    assert f"no daemon at {stale} (nobody listens on it)" in done.stderr


def test_permission_denied_is_not_no_daemon(peer: Peer) -> None:
    if os.getuid() == 0:
        peer.path.chmod(0o600)
        args = [sys.executable, "-c", AS_NOBODY]
    else:
        peer.path.chmod(0)
        args = command("ping")
    done = subprocess.run(
        args,
        env=environment(peer.path),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 4
    assert done.stderr.startswith(f"aiosctl: permission denied at {peer.path}; a daemon is there")
    assert "usermod -aG aiosd" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_lost_connection_is_told(ctl: Ctl, peer: Peer) -> None:
    def hang_up(call: object) -> dict[str, object]:
        raise ConnectionResetError

    peer.answers["context.delete"] = hang_up
    done = ctl("context", "rm", "c1")
    assert done.returncode == 3
    assert "connection" in done.stderr


def test_a_daemon_of_another_version_is_told(ctl: Ctl, peer: Peer) -> None:
    peer.answers["sys.hello"] = {
        "protocol": PROTOCOL_VERSION + 1, "server": {"name": "aiosd", "version": "9"}, "uid": 0,
        "agent": "x", "session": "s", "limits": {}, "rights": [], "models": [],
    }  # fmt: skip
    done = ctl("ping")
    assert done.returncode == 1
    assert "(aiosd 9) speaks protocol 2, this client speaks 1: update this client" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("jbo",), "no command 'jbo'; did you mean 'job'?"),
        (("context", "list"), "no command 'list'; did you mean 'ls'?"),
        (("job", "cancel", "j1"), "no command 'cancel'; did you mean 'kill'?"),
        (("zzz",), "no command 'zzz'; see 'aiosctl --help'"),
        (("ps", "--jsno"), "'--json'"),
        (("context", "rm"), "missing argument"),
        (("job", "priority", "j1", "huge"), "'huge' is not one of"),
        (("run", "--temperature", "-1", "x"), "--temperature"),
        (("run", "--raw", "--system", "s", "x"), "--raw"),
        (("run", "--schema", "/nowhere.json", "x"), "--schema /nowhere.json: No such file"),
        (("run", ""), "the prompt is empty"),
        (("call", "x.y", "novalue"), "'novalue' isn't KEY=VALUE"),
        (("call", "sys.policy", "lanes=many"), "lanes is of type integer"),
        (("--agent", "not a name", "ping"), "agent"),
        (("chat", "--json"), "chat has no JSON form"),
    ],
)
def test_a_wrong_command_line_says_why_and_exits_2(
    ctl: Ctl, args: tuple[str, ...], says: str
) -> None:
    done = ctl(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("aiosctl: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_ids_are_all_tried_and_the_first_failure_counts(ctl: Ctl, peer: Peer) -> None:
    def delete(call: object) -> dict[str, object]:
        context = call.params["context"]  # type: ignore[attr-defined]  # a Call
        if context == "c2":
            raise ERRORS["not_found"]("no context 'c2'")
        if context == "c3":
            raise ERRORS["busy"]("c3 is busy", job="j1")
        return {}

    peer.answers["context.delete"] = delete
    done = ctl("context", "rm", "c1", "c2", "c3", "c4", "c1")
    assert done.stdout == "c1\nc4\n"
    assert [line[:12] for line in done.stderr.splitlines()] == ["aiosctl: c2:", "aiosctl: c3:"]
    assert done.returncode == 5
    assert [params["context"] for params in peer.asked("context.delete")] == [
        "c1",
        "c2",
        "c3",
        "c4",
    ]


def test_a_result_that_lacks_something_is_no_traceback(ctl: Ctl, peer: Peer) -> None:
    peer.answers["sys.status"] = lambda _call: generation("not a status")
    peer.skips_check = True
    done = ctl("status")
    assert done.returncode == 1
    assert done.stderr.startswith("aiosctl: the daemon's answer has no 'version'")


def test_a_bad_message_cannot_draw_on_the_terminal(ctl: Ctl, peer: Peer) -> None:
    peer.answers["sys.status"] = ERRORS["busy"]("a\x1b[2Jb\nc")
    assert ctl("status").stderr == "aiosctl: a [2Jb c [busy]\n"
