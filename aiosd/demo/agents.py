"""What the eight agents do: each holds a conversation of two turns, over a connection of its own.

Three of them write long answers and arrive first; the five behind them want only a few words.
That is where schedulers differ.  Seeds are fixed, so the answers can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aios_sdk.aio import AsyncClient
from aiosd.demo.board import Board, Row, State, Turn

POLL_S = 0.2  # how often the table learns from job.list
STATES: dict[str, State] = {
    "ready": "ready",
    "running": "running",
    "stalled": "stalled",
    "paused": "paused",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What one agent is for, what it is asked, and how much it may say each time."""

    agent: str
    system: str
    asked: tuple[str, ...]
    max_tokens: int


TASKS = (
    Task(
        "novelist",
        "You write long stories.",
        (
            "Write a long story about a lighthouse keeper and her cat.",
            "Now tell the same story as the sea would tell it.",
        ),
        300,
    ),
    Task(
        "teacher",
        "You are a patient teacher who explains in detail.",
        ("Explain step by step how rain is made.", "And why does it snow in winter?"),
        300,
    ),
    Task(
        "planner",
        "You make detailed plans.",
        ("Plan a garden for a small yard, week by week.", "What could go wrong, and what then?"),
        300,
    ),
    Task("namer", "You name things.", ("Name a grey cat.", "Another name?"), 24),
    Task(
        "translator",
        "You translate into French.",
        ("Good morning, my friend.", "See you tomorrow."),
        32,
    ),
    Task(
        "critic",
        "You judge in one sentence.",
        ("The film was long, and the hero sleeps a lot.", "And the music?"),
        48,
    ),
    Task("clerk", "You answer in one short line.", ("What is 12 plus 30?", "And minus 2?"), 24),
    Task("poet", "You are a poet of few words.", ("Two lines about rain.", "Now the sun."), 40),
)

OnTurn = Callable[[Turn], None]


async def perform(socket: str, board: Board, on_turn: OnTurn, on_tick: Callable[[], None]) -> None:
    """Let all agents do their tasks at once; board is kept up to date, elapsed_s too."""
    clock = asyncio.get_running_loop().time
    agents = []
    for seed, task in enumerate(TASKS):
        client = AsyncClient(socket, agent=task.agent)
        made = await client.call("context.create", system=task.system)
        agents.append(Agent(task, client, str(made["context"]), seed))
    watcher = AsyncClient(socket, agent="demo")
    began = clock()

    def tick() -> None:
        board.elapsed_s = clock() - began
        on_tick()

    async def watch() -> None:
        while True:
            look(board, await watcher.call("job.list", all=True))
            tick()
            await asyncio.sleep(POLL_S)

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            async with asyncio.TaskGroup() as crew:
                for agent in agents:
                    crew.create_task(agent.converse(board.rows[agent.task.agent], on_turn))
            watching.cancel()
        tick()
    finally:
        for client in (watcher, *(agent.client for agent in agents)):
            await client.close()


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent at work: its connection, and its context in the daemon."""

    task: Task
    client: AsyncClient
    context: str
    seed: int

    async def converse(self, row: Row, on_turn: OnTurn) -> None:
        """All its turns."""
        for number, question in enumerate(self.task.asked, start=1):
            async with self.client.stream(
                "llm.generate",
                context=self.context,
                messages=[{"role": "user", "content": question}],
                max_tokens=self.task.max_tokens,
                seed=self.seed,
            ) as stream:
                async for chunk in stream:
                    match chunk:
                        case {"text": str(text), "tokens": list(tokens)}:
                            row.says(text, len(tokens))
                turn = turn_of(self.task.agent, await stream.result())
            row.ends_turn(turn, is_last=number == len(self.task.asked))
            on_turn(turn)


def turn_of(agent: str, reply: dict[str, Any]) -> Turn:
    usage = reply["usage"]
    return Turn(
        agent,
        reply["text"],
        n_output=usage["output_tokens"],
        wait_ms=usage["waited_ms"],
        ttft_ms=usage["ttft_ms"],
        slices=usage["slices"],
        parks=usage["parks"],
    )


def look(board: Board, listed: dict[str, Any]) -> None:
    """Take over what job.list says of turns under way."""
    for job in listed["jobs"]:
        row = board.rows.get(job["agent"])
        if row is None or row.state == "done":
            continue
        row.state = STATES.get(job["state"], row.state)
        row.wait_now_ms = job["waited_ms"]
        row.slices_now = job["slices"]
        row.parks_now = job["parks"]
