"""What a tool's call costs: through the daemon, beside the same without it.

A Python tool runs in a confined process of its own, so its peer is a bare subprocess that runs the
same function.  A tool of an MCP server is a message to a process that is there already; its peer is
the same server called by the mcp SDK's own client.  Calls are made one after another, and
N_TOGETHER at once on one connection; all of them are checked, schema and rights, waits and audit
included.  The two ways of each pair take turns within a round.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import mcp
from mcp import StdioServerParameters

from aios_sdk import AsyncClient
from aiosd.demo.daemon import PrivateDaemon
from benchmarks.common import ROOT, Options, Spread, bars, finish, shown, table
from benchmarks.common import Row as JsonRow

N_TOGETHER = 8
ARGUMENTS = {"a": 19.0, "b": 23.0}
SUM = 42.0
MINUTES = 4.0
TOOL = ROOT / "benchmarks" / "tool_dir" / "bench_add.py"
SERVER = (sys.executable, "-m", "benchmarks.mcp_add")

Call = Callable[[], Awaitable[float]]
DIRECT, DAEMON = "without the daemon", "through the daemon"
KINDS = ("a Python tool", "an MCP server's tool")


@dataclass(frozen=True, slots=True)
class Row:
    """One way of calling one kind of tool."""

    kind: str
    way: str
    one_ms: Spread
    together_per_s: Spread


def main(options: Options) -> None:
    n_runs, taken = asyncio.run(measured(options))
    rows = [
        Row(kind, way, Spread.of([one for one, _ in times]), Spread.of([n for _, n in times]))
        for (kind, way), times in taken.items()
    ]
    finish("tools", options, rows, report, n_runs)
    bars(
        "tools",
        options,
        title="A tool's call, one after another",
        y_label="milliseconds",
        groups={way: [r.one_ms for r in rows if r.way == way] for way in (DIRECT, DAEMON)},
        labels=KINDS,
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = ("tool", "called", "milliseconds a call", f"calls per second, {N_TOGETHER} at once")
    cells = [(r["kind"], r["way"], shown(r["one_ms"]), shown(r["together_per_s"])) for r in rows]
    lines = []
    for direct, ours in (rows[0:2], rows[2:4]):
        more_ms = ours["one_ms"]["median"] - direct["one_ms"]["median"]
        ratio = ours["together_per_s"]["median"] / direct["together_per_s"]["median"]
        lines.append(
            f"{ours['kind']}: {more_ms:+.2f} ms a call, and {ratio:.2f} of the calls per second"
        )
    return f"{table(head, cells)}\n\nThrough the daemon, " + "; ".join(lines) + "."


async def measured(
    options: Options,
) -> tuple[int, dict[tuple[str, str], list[tuple[float, float]]]]:
    """The rounds, and for each kind and way: (milliseconds a call, calls per second together)."""
    n_calls = 4 if options.is_quick else 40
    async with AsyncExitStack() as stack:
        ways = await stack.enter_async_context(all_ways())
        taken: dict[tuple[str, str], list[tuple[float, float]]] = {way: [] for way in ways}
        for call in ways.values():
            await call()  # whatever is made at first use
        n_runs = 0
        for _ in options.rounds(MINUTES):
            n_runs += 1
            for way, call in ways.items():
                taken[way].append((await one_ms(call, n_calls), await per_s(call, n_calls)))
    return n_runs, taken


@asynccontextmanager
async def all_ways() -> AsyncIterator[dict[tuple[str, str], Call]]:
    """Each kind of tool, without and through a daemon."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "sdk" / "src")))}
    server = StdioServerParameters(command=SERVER[0], args=list(SERVER[1:]), env=environ)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        config = Path(place) / "aiosd.toml"
        config.write_text(config_text())
        with PrivateDaemon({"config": str(config), "slots": 1, "slot-tokens": 256}) as daemon:
            async with (
                AsyncClient(daemon.socket, agent="bench") as client,
                mcp.Client(server) as own,
            ):

                async def by_subprocess() -> float:
                    process = await asyncio.create_subprocess_exec(
                        sys.executable,
                        str(TOOL),
                        json.dumps(ARGUMENTS),
                        stdout=asyncio.subprocess.PIPE,
                        env=environ,
                    )
                    said, _ = await process.communicate()
                    return float(said)

                async def by_mcp() -> float:
                    result = await own.call_tool("add", dict(ARGUMENTS))
                    assert result.structured_content is not None
                    return float(result.structured_content["result"])

                def by_daemon(name: str) -> Call:
                    async def call() -> float:
                        result = await client.call("tool.call", name=name, arguments=ARGUMENTS)
                        assert not result["is_error"], result
                        return float(str(result["content"]))

                    return call

                yield {
                    (KINDS[0], DIRECT): by_subprocess,
                    (KINDS[0], DAEMON): by_daemon("bench_add"),
                    (KINDS[1], DIRECT): by_mcp,
                    (KINDS[1], DAEMON): by_daemon("bench.add"),
                }


def config_text() -> str:
    """The two tools, with what their processes have to read."""
    reads = json.dumps(sorted({str(ROOT), sys.prefix, sys.base_prefix}))
    return f"""
[tools]
directory = {json.dumps(str(TOOL.parent))}

[mcp.bench]
command = {json.dumps(SERVER[0])}
args = {json.dumps(SERVER[1:])}
env = {{ PYTHONPATH = {json.dumps(str(ROOT))} }}
read = {reads}
max_parallel = {N_TOGETHER}
"""


async def one_ms(call: Call, n_calls: int) -> float:
    """Milliseconds of a call, of several one after another."""
    began_s = time.perf_counter()
    for _ in range(n_calls):
        assert await call() == SUM
    return (time.perf_counter() - began_s) * 1000 / n_calls


async def per_s(call: Call, n_calls: int) -> float:
    """Calls per second, always so many of them at once."""

    async def lane() -> None:
        for _ in range(max(1, n_calls // N_TOGETHER)):
            assert await call() == SUM

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(N_TOGETHER):
            group.create_task(lane())
    return N_TOGETHER * max(1, n_calls // N_TOGETHER) / (time.perf_counter() - began_s)
