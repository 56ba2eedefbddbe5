"""Small files: writes and reads per second, of one agent alone and of 200 at once, beside the least
that a program without the daemon could do on the same disk in the same minute.

Every write of all three is on the disk when it is counted.  "Plain files" is a temporary file, its
fsync, a rename and the directory's fsync; "plain SQLite" a row per file and a commit per write
(WAL, synchronous=FULL).  Neither keeps versions, quotas or a copy that people can edit; the daemon
does, through a socket.  The daemon's clients are connections of one process; the peers' are as many
threads in one, as a program without an event loop would have.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import uvloop

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import Options, Spread, finish, shown, table
from benchmarks.common import Row as JsonRow

SIZE = 1024
N_FILES = 16  # of each agent, written in turn
AGENTS = (1, 200)
SECONDS = 5.0
MINUTES = 6.0
RECEIVE_BYTES = 65536
STORES = ("aiosd", "plain files", "plain SQLite")

Act = Callable[[int, int], None]
"""Do one act: of that agent, on its file of that number."""


@dataclass(frozen=True, slots=True)
class Row:
    """One store with so many agents at once.  ratios: the daemon's rate over this one's."""

    store: str
    n_agents: int
    writes_per_s: Spread
    reads_per_s: Spread
    write_ratio: Spread
    read_ratio: Spread


def main(options: Options) -> None:
    seconds = 0.3 if options.is_quick else SECONDS
    counts = (1, 8) if options.is_quick else AGENTS
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    flags: Flags = {"slots": 2, "lanes": 2, "slot-tokens": 512, "snapshot-files": 0}
    n_runs = 0
    with PrivateDaemon(flags) as daemon:
        for _ in options.rounds(MINUTES):
            n_runs += 1
            for n_agents in counts:
                with tempfile.TemporaryDirectory(prefix="store-") as place:
                    rates = {
                        "aiosd": on_daemon(daemon.socket, n_agents, seconds),
                        "plain files": in_threads(*plain_files(Path(place)), n_agents, seconds),
                        "plain SQLite": in_threads(*plain_sqlite(Path(place)), n_agents, seconds),
                    }
                for store, rate in rates.items():
                    taken.setdefault((store, n_agents), []).append(rate)
    rows = [
        row_of(store, n_agents, taken[store, n_agents], taken["aiosd", n_agents])
        for n_agents in counts
        for store in STORES
    ]
    finish("storage", options, rows, report, n_runs)


def row_of(
    store: str,
    n_agents: int,
    taken: Sequence[tuple[float, float]],
    ours: Sequence[tuple[float, float]],
) -> Row:
    both = list(zip(ours, taken, strict=True))
    return Row(
        store,
        n_agents,
        Spread.of([writes for writes, _ in taken]),
        Spread.of([reads for _, reads in taken]),
        Spread.of([own[0] / theirs[0] for own, theirs in both]),
        Spread.of([own[1] / theirs[1] for own, theirs in both]),
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = ("store", "agents at once", "writes per second", "reads per second", "ratio", "ratio")
    cells = [
        (
            r["store"],
            f"{r['n_agents']}",
            *(shown(r[key]) for key in ("writes_per_s", "reads_per_s")),
            *(shown(r[key]) for key in ("write_ratio", "read_ratio")),
        )
        for r in rows
    ]
    return (
        f"Files of {SIZE} bytes. Ratios: aiosd's writes, then its reads, over the store's.\n\n"
        f"{table(head, cells)}"
    )


# ---------------------------------------------------------------- the daemon


class Agent:
    """The least that a client can be: one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unpacker = msgpack.Unpacker()
        self._ids = itertools.count()

    @classmethod
    async def connect(cls, path: str, name: str) -> Agent:
        agent = cls(*await asyncio.open_unix_connection(path))
        await agent.call("sys.hello", protocol=1, agent=name)
        return agent

    async def call(self, method: str, **params: Any) -> Any:
        self._writer.write(msgpack.packb([0, next(self._ids), method, [params]]))
        while True:
            for _, _, error, result in self._unpacker:
                assert error is None, error
                return result
            data = await self._reader.read(RECEIVE_BYTES)
            assert data, "the daemon closed the connection"
            self._unpacker.feed(data)

    def close(self) -> None:
        self._writer.close()


def on_daemon(path: str, n_agents: int, seconds: float) -> tuple[float, float]:
    """(writes, reads) per second of all agents together."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_on_daemon(path, n_agents, seconds))


async def _on_daemon(path: str, n_agents: int, seconds: float) -> tuple[float, float]:
    agents = [await Agent.connect(path, f"store-{n}") for n in range(n_agents)]
    data = [os.urandom(SIZE) for _ in range(N_FILES)]
    n_done = 0

    async def work(agent: Agent, until: float, *, writes: bool) -> None:
        nonlocal n_done
        for number in itertools.count():
            if time.perf_counter() > until:
                return
            name = f"f{number % N_FILES}"
            if writes:
                content = number.to_bytes(8) + data[number % N_FILES][8:]
                await agent.call("storage.write", path=name, data=content)
            else:
                await agent.call("storage.read", path=name)
            n_done += 1

    rates = []
    for agent in agents:
        for number in range(N_FILES):
            await agent.call("storage.write", path=f"f{number}", data=data[number])
    for writes in (True, False):
        n_done, began = 0, time.perf_counter()
        await asyncio.gather(*(work(agent, began + seconds, writes=writes) for agent in agents))
        rates.append(n_done / (time.perf_counter() - began))
    for agent in agents:
        agent.close()
    return rates[0], rates[1]


# ---------------------------------------------------------------- the peers


def in_threads(write: Act, read: Act, n_agents: int, seconds: float) -> tuple[float, float]:
    """As on_daemon(), with a thread for each agent."""
    for agent in range(n_agents):
        for number in range(N_FILES):
            write(agent, number)
    rates = []
    for act in (write, read):
        counts = [0] * n_agents
        began = time.perf_counter()

        def work(agent: int, act: Act, counts: list[int], until: float) -> None:
            for number in itertools.count():
                if time.perf_counter() > until:
                    return
                act(agent, number % N_FILES)
                counts[agent] += 1

        threads = [
            threading.Thread(target=work, args=(agent, act, counts, began + seconds))
            for agent in range(n_agents)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates.append(sum(counts) / (time.perf_counter() - began))
    return rates[0], rates[1]


def plain_files(place: Path) -> tuple[Act, Act]:
    data = os.urandom(SIZE)

    def write(agent: int, number: int) -> None:
        directory = place / f"a{agent}"
        directory.mkdir(exist_ok=True)
        temporary = directory / f"{number}.tmp"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / f"{number}")
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def read(agent: int, number: int) -> None:
        assert len((place / f"a{agent}" / f"{number}").read_bytes()) == SIZE

    return write, read


def plain_sqlite(place: Path) -> tuple[Act, Act]:
    data = os.urandom(SIZE)
    connection = sqlite3.connect(place / "db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE files (path TEXT PRIMARY KEY, data BLOB)")
    lock = threading.Lock()

    def write(agent: int, number: int) -> None:
        with lock:
            connection.execute("REPLACE INTO files VALUES (?, ?)", (f"{agent}/{number}", data))

    def read(agent: int, number: int) -> None:
        with lock:
            select = "SELECT data FROM files WHERE path = ?"
            assert connection.execute(select, (f"{agent}/{number}",)).fetchone() is not None

    return write, read
