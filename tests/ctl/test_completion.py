"""Completion in real shells: commands, options, and the ids that the daemon knows now."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.conftest import Ctl, command, environment
from tests.ctl.peer import Peer

LIMIT_S = 60
NO_SETTINGS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with an `aiosctl` for the PATH."""
    program = tmp_path / "bin" / "aiosctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m aiosctl "$@"\n')
    program.chmod(0o755)
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            command("completion", shell),
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
            env=environment("/nowhere"),
        )
        (tmp_path / shell).write_text(done.stdout)
    return tmp_path


def run(shell: str, script: str, peer: Peer, home: Path) -> list[str]:
    """What the script prints, a line each, without what a tool adds to explain it."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    env = environment(peer.path)
    done = subprocess.run(
        [program, *NO_SETTINGS[shell], "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
        env=env | {"PATH": f"{home / 'bin'}{os.pathsep}{env['PATH']}", "HOME": str(home)},
    )
    assert done.stderr == ""
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def bash(words: str, peer: Peer, home: Path) -> list[str]:
    """What bash would offer for the last of these words."""
    n_last = len(words.split(" ")) - 1
    return run(
        "bash",
        f"source {home / 'bash'}\n"
        f"complete -p aiosctl >/dev/null || exit 9\n"
        f"COMP_WORDS=({words}) COMP_CWORD={n_last}\n"
        "_aiosctl_completion aiosctl\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n',
        peer,
        home,
    )


def fish(words: str, peer: Peer, home: Path) -> list[str]:
    return run("fish", f"source {home / 'fish'}; complete -C 'aiosctl {words}'", peer, home)


def test_bash_completes_commands_options_and_ids(peer: Peer, home: Path) -> None:
    assert bash("aiosctl jo", peer, home) == ["job", "journal"]
    assert bash("aiosctl job pa", peer, home) == ["pause"]
    assert bash("aiosctl run --temp", peer, home) == ["--temperature"]
    assert bash("aiosctl job kill j", peer, home) == ["j1", "j2", "j3"]
    assert bash("aiosctl logs --job j", peer, home) == ["j1", "j2", "j3"]
    assert bash("aiosctl run --context c", peer, home) == ["c1", "c2"]
    assert bash("aiosctl completion f", peer, home) == ["fish"]


def test_fish_completes_commands_and_ids(peer: Peer, home: Path) -> None:
    assert fish("job pa", peer, home) == ["pause"]
    assert fish("job kill j", peer, home) == ["j1", "j2", "j3"]


def test_zsh_completes_commands_and_ids(peer: Peer, home: Path) -> None:
    # Its line editor needs a terminal: stand-ins print what the script hands over to it.
    stand_ins = (
        "compdef() { :; }\n"
        '_describe() { print -rl -- "${(@P)3%%:*}"; }\n'
        'compadd() { shift 3; print -rl -- "$@"; }\n'
    )

    def zsh(words: str) -> list[str]:
        script = (
            f"{stand_ins}source {home / 'zsh'}\n"
            f"words=({words}) CURRENT={len(words.split(' '))}\n_aiosctl_completion\n"
        )
        return [word for word in run("zsh", script, peer, home) if word]

    assert zsh("aiosctl job pa") == ["pause"]
    assert zsh("aiosctl job kill j") == ["j1", "j2", "j3"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(ctl: Ctl, shell: str) -> None:
    done = ctl("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_AIOSCTL_COMPLETE" in done.stdout


def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(
    peer: Peer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.path = Path("/nowhere.sock")
    assert [word for word in bash("aiosctl job kill j", peer, home) if word] == []
