"""Calls that send chunks, with await: AsyncStream (chunks as maps) and AsyncTextStream (text).

Rule 1: leaving early cancels in the daemon: the with-block, the loop, the task, the last reference.
A detached job goes on: of those only cancel() ends one.
Rule 2: the call begins at ``async with`` or at the first chunk, whichever comes first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
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

    def __aiter__(self) -> AsyncIterator[dict[str, object]]:
        return _Chunks(self)

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

    async def wait_job(self) -> str:
        """The id of the call's job, as soon as the daemon tells it; takes no chunk.

        Raises the call's error if it ended before it had a job.
        """
        link, call = await self._begin()
        await link.wait(call, lambda: call.job is not None or call.is_done, self._timeout_s)
        return call.job_told()

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

    def _leave(self) -> None:
        """As close(), for destructors: they may run in any thread, in the middle of anything."""
        if self._begun is not None:
            link, call = self._begun
            link.leave(call)

    def __del__(self) -> None:
        self._leave()

    async def _begin(self) -> tuple[AsyncLink, Call]:
        if self._begun is None:
            self._begun = await self._start()
        return self._begun

    async def _next(self) -> dict[str, object] | None:
        """The next chunk; None at the end.  Raises the call's error if that is how it ended."""
        link, call = await self._begin()
        if not call.chunks and not call.is_abandoned:
            await link.wait(call, lambda: bool(call.chunks) or call.is_done, self._timeout_s)
        if call.chunks:
            return link.take(call)
        if call.is_done and not call.is_abandoned:
            call.outcome()  # raises, if that is how it ended
        return None


class AsyncTextStream:
    """llm.generate or job.attach as an async iterator of text.

    Leaving early cancels, as with AsyncStream.
    """

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

    def __aiter__(self) -> AsyncIterator[str]:
        return _Texts(self.stream)

    async def result(self) -> Generation:
        """Waits for the end; raises as AsyncStream.result does."""
        return Generation.from_wire(await self.stream.result())

    async def wait_job(self) -> str:
        """As AsyncStream.wait_job()."""
        return await self.stream.wait_job()

    def cancel(self) -> None:
        """As AsyncStream.cancel()."""
        self.stream.cancel()


class _Chunks:
    """One loop over a stream.  When the loop drops it, however it was left, the call is left too.

    Not an async generator: those are closed some turns of the event loop later, and until then the
    context would be busy.
    """

    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> dict[str, object]:
        try:
            return await self._stream.__anext__()
        except BaseException:  # a cancelled task's traceback would keep this loop alive
            self._stream.close()
            raise

    def __del__(self) -> None:
        self._stream._leave()


class _Texts:
    """The same, of the chunks' texts."""

    def __init__(self, stream: AsyncStream) -> None:
        self._chunks = _Chunks(stream)

    def __aiter__(self) -> _Texts:
        return self

    async def __anext__(self) -> str:
        while True:
            text = (await self._chunks.__anext__()).get("text")
            if isinstance(text, str) and text:
                return text
