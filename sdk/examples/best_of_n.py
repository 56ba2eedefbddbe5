"""Best of n: one prompt read once, forked into branches, and the answer the model is surest of.

    AIOSD_SOCKET=… python sdk/examples/best_of_n.py
For comparison the same prompt is then sent in separate calls, each with a context of its own.
"""

from __future__ import annotations

import asyncio
import time
from statistics import fmean

from aios_sdk import AsyncAgent, ChatMessage, Generation

N_BRANCHES = 8
SYSTEM = "You are a careful writer who answers in one or two short, plain sentences. " * 12
QUESTION = ChatMessage(role="user", content="Why do leaves change their colour in autumn?")


def surety(answer: Generation) -> float:
    """The mean log-probability of its tokens; of an empty answer the least there is."""
    logprobs = [entry["logprob"] for entry in answer.logprobs or ()]
    return fmean(x for x in logprobs if isinstance(x, float)) if logprobs else float("-inf")


async def grow(agent: AsyncAgent, seed: int) -> Generation:
    async with await agent.fork() as branch:
        return await branch.generate(seed=seed)


async def forked(agent: AsyncAgent, _: str) -> list[Generation]:
    trunk = await agent.context()
    await trunk.append([QUESTION])
    await trunk.prefetch()
    return await asyncio.gather(*(grow(agent, seed) for seed in range(N_BRANCHES)))


async def separate(agent: AsyncAgent, system: str) -> list[Generation]:
    says = [ChatMessage(role="system", content=system), QUESTION]
    calls = (agent.client.generate(says, max_tokens=48, seed=i, logprobs=1) for i in range(8))
    return await asyncio.gather(*calls)


async def main() -> None:
    for way in (forked, separate):
        # Each has a first word of its own, so that neither finds what the other has read.
        system = f"{way.__name__}: {SYSTEM}"
        async with AsyncAgent("best-of-n", system=system, max_tokens=48, logprobs=1) as agent:
            started_s = time.perf_counter()
            answers = await way(agent, system)
            took_s = time.perf_counter() - started_s
            best = max(answers, key=surety)
            print(f"{way.__name__:8} {took_s:6.2f} s, surety {surety(best):.2f}: {best.text!r}")


if __name__ == "__main__":
    asyncio.run(main())
