"""Starting confined programs and ending them: what works under confinement, and what is cleared."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import uvloop

from aiosd.confine import (
    PIPE,
    STDOUT,
    Bounds,
    ConfineError,
    Confinement,
    Grant,
    cgroups,
    landlock,
    spawn,
)
from tests.confine.harness import WAIT_S, in_a_loop

if landlock.abi() == 0:
    pytest.skip("this kernel has no Landlock", allow_module_level=True)


async def output(
    argv: Sequence[str], confinement: Confinement | None = None, cwd: str | None = None
) -> tuple[str, str]:
    """What a program said and how it ended; nothing of it is left."""
    async with asyncio.timeout(WAIT_S):
        process = await spawn(
            argv, confinement or Confinement(), stdout=PIPE, stderr=STDOUT, cwd=cwd
        )
        try:
            assert process.stdout is not None
            said = await process.stdout.read()
            status = await process.wait()
        finally:
            await process.end(0)
    assert not Path(process.tmp_dir).parent.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return said.decode(), str(status)


@in_a_loop
async def test_a_program_runs_in_a_private_directory_with_a_clean_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "of the daemon")
    confinement = Confinement(env={"GIVEN": "to it"})
    said, ended = await output(["sh", "-c", 'pwd; echo "$HOME $TMPDIR"; env'], confinement)
    lines = said.splitlines()
    assert ended == "exit code 0"
    assert lines[1] == f"{lines[0]} {lines[0]}"
    assert "GIVEN=to it" in lines
    assert "SECRET" not in said


@in_a_loop
async def test_a_program_that_is_not_there_is_not_run() -> None:
    with pytest.raises(ConfineError, match="nope can't be run: it is not in /usr/local/bin:"):
        await spawn(["nope"], Confinement())
    with pytest.raises(ConfineError, match="/usr/bin can't be run: /usr/bin is no file"):
        await spawn(["/usr/bin"], Confinement())
    with pytest.raises(ConfineError, match="it is no command"):
        await spawn([], Confinement())


@in_a_loop
async def test_what_can_not_be_confined_is_not_run(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(ConfineError, match=f"granted path {gone}: No such file"):
        await spawn(["true"], Confinement(Grant(read=(gone,))), stdin=PIPE, stdout=PIPE)
    with pytest.raises(ConfineError, match="granted path 'here': it must be absolute"):
        await spawn(["true"], Confinement(Grant(write=("here",))))
    with pytest.raises(ConfineError, match="No such file"):
        await spawn(["true"], Confinement(), cwd=gone)


@in_a_loop
async def test_no_grant_reaches_what_is_hidden(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "link").symlink_to(state)
    for granted in (tmp_path, state, state / "x", tmp_path / "link"):
        with pytest.raises(ConfineError, match="the daemon's own"):
            await spawn(["true"], Confinement(Grant(read=(str(granted),)), hidden=(str(state),)))


@in_a_loop
async def test_python_shells_and_what_they_start_work() -> None:
    code = "import subprocess, json; print(subprocess.check_output(['echo', 'a child']).decode())"
    said, ended = await output([sys.executable, "-c", code])
    assert (said, ended) == ("a child\n\n", "exit code 0")
    said, ended = await output(["sh", "-c", "echo one | cat; (echo two) & wait; exit 3"])
    assert (said, ended) == ("one\ntwo\n", "exit code 3")


@in_a_loop
async def test_streams_carry_both_ways() -> None:
    async with asyncio.timeout(WAIT_S):
        process = await spawn(["cat"], Confinement(), stdin=PIPE, stdout=PIPE)
        async with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"a line\n")
            await process.stdin.drain()
            assert await process.stdout.readline() == b"a line\n"
            process.stdin.close()
            assert (await process.wait()).is_ok


def test_it_works_on_the_loop_that_the_daemon_uses() -> None:
    async def talk() -> None:
        process = await spawn(["cat"], Confinement(), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        async with asyncio.timeout(WAIT_S), process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"x" * 200_000)
            process.stdin.write_eof()
            assert await process.stdout.read() == b"x" * 200_000
            assert (await process.wait()).is_ok
        with pytest.raises(ConfineError, match="No such file"):
            await spawn(["true"], Confinement(), cwd="/nowhere", stdin=PIPE, stdout=PIPE)

    uvloop.run(talk())


@in_a_loop
async def test_arguments_and_environment_arrive_as_they_were() -> None:
    words = "é 漢 \udcff $HOME 'x'\n"
    argv = ["printf", "%s|", words, "", "last"]
    process = await spawn(argv, Confinement(), stdout=PIPE)
    async with process:
        assert process.stdout is not None
        assert await process.stdout.read() == f"{words}||last|".encode(errors="surrogateescape")
    said, _ = await output(["sh", "-c", 'echo "$X"'], Confinement(env={"X": "é 漢"}))
    assert said == "é 漢\n"


@in_a_loop
async def test_only_descriptors_that_were_passed_are_open() -> None:
    mine, other = os.pipe(), os.pipe()
    os.set_inheritable(other[0], True)
    code = (
        "import os\n"
        "for fd in range(3, 200):\n"
        "    try: os.fstat(fd); print(fd)\n"
        "    except OSError: pass\n"
    )
    async with asyncio.timeout(WAIT_S):
        process = await spawn(
            [sys.executable, "-c", code], Confinement(), stdout=PIPE, pass_fds=(mine[1],)
        )
        async with process:
            assert process.stdout is not None
            assert await process.stdout.read() == f"{mine[1]}\n".encode()
    for fd in (*mine, *other):
        os.close(fd)


@in_a_loop
async def test_end_asks_first_and_kills_who_does_not_listen() -> None:
    listens = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    for script, grace_s, ended in (
        (listens, WAIT_S, "exit code 7"),
        (deaf, 0.2, "ended by SIGKILL"),
    ):
        async with asyncio.timeout(WAIT_S):
            process = await spawn(["sh", "-c", script], Confinement(), stdout=PIPE)
            try:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            finally:
                assert str(await process.end(grace_s)) == ended
            assert str(await process.end(grace_s)) == ended


@in_a_loop
async def test_a_cancelled_end_still_ends_it() -> None:
    deaf = "trap '' TERM; echo ready; sleep 999"
    async with asyncio.timeout(WAIT_S):
        process = await spawn(["sh", "-c", deaf], Confinement(), stdout=PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await process.end(WAIT_S)
        assert (await process.wait()).signal == signal.SIGKILL
        await process.end()
    assert not os.path.exists(process.tmp_dir)  # noqa: ASYNC240, PTH110 - it is a test


@in_a_loop
async def test_a_signal_reaches_all_of_it() -> None:
    child = "trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.05; done"
    script = f'trap : USR1; sh -c "{child}" & while :; do wait; done'
    async with asyncio.timeout(WAIT_S):
        process = await spawn(["sh", "-c", script], Confinement(), stdout=PIPE)
        async with process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            process.signal(signal.SIGUSR1)
            assert await process.stdout.readline() == b"child\n"
        process.signal(signal.SIGUSR1)  # it has ended: nobody gets it


@in_a_loop
async def test_bounds_are_kept() -> None:
    bounds = Bounds(memory_bytes=200 * 2**20, n_files=20, file_bytes=1000, cpu_s=1)
    bounded = Confinement(bounds=bounds)
    said, ended = await output([sys.executable, "-c", "x = bytearray(10**9)"], bounded)
    assert "MemoryError" in said
    said, ended = await output(["sh", "-c", "exec head -c 2000 /dev/zero >f"], bounded)
    assert ended == "ended by SIGXFSZ: a file of it grew too large"
    said, ended = await output(["sh", "-c", "while :; do :; done"], bounded)
    assert ended == "ended by SIGXCPU: its CPU time is used up"
    said, ended = await output(["sh", "-c", "ulimit -n"], bounded)
    assert said == "20\n"


@in_a_loop
async def test_all_of_it_together_gets_its_share_of_a_core() -> None:
    at = cgroups.place()
    if at.cpu is None:
        pytest.skip(f"no cgroup with a controller cpu is writable: {at.why_not}")
    before = {each.name for each in at.cpu.glob("aiosd-*")}
    bounded = Confinement(bounds=Bounds(cpu_percent=20))
    async with await spawn(["sh", "-c", "while :; do :; done"], bounded):
        (group,) = [each for each in at.cpu.glob("aiosd-*") if each.name not in before]
        stat = group / "cpu.stat"
        while not re.search(r"nr_throttled [1-9]", stat.read_text()):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)


@in_a_loop
async def test_root_runs_it_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        with pytest.raises(ConfineError, match="only root can run a process as uid 65534"):
            await spawn(["true"], Confinement(), uid=65534)
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)  # noqa: PTH101, S103
        monkeypatch.setattr(tempfile, "tempdir", place)
        argv = ["sh", "-c", "id -u; id -G; touch mine"]
        process = await spawn(argv, Confinement(), stdout=PIPE, stderr=STDOUT, uid=65534)
        async with process:
            assert process.stdout is not None
            said = (await process.stdout.read()).decode().split("\n")
            assert (await process.wait()).is_ok, said
        assert said[0] == "65534"
        assert "0" not in said[1].split()
        assert os.listdir(place) == []  # noqa: PTH208


@in_a_loop
async def test_root_has_no_capabilities_in_it() -> None:
    code = "print([l.split()[1] for l in open('/proc/self/status') if l[:3] == 'Cap'])"
    said, _ = await output([sys.executable, "-c", code])
    assert set(said.strip("[]\n").replace("'", "").split(", ")) == {"0" * 16}


@pytest.mark.parametrize(
    ("program", "script", "says"),
    [
        (
            "git",
            "git init -q x && cd x && echo a > f && git add f && git -c user.name=a -c "
            "user.email=a@b commit -qm 'a change' && git log --format=%s && git status --short",
            "a change\n",
        ),
        (
            "node",
            'node -e \'console.log(require("child_process").execSync("echo a child") + "")\'',
            "a child\n\n",
        ),
        ("bash", "bash -c 'cat <(echo a pipe) && cp /usr/bin/true t && ./t && echo ran'", None),
        (
            "gcc",
            "echo 'int main() { return 7; }' > a.c && gcc a.c && { ./a.out; echo $?; }",
            "7\n",
        ),
    ],
    ids=["git", "node", "bash", "gcc"],
)
@in_a_loop
async def test_programs_as_they_are_used_work(program: str, script: str, says: str | None) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here")
    said, ended = await output(["sh", "-c", script])
    assert (said, ended) == (says or "a pipe\nran\n", "exit code 0")
