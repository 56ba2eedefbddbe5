"""Memory: what LRU-K keeps that LRU loses, exact search over vectors, and notes of many agents
beside plain SQLite.

The trace is a working set of WORKING_SET notes, used by a Zipf law, and every so often a scan over
notes that are used once.  The hit ratios are counts, so they are the same everywhere.
SQLite is one connection with the same journal and flushes, in our process, without a socket, an
index or other agents: the least that keeping a note can cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aios_sdk import AsyncClient
from aiosd.demo.daemon import Flags, PrivateDaemon
from aiosd.services.lru_k import LruK
from aiosd.services.vectors import VectorSet, nearest
from benchmarks.common import Options, Row, Spread, finish, shown, table

SEED = 7
WORKING_SET, SCAN, N_USES, SCAN_EVERY = 400, 600, 100_000, 500
BLOCKS = (50, 100, 200, 400)  # notes that fit into the RAM block
N_DIMS = 384
N_AGENTS = 200
CONTENT = "The user prefers short answers with a source for every figure, and metric units. " * 4


@dataclass(frozen=True, slots=True)
class Figures:
    """One line: what was measured, of which way, and how much."""

    what: str
    way: str
    value: Spread


def trace(n_uses: int) -> Iterator[int]:
    rng = random.Random(SEED)
    weights = [1 / (rank + 1) for rank in range(WORKING_SET)]
    fresh = WORKING_SET
    for number, note in enumerate(rng.choices(range(WORKING_SET), weights, k=n_uses)):
        yield note
        if number % SCAN_EVERY == SCAN_EVERY - 1:
            yield from range(fresh, fresh + SCAN)
            fresh += SCAN


def hit_ratio(k: int, n_room: int, n_uses: int) -> float:
    """Of the uses of the working set, how many found their note in RAM."""
    policy: LruK[int] = LruK(k)
    n_hits = 0
    for note in trace(n_uses):
        n_hits += note < WORKING_SET and note in policy
        if note not in policy and len(policy) == n_room:
            policy.evict()
        policy.use(note)
    return n_hits / n_uses


def search_ms(n_notes: int, n_runs: int) -> Spread:
    rng = np.random.default_rng(SEED)
    rows = rng.normal(size=(n_notes, N_DIMS)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = VectorSet(N_DIMS)
    vectors.put(range(n_notes), rows)
    nearest(vectors.view(), rows[0], 10)
    return Spread.of(
        [_ms(lambda n=n: nearest(vectors.view(), rows[n], 10)) for n in range(4 * n_runs)]  # type: ignore[misc]  # a default binds the loop's value
    )


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


async def notes_per_s(socket: str, n_agents: int, n_each: int) -> tuple[float, float]:
    """(added, read) by so many agents at once, each one after the other."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(socket, agent=f"agent-{n}"))
            for n in range(n_agents)
        ]

        async def add(client: AsyncClient) -> list[str]:
            return [await client.memory.add(f"{n}: {CONTENT}") for n in range(n_each)]

        async def read(client: AsyncClient, ids: Sequence[str]) -> None:
            for id_ in ids:
                await client.memory.get(id_)

        began = time.perf_counter()
        ids = await asyncio.gather(*map(add, clients))
        added_s = time.perf_counter() - began
        began = time.perf_counter()
        await asyncio.gather(*map(read, clients, ids))
        read_s = time.perf_counter() - began
    n_notes = n_agents * n_each
    return n_notes / added_s, n_notes / read_s


def sqlite_per_s(n_notes: int) -> tuple[float, float]:
    with (
        tempfile.TemporaryDirectory(prefix="notes-") as place,
        contextlib.closing(sqlite3.connect(Path(place) / "db", isolation_level=None)) as db,
    ):
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT)")
        began = time.perf_counter()
        for n in range(n_notes):
            db.execute("INSERT INTO notes VALUES (?, ?)", (n, f"{n}: {CONTENT}"))
        added_s = time.perf_counter() - began
        began = time.perf_counter()
        for n in range(n_notes):
            db.execute("SELECT content FROM notes WHERE id = ?", (n,)).fetchone()
        return n_notes / added_s, n_notes / (time.perf_counter() - began)


def main(options: Options) -> None:
    n_uses = 2_000 if options.is_quick else N_USES
    rows = [
        Figures(f"hit ratio, room for {n_room} of {WORKING_SET}", way, Spread(ratio, ratio, ratio))
        for n_room in BLOCKS
        for way, k in (("LRU", 1), ("LRU-2", 2))
        for ratio in [hit_ratio(k, n_room, n_uses)]
    ]
    for n_notes in (1_000,) if options.is_quick else (10_000, 100_000):
        found = search_ms(n_notes, options.n_runs)
        rows.append(Figures(f"ms to find 10 of {n_notes:,} vectors", "exact, numpy", found))
    n_agents, n_each = (4, 5) if options.is_quick else (N_AGENTS, 25)
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    flags: Flags = {"slots": 1, "slot-tokens": 256, "embedder": "none"}
    with PrivateDaemon(flags) as daemon:
        for _ in range(options.n_runs):
            ours.append(asyncio.run(notes_per_s(daemon.socket, n_agents, n_each)))
            bare.append(sqlite_per_s(n_agents * n_each))
    for index, what in enumerate(("notes added per second", "notes read per second")):
        for way, taken in ((f"aiosd, {n_agents} agents", ours), ("plain SQLite, alone", bare)):
            rows.append(Figures(what, way, Spread.of([run[index] for run in taken])))
    finish("memory", options, rows, report)


def report(rows: Sequence[Row]) -> str:
    cells = [(r["what"], r["way"], shown(r["value"])) for r in rows]
    text = table(("what", "of", "figure"), cells)
    ratios = {(r["what"], r["way"]): r["value"]["median"] for r in rows}
    better = [
        f"{ratios[what, 'LRU-2']:.2f} beside {ratio:.2f}"
        for (what, way), ratio in ratios.items()
        if way == "LRU"
    ]
    return f"{text}\n\nLRU-2's hit ratios beside LRU's: {', '.join(better)}."
