"""Jobs that load the daemon: equal ones for measuring, endless ones in the background.

The client here is the least that a MessagePack-RPC client can be, on uvloop: it shares the cores
with what is measured, so every microsecond of its own would count against the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import uvloop

READ_BYTES = 65536
FIRST_PLAIN_TOKEN, LAST_PLAIN_TOKEN = 1000, 40000  # ordinary words in SmolLM2's vocabulary
ENDLESS_TOKENS = 1900  # of a background job, in a slot of 2048; then it begins anew


@dataclass(slots=True)
class JobTimes:
    """One job as its client saw it, in seconds of time.perf_counter."""

    submitted_s: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (when, how many tokens)
    ended_s: float = 0.0
    usage: dict[str, int] = field(default_factory=dict)


def prompt_tokens(n_tokens: int, seed: int) -> list[int]:
    """A prompt that shares no prefix with another seed's."""
    chance = random.Random(seed)
    return [chance.randint(FIRST_PLAIN_TOKEN, LAST_PLAIN_TOKEN) for _ in range(n_tokens)]


def run_jobs(path: str, *, n_jobs: int, n_prompt: int, n_output: int) -> list[JobTimes]:
    """So many equal greedy jobs at once, each of an agent with its own connection."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run_jobs(path, n_jobs, n_prompt, n_output))


async def _run_jobs(path: str, n_jobs: int, n_prompt: int, n_output: int) -> list[JobTimes]:
    agents = [await Agent.connect(path, f"bench-{i}") for i in range(n_jobs)]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(agent.generate(prompt_tokens(n_prompt, seed), n_output))
            for seed, agent in enumerate(agents)
        ]
    for agent in agents:
        agent.close()
    return [task.result() for task in tasks]


class Agent:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unpacker = msgpack.Unpacker()
        self._n_calls = 0
        self.has_token = asyncio.Event()

    @classmethod
    async def connect(cls, path: str, name: str) -> Agent:
        agent = cls(*await asyncio.open_unix_connection(path))
        await agent._call("sys.hello", {"protocol": 1, "agent": name}, JobTimes())
        return agent

    async def generate(self, tokens: list[int], n_output: int) -> JobTimes:
        times = JobTimes(submitted_s=time.perf_counter())
        params = {
            "tokens": tokens,
            "max_tokens": n_output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        result = await self._call("llm.generate", params, times)
        times.ended_s = time.perf_counter()
        times.usage = result["usage"]
        assert times.usage["output_tokens"] == n_output, times.usage
        return times

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Any syscall; for a streaming one generate() tells more."""
        return await self._call(method, params, JobTimes())

    async def stream(self, method: str, times: JobTimes, **params: Any) -> dict[str, Any]:
        """A streaming syscall, whose chunks are noted in times."""
        return await self._call(method, params, times)

    def close(self) -> None:
        self._writer.close()

    async def _call(self, method: str, params: dict[str, Any], times: JobTimes) -> dict[str, Any]:
        id_ = self._n_calls
        self._n_calls += 1
        self._writer.write(msgpack.packb([0, id_, method, [params]]))
        while True:
            data = await self._reader.read(READ_BYTES)
            now_s = time.perf_counter()
            if not data:
                raise ConnectionError(f"the daemon closed the connection during {method}")
            self._unpacker.feed(data)
            for message in self._unpacker:
                match message:
                    case [2, "stream", [{"tokens": [_, *_] as tokens}]]:
                        times.arrivals.append((now_s, len(tokens)))
                        self.has_token.set()
                    case [1, answered, None, dict() as result] if answered == id_:
                        return result
                    case [1, _, error, _]:
                        raise RuntimeError(f"{method} failed: {error}")


@contextlib.contextmanager
def background_jobs(
    path: str, *, n_jobs: int, n_prompt: int = 32, n_output: int = ENDLESS_TOKENS
) -> Iterator[None]:
    """Keep so many jobs generating, one after the other, from another process, until the block
    ends."""
    numbers = (str(n_jobs), str(n_prompt), str(n_output))
    command = [sys.executable, "-m", "benchmarks.load", path, *numbers]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            assert process.stdout.readline() == b"all generating\n", "the load did not start"
            yield
            assert process.poll() is None, "the load ended too early"
        finally:
            process.terminate()


async def _generate_endlessly(path: str, n_jobs: int, n_prompt: int, n_output: int) -> None:
    agents = [await Agent.connect(path, f"load-{n_prompt}-{i}") for i in range(n_jobs)]
    seeds = itertools.count(n_prompt * 1000)  # no two prompts begin alike

    async def work(agent: Agent) -> None:
        while True:
            await agent.generate(prompt_tokens(n_prompt, next(seeds)), n_output)

    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(work(agent))
        for agent in agents:
            await agent.has_token.wait()
        print("all generating", flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as endless:
        endless.run(_generate_endlessly(sys.argv[1], *map(int, sys.argv[2:5])))
