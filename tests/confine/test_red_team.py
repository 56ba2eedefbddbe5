"""Hostile programs: what they try is refused or bounded, and they end with their call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosd.confine import (
    PIPE,
    STDOUT,
    Bounds,
    Confinement,
    ExitStatus,
    Grant,
    Process,
    cgroups,
    landlock,
    spawn,
    sweep,
)
from aiosd.confine.identity import Identity, members
from tests.confine.harness import in_a_loop

if landlock.abi() == 0:
    pytest.skip("this kernel has no Landlock", allow_module_level=True)

ATTACKS = Path(__file__).with_name("attacks.py")
NUMBERS = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the attacks make calls by the numbers of x86-64"
)
# Other errors would say that the attack was made wrongly; ENOENT: no such file on this machine.
REFUSED = {f"refused: {code}" for code in ("EPERM", "EACCES", "ENOSYS", "EXDEV", "ENOENT")}
# What Landlock can refuse since its sixth version only.
SIGNALS = {"kill the daemon", "stop a sibling", "kill by pidfd"}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A daemon's things: state, sockets, another's files, itself; and a file that is granted."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "secret").write_text("secret")
    others = tmp_path / "others"
    others.write_text("words")
    readable = tmp_path / "readable"
    readable.write_text("granted")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        subprocess.Popen(["sleep", "999"]) as sibling,
    ):
        datagram.bind(str(tmp_path / "datagram"))
        yield {
            "secret": str(state / "secret"),
            "others": str(others),
            "readable": str(readable),
            "datagram": str(tmp_path / "datagram"),
            "daemon": os.getpid(),
            "sibling": sibling.pid,
            "setuid": setuid_program(tmp_path),
        }
        sibling.kill()


def setuid_program(at: Path) -> str:
    """One that would become root, if it may; where there is no compiler, `true`."""
    compiler = shutil.which("gcc")
    if compiler is None or os.geteuid() != 0:
        return "true"
    source = at / "suid.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        'int main() { puts(geteuid() == 0 && getuid() != 0 ? "root" : "still nobody"); }\n'
    )
    made = at / "suid"
    subprocess.run([compiler, "-o", made, source], check=True)
    made.chmod(0o4755)
    return str(made)


async def run(
    argv: list[str], confinement: Confinement, cwd: str | None = None
) -> tuple[str, ExitStatus, Process]:
    process = await spawn(argv, confinement, stdout=PIPE, stderr=STDOUT, cwd=cwd)
    try:
        assert process.stdout is not None
        said = (await process.stdout.read()).decode()
        status = await process.wait()
    finally:
        await process.end(0)
    return said, status, process


async def attack(group: str, target: dict[str, Any], *, is_networked: bool = False) -> None:
    """Run a group of attacks; none may have worked."""
    granted = [target["readable"], str(ATTACKS)]
    if target["setuid"] != "true":
        granted.append(target["setuid"])
    confinement = Confinement(Grant(read=tuple(granted), is_networked=is_networked))
    argv = [sys.executable, str(ATTACKS), json.dumps({**target, "group": group})]
    said, status, _ = await run(argv, confinement)
    assert status.is_ok, said
    worked = {name: what for name, what in json.loads(said).items() if what not in REFUSED}
    if landlock.abi() < 6:
        worked = {name: what for name, what in worked.items() if name not in SIGNALS}
    if target["setuid"] == "true":
        worked.pop("setuid program", None)
    assert worked == {}


@NUMBERS
@in_a_loop
async def test_no_file_beyond_the_grant_is_reached(target: dict[str, Any]) -> None:
    await attack("files", target)
    assert Path(target["secret"]).read_text() == "secret"  # noqa: ASYNC240 - it is a test


@NUMBERS
@in_a_loop
async def test_no_other_process_and_nothing_of_the_kernel_is_reached(
    target: dict[str, Any],
) -> None:
    await attack("processes", target)


@NUMBERS
@pytest.mark.parametrize("group", ["network", "networked"])
def test_no_socket_beyond_the_grant_is_made(group: str, target: dict[str, Any]) -> None:
    in_a_loop(attack)(group, target, is_networked=group == "networked")


STAY = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def stay(name):
    print(name, os.getpid(), flush=True)
    signal.pause()
def leave():
    try: os.setsid()
    except OSError: pass
if os.fork() == 0:  # a daemon's two forks
    leave()
    if os.fork() == 0:
        stay("daemon")
    os._exit(0)
if os.fork() == 0:
    os.close(0)
    stay("deaf")
subprocess.Popen(["sh", "-c", "trap '' TERM HUP; echo nohup $$; while :; do sleep 1; done"])
"""


@pytest.mark.parametrize("leader", ["stays", "leaves"])
@in_a_loop
async def test_nothing_outlives_its_call(leader: str) -> None:
    code = STAY + ("stay('leader')" if leader == "stays" else "")
    n_lines = 4 if leader == "stays" else 3
    process = await spawn([sys.executable, "-c", code], Confinement(), stdout=PIPE)
    try:
        assert process.stdout is not None
        lines = (await process.stdout.read()).splitlines() if leader == "leaves" else []
        while len(lines) < n_lines and leader == "stays":
            lines.append(await process.stdout.readline())
    finally:
        await process.end(0.1)
    pids = [int(line.split()[1]) for line in lines]
    assert {*pids, process.pid} & {pid for pid in pids if Identity.of(pid)} == set()
    assert list(members(process.pid)) == []


