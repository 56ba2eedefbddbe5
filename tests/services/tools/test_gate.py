"""Who is next: whatever comes, goes and gives up, no place is lost and none is given twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from aiosd.kernel.model import AgentId
from aiosd.services.tools.gate import Gate, LineFull

AGENTS = [AgentId(uid, name) for uid in (1, 2, 3) for name in ("a", "b")]


class World:
    """Calls that are told when to end."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside = 0
        self.served: list[AgentId] = []

    async def call(self, agent: AgentId, until: asyncio.Event) -> None:
        async with self.gate.place(agent, limit=50, limit_per_uid=20):
            self.inside += 1
            self.served.append(agent)
            try:
                assert self.inside <= self.gate.n_running  # one may have it and not know yet
                await until.wait()
            finally:
                self.inside -= 1


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(8))
def test_no_place_is_lost_and_none_is_given_twice(seed: int) -> None:
    async def run() -> None:
        draw = random.Random(seed)
        gate = Gate(3)
        world = World(gate)
        calls: dict[asyncio.Task[None], asyncio.Event] = {}
        for _ in range(400):
            match draw.randrange(4):
                case 0 | 1:
                    until = asyncio.Event()
                    call = world.call(draw.choice(AGENTS), until)
                    calls[asyncio.get_running_loop().create_task(call)] = until
                case 2 if calls:
                    draw.choice(list(calls.values())).set()
                case 3 if calls:
                    draw.choice(list(calls)).cancel()
            if draw.random() < 0.05:
                gate.resize(draw.randrange(1, 5))
            if draw.random() < 0.5:  # else several things happen in one turn of the loop
                await turns()
                assert not (gate.n_waiting and gate.n_running < gate.n_places)
            for done in [task for task in calls if task.done()]:
                del calls[done]
                if not done.cancelled() and (error := done.exception()) is not None:
                    assert isinstance(error, LineFull)
        for until in calls.values():
            until.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert gate.is_idle
        assert world.inside == 0
        assert not gate._lines

    asyncio.run(run())


def test_of_two_uids_each_gets_every_other_place_however_many_agents_it_has() -> None:
    async def run() -> None:
        gate = Gate(1)
        world = World(gate)
        first = asyncio.Event()
        ends = [asyncio.Event() for _ in range(12)]
        async with asyncio.TaskGroup() as group:
            group.create_task(world.call(AgentId(9, "first"), first))
            await turns()
            for i in range(9):
                group.create_task(world.call(AgentId(1, f"many{i}"), ends[i]))
            for i in range(3):
                group.create_task(world.call(AgentId(2, "one"), ends[9 + i]))
            await turns()
            first.set()
            for end in ends:
                end.set()
        assert [agent.uid for agent in world.served] == [9, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1]

    asyncio.run(run())
