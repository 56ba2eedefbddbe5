"""Calls that send chunks, blocking: Stream (chunks as maps) and TextStream (text).

Rule 1: leaving early cancels in the daemon: the with-block, the loop, or the last reference.
A detached job goes on: of those only cancel() ends one.
Rule 2: a stream that nobody reads doesn't read the socket, so the daemon stops generating.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

from aios_sdk.calls import Call
from aios_sdk.link import Link
from aios_sdk.results import Generation


class Stream:
    """A call under way: a context manager and an iterator of its chunks.

    Leaving the with-block or the loop before the end cancels the call in the daemon, unless its job
    is detached.  next() takes one chunk and leaves the call as it is.
    """

    def __init__(self, link: Link, call: Call, timeout_s: float | None) -> None:
        self._link = link
        self._call = call
        self._timeout_s = timeout_s

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, object]]:
        try:
            while (chunk := self._next()) is not None:
                yield chunk
        finally:
            self.close()

    def __next__(self) -> dict[str, object]:
        chunk = self._next()
        if chunk is None:
            raise StopIteration
        return chunk

    @property
    def result(self) -> dict[str, object]:
        """Waits for the end; chunks that come meanwhile can still be iterated.

        Raises the call's error: Cancelled after leaving, ConnectionLost, what the daemon says.
        """
        call = self._call
        self._wait(lambda: call.is_done)
        return call.outcome()

    def wait_job(self) -> str:
        """The id of the call's job, as soon as the daemon tells it; takes no chunk.

        Raises the call's error if it ended before it had a job.
        """
        call = self._call
        self._wait(lambda: call.job is not None or call.is_done)
        return call.job_told()

    def cancel(self) -> None:
        """Ask the daemon to end the call.  The result is then most likely the error Cancelled."""
        self._link.cancel(self._call)

    def close(self) -> None:
        """Leave: if the call is still under way it is cancelled, and what it sends is dropped."""
        self._link.abandon(self._call)

    def __del__(self) -> None:
        self.close()

    def _next(self) -> dict[str, object] | None:
        call = self._call
        if not call.chunks and not call.is_abandoned:
            self._wait(lambda: bool(call.chunks) or call.is_done)
        if call.chunks:
            return self._link.calls.take(call)
        if call.is_done and not call.is_abandoned:
            call.outcome()  # raises, if that is how it ended
        return None

    def _wait(self, is_ready: Callable[[], bool]) -> None:
        self._link.wait(self._call, is_ready, self._timeout_s)


class TextStream:
    """llm.generate or job.attach as an iterator of text.  Leaving early cancels, as with Stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[str]:
        for chunk in self.stream:
            text = chunk.get("text")
            if isinstance(text, str) and text:
                yield text

    @property
    def result(self) -> Generation:
        """Waits for the end; raises as Stream.result does."""
        return Generation.from_wire(self.stream.result)

    def wait_job(self) -> str:
        """As Stream.wait_job()."""
        return self.stream.wait_job()

    def cancel(self) -> None:
        """As Stream.cancel()."""
        self.stream.cancel()