BOMB = """
import os, signal
while True:
    try: os.fork()
    except OSError: break
print("full", flush=True)
signal.pause()
"""


@in_a_loop
async def test_a_fork_bomb_is_bounded_and_ends_with_its_call() -> None:
    if os.geteuid() == 0 and not cgroups.place().pids:
        pytest.skip(f"root's processes need a cgroup: {cgroups.place().why_not}")
    bounds = Bounds(n_processes=24)
    process = await spawn(
        [sys.executable, "-c", BOMB], Confinement(bounds=bounds), stdout=PIPE, stderr=STDOUT
    )
    try:
        assert process.stdout is not None
        assert b"full" in await process.stdout.readline()
        n_processes = len(list(members(process.pid)))
    finally:
        await process.end(0)
    assert list(members(process.pid)) == []
    if cgroups.place().pids:
        assert n_processes <= 24


@in_a_loop
async def test_memory_of_all_together_is_bounded() -> None:
    if not cgroups.place().memory:
        pytest.skip(f"the memory of several processes needs a cgroup: {cgroups.place().why_not}")
    code = (  # shared, which RLIMIT_DATA doesn't count
        "import mmap, os\n"
        "os.fork()\n"
        "for _ in range(4): mmap.mmap(-1, 40 << 20).write(b'x' * (40 << 20))\n"
        "os.wait()"
    )
    bounds = Bounds(memory_bytes=64 << 20)
    _, status, _ = await run([sys.executable, "-c", code], Confinement(bounds=bounds))
    assert status.reason == "out of its memory"


ANOTHER = "i=$((i+1)); head -c 1000000 /dev/zero > $i"
NAMELESS = """
import os, signal
held = []
while len(held) < 20:
    held.append(open("x", "wb", 0)); os.unlink("x")
    held[-1].write(bytes(4000000))
signal.pause()
"""
MAPPED = """
import mmap, os, signal
held = []
while len(held) < 20:
    with open("x", "w+b") as file:
        file.write(bytes(4000000))
        held.append(mmap.mmap(file.fileno(), 4000000))
    os.unlink("x")
signal.pause()
"""


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["sh", "-c", f"while :; do {ANOTHER}; done"], "it wrote "),
        ([sys.executable, "-c", NAMELESS], "it wrote "),
        ([sys.executable, "-c", MAPPED], "it wrote "),
        (
            ["sh", "-c", "mkdir closed; chmod 300 closed; mkdir -m 300 shut; sleep 999"],
            "it closed a",
        ),
    ],
    ids=["files", "removed", "mapped", "closed"],
)
@in_a_loop
async def test_a_full_disk_is_not_to_be_had(argv: list[str], reason: str) -> None:
    if reason == "it closed a" and os.geteuid() == 0:
        pytest.skip("no directory is closed to root")
    bounds = Bounds(disk_bytes=5_000_000)
    _, status, process = await run(argv, Confinement(bounds=bounds))
    assert status.signal == signal.SIGKILL
    assert (status.reason or "").startswith(reason)
    assert not Path(process.tmp_dir).exists()  # noqa: ASYNC240 - it is a test


@in_a_loop
async def test_directories_deeper_than_a_path_are_removed() -> None:
    code = (
        "import os\n"
        "for _ in range(200): os.mkdir('d' * 50); os.chdir('d' * 50)\n"
        "open('f', 'w').close()"
    )
    _, status, process = await run([sys.executable, "-c", code], Confinement())
    assert status.is_ok
    assert not Path(process.tmp_dir).parent.exists()


DAEMON = """
import asyncio, sys
from aiosd.confine import Confinement, PIPE, spawn
async def main():
    process = await spawn(["sh", "-c", "sleep 999 & wait"], Confinement())
    print(process.pid, process.tmp_dir, flush=True)
    await asyncio.sleep(999)
asyncio.run(main())
"""


def test_what_a_killed_daemon_leaves_is_swept() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": tempfile.gettempdir(), "PYTHONPATH": ":".join(sys.path)},
    ) as daemon:
        assert daemon.stdout is not None
        pid, tmp_dir = daemon.stdout.readline().split()
        assert sweep() == 0  # it lives
        daemon.kill()
        daemon.wait()
        limit = time.monotonic() + 30
        while Identity.of(int(pid)) is not None:  # its leader gets PDEATHSIG
            assert time.monotonic() < limit
        assert sweep() == 1
    assert not Path(tmp_dir).exists()
    while any(members(int(pid))):
        assert time.monotonic() < limit


@in_a_loop
async def test_a_cancelled_start_leaves_nothing() -> None:
    for n_turns in range(0, 12, 3):
        task = asyncio.get_running_loop().create_task(spawn(["sleep", "999"], Confinement()))
        for _ in range(n_turns):
            await asyncio.sleep(0.003)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).end(0)
