"""One connection to an MCP server, from the handshake to its end; the SDK's session is in here.

Importing this imports the SDK, which takes most of a second: McpServer has a worker do it, and only
if there is a server.

Rule 1: the session is entered and left in the task that uses opened(); others call its methods.
Rule 2: what servers may ask of clients (sampling, elicitation, roots) is not offered, and refused.
Rule 3: an answer is not checked against the server's own schema of it: that would let it have us
work as long as it likes, and says nothing about whether the answer is true.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import mcp_types as types
from mcp.client._transport import TransportStreams
from mcp.client.session import ClientSession, IncomingMessage
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from aiosd import __version__
from aiosd.confine import Process
from aiosd.mcp_config import McpConfig
from aiosd.services.tools.mcp_http import reached
from aiosd.services.tools.mcp_offer import offered, progress_of, result_of
from aiosd.services.tools.mcp_server import InWorker
from aiosd.services.tools.mcp_stdio import spoken_with
from aiosd.services.tools.mcp_traffic import Incoming, Outgoing, Traffic
from aiosd.services.tools.mcp_trouble import ServerLog, why
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult

MAX_PAGES = 64  # of one list of tools
RELIST_EVERY_S = 1.0  # however often a server says that its tools have changed
PING_S = 10.0  # to show that it lives after a call was given up and while it has no other

for _name in ("mcp", "client", "httpx2", "httpcore2"):
    # They log what servers say, and a server could fill the log; what matters we say ourselves.
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


_LOST = ("Connection closed", "SSE stream")  # how the SDK begins to say that no answer will come


class SessionLost(Exception):  # noqa: N818 - the caller tries again
    """The server doesn't know our session any more, so it has not begun the call."""


class Link:
    """A server that has shaken hands and said what it offers."""

    def __init__(
        self,
        name: str,
        config: McpConfig,
        in_worker: InWorker,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self.tools: tuple[Tool, ...] = ()
        self.left_out: tuple[str, ...] = ()
        self.over = asyncio.Event()
        self.reason = ""  # why it is over
        self._name = name
        self._config = config
        self._in_worker = in_worker
        self._spawn = spawn
        self._session: ClientSession
        self._changed = asyncio.Event()
        self._n_calls = 0
        self._is_pinging = False
        self._is_forgotten = False

    def forgotten(self) -> None:
        """The server has refused a request for want of our session."""
        self._is_forgotten = True

    def end(self, reason: str) -> None:
        """It can't be used any more; the first reason counts."""
        if not self.over.is_set():
            self.reason = reason
            self.over.set()

    async def begin(self, session: ClientSession) -> None:
        """Shake hands, and learn what there is."""
        self._session = session
        try:
            await session.initialize()
        except MCPError as error:
            if error.code != types.UNSUPPORTED_PROTOCOL_VERSION:
                raise
            await session.discover()  # a server that speaks only what came after handshakes
        await self._list()
        self._spawn(self._follow_changes())

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        """Call a tool by the server's name of it.  ToolFailed; SessionLost: it hasn't begun."""

        async def on_report(progress: float, total: float | None, message: str | None) -> None:
            report = progress_of(progress, total, message)
            if report is not None:
                on_progress(report)

        params = types.CallToolRequestParams(name=tool, arguments=dict(arguments))
        self._n_calls += 1
        try:
            answer = await self._session.send_request(
                types.CallToolRequest(params=params),
                types.CallToolResult,
                progress_callback=on_report,
            )
        except MCPError as error:
            if self._is_forgotten and not _is_lost(error):
                self.end("it has forgotten the session")
                raise SessionLost from None
            raise ToolFailed(self._refusal(error)) from None
        except ValidationError:
            raise ToolFailed(f"MCP server {self._name!r} answered with no result") from None
        except asyncio.CancelledError:
            self._check_alive()  # the SDK has told it
            raise
        finally:
            self._n_calls -= 1
        return result_of(answer)

    def _refusal(self, error: MCPError) -> str:
        if _is_lost(error):
            self._check_alive()
            why_lost = self.reason or "it hung up"
            return f"MCP server {self._name!r} was lost during the call: {why_lost}"
        return f"MCP server {self._name!r} refused the call: {error.message[:500]}"

    def _check_alive(self) -> None:
        """A call gets no answer, or nobody wants it any more: does the server still hear us?"""
        if not self._is_pinging and not self.over.is_set():
            self._is_pinging = True
            self._spawn(self._ping())

    async def _ping(self) -> None:
        # While it works for others it may be silent for as long as a call of theirs may take.
        limit_s = self._config.timeout_s if self._n_calls else PING_S
        try:
            async with asyncio.timeout(limit_s):
                await self._session.send_ping()
        except TimeoutError:
            self.end(f"it has not answered for {limit_s:g} s after a call was given up")
        except (MCPError, ValidationError) as error:  # an answer too
            if self._is_forgotten or (isinstance(error, MCPError) and _is_lost(error)):
                self.end("it hung up")
        finally:
            self._is_pinging = False

    async def _follow_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                async with asyncio.timeout(self._config.start_s):
                    await self._list()
            except (TimeoutError, MCPError, ValidationError) as error:
                self.end(f"it did not say what it offers now: {why(error)}")
                return
            await asyncio.sleep(RELIST_EVERY_S)

    async def _list(self) -> None:
        capabilities = self._session.server_capabilities
        listed: list[types.Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES if capabilities is not None and capabilities.tools else 0):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            page = await self._session.list_tools(params=params)
            listed += page.tools
            cursor = page.next_cursor
            if not cursor or len(listed) > self._config.tools:
                break
        name, config = self._name, self._config
        self.tools, self.left_out = await self._in_worker(lambda: offered(listed, name, config))

    async def on_message(self, message: IncomingMessage) -> None:
        """What the server says unasked."""
        if isinstance(message, types.ToolListChangedNotification):
            self._changed.set()


def _is_lost(error: MCPError) -> bool:
    """Whether it is the SDK's own word for a connection that is over: servers use its code too."""
    return error.code == types.CONNECTION_CLOSED and error.message.startswith(_LOST)


@contextlib.asynccontextmanager
async def opened(
    name: str,
    config: McpConfig,
    process: Process | None,
    log: ServerLog,
    in_worker: InWorker,
) -> AsyncIterator[Link]:
    """A connection to a process that was spawned for it, or to the url.

    ToolFailed if it ends before it has begun.  Errors may come in groups: mcp_trouble.why() says
    what is in them.
    """
    background: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:

        def spawn(work: Coroutine[None, None, None]) -> None:
            background.append(group.create_task(work))

        link = Link(name, config, in_worker, spawn)
        try:
            async with contextlib.AsyncExitStack() as stack:
                transport: AbstractAsyncContextManager[TransportStreams]
                if process is not None:
                    transport = spoken_with(process, config.frame_bytes, log, link.end, spawn)
                else:
                    transport = reached(config, in_worker, link.forgotten)
                incoming, outgoing = await stack.enter_async_context(transport)
                traffic = Traffic(link.end)
                session = await stack.enter_async_context(
                    ClientSession(
                        Incoming(incoming, traffic),
                        Outgoing(outgoing, traffic),
                        message_handler=link.on_message,
                        client_info=types.Implementation(name="aiosd", version=__version__),
                    )
                )
                try:
                    async with asyncio.timeout(config.start_s):
                        await link.begin(session)
                except MCPError:
                    if not link.over.is_set():
                        raise
                    raise ToolFailed(link.reason) from None
                yield link
        finally:
            for task in background:
                task.cancel()
