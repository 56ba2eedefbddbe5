"""One MCP server: a source of tools that is started, watched, and started anew when it dies.

Rule 1: one task owns a connection, from spawning to the last wait; close() ends that task.
Rule 2: a call is sent once.  Nobody knows what a server did that died over it, so the call fails; a
call that finds no connection waits for the next one.
Rule 3: a server that fails is tried again ever more slowly, with jitter, and never given up.
"""

from __future__ import annotations

import asyncio
import enum
import importlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from aiosd.confine import PIPE, Bounds, Confinement, Grant, Process, spawn
from aiosd.kernel.model import AgentId
from aiosd.mcp_config import McpConfig
from aiosd.services.tools.mcp_trouble import ServerLog, why
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult

if TYPE_CHECKING:
    from aiosd.services.tools import mcp_link

log = structlog.get_logger()

InWorker = Callable[[Callable[[], Any]], Awaitable[Any]]
CreateTask = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class State(enum.Enum):
    """Where a server is.  `failed`: it has failed so often that it is tried only now and then."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon a server that failed is tried again: after first_s, then twice as long each time."""

    first_s: float = 0.25
    most_s: float = 30.0
    failed_after: int = 8  # failures in a row, about half a minute
    failed_s: float = 60.0  # between tries from then on
    stable_s: float = 10.0  # one that lived so long, or answered a call, has not failed in a row


class McpServer:
    """A server by its settings, whatever state it is in."""

    def __init__(
        self,
        name: str,
        config: McpConfig,
        in_worker: InWorker,
        *,
        hidden: tuple[str, ...] = (),
        is_loaded: bool = False,
        pace: Pace | None = None,
    ) -> None:
        """hidden: what no server may touch, whatever it was granted."""
        self.config = config
        self.is_loaded = is_loaded  # by tool.load, not from the configuration
        self.state = State.STARTING
        self.n_restarts = 0
        self.last_error = ""
        self.pid: int | None = None
        self.log = ServerLog(config.log_bytes)
        self._name = name
        self._in_worker = in_worker
        self._hidden = hidden
        self._pace = pace or Pace()
        self._n_failures = 0  # in a row
        self._link: mcp_link.Link | None = None
        self._known: tuple[Tool, ...] = ()  # what it offered last
        self._left_out: tuple[str, ...] = ()
        self._changed = asyncio.Event()  # the state has; a new one each time
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def left_out(self) -> tuple[str, ...]:
        """Tools that it offers and that can't be used, and why."""
        return self._link.left_out if self._link else self._left_out

    def tools(self) -> Sequence[Tool]:
        """What it offers now, or offered before it died: a call finds out what has become of it."""
        return self._link.tools if self._link else self._known

    # ------------------------------------------------------------ its life

    def start(self, create_task: CreateTask) -> None:
        """Begin, without waiting for it."""
        self._task = create_task(self._run())

    async def ready(self) -> None:
        """Wait for its first start to end.  ToolFailed if it can't be used."""
        while self.state is State.STARTING:
            await self._changed.wait()
        if self.state is not State.RUNNING:
            raise ToolFailed(f"MCP server {self._name!r} did not start: {self.last_error}")

    async def close(self) -> None:
        """End it and all its processes."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                delay_s = await self._live_once()
                await asyncio.sleep(delay_s)
                self.n_restarts += 1
        finally:
            self._set(State.STOPPED)

    async def _live_once(self) -> float:
        """From start to end; how long to wait before the next."""
        began_s = asyncio.get_running_loop().time()
        # In a task of its own: the SDK's cancel scopes can swallow a cancellation that is ours.
        async with asyncio.TaskGroup() as group:
            life = group.create_task(self._live())
        lived_s = asyncio.get_running_loop().time() - began_s
        return self._note_failure(life.result(), lived_s)

    async def _live(self) -> str:
        """One connection, from spawning to the last wait; why it ended."""
        process: Process | None = None
        try:
            process = await self._spawn() if self.config.command else None
            self.pid = process.pid if process else None
            reason = await self._connect_and_wait(process)
        except Exception as error:  # the SDK's, a library's, the server's: one server fails of it
            reason = why(error)
        finally:
            self.pid = None
            self._forget_link()
            if process is not None:
                await process.end(0)
        return reason if process is None else f"{reason} ({process.status})"

    async def _connect_and_wait(self, process: Process | None) -> str:
        mcp_link = await self._in_worker(_import_link)
        opening = mcp_link.opened(self._name, self.config, process, self.log, self._in_worker)
        async with opening as link:
            self._link = link
            self._set(State.RUNNING)
            log.info("mcp_server_runs", server=self._name, pid=self.pid, tools=len(link.tools))
            await link.over.wait()
            self._forget_link()
            self._set(State.RESTARTING)
            reason: str = link.reason
        return reason

    def _forget_link(self) -> None:
        if self._link is not None:
            self._known, self._left_out = self._link.tools, self._link.left_out
            self._link = None

    def confinement(self, _: Tool) -> Confinement | None:
        """What holds for the server's process, the same for all its tools; None over HTTP."""
        return self._confinement() if self.config.command else None

    def _confinement(self) -> Confinement:
        config = self.config
        return Confinement(
            Grant(config.read, config.write, config.network),
            Bounds(
                memory_bytes=config.memory or None,
                n_processes=config.processes or None,
                n_files=config.files or None,
                file_bytes=config.file_bytes or None,
                disk_bytes=config.disk or None,
            ),
            config.env,
            self._hidden,
        )

    async def _spawn(self) -> Process:
        config = self.config
        return await spawn(
            [config.command, *config.args],
            self._confinement(),
            cwd=config.cwd or None,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )

    def _note_failure(self, reason: str, lived_s: float) -> float:
        pace = self._pace
        self.last_error = reason
        self._n_failures = 1 if lived_s >= pace.stable_s else self._n_failures + 1
        if self._n_failures >= pace.failed_after:
            delay_s = pace.failed_s
            if self.state is not State.FAILED:
                log.error("mcp_server_failed", server=self._name, failures=self._n_failures)
            self._set(State.FAILED)
        else:
            delay_s = min(pace.most_s, pace.first_s * 2 ** (self._n_failures - 1))
            log.warning("mcp_server_ended", server=self._name, failures=self._n_failures)
            self._set(State.RESTARTING)
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that servers don't come in step

    def _set(self, state: State) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ------------------------------------------------------------ calls

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,  # noqa: ARG002 - servers don't get to know who calls
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        """One call, whose cancellation the server is told of.  ToolFailed.

        While the server is started anew, it waits; one that has failed too often refuses at once.
        """
        of_server = tool.name.removeprefix(f"{self._name}.")
        lost = _import_link().SessionLost
        for _ in range(2):
            link = await self._connected()
            try:
                result = await link.call(of_server, arguments, on_progress)
            except lost:
                continue
            self._n_failures = 0
            return result
        raise ToolFailed(f"MCP server {self._name!r} forgets each session that it begins")

    async def _connected(self) -> mcp_link.Link:
        while self._link is None or self._link.over.is_set():
            if self.state in (State.FAILED, State.STOPPED):
                raise ToolFailed(
                    f"MCP server {self._name!r} is {self.state.value}: {self.last_error or 'ended'}"
                )
            await self._changed.wait()
        return self._link


def _import_link() -> Any:
    """The module that has the SDK; the first time it takes most of a second."""
    return importlib.import_module("aiosd.services.tools.mcp_link")
