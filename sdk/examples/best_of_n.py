"""Best of n: one prompt read once, forked into branches, and the answer the model is surest of.

    AIOSD_SOCKET=… python sdk/examples/best_of_n.py
For comparison the same prompt is then sent in separate calls, each with a context of its own.
"""

from __future__ import annotations

import asyncio
import time
from statistics import fmean

from aios_sdk import AsyncClient, AsyncContext, ChatMessage, Generation

N_BRANCHES = 8
SYSTEM = "You are a careful writer who answers in one or two short, plain sentences. " * 12
QUESTION = "Why do leaves change their colour in autumn?"


def surety(answer: Generation) -> float:
    """The mean log-probability of its tokens; of an empty answer the least there is."""
    logprobs = [entry["logprob"] for entry in answer.logprobs or ()]
    return fmean(x for x in logprobs if isinstance(x, float)) if logprobs else float("-inf")


async def grow(branch: AsyncContext, seed: int) -> Generation:
    try:
        return await branch.generate(max_tokens=48, seed=seed, logprobs=1)
    finally:
        await branch.delete()


async def forked(client: AsyncClient, says: list[ChatMessage]) -> list[Generation]:
    trunk = await client.context(messages=says)
    await trunk.prefetch()
    branches = await asyncio.gather(*(trunk.fork() for _ in range(N_BRANCHES)))
    await trunk.delete()  # its forks don't need it
    return await asyncio.gather(*(grow(branch, seed) for seed, branch in enumerate(branches)))


async def separate(client: AsyncClient, says: list[ChatMessage]) -> list[Generation]:
    calls = (client.generate(says, max_tokens=48, seed=i, logprobs=1) for i in range(N_BRANCHES))
    return await asyncio.gather(*calls)


async def main(socket: str | None = None) -> None:
    async with AsyncClient(socket, agent="best-of-n") as client:
        for way in (forked, separate):
            # Each has a first word of its own, so that neither finds what the other has read.
            system = ChatMessage(role="system", content=f"{way.__name__}: {SYSTEM}")
            started_s = time.perf_counter()
            answers = await way(client, [system, ChatMessage(role="user", content=QUESTION)])
            took_s = time.perf_counter() - started_s
            best = max(answers, key=surety)
            print(f"{way.__name__:8} {took_s:6.2f} s, surety {surety(best):.2f}: {best.text!r}")


if __name__ == "__main__":
    asyncio.run(main())
