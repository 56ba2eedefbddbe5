"""Quick to start: what is imported, and that help needs no daemon."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import click
import pytest

from aiosctl.__main__ import ENTRIES, aiosctl
from tests.ctl.conftest import Ctl, command, environment
from tests.ctl.peer import Peer

HEAVY = ("asyncio", "rich", "numpy", "jsonschema", "readline", "importlib.metadata", "llama_cpp")


@pytest.mark.parametrize("args", ["['ping']", "['run', 'x']", "['ps', '--json']", "['--help']"])
def test_a_command_in_a_pipe_imports_nothing_heavy(peer: Peer, args: str) -> None:
    script = f"""
import sys
from aiosctl.__main__ import main
code = main({args})
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=environment(peer.path),
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_imports_no_command(ctl: Ctl) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "aiosctl", "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=environment("/nowhere"),
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert not imported & {entry.module for entry in ENTRIES.values()}
    assert "aios_sdk.client" not in imported


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every command there is."""
    found: list[tuple[str, ...]] = []
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command_ = group.get_command(ctx, name)
            assert command_ is not None, name
            found.append((*path, name))
            if isinstance(command_, click.Group):
                found += commands(command_, (*path, name))
    return found


def test_every_command_has_a_help_text_that_names_its_options() -> None:
    for path in commands(aiosctl):
        group: click.Command = aiosctl
        with click.Context(aiosctl, info_name="aiosctl") as ctx:
            for name in path:
                assert isinstance(group, click.Group)
                found = group.get_command(ctx, name)
                assert found is not None
                group = found
            assert group.help, path
            for param in group.params:
                assert not isinstance(param, click.Option) or param.help, (path, param.name)


def test_help_lists_every_command(ctl: Ctl) -> None:
    out = ctl("--help").stdout
    for name, entry in ENTRIES.items():
        assert f"  {name} " in out
        assert entry.summary in out


def test_no_arguments_show_the_help_as_an_error(ctl: Ctl) -> None:
    done = ctl()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: aiosctl")


def test_version_works_with_and_without_a_daemon(ctl: Ctl) -> None:
    assert ctl("version").stdout == "aiosctl   0.1.0\naios-sdk  0.1.0\naiosd     0.1.0\n"
    alone = ctl("version", env={"AIOSD_SOCKET": "/nowhere.sock"})
    assert alone.returncode == 0
    assert alone.stdout.endswith("aiosd     no daemon answers\n")
    assert ctl("--version").stdout == f"aiosctl {version('aiosd')}\n"


def test_ping_times_the_daemon(ctl: Ctl, peer: Peer) -> None:
    assert ctl("ping").stdout.startswith("aiosd 0.1.0: ")
    *pings, figures = ctl("ping", "-c", "3", "-i", "0").stdout.splitlines()
    assert len(pings) == 3
    assert figures.startswith("3 calls: min ")
    assert len(peer.asked("sys.ping")) == 4


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(ctl: Ctl, shell: str) -> None:
    done = ctl("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_AIOSCTL_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("aiosctl con", ["context"]),
        ("aiosctl job kill ", ["j1", "j2", "j3"]),
        ("aiosctl agent info a", ["alice"]),
        ("aiosctl run --context ", ["c1", "c2"]),
        ("aiosctl policy --policy ", ["fifo", "rr", "fair"]),
    ],
)
def test_completion_offers_commands_and_live_ids(
    peer: Peer, words: str, offered: list[str]
) -> None:
    env = environment(peer.path)
    assert complete(words, env) == offered


def test_completion_without_a_daemon_offers_nothing_and_says_nothing() -> None:
    assert complete("aiosctl job kill ", environment("/nowhere.sock")) == []


def complete(words: str, env: dict[str, str]) -> list[str]:
    """What bash would offer after these words."""
    done = subprocess.run(
        command(),
        env=env
        | {
            "_AIOSCTL_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stderr == ""
    return [line.split(",", 1)[1] for line in done.stdout.splitlines() if line]
