"""An agent's act with await: see ownacts.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

from aios_sdk.acting import Acted, AsyncActStream, Step
from aios_sdk.errors import Cancelled
from aios_sdk.ownacts import Acting, Start


class AsyncActSteps:
    """The steps of an act, as they happen; its result waits for the end."""

    def __init__(self, acting: Acting, start: Start[AsyncActStream]) -> None:
        self._acting = acting
        self._start = start
        self._stream: AsyncActStream | None = None
        self._steps: AsyncIterator[Step] | None = None
        self._is_left = False

    async def __aenter__(self) -> AsyncActSteps:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Step]:
        return _Loop(self)

    async def result(self) -> Acted:
        """Goes on to the end, if it isn't reached yet.  Cancelled, if it was left."""
        while await self._next() is not None:
            pass
        if self._acting.result is None:
            raise Cancelled("this act was left before its end")
        return self._acting.result

    async def _next(self) -> Step | None:
        """The next step; None at the end."""
        acting = self._acting
        while acting.result is None and not self._is_left:
            if acting.pending:
                call, began_ns = acting.begin()
                return acting.answer(call, began_ns, await acting.own.run_async(call))
            if self._stream is None or self._steps is None:
                self._stream = self._start(acting.what, acting.tools, acting.options)
                self._steps = aiter(self._stream)
            step = await anext(self._steps, None)
            if step is not None:
                return step
            acting.end(await self._stream.result())
            self._stream = self._steps = None
        return None

    def close(self) -> None:
        """Leave: what is under way is cancelled in the daemon."""
        self._is_left = True
        if self._stream is not None:
            self._stream.stream.close()
            self._stream = self._steps = None

    def _leave(self) -> None:
        """As close(), for destructors: dropping the stream leaves it, in whatever thread."""
        self._is_left = True
        self._stream = self._steps = None


class _Loop:
    """One loop over the steps; when it is dropped, however it was left, the act is left too."""

    def __init__(self, steps: AsyncActSteps) -> None:
        self._steps = steps

    def __aiter__(self) -> _Loop:
        return self

    async def __anext__(self) -> Step:
        try:
            step = await self._steps._next()
        except BaseException:  # a cancelled task's traceback would keep this loop alive
            self._steps.close()
            raise
        if step is None:
            raise StopAsyncIteration
        return step

    def __del__(self) -> None:
        self._steps._leave()
