"""A process that stores for several agents until it is killed, or kills itself.

`python -m tests.services.storage.writer DIRECTORY SEED POINT N < STATE`: when acts have come to
POINT N times it dies by SIGKILL; STATE is what each agent has, as JSON.
A line on stdout is an act's begin or its acknowledgement, each in one write to the pipe.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from aios_sdk.errors import SyscallError
from aiosd.kernel.model import AgentId
from aiosd.services.database import Database
from aiosd.services.schema import MIGRATIONS
from aiosd.services.storage.rows import Limits
from aiosd.services.storage.store import Storage
from aiosd.storage_config import StorageConfig

AGENTS = [AgentId(1000, name) for name in ("a", "b", "c", "d")]
PATHS = ("x", "y", "d/x", "d/y")
LIMITS = Limits(2**40, 10**6, 10**6, 2**40, 2**40)

History = dict[str, list[str | None]]
"""The contents of each path's versions, None for its deletion."""
Act = list[str]


def applied(history: History, act: Act) -> History:
    """What an act makes of it."""
    new = {path: list(contents) for path, contents in history.items()}
    match act:
        case ["replace", path, content]:
            new.setdefault(path, []).append(content)
        case ["append", path, content]:
            old = new.setdefault(path, [])
            old.append((old[-1] if old and old[-1] else "") + content)
        case ["delete", path]:
            new[path].append(None)
        case ["rename", path, to]:
            if to in new:
                new[to].append(new[path][-1])
                new[path].append(None)
            else:
                new[to] = new.pop(path)
        case ["rollback", path, steps]:
            new[path].append(new[path][-1 - int(steps)])
        case _:
            raise AssertionError(act)
    return new


def chosen(history: History, rng: random.Random) -> Act:
    """An act that can be done."""
    live = [path for path, contents in history.items() if contents[-1] is not None]
    dice = rng.random()
    path = rng.choice(PATHS)
    if dice < 0.5 or not live:
        size = rng.choice((1, 10, 300))
        return ["replace", path, f"{rng.random()}" * size]
    if dice < 0.6:
        return ["append", path, f"+{rng.random()}"]
    if dice < 0.75:
        return ["delete", rng.choice(live)]
    if dice < 0.9:
        source = rng.choice(live)
        return ["rename", source, rng.choice([p for p in PATHS if p != source])]
    steps = [
        (path, back)
        for path, contents in history.items()
        for back in range(1, len(contents))
        if contents[-1 - back] is not None
    ]
    if not steps:
        return ["replace", path, "first"]
    path, back = rng.choice(steps)
    return ["rollback", path, str(back)]


async def do(storage: Storage, owner: AgentId, act: Act) -> None:
    parts = tuple(act[1].split("/"))
    match act[0]:
        case "replace" | "append":
            await storage.write(owner, parts, act[2].encode(), act[0], owner.name)
        case "delete":
            await storage.delete(owner, parts, owner.name, recursive=False)
        case "rename":
            to = tuple(act[2].split("/"))
            await storage.rename(owner, parts, to, owner.name, over=True)
        case "rollback":
            await storage.rollback(owner, parts, None, int(act[2]), owner.name)


async def work(storage: Storage, owner: AgentId, history: History, rng: random.Random) -> None:
    while True:
        act = chosen(history, rng)
        os.write(1, (json.dumps([owner.name, "begin", act]) + "\n").encode())
        try:
            await do(storage, owner, act)
        except SyscallError as error:
            os.write(1, (json.dumps([owner.name, "failed", [repr(error)]]) + "\n").encode())
            raise
        os.write(1, (json.dumps([owner.name, "done", act]) + "\n").encode())
        history = applied(history, act)


def killer(point: str, n_times: int) -> Callable[[str], None]:
    """At the nth time at that point: the end, with nothing said."""
    left, lock = n_times, threading.Lock()

    def at(here: str) -> None:
        nonlocal left
        if here == point:
            with lock:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return at


async def main(directory: Path, seed: str, point: str, n_times: int) -> None:
    database = await Database.open(directory / "db", MIGRATIONS)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.run())
        storage = Storage(
            directory / "storage",
            database,
            lambda _: LIMITS,
            lambda: time.time_ns() // 1_000_000,
            config=StorageConfig,
            at=killer(point, n_times),
        )
        await storage.recover()
        known: dict[str, History] = json.load(sys.stdin)
        for owner in AGENTS:
            rng = random.Random(f"{seed} {owner.name}")
            tasks.create_task(work(storage, owner, known[owner.name], rng))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
