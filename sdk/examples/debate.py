"""A debate: two agents who know nothing of each other but a name, and write to that mailbox.

    AIOSD_SOCKET=… python sdk/examples/debate.py
They could as well be two programs: messages wait in the mailbox until they are acknowledged.
"""

from __future__ import annotations

import asyncio
import os

from aios_sdk import AsyncAgent, AsyncClient

MOTION = "Cities should have no cars."
N_TURNS = 3


def debater(side: str) -> AsyncAgent:
    system = f"You are in a debate, {side} this motion: {MOTION} Answer in one short sentence."
    return AsyncAgent(f"{side}-{os.getpid()}", system=system, max_tokens=40)


async def say(agent: AsyncAgent, to: str, heard: str) -> None:
    answer = await agent.generate(heard)
    print(f"{agent.name}: {answer}")
    await agent.ipc.send(to, answer.text)


async def hear(agent: AsyncAgent) -> str:
    [message] = await agent.ipc.receive(timeout_s=600)
    await agent.ipc.ack(message)  # else it would come again
    return str(message["body"])


async def begin(agent: AsyncAgent, other: str) -> None:
    heard = f"Open the debate: {MOTION}"
    for _ in range(N_TURNS):
        await say(agent, other, heard)
        heard = await hear(agent)


async def answer(agent: AsyncAgent, other: str) -> None:
    for _ in range(N_TURNS):
        await say(agent, other, await hear(agent))


async def main() -> None:
    """Agents may write to each other when they have a group in common, which a person arranges:
    `aiosctl access group debate --add for-1 --add against-1`.  That part is played here, too."""
    person = AsyncClient(agent="aiosctl")
    async with person, debater("for") as pro, debater("against") as con:
        group, members = f"debate-{os.getpid()}", (pro.name, con.name)
        await person.access.group(group, add=members)
        await asyncio.gather(begin(pro, con.name), answer(con, pro.name))
        await person.access.group(group, remove=members)


if __name__ == "__main__":
    asyncio.run(main())
