"""Starting confined processes, and ending them with all that they started.

A process leads a session and a group of its own that nothing in it can leave (seccomp refuses
setsid and setpgid), so a signal to the group reaches all.  When the leader has died, the group is
killed before the leader is reaped: until then its number can't be anybody else's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from aiosd.confine import plan as plans
from aiosd.confine.disk import Growth
from aiosd.confine.identity import members
from aiosd.confine.model import ConfineError, Confinement, ExitStatus

STREAM_LIMIT_BYTES = 2**16
GONE_WITHIN_S = 5.0  # for killed processes to be gone: longer only if the kernel can't end them
TURN_S = 0.02
# Making and removing directories and groups; they block for moments.
_threads = ThreadPoolExecutor(4, thread_name_prefix="confine")
_looking = ThreadPoolExecutor(1, thread_name_prefix="confine-disk")  # at what they wrote


class Process:
    """A confined process and all that it starts.  Who spawned it calls end(), in a `finally`."""

    def __init__(
        self, popen: subprocess.Popen[bytes], prepared: plans.Prepared, growth: Growth | None
    ) -> None:
        self._popen = popen
        self._prepared = prepared
        self._growth = growth
        if growth is not None:
            growth.pgid = popen.pid
        self._next_look: asyncio.TimerHandle | None = None
        self._looked: asyncio.Future[str | None] | None = None
        self._ended_for: str | None = None
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        self._cleared: Future[None] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._unconnected = [p for p in (popen.stdin, popen.stdout, popen.stderr) if p is not None]
        self.pid = popen.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._loop.add_reader(self._pidfd, self._on_exit)
        if growth is not None:
            self._look(growth)

    @property
    def tmp_dir(self) -> str:
        """Its private directory, which is its HOME and TMPDIR and goes with it."""
        return self._prepared.tmp_dir

    @property
    def status(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> ExitStatus:
        """Until it has ended.  What it started and left behind is killed with it."""
        return await asyncio.shield(self._exited)

    def signal(self, number: int) -> None:
        """To it and all that it started; nothing if it has ended."""
        if not self._exited.done():
            os.killpg(self.pid, number)

    async def end(self, grace_s: float = 2.0) -> ExitStatus:
        """TERM, then after grace_s KILL, to all of it; when this returns, nothing of it is left:
        no process, no private directory, no cgroup.  Cancelled, it kills at once, and the rest
        is done in a thread.  May be called again."""
        try:
            if not self._exited.done() and grace_s > 0:
                self.signal(signal.SIGTERM)
                self.signal(signal.SIGCONT)
                async with asyncio.timeout(grace_s):
                    await asyncio.shield(self._exited)
        except TimeoutError:
            pass
        finally:
            self.signal(signal.SIGKILL)
            self._close()
            if self._cleared is None:
                self._cleared = Future()
                _threads.submit(_take_turns, self._clearing(), self._cleared)
        await asyncio.shield(asyncio.wrap_future(self._cleared))
        return await asyncio.shield(self._exited)

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end(0)

    def _on_exit(self) -> None:
        for look in (self._next_look, self._looked):
            if look is not None:
                look.cancel()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        os.killpg(self.pid, signal.SIGKILL)  # it is not reaped: the number is still its own
        code = self._popen.wait()
        if code < 0:
            status = ExitStatus(None, -code, self._reason(-code))
        else:
            status = ExitStatus(code, None, self._reason(None))
        if not self._exited.done():
            self._exited.set_result(status)

    def _look(self, growth: Growth) -> None:
        """At what it wrote, in a thread, and again after a while."""
        self._looked = asyncio.wrap_future(_looking.submit(growth.look))
        self._looked.add_done_callback(self._on_looked)

    def _on_looked(self, looked: asyncio.Future[str | None]) -> None:
        if self._exited.done() or looked.cancelled():
            return
        self._ended_for = looked.result()
        if self._ended_for is not None:
            self.signal(signal.SIGKILL)
        elif self._growth is not None:
            self._next_look = self._loop.call_later(self._growth.next_s, self._look, self._growth)

    def _reason(self, number: int | None) -> str | None:
        if self._ended_for is not None:
            return self._ended_for
        if number == signal.SIGXCPU:
            return "its CPU time is used up"
        if number == signal.SIGXFSZ:
            return "a file of it grew too large"
        return self._prepared.group.reason() if self._prepared.group else None

    def _clearing(self) -> Iterator[None]:
        """In a thread: wait until the group is empty; in steps, remove what was made for it."""
        limit = time.monotonic() + GONE_WITHIN_S
        pause_s = 0.001
        while _is_alive(self.pid) and time.monotonic() < limit:
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)
        yield from self._prepared.clearing()

    def _close(self) -> None:
        for transport in self._transports:
            transport.close()
        for pipe in self._unconnected:
            pipe.close()
        self._unconnected.clear()

    async def _connect(self, limit: int) -> None:
        """Streams for the pipes that were asked for."""
        if self._popen.stdin is not None:
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            writing, _ = await self._loop.connect_write_pipe(lambda: protocol, self._popen.stdin)
            self._connected(self._popen.stdin, writing)
            self.stdin = asyncio.StreamWriter(writing, protocol, None, self._loop)
        self.stdout = await self._reader(self._popen.stdout, limit)
        self.stderr = await self._reader(self._popen.stderr, limit)

    async def _reader(self, pipe: IO[bytes] | None, limit: int) -> asyncio.StreamReader | None:
        if pipe is None:
            return None
        reader = asyncio.StreamReader(limit)
        reading, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._connected(pipe, reading)
        return reader

    def _connected(self, pipe: IO[bytes], transport: asyncio.BaseTransport) -> None:
        self._unconnected.remove(pipe)
        self._transports.append(transport)


async def spawn(
    argv: Sequence[str],
    confinement: Confinement,
    *,
    cwd: str | None = None,
    stdin: int | IO[Any] = DEVNULL,
    stdout: int | IO[Any] = DEVNULL,
    stderr: int | IO[Any] = DEVNULL,
    pass_fds: Sequence[int] = (),
    executable: str | None = None,
    uid: int | None = None,
    limit: int = STREAM_LIMIT_BYTES,
) -> Process:
    """Start a program, confined.  Raises ConfineError, and then nothing runs.

    cwd               its private directory where none is given
    stdin and so on   PIPE, DEVNULL, STDOUT (stderr only), or a descriptor
    pass_fds          kept open, under the same numbers
    executable        the file to run where argv[0] is only what it is called
    uid               run as this user, where the daemon is root
    limit             bytes that a stream buffers, and the longest line of readline()
    """
    loop = asyncio.get_running_loop()
    making = _threads.submit(
        plans.prepare,
        argv,
        confinement,
        cwd=cwd,
        executable=executable,
        uid=uid,
        keep=tuple(pass_fds),
    )
    try:
        prepared = await asyncio.shield(asyncio.wrap_future(making))
    except asyncio.CancelledError:
        making.add_done_callback(_undo)
        raise
    bound = confinement.bounds.disk_bytes
    growth = None if bound is None else Growth(prepared.tmp_dir, confinement.grant.write, bound)
    try:
        popen, said_fd = _launch(prepared, stdin, stdout, stderr, tuple(pass_fds))
        try:
            process = Process(popen, prepared, growth)
        except OSError:
            os.close(said_fd)
            _kill(popen)
            raise
    except BaseException as error:
        _threads.submit(prepared.clear)
        if isinstance(error, OSError):  # out of descriptors or processes
            raise ConfineError(f"the launcher could not be started: {error}") from error
        raise
    try:
        words = await _read_all(loop, said_fd)
        if words:
            raise ConfineError(f"{argv[0]} was not run: {words}")
        await process._connect(limit)
    except BaseException:
        await process.end(0)
        raise
    return process


def _launch(
    prepared: plans.Prepared,
    stdin: int | IO[Any],
    stdout: int | IO[Any],
    stderr: int | IO[Any],
    pass_fds: tuple[int, ...],
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the launcher: about 1 ms, as in asyncio's own.  The descriptor is what it says."""
    said_fd, status_fd = os.pipe()
    try:
        plan_fd = os.memfd_create("plan", os.MFD_CLOEXEC)
        try:
            prepared.plan["status"] = status_fd
            os.write(plan_fd, plans.dump(prepared.plan))
            popen = subprocess.Popen(
                plans.launch(plan_fd),
                env={},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                bufsize=0,
                pass_fds=(*pass_fds, status_fd, plan_fd),
                start_new_session=True,
            )
        finally:
            os.close(plan_fd)
    except BaseException:
        os.close(said_fd)
        raise
    finally:
        os.close(status_fd)
    return popen, said_fd


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """One that nobody watches."""
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout, popen.stderr):
        if pipe is not None:
            pipe.close()


