"""Calls that send chunks, with await: AsyncStream (chunks as maps) and AsyncTextStream (text).

Rule 1: leaving early cancels in the daemon: the with-block, the loop, the task, the last reference.
Rule 2: the call begins at ``async with`` or at the first chunk, whichever comes first.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType

from aios_sdk.aiolink import AsyncLink
from aios_sdk.calls import Call
from aios_sdk.results import Generation

Start = Callable[[], Awaitable[tuple[AsyncLink, Call]]]


class AsyncStream:
    """A call that sends chunks: an async context manager and an async iterator of them."""

    def __init__(self, start: Start, timeout_s: float | None) -> None:
        self._start = start
        self._timeout_s = timeout_s
        self._begun: tuple[AsyncLink, Call] | None = None

    async def __aenter__(self) -> AsyncStream:
        await self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    async def __aiter__(self) -> AsyncGenerator[dict[str, object], None]:
        try:
            while (chunk := await self._next()) is not None:
                yield chunk
        finally:
            self.close()

    async def __anext__(self) -> dict[str, object]:
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def result(self) -> dict[str, object]:
        """Waits for the end; chunks that come meanwhile can still be iterated.

        Raises the call's error: Cancelled after leaving, ConnectionLost, what the daemon says.
        """
        link, call = await self._begin()
        await link.wait(call, lambda: call.is_done, self._timeout_s)
        return call.outcome()

    def cancel(self) -> None:
        """Ask the daemon to end the call.  The result is then most likely the error Cancelled."""
        if self._begun is not None:
            link, call = self._begun
            link.cancel(call)

    def close(self) -> None:
        """Leave: if the call is still under way it is cancelled, and what it sends is dropped."""
        if self._begun is not None:
            link, call = self._begun
            link.abandon(call)

    def __del__(self) -> None:
        if self._begun is not None:
            link, call = self._begun
            if not call.is_done and not call.is_abandoned:
                # A collection may come in any thread, and after the loop has closed.
                with contextlib.suppress(RuntimeError):
                    link.loop.call_soon_threadsafe(link.abandon, call)

    async def _begin(self) -> tuple[AsyncLink, Call]:
        if self._begun is None:
            self._begun = await self._start()
        return self._begun

    async def _next(self) -> dict[str, object] | None:
        link, call = await self._begin()
        if not call.chunks and not call.is_abandoned:
            await link.wait(call, lambda: bool(call.chunks) or call.is_done, self._timeout_s)
        if call.chunks:
            return link.take(call)
        if call.is_done and not call.is_abandoned:
            call.outcome()  # raises, if that is how it ended
        return None


class AsyncTextStream:
    """llm.generate as an async iterator of text.  Leaving early cancels, as with AsyncStream."""

    def __init__(self, stream: AsyncStream) -> None:
        self.stream = stream

    async def __aenter__(self) -> AsyncTextStream:
        await self.stream.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stream.close()

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        async with contextlib.aclosing(self.stream.__aiter__()) as chunks:
            async for chunk in chunks:
                text = chunk.get("text")
                if isinstance(text, str) and text:
                    yield text

    async def result(self) -> Generation:
        """Waits for the end; raises as AsyncStream.result does."""
        return Generation.from_wire(await self.stream.result())

    def cancel(self) -> None:
        """As AsyncStream.cancel()."""
        self.stream.cancel()
