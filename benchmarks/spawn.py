"""How long an agent takes from its start to the answer of its first syscall: started by the daemon,
beside a bare subprocess that runs the same program.

The program is an agent on the SDK, in Python (benchmarks/spawned.py): it connects, or takes over
the connection it was given, says hello, makes one call, and tells the time.  What the daemon adds:
the process is confined, has an identity of its own, and its output is kept.  They take turns; the
first of each isn't counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aios_sdk import Client
from aiosd.demo.daemon import PrivateDaemon
from benchmarks.common import ROOT, Options, Spread, bars, finish, shown, table
from benchmarks.common import Row as JsonRow

N_STARTS = 20  # of each, in a round
MINUTES = 2.0
PROGRAM = str(ROOT / "benchmarks" / "spawned.py")
SDK = str(ROOT / "sdk" / "src")
READ = (PROGRAM, SDK, sys.prefix, sys.base_prefix)
BARE, SPAWNED = "a bare subprocess", "agent.spawn"


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds, the median of each round's: to the first answer, and to the process's end."""

    way: str
    first_ms: Spread
    ended_ms: Spread


Start = Callable[[], tuple[float, float]]
"""Start one, and wait: milliseconds to its first answer, and to its end."""


def main(options: Options) -> None:
    n_starts = 2 if options.is_quick else N_STARTS
    with (
        PrivateDaemon({"slots": 1, "slot-tokens": 256}) as daemon,
        Client(daemon.socket, agent="bench") as client,
    ):
        ways: dict[str, Start] = {BARE: bare(daemon.socket), SPAWNED: spawned(client)}
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in options.rounds(MINUTES):
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(n_starts + 1):
                for way, start in ways.items():
                    times[way].append(start())
            for way, each in times.items():
                first, ended = zip(*each[1:], strict=True)
                taken[way].append((Spread.of(first).median, Spread.of(ended).median))
    rows = [
        Row(way, *(Spread.of(times) for times in zip(*taken[way], strict=True))) for way in ways
    ]
    finish("spawn", options, rows, report, len(taken[BARE]))
    bars(
        "spawn",
        options,
        title="From an agent's start",
        y_label="milliseconds",
        groups={row.way: (row.first_ms, row.ended_ms) for row in rows},
        labels=("to its first answer", "to its end"),
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = ("started as", "ms to its first answer", "ms to its end")
    cells = [(r["way"], shown(r["first_ms"]), shown(r["ended_ms"])) for r in rows]
    theirs, ours = rows
    more_ms = ours["first_ms"]["median"] - theirs["first_ms"]["median"]
    ratio = ours["first_ms"]["median"] / theirs["first_ms"]["median"]
    return f"{table(head, cells)}\n\nThe daemon adds {more_ms:.1f} ms: {ratio:.2f} of the bare one."


def bare(socket: str) -> Start:
    def start() -> tuple[float, float]:
        began_ns = time.monotonic_ns()
        done = subprocess.run(
            [sys.executable, PROGRAM],
            env={**os.environ, "PYTHONPATH": SDK, "AIOSD_SOCKET": socket},
            capture_output=True,
            text=True,
            check=True,
        )
        return _ms(began_ns, int(done.stdout)), _ms(began_ns, time.monotonic_ns())

    return start


def spawned(client: Client) -> Start:
    def start() -> tuple[float, float]:
        began_ns = time.monotonic_ns()
        child = client.spawn("spawned", sys.executable, PROGRAM, env={"PYTHONPATH": SDK}, read=READ)
        ended = child.wait()
        ended_ns = time.monotonic_ns()
        lines = [line["text"] for line in child.logs()]
        assert ended.get("exit_code") == 0, (ended, lines)
        return _ms(began_ns, int(lines[0])), _ms(began_ns, ended_ns)

    return start


def _ms(began_ns: int, then_ns: int) -> float:
    return (then_ns - began_ns) / 1e6
