"""Who calls a tool next: so many at once, the others in line, uids in turn and of each its agents.

Rule 1: a place that is free is never kept from who waits, and one is given back exactly once.
Rule 2: the line is bounded, for all together and for one uid; past it `busy`, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from aiosd.kernel.model import AgentId

_Agents = OrderedDict[AgentId, deque[asyncio.Future[None]]]


class LineFull(Exception):  # noqa: N818 - an outcome of asking, which becomes `busy`
    """No room in line: so many wait, and so many may."""

    def __init__(self, n_waiting: int, limit: int, whose: str) -> None:
        super().__init__(f"{n_waiting} calls wait for it{whose}, limit is {limit}")
        self.n_waiting = n_waiting


class Gate:
    """Room for n_places calls."""

    def __init__(self, n_places: int) -> None:
        self.n_places = n_places
        self.n_running = 0
        self.n_waiting = 0
        self._lines: OrderedDict[int, _Agents] = OrderedDict()  # the first is served next

    @contextlib.asynccontextmanager
    async def place(self, agent: AgentId, *, limit: int, limit_per_uid: int) -> AsyncIterator[None]:
        """One of the places, as long as the block lasts.  LineFull if there is no room to wait."""
        await self._enter(agent, limit, limit_per_uid)
        try:
            yield
        finally:
            self._leave()

    @property
    def is_idle(self) -> bool:
        return not (self.n_running or self.n_waiting)

    def resize(self, n_places: int) -> None:
        """From now on so many at once; those under way go on."""
        self.n_places = n_places
        self._serve()

    async def _enter(self, agent: AgentId, limit: int, limit_per_uid: int) -> None:
        if self.n_running < self.n_places and not self.n_waiting:
            self.n_running += 1
            return
        if self.n_waiting >= limit:
            raise LineFull(self.n_waiting, limit, "")
        n_own = sum(map(len, self._lines.get(agent.uid, {}).values()))
        if n_own >= limit_per_uid:
            raise LineFull(n_own, limit_per_uid, " from this uid")
        turn = asyncio.get_running_loop().create_future()
        agents = self._lines.setdefault(agent.uid, OrderedDict())
        agents.setdefault(agent, deque()).append(turn)
        self.n_waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # its turn had come already
            else:
                self._drop(agent, turn)
            raise

    def _leave(self) -> None:
        self.n_running -= 1
        self._serve()

    def _serve(self) -> None:
        while self.n_waiting and self.n_running < self.n_places:
            uid, agents = self._lines.popitem(last=False)
            agent, turns = agents.popitem(last=False)
            turn = turns.popleft()
            self.n_waiting -= 1
            if turns:
                agents[agent] = turns  # at the end of its uid's
            if agents:
                self._lines[uid] = agents  # at the end of all
            if not turn.done():
                self.n_running += 1
                turn.set_result(None)

    def _drop(self, agent: AgentId, turn: asyncio.Future[None]) -> None:
        agents = self._lines.get(agent.uid, OrderedDict())
        turns = agents.get(agent, deque())
        if turn not in turns:
            return  # it came to its turn after it had been cancelled, and was passed over
        turns.remove(turn)
        self.n_waiting -= 1
        if not turns:
            del agents[agent]
        if not agents:
            del self._lines[agent.uid]
