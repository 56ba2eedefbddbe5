"""The asyncio client's connection: the same Calls, under an asyncio.Protocol.

Rule 1: no task of its own; callers wait, and data_received() wakes those whose call changed.
Rule 2: when chunks pile up and nobody waits for anything, reading stops, so the daemon stops
generating.  While anyone waits it goes on: what they wait for may be behind those chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import cast

from aios_sdk.calls import CONNECT_DELAYS_S, Call, Calls, hello_result, timed_out
from aios_sdk.dialing import dial
from aios_sdk.errors import NoDaemon
from aios_sdk.wire import WireError

PAUSE_CHUNKS = 256  # received and not taken, over all streams: then reading stops
SETTLE_S = 5.0  # to wait for a cancelled call on the same context; a step takes milliseconds


class AsyncLink(asyncio.Protocol):
    """One connection.  Once it is lost it stays lost; the client makes another."""

    def __init__(self, path: str) -> None:
        self.calls = Calls()
        self.hello: dict[str, object] = {}
        self.is_lost = False
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self._path = path
        self._thread = threading.get_ident()
        self._reason = "it was closed by the daemon"
        self._transport: asyncio.Transport | None = None
        self._waiters: dict[Call, list[asyncio.Future[None]]] = {}
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._gone = asyncio.Event()
        self._is_paused = False

    @staticmethod
    async def open(path: str, hello: dict[str, object], timeout_s: float | None) -> AsyncLink:
        """Connect and say hello.  Raises ClientError, or what the daemon answers to the hello."""
        sock = dial(path)
        for delay_s in CONNECT_DELAYS_S:
            if sock is not None:
                break
            await asyncio.sleep(delay_s)
            sock = dial(path)
        if sock is None:
            raise NoDaemon(path, f"it took no connection in {sum(CONNECT_DELAYS_S):.0f} s")
        link = AsyncLink(path)
        await link.loop.create_unix_connection(lambda: link, sock=sock)
        try:
            call = await link.start("sys.hello", hello)
            await link.wait(call, lambda: call.is_done, timeout_s)
            link.hello = hello_result(call, path)
        except BaseException:
            link.close("the hello failed")
            raise
        return link

    async def start(
        self, method: str, params: dict[str, object], *, is_stream: bool = False
    ) -> Call:
        """Send a request.  Waits while the daemon doesn't read, and until the daemon has ended a
        call that was left on the same context."""
        left_behind = self.calls.in_the_way(params)
        if left_behind is not None:
            await self.wait(left_behind, lambda: self.calls.in_the_way(params) is None, SETTLE_S)
        await self._can_write.wait()
        call = self.calls.start(method, params, is_stream=is_stream)
        self._flush()
        if self.is_lost:
            self._fail("it was lost before")
        return call

    def cancel(self, call: Call) -> None:
        self.calls.cancel(call)
        self._flush()

    def abandon(self, call: Call) -> None:
        self.calls.abandon(call)
        self._flush()
        self._resume_reading_if_wanted()

    def leave(self, call: Call) -> None:
        """abandon(), from a destructor.  At once as far as our own calls can see, so that the next
        one on the same context waits; the bytes leave at the loop's next turn."""
        if call.is_abandoned or self.pid != os.getpid():
            return
        if threading.get_ident() == self._thread:
            self.calls.abandon(call)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self.loop.call_soon_threadsafe(self.abandon, call)

    def take(self, call: Call) -> dict[str, object]:
        """The oldest chunk of a call that has some."""
        chunk = self.calls.take(call)
        self._resume_reading_if_wanted()
        return chunk

    async def wait(self, call: Call, is_ready: Callable[[], bool], timeout_s: float | None) -> None:
        """Until is_ready(), asked whenever something came for the call.

        Raises DeadlineExceeded after timeout_s; the call is then abandoned.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not is_ready():
                    await self._change(call)
        except TimeoutError:
            self.abandon(call)
            raise timed_out(call, timeout_s or 0) from None

    def close(self, reason: str) -> None:
        """Calls under way end with ConnectionLost; the daemon ends them too."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        await self._gone.wait()

    # ------------------------------------------------------------ asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            changed = self.calls.feed(data)
        except WireError as error:
            self.close(f"what it sends is not the protocol: {error}")
            return
        self._flush()  # an overflowing stream is cancelled
        for call in changed:
            self._wake(call)
        if self.calls.n_chunks >= PAUSE_CHUNKS and not self._waiters and not self._is_paused:
            self._is_paused = True
            if self._transport is not None:
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(self._reason if exc is None else str(exc))
        self._can_write.set()
        self._gone.set()

    # ------------------------------------------------------------ inside

    def _flush(self) -> None:
        outbox, transport = self.calls.outbox, self._transport
        while outbox and transport is not None and not self.is_lost:
            data, call = outbox.popleft()
            if transport.is_closing():
                continue
            transport.write(data)
            if call is not None:
                call.is_sent = not transport.is_closing()  # closing: the write failed at once

    async def _change(self, call: Call) -> None:
        """Until something comes for the call."""
        waiter = self.loop.create_future()
        self._waiters.setdefault(call, []).append(waiter)
        self._resume_reading_if_wanted()
        try:
            await waiter
        finally:
            others = self._waiters.get(call, [])
            if waiter in others:  # it was not woken: its task was cancelled
                others.remove(waiter)
                if not others:
                    del self._waiters[call]

    def _wake(self, call: Call) -> None:
        for waiter in self._waiters.pop(call, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _resume_reading_if_wanted(self) -> None:
        if self._is_paused and (self._waiters or self.calls.n_chunks < PAUSE_CHUNKS):
            self._is_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def _fail(self, reason: str) -> None:
        self.is_lost = True
        self.calls.fail(self._path, reason)
        for call in list(self._waiters):
            self._wake(call)
