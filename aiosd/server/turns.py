"""Long work on the event loop, a few milliseconds at a time, with everybody else in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

TURN_NS = 2_000_000


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items.  What they are about may have changed between two of them."""
    until_ns = time.monotonic_ns() + TURN_NS
    for item in items:
        if time.monotonic_ns() > until_ns:
            await asyncio.sleep(0)
            until_ns = time.monotonic_ns() + TURN_NS
        yield item


class Chores:
    """Things to do soon, in their order; however many there are, the loop is held up by a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_under_way = False

    def add(self, chores: Iterable[Callable[[], object]]) -> None:
        """Begins at once, so that a few are done when this returns."""
        self._waiting.extend(chores)
        if not self._is_under_way:
            self._is_under_way = True
            self._do()

    def _do(self) -> None:
        until_ns = time.monotonic_ns() + TURN_NS
        try:
            while self._waiting and time.monotonic_ns() < until_ns:
                self._waiting.popleft()()
        finally:  # one that fails is the loop's to report; the others are done all the same
            self._is_under_way = bool(self._waiting)
            if self._waiting:
                self._loop.call_soon(self._do)


class InTurn:
    """Lets those who come at once through one after another, each in an iteration of the loop of
    its own: a burst of calls is taken in with everybody else in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False  # somebody came through in this iteration

    async def turn(self) -> None:
        """Returns when it is the caller's turn: at once if nobody is before it."""
        if not self._is_taken:
            self._is_taken = True
            self._loop.call_soon(self._next)
            return
        mine = self._loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # else its call was given up meanwhile
                first.set_result(None)
                self._loop.call_soon(self._next)
                return
        self._is_taken = False
