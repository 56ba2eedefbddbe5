"""Null syscalls: sys.ping per second and how long one takes, idle and while all lanes generate,
beside a bare echo on uvloop that the same client asks on the same machine in the same minute.

The client is the same for both: a blocking socket and msgpack, no SDK, so that what differs is
the server.  "Pipelined" sends WINDOW requests at a time on one connection.  Single round trips come
at random moments, GAP_S apart on average: sent back to back they would all fall into the gaps
between the engine's steps, and tell nothing of what a client sees that asks now and then.
"""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import Options, Row, Spread, finish, shown, table
from benchmarks.load import background_jobs

WINDOW = 64  # below the daemon's limit of calls in flight per connection
GAP_S = 0.002
N_LANES = 8
RECEIVE_BYTES = 65536
START_TIMEOUT_S = 20.0


class Client:
    """Just enough of MessagePack-RPC to ask and to wait."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._unpacker = msgpack.Unpacker()
        self._next_id = 0
        self.pipeline("sys.hello", 1, protocol=1, agent="bench")

    def close(self) -> None:
        self._socket.close()

    def round_trip_s(self) -> float:
        began = time.perf_counter()
        self.pipeline("sys.ping", 1)
        return time.perf_counter() - began

    def pipeline(self, method: str, n_calls: int, **params: object) -> None:
        """So many calls in one write; returns when all are answered."""
        ids = range(self._next_id, self._next_id + n_calls)
        self._next_id += n_calls
        self._socket.sendall(b"".join(msgpack.packb([0, i, method, [params]]) for i in ids))
        n_answers = 0
        while n_answers < n_calls:
            data = self._socket.recv(RECEIVE_BYTES)
            assert data, "the server closed the connection"
            self._unpacker.feed(data)
            for kind, _, error, _ in self._unpacker:
                assert kind == 1, "only responses were asked for"
                assert error is None, error
                n_answers += 1


@dataclass(frozen=True, slots=True)
class Figures:
    """One server in one situation."""

    server: str
    situation: str
    calls_per_s: Spread
    p50_us: Spread
    p99_us: Spread


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="echo-") as place:
        path = str(Path(place) / "echo.sock")
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.echo", path])
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not Path(path).exists():
                assert time.monotonic() < deadline, "the echo server did not start"
                time.sleep(0.02)
            yield path
        finally:
            process.terminate()
            process.wait()


def measure(path: str, options: Options) -> tuple[float, float, float]:
    """(calls per second pipelined, p50 and p99 of single round trips in microseconds)."""
    seconds, n_single = (0.1, 50) if options.is_quick else (2.0, 1500)
    client = Client(path)
    try:
        client.pipeline("sys.ping", WINDOW)
        began = time.perf_counter()
        n_calls = 0
        while (spent := time.perf_counter() - began) < seconds:
            client.pipeline("sys.ping", WINDOW)
            n_calls += WINDOW
        times = []
        for _ in range(n_single):
            time.sleep(random.expovariate(1 / GAP_S))
            times.append(client.round_trip_s())
        times.sort()
    finally:
        client.close()
    return n_calls / spent, times[n_single // 2] * 1e6, times[n_single * 99 // 100] * 1e6


def main(options: Options) -> None:
    flags: Flags = {"slots": N_LANES, "lanes": N_LANES, "slot-tokens": 2048, "policy": "fifo"}
    rows = []
    with PrivateDaemon(flags) as daemon, echo_server() as echo:
        servers = {"aiosd": daemon.socket, "bare echo": echo}
        rows += _situation("idle", servers, options)
        with background_jobs(daemon.socket, n_jobs=N_LANES):
            rows += _situation(f"{N_LANES} lanes generating", servers, options)
    finish("syscalls", options, rows, report)


def report(rows: Sequence[Row]) -> str:
    head = ("server", "situation", "calls per second", "p50 µs", "p99 µs")
    cells = [
        (
            r["server"],
            r["situation"],
            *(shown(r[key]) for key in ("calls_per_s", "p50_us", "p99_us")),
        )
        for r in rows
    ]
    lines = []
    for ours, bare in (rows[0:2], rows[2:4]):
        ratio = ours["calls_per_s"]["median"] / bare["calls_per_s"]["median"]
        later_us = ours["p50_us"]["median"] - bare["p50_us"]["median"]
        lines.append(
            f"{ours['situation']}: {ratio:.2f} of the echo's calls, {later_us:+.0f} µs at p50"
        )
    return f"{table(head, cells)}\n\n" + "; ".join(lines) + "."


def _situation(name: str, servers: dict[str, str], options: Options) -> list[Figures]:
    samples: dict[str, list[tuple[float, float, float]]] = {server: [] for server in servers}
    for _ in range(options.n_runs):
        for server, path in servers.items():
            samples[server].append(measure(path, options))
    return [
        Figures(server, name, *(Spread.of([s[i] for s in taken]) for i in range(3)))
        for server, taken in samples.items()
    ]
