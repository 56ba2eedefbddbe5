"""The life of one agent's process: started, heard, started again, ended.

Rule 1: whoever wants it to end says why, once, with ask_end(); live() does it and nothing else
does, so that its end is told once and nothing of it is left.
Rule 2: each start has a connection of its own, whose identity is the agent's and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aios_sdk
from aios_sdk.errors import QuotaExceeded
from aiosd.confine import (
    PIPE,
    Bounds,
    ConfineError,
    Confinement,
    ExitStatus,
    Grant,
    Process,
    paths,
    spawn,
)
from aiosd.kernel.model import AgentId
from aiosd.server.generate import now_ms
from aiosd.server.session import Identity, Session
from aiosd.services.access import Target
from aiosd.services.processes.model import Attempts, Spec, State, Why
from aiosd.services.processes.output import Output, Source

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon

READ_BYTES = 4096  # at once: as many lines take the loop some milliseconds
LINES_AT_ONCE = 16
OTHERS_SHARE = 10  # others have so much more of the loop than what processes write
LEAST_WAIT_S = 0.002
LAST_WORDS_S = 5.0  # for its pipes and its connection to end, when the process is gone
N_FILES = 1024  # open descriptors of each of its processes, as a login has


@dataclass(eq=False, slots=True)
class AgentProcess:
    """One of agent.spawn's processes, from its start to the end of its restarts, and after.

    spawned_by  the agent that did; None: an earlier daemon did
    parent      that agent's process, while both run
    spawner     the connection whose end ends it; None: it was detached
    asker       the connection that spawned it, until that was told how it ended
    pid         of its last start
    started     set when the first start has worked, or not: then error says why
    """

    id: str
    agent: AgentId
    spec: Spec
    output: Output
    spawned_by: AgentId | None = None
    parent: AgentProcess | None = None
    spawner: Session | None = None
    asker: Session | None = None
    state: State = State.STARTING
    why: Why | None = None
    status: ExitStatus | None = None
    error: str | None = None
    attempts: Attempts = field(default_factory=Attempts)
    process: Process | None = None
    pid: int | None = None
    session: Session | None = None
    n_tokens: int = 0
    n_tokens_below: int = 0  # of those that it has spawned, while both run
    started_ms: int = field(default_factory=now_ms)
    ended_ms: int | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    must_end: asyncio.Event = field(default_factory=asyncio.Event)
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)
    grace_s: float = 0.0

    def ask_end(self, why: Why, grace_s: float) -> None:
        """Have it end, TERM first and KILL after grace_s; the first reason counts."""
        if self.why is None:
            self.why = why
        self.grace_s = grace_s
        self.must_end.set()
        if self.state is not State.ENDED:
            self.state = State.ENDING

    def close(self, why: Why) -> None:
        """It has ended for good: whoever waits is told."""
        self.why, self.state, self.ended_ms = why, State.ENDED, now_ms()
        self.output.finish(self.ended_ms)
        self.started.set()
        self.has_ended.set()

    def left(self) -> dict[str, int]:
        """What is left of the limits that it was given.  QuotaExceeded if one is used up."""
        left = {name: n for name, n in asdict(self.spec.limits).items() if n is not None}
        for name, used in (
            ("tokens", self.n_tokens + self.n_tokens_below),
            ("wall_s", (now_ms() - self.started_ms) // 1000),
        ):
            if name in left:
                left[name] -= used
                if left[name] <= 0:
                    raise QuotaExceeded(f"agent {self.agent.name} has no {name} left to give")
        return left

    def send(self, number: int) -> None:
        """A signal, to all that it started too; nothing if nothing runs."""
        if self.process is not None:
            self.process.signal(number)
            if number == signal.SIGTERM:
                self.process.signal(signal.SIGCONT)  # one that is stopped hears it too

    @property
    def is_to_be_told(self) -> bool:
        """Whether the connection that spawned it is there, and may still ask how it ended."""
        return self.asker is not None and not self.asker.gone.is_set()

    @property
    def own_dir(self) -> str | None:
        """The directory it may write to, while it runs."""
        return None if self.process is None else self.process.tmp_dir


async def live(daemon: Daemon, it: AgentProcess) -> None:
    """From its first start until it has ended for good."""
    wall_s = least(it.spec.limits.wall_s, daemon.config.spawn.wall_s)
    grace_s = daemon.config.spawn.grace_s
    alarm = daemon.loop.call_later(wall_s, it.ask_end, Why.WALL_TIME, grace_s) if wall_s else None
    try:
        while True:
            began_s = time.monotonic()
            it.status = await _run(daemon, it)
            it.started.set()
            if it.status is not None and it.status.reason is not None:
                mine = Target("agent", it.agent, it.agent.name)
                daemon.access.note("bounded", it.agent, "use", mine, it.status.reason)
            if it.why is not None:
                break
            again = it.attempts.delay_s(
                it.spec.restart,
                it.status,
                time.monotonic() - began_s,
                daemon.config.spawn.restarts,
            )
            if isinstance(again, Why):
                it.why = again
                break
            it.state = State.WAITING
            _tell(daemon, it, "restarts", delay_s=again)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await it.must_end.wait()
            if it.must_end.is_set():
                break
            it.state = State.STARTING
    finally:
        if alarm is not None:
            alarm.cancel()
        it.close(it.why or Why.DAEMON)
        _tell(daemon, it, "exited", why=it.why and it.why.value)


async def _run(daemon: Daemon, it: AgentProcess) -> ExitStatus | None:
    """One start and its end.  None: it could not be started; it.error says why."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        with theirs:
            process = await spawn(
                it.spec.argv,
                confinement(daemon, it.agent, it.spec, theirs.fileno()),
                cwd=it.spec.cwd,
                stdout=PIPE,
                stderr=PIPE,
                pass_fds=(theirs.fileno(),),
                executable=it.spec.program,
                uid=other_uid(it.agent.uid),
            )
    except ConfineError as error:
        ours.close()
        it.error = str(error)
        return None
    except BaseException:
        ours.close()
        raise
    it.process, it.pid, it.error = process, process.pid, None
    try:
        session = it.session = Session(daemon, Identity(it.agent, process.pid))
        await daemon.loop.connect_accepted_socket(lambda: session, ours)
        if it.state is State.STARTING:
            it.state = State.RUNNING
        it.started.set()
        _tell(daemon, it, "spawned", pid=process.pid)
        return await _until_it_ends(it, process, daemon.processes.share)
    finally:
        it.process = None
        await _leave(it, process)