async def _read_all(loop: asyncio.AbstractEventLoop, fd: int) -> str:
    """What the launcher says until it has become the program: nothing, or what failed."""
    os.set_blocking(fd, False)
    said = b""
    try:
        while True:
            readable = loop.create_future()
            loop.add_reader(fd, _wake, readable)
            try:
                await readable
            finally:
                loop.remove_reader(fd)
            piece = os.read(fd, 4096)
            if not piece:
                return said.decode(errors="replace")
            said += piece
    finally:
        os.close(fd)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _take_turns(steps: Iterator[None], done: Future[None]) -> None:
    """In a thread: go on for a moment, then let others first: who left very many files behind
    may not keep everybody's processes from starting and ending."""
    until_s = time.monotonic() + TURN_S
    try:
        for _ in steps:
            if time.monotonic() > until_s:
                _threads.submit(_take_turns, steps, done)
                return
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)


def _undo(making: Future[plans.Prepared]) -> None:
    """Nobody waits for it any more."""
    if making.exception() is None:
        making.result().clear()


def _is_alive(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):  # gone, and perhaps another's number by now
        return False
    return any(members(pgid))  # zombies don't count: their new parent may be slow to notice


__all__ = ["DEVNULL", "PIPE", "STDOUT", "Process", "spawn"]
