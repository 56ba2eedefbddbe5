"""CPU work off the event loop: a few threads, and of one uid's long texts one at a time.

Rule: a uid's turn ends when its work has ended, not when the caller stops waiting for it: one who
asks and cancels again and again gets no more threads than one who is patient.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

N_WORKERS = 2  # threads that render, tokenise and check
LONG_TEXT = 64 * 1024
"""Characters (or bytes of params); shorter ones take milliseconds.  Work of another kind that takes
longer counts as so many: a uid that asks for it again and again holds up itself."""


@dataclass(slots=True)
class _Turns:
    """A uid's long texts: one has the lock, n_users have it or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    n_users: int = 0


class Workers:
    """The threads, and who has a turn on them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(N_WORKERS, thread_name_prefix="worker")
        self._turns: dict[int, _Turns] = {}

    async def run(self, work: Callable[[], T], uid: int, size: int) -> T:
        """What work() returns or raises.  size: characters of text, or bytes of params."""
        if size < LONG_TEXT:
            return await self._loop.run_in_executor(self._threads, work)
        turns = self._turns.setdefault(uid, _Turns())
        turns.n_users += 1
        try:
            await turns.lock.acquire()
        except BaseException:
            self._leave(uid, turns)
            raise
        future = self._threads.submit(work)
        future.add_done_callback(lambda done: self._ended(done, uid, turns))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin nothing more; what is under way is left to itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def n_uids(self) -> int:
        """Uids that have a long text here, under way or waiting."""
        return len(self._turns)

    def _ended(self, _future: Future[T], uid: int, turns: _Turns) -> None:
        """On whichever thread the work ended, or was cancelled before it began."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._pass_on, uid, turns)

    def _pass_on(self, uid: int, turns: _Turns) -> None:
        turns.lock.release()
        self._leave(uid, turns)

    def _leave(self, uid: int, turns: _Turns) -> None:
        turns.n_users -= 1
        if not turns.n_users:
            del self._turns[uid]