async def _until_it_ends(it: AgentProcess, process: Process, share: Share) -> ExitStatus:
    """Its own end, or the one that was asked for, and all that it has written until then."""
    it.output.is_released = False
    async with asyncio.TaskGroup() as group:
        hearing = [
            group.create_task(_hear(it, "stdout", process.stdout, share)),
            group.create_task(_hear(it, "stderr", process.stderr, share)),
        ]
        asked = group.create_task(it.must_end.wait())
        ended = group.create_task(process.wait())
        await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        status = await (process.wait() if ended.done() else process.end(it.grace_s))
        _, unread = await asyncio.wait(hearing, timeout=LAST_WORDS_S)
        if unread:
            it.output.release()
            await asyncio.wait(unread, timeout=LAST_WORDS_S)
        await process.end(0)  # closes what is still open of its pipes
        return status


class Share:
    """A bounded share of the loop for what all processes write together: they may do so without
    end.  They have it in turn."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._owed_s = 0.0  # to the others

    async def take(self, work: Callable[[], None]) -> None:
        """Do a small piece of work; then, if there has been much of it, others come first."""
        async with self._turn:
            began_s = time.thread_time()
            work()
            self._owed_s += OTHERS_SHARE * (time.thread_time() - began_s)
            if self._owed_s > LEAST_WAIT_S:
                await asyncio.sleep(self._owed_s)
                self._owed_s = 0.0


async def _hear(
    it: AgentProcess, source: Source, pipe: asyncio.StreamReader | None, share: Share
) -> None:
    """What it writes, as long as anybody can write it."""
    assert pipe is not None
    while data := await pipe.read(READ_BYTES):
        for piece in _pieces(data):
            await share.take(partial(it.output.feed, source, piece, now_ms()))
            await it.output.room()


def _pieces(data: bytes) -> Iterator[bytes]:
    """A few lines at a time: what even a small log has room for beside what is unread."""
    lines = data.split(b"\n")
    for at in range(0, len(lines), LINES_AT_ONCE):
        is_last = at + LINES_AT_ONCE >= len(lines)
        yield b"\n".join(lines[at : at + LINES_AT_ONCE]) + (b"" if is_last else b"\n")


async def _leave(it: AgentProcess, process: Process) -> None:
    """Nothing of this start is left: no process, no connection, none of its calls."""
    session, it.session = it.session, None
    try:
        await process.end(0)
    finally:
        if session is not None and session.transport is not None:
            session.transport.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await session.gone.wait()


def confinement(daemon: Daemon, agent: AgentId, spec: Spec, fd: int | None) -> Confinement:
    """What holds for the process.  fd: of its connection."""
    config, limits = daemon.config.spawn, spec.limits
    given = {} if fd is None else {"AIOSD_SOCKET": f"fd:{fd}", "AIOSD_AGENT": agent.name}
    kept = hidden(daemon)
    return Confinement(
        Grant((*spec.read, *_python(kept)), spec.write, spec.is_networked),
        Bounds(
            memory_bytes=least(limits.memory_bytes, config.memory_bytes),
            n_processes=least(limits.n_processes, config.n_processes),
            n_files=N_FILES,
            file_bytes=config.file_bytes,
            cpu_s=least(limits.cpu_s, config.cpu_s),
            cpu_percent=least(limits.cpu_percent, config.cpu_percent),
            disk_bytes=least(limits.disk_bytes, config.disk_bytes),
        ),
        {"PATH": search_path(), **spec.env, **given},
        hidden=kept,
        is_resolved=True,
    )


def least(asked: int | None, configured: int) -> int | None:
    """What holds of two limits; 0 in the configuration is none."""
    return min((n for n in (asked, configured) if n), default=None)


def search_path() -> str:
    """Where a command without a slash is looked for: beside the daemon's own Python first, so
    that `python` is one that has the SDK."""
    return f"{Path(sys.executable).parent}:{paths.PATH}"


def _python(kept: tuple[str, ...]) -> list[str]:
    """Where that `python` and the SDK live: a shell may call it too.  Not where it holds what is
    kept from agents; then it can be the program itself alone."""
    sdk = Path(aios_sdk.__file__).parent.parent  # site-packages, or a checkout
    found = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sdk)}
    secret = [os.path.realpath(path) for path in kept]
    return sorted(path for path in found if not any(s.startswith(f"{path}/") for s in secret))


def hidden(daemon: Daemon) -> tuple[str, ...]:
    """What no grant may reach."""
    config = daemon.config
    return (config.state_dir, *(e.path for e in daemon.endpoints if e.path.startswith("/")))


def other_uid(uid: int) -> int | None:
    """Whom to run it as: root's daemon as its spawner's user, others as themselves."""
    return uid if os.geteuid() == 0 and uid != 0 else None


def _tell(daemon: Daemon, it: AgentProcess, event: str, **facts: object) -> None:
    exit_code = None if it.status is None else it.status.code
    daemon.telemetry.process_changed(event, it.agent, it.id, exit_code=exit_code, **facts)
