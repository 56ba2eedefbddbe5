"""`fs`: an agent's files from the command line, against a scripted peer and a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_sdk.errors import Denied, NotFound, QuotaExceeded
from tests.ctl.conftest import LIMIT_S, Ctl, command, environment
from tests.ctl.peer import Peer
from tests.server.harness import served


def test_ls_is_a_table_whose_directories_end_in_a_slash(ctl: Ctl, peer: Peer) -> None:
    lines = ctl("fs", "ls").stdout.splitlines()
    assert lines[0].split() == ["VERSION", "SIZE", "CHANGED", "PATH"]
    assert lines[1].split()[-1] == "notes/"
    assert lines[2].endswith("to do.txt")
    assert lines[2].split()[:2] == ["3", "6B"]
    assert json.loads(ctl("fs", "ls", "--json").stdout)["entries"][0]["kind"] == "directory"
    ctl("fs", "ls", "d", "-r")
    assert peer.asked("storage.list")[-1] == {"path": "d", "recursive": True}


def test_log_stat_search_and_grants_are_read_by_people_and_programs(ctl: Ctl) -> None:
    assert [line.split()[0] for line in ctl("fs", "log", "a").stdout.splitlines()] == [
        "VERSION", "3", "2",
    ]  # fmt: skip
    assert "version  3\n" in ctl("fs", "stat", "a").stdout
    found = ctl("fs", "search", "harbour")
    assert "the harbour at night" in found.stdout
    assert found.stderr == "aiosctl: found by words: no embedder is loaded\n"
    assert [line.split()[0] for line in ctl("fs", "grants").stdout.splitlines()] == [
        "GRANT", "g1", "g2",
    ]  # fmt: skip


def test_cat_gives_the_bytes_as_they_are(ctl: Ctl, peer: Peer) -> None:
    assert ctl("fs", "cat", "a", "b", "--version", "3").stdout == "Hello\nHello\n"
    assert [c["path"] for c in peer.asked("storage.read")] == ["a", "b"]
    assert peer.asked("storage.read")[0]["version"] == 3


def test_what_changes_something_says_what_became_of_it(ctl: Ctl, peer: Peer) -> None:
    assert ctl("fs", "put", "-", "a.txt", stdin=b"hi\0").stdout == "a.txt version 4\n"
    assert peer.asked("storage.write")[-1]["data"] == b"hi\0"
    assert ctl("fs", "rollback", "a", "--version", "2").stdout == "a version 4\n"
    assert ctl("fs", "rm", "-r", "a", "b").stdout == "a\nb\n"
    assert ctl("fs", "mkdir", "d").stdout == "d\n"
    assert ctl("fs", "mv", "a", "b", "-f").stdout == ""
    assert peer.asked("storage.rename") == [{"path": "a", "to": "b", "replace": True}]
    assert ctl("fs", "share", "a", "@team", "-w", "--for", "60").stdout == "g1\n"
    assert peer.asked("storage.share") == [
        {"path": "a", "with": "@team", "mode": "write", "expires_s": 60}
    ]
    assert ctl("fs", "revoke", "g1").stdout == "g1\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotFound("no file 'a'"), 5), (Denied("not yours"), 4), (QuotaExceeded("full"), 6)],
)
def test_exit_codes_tell_what_kind_of_no_it_was(
    ctl: Ctl, peer: Peer, error: NotFound | Denied | QuotaExceeded, code: int
) -> None:
    peer.answers["storage.stat"] = error
    done = ctl("fs", "stat", "a")
    assert done.returncode == code
    assert error.message in done.stderr


def test_mistakes_are_told_before_anything_is_sent(ctl: Ctl, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    for args in (
        ("put", "-"),
        ("put", str(tmp_path / "none"), "a"),
        ("put", "-", "a", "--append", "--create"),
        ("rollback", "a", "--version", "1", "--steps", "1"),
    ):
        assert ctl("fs", *args, stdin=b"").returncode == 2
    assert peer.asked("storage.write") == []
    done = ctl("fs", "get", "a", str(tmp_path / "there"))
    assert (done.returncode, (tmp_path / "there").read_text()) == (2, "mine")
    assert "--force" in done.stderr


# ---------------------------------------------------------------- on a real daemon


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Ctl]:
    """aiosctl in a directory of its own, with a daemon that stores."""
    work = tmp_path / "work"
    work.mkdir()
    with served(tmp_path) as daemon:

        def run(
            *args: str, stdin: bytes | str | None = None, env: dict[str, str] | None = None
        ) -> subprocess.CompletedProcess[str]:
            data = stdin.encode() if isinstance(stdin, str) else stdin
            done = subprocess.run(
                command(*args), env=environment(daemon.config.socket), cwd=work, timeout=LIMIT_S,
                input=data if data is not None else b"", capture_output=True, check=False,
            )  # fmt: skip
            return subprocess.CompletedProcess(
                args, done.returncode, done.stdout.decode(), done.stderr.decode()
            )

        yield run


def test_a_file_goes_in_and_comes_out_the_same(real: Ctl, tmp_path: Path) -> None:
    work = tmp_path / "work"
    noise = os.urandom(3_000_000)
    (work / "noise").write_bytes(noise)
    assert real("fs", "put", "noise").stdout == "noise version 1\n"
    assert real("fs", "put", "noise", "d/").stdout == "d/noise version 1\n"
    assert real("fs", "get", "d/noise", "back").stdout == "back\n"
    assert (work / "back").read_bytes() == noise
    assert real("fs", "get", "noise").returncode == 2
    assert real("fs", "get", "noise", "-f").returncode == 0
    assert sorted(path.name for path in work.iterdir()) == ["back", "noise"]
    for text in ("one\ntwo\n", "one\n2\n"):
        real("fs", "put", "-", "t", stdin=text)
    assert real("fs", "diff", "t").stdout == (
        "--- t (version 1)\n+++ t (version 2)\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    )
    assert real("fs", "diff", "t", "1", "1").stdout == ""
    real("fs", "rm", "t")
    assert real("fs", "cat", "t").returncode == 5
    assert real("fs", "rollback", "t").stdout == "t version 4\n"
    assert real("fs", "cat", "t").stdout == "one\n2\n"
    grant = real("fs", "share", "t", "ada").stdout.strip()
    assert real("--agent", "ada", "fs", "cat", "aiosctl:/t").stdout == "one\n2\n"
    assert real("fs", "revoke", grant).returncode == 0
    assert real("--agent", "ada", "fs", "cat", "aiosctl:/t").returncode == 4


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    """While a file comes from a pipe that doesn't end."""
    with served(tmp_path) as daemon:
        process = subprocess.Popen(
            command("fs", "put", "-", "endless"), env=environment(daemon.config.socket),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        tmp = tmp_path / "state/storage/tmp"
        until = time.monotonic() + LIMIT_S
        while not list(tmp.iterdir()):
            assert time.monotonic() < until
            process.stdin.write(b"x" * 100_000)
            process.stdin.flush()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130
        while list(tmp.iterdir()):
            assert time.monotonic() < until
        roots = list((tmp_path / "state/storage/agents").rglob("*"))
        assert [path for path in roots if path.is_file()] == []


def test_ctrl_c_in_a_get_leaves_no_local_file(peer: Peer, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from aiosctl import transfer\n"
        "from pathlib import Path\n"
        "with transfer.local_target(Path(sys.argv[1]), replaces=False) as out:\n"
        "    out.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")],
        env=environment(peer.path), capture_output=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode != 0
    assert [*tmp_path.glob("*file*"), *tmp_path.glob(".file*")] == []
