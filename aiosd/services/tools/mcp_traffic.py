"""What an MCP server may send us, whatever it speaks over: so much at a time and no more.

Rule 1: a server that sends without end costs a bounded share of the loop: past the rate, it waits.
Rule 2: notifications that nobody heeds aren't taken apart: the SDK may take long over large ones.
Rule 3: a server's requests don't pile up: one that doesn't read the answers is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from aiosd.services.tools.mcp_streams import Receiving, Stream

Item = SessionMessage | Exception

MESSAGES_PER_S = 500
BURST = 500
MAX_UNANSWERED = 32
HEARD = ("notifications/progress", "notifications/tools/list_changed", "notifications/cancelled")


class Traffic:
    """Counts what comes and goes on one connection."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        self.on_end = on_end  # told once the connection is over, and why
        self._loop = asyncio.get_running_loop()
        self._credit = float(BURST)
        self._seen_s = self._loop.time()
        self._n_unanswered = 0

    async def come(self, item: Item) -> None:
        """Wait until it is this message's turn; EndOfStream if the server has gone too far."""
        now_s = self._loop.time()
        earned = (now_s - self._seen_s) * MESSAGES_PER_S
        self._credit, self._seen_s = min(float(BURST), self._credit + earned) - 1, now_s
        # Never without a turn of the loop: a transport that has many messages doesn't wait for one.
        await asyncio.sleep(max(0.0, -self._credit / MESSAGES_PER_S))
        if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
            self._n_unanswered += 1
            if self._n_unanswered > MAX_UNANSWERED:
                self.on_end(f"it asked for more than {MAX_UNANSWERED} things at once")
                raise anyio.EndOfStream

    def gone(self, item: SessionMessage) -> None:
        """One of ours has been sent."""
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._n_unanswered -= 1


class Incoming(Receiving[Item]):
    """A transport's stream of messages, within bounds."""

    def __init__(self, stream: ReadStream[Item], traffic: Traffic) -> None:
        self._stream = stream
        self._traffic = traffic

    async def receive(self) -> Item:
        try:
            item = await self._stream.receive()
            await self._traffic.come(item)
            while _is_idle_talk(item):
                item = await self._stream.receive()
                await self._traffic.come(item)
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._traffic.on_end("it ended the connection")
            raise
        return item

    async def aclose(self) -> None:
        await self._stream.aclose()


def _is_idle_talk(item: Item) -> bool:
    """A notification that we do nothing about."""
    return (
        isinstance(item, SessionMessage)
        and isinstance(item.message, JSONRPCNotification)
        and item.message.method not in HEARD
    )


class Outgoing(Stream):
    """A transport's stream of our messages."""

    def __init__(self, stream: WriteStream[SessionMessage], traffic: Traffic) -> None:
        self._stream = stream
        self._traffic = traffic

    async def send(self, item: SessionMessage, /) -> None:
        await self._stream.send(item)
        self._traffic.gone(item)

    async def aclose(self) -> None:
        await self._stream.aclose()
