"""MCP over the stdin and stdout of a confined process: messages as lines of JSON.

The SDK's own stdio client keeps a line of any length in memory and spawns for itself; here a line
has a limit, writing never waits for a server that doesn't read, and the process is confine's.

Rule 1: send() never blocks: past what may wait unread, the server is given up.
Rule 2: reading what a server says takes a bounded share of the loop: who says much is read slowly.
Rule 3: when the connection ends, however it does, so does the process with all its group.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine

import anyio
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic_core import from_json

from aiosd.confine import Process
from aiosd.services.tools.mcp_streams import Receiving, Stream
from aiosd.services.tools.mcp_trouble import ServerLog

READ_BYTES = 65536
MAX_STRAY_LINES = 100  # lines that are no messages, in a row: some servers greet on stdout
WAIT_FACTOR = 8  # others have so much more of the loop than reading has; the SDK reads it twice
LEAST_WAIT_S = 0.005
LEAVE_S = 2.0  # to end by itself once stdin is closed, and again after SIGTERM


class Lines(Receiving[SessionMessage]):
    """Messages as the process writes them; the SDK reads from it as from a stream."""

    def __init__(
        self,
        stdout: asyncio.StreamReader,
        frame_bytes: int,
        log: ServerLog,
        on_end: Callable[[str], None],
    ) -> None:
        self._stdout = stdout
        self._frame_bytes = frame_bytes
        self._log = log
        self._on_end = on_end
        self._lines: list[bytes] = []  # whole ones, the next last
        self._rest = bytearray()  # of a line that hasn't ended
        self._n_stray = 0
        self._owed_s = 0.0  # to the others, for what was read
        self._is_closed = False

    async def receive(self) -> SessionMessage:
        """The next message; EndOfStream if there will be none."""
        while True:
            line = await self._line()
            if not line.strip():
                continue
            if self._owed_s > LEAST_WAIT_S:
                await asyncio.sleep(self._owed_s)
                self._owed_s = 0.0
            try:
                message = self._read(line)
            except ValueError:
                self._n_stray += 1
                self._log.add("stdout: " + line[:200].decode(errors="replace"))
                if self._n_stray > MAX_STRAY_LINES:
                    self._end(f"it wrote {self._n_stray} lines that are no messages to its stdout")
                continue
            self._n_stray = 0
            return SessionMessage(message)

    def _read(self, line: bytes) -> JSONRPCMessage:
        began_s = time.thread_time()
        try:
            return _message(from_json(line, allow_inf_nan=False))
        finally:
            self._owed_s += WAIT_FACTOR * (time.thread_time() - began_s)

    async def _line(self) -> bytes:
        while not self._lines:
            if self._is_closed:
                raise anyio.EndOfStream
            data = await self._stdout.read(READ_BYTES)
            if not data:
                self._is_closed = True
                continue
            first, *others = data.split(b"\n")
            self._rest += first
            if others:
                self._lines = [*reversed(others[:-1]), bytes(self._rest)]
                self._rest = bytearray(others[-1])
            longest = max(len(self._rest), *map(len, self._lines), 0)
            if longest > self._frame_bytes:
                self._end(f"it sent a message of {longest} bytes, limit is {self._frame_bytes}")
        return self._lines.pop()

    def _end(self, reason: str) -> None:
        self._is_closed = True
        self._on_end(reason)
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        self._is_closed = True


def _message(said: object) -> JSONRPCMessage:
    """ValueError if it is none.  The SDK's own union tries each kind, on all that is in it."""
    kind: type[JSONRPCMessage]
    match said:
        case {"method": _, "id": _}:
            kind = JSONRPCRequest
        case {"method": _}:
            kind = JSONRPCNotification
        case {"error": _}:
            kind = JSONRPCError
        case _:
            kind = JSONRPCResponse
    return kind.model_validate(said, by_name=False)


class Writer(Stream):
    """Where the SDK puts our messages."""

    def __init__(
        self, stdin: asyncio.StreamWriter, unread_bytes: int, on_end: Callable[[str], None]
    ) -> None:
        self._stdin = stdin
        self._unread_bytes = unread_bytes
        self._on_end = on_end

    async def send(self, item: SessionMessage, /) -> None:
        """Hand it over; BrokenResourceError if the server is gone or doesn't read."""
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        transport = self._stdin.transport
        if transport.is_closing():
            raise anyio.BrokenResourceError
        waiting = transport.get_write_buffer_size()
        if waiting > self._unread_bytes:
            self._on_end(f"it leaves {waiting} bytes unread, limit is {self._unread_bytes}")
            raise anyio.BrokenResourceError
        try:
            self._stdin.write(text.encode() + b"\n")
        except (OSError, RuntimeError):  # uvloop: of a pipe that has been closed meanwhile
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        self._stdin.close()


@contextlib.asynccontextmanager
async def spoken_with(
    process: Process,
    frame_bytes: int,
    log: ServerLog,
    on_end: Callable[[str], None],
    spawn: Callable[[Coroutine[None, None, None]], None],
) -> AsyncIterator[TransportStreams]:
    """Both streams of a process that was spawned with three pipes; it ends with the connection.

    spawn runs a task until the connection is over.
    """
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    try:
        spawn(_listen(stderr, log))
        try:
            yield (
                Lines(stdout, frame_bytes, log, on_end),
                Writer(stdin, frame_bytes, on_end),
            )
        finally:
            stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await process.wait()
            await process.end(LEAVE_S)
    finally:
        await process.end(0)  # the other was cancelled


async def _listen(stderr: asyncio.StreamReader, log: ServerLog) -> None:
    while data := await stderr.read(READ_BYTES):
        began_s = time.thread_time()
        log.feed(data)
        await asyncio.sleep(WAIT_FACTOR * (time.thread_time() - began_s))
