"""Many connected agents, each with a context and a job at the same moment: is time linear in them?

Makespan and waiting are the jobs' own, from the first call to the last reply.  Memory per agent is
what the daemon's resident memory grew by when they had connected, and when they had all been
served, over their number: the KV cache has been touched before, and there are no snapshots.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import Options, Series, Spread, finish, n_cores, plot, shown, table
from benchmarks.common import Row as JsonRow
from benchmarks.load import Agent, prompt_tokens

SIZES = (50, 200, 500, 1000, 2000)
N_PROMPT = 8
N_OUTPUT = 4
N_SLOTS = 8
SLOT_TOKENS = 256
AT_ONCE = 64  # connections being made
SPARE_DESCRIPTORS = 256
MINUTES = 3.0


@dataclass(frozen=True, slots=True)
class Run:
    makespan_s: float
    wait_mean_s: float
    wait_p90_s: float
    connected_kib: float
    served_kib: float


@dataclass(frozen=True, slots=True)
class Row:
    """KiB are of the daemon, per agent."""

    n_agents: int
    n_runs: int
    makespan_s: Spread
    ms_per_agent: Spread
    wait_mean_s: Spread
    wait_p90_s: Spread
    connected_kib: Spread
    served_kib: Spread


def main(options: Options) -> None:
    sizes = (10, 20) if options.is_quick else options.sizes or SIZES
    _allow_descriptors(max(sizes))
    runs: dict[int, list[Run]] = {n_agents: [] for n_agents in sizes}
    for _ in options.rounds(MINUTES):
        for n_agents in sizes:
            runs[n_agents].append(measure(n_agents))
    rows = [row_of(n_agents, runs[n_agents]) for n_agents in sizes]
    finish("scale", options, rows, report, len(runs[sizes[0]]))
    plot(
        "scale",
        options,
        title="Agents that all ask at once",
        x_label="agents",
        y_label="seconds",
        series=[
            Series("until all are served", sizes, [row.makespan_s.median for row in rows]),
            Series("waiting, mean", sizes, [row.wait_mean_s.median for row in rows]),
            Series("waiting, p90", sizes, [row.wait_p90_s.median for row in rows]),
        ],
        is_log=False,
    )


def _allow_descriptors(n_agents: int) -> None:
    """For this process and the daemon that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_agents + SPARE_DESCRIPTORS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def measure(n_agents: int) -> Run:
    flags: Flags = {
        "slots": N_SLOTS,
        "slot-tokens": SLOT_TOKENS,
        "threads": n_cores(),
        "snapshot-ram": 0,
        "snapshot-files": 0,
        "prefix-ram": 0,
    }
    with (
        PrivateDaemon(flags) as daemon,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_measure(daemon.socket, n_agents))


async def _measure(path: str, n_agents: int) -> Run:
    watcher = await Agent.connect(path, "watcher")
    async with asyncio.TaskGroup() as group:  # touches every cell of every slot
        for seed in range(N_SLOTS):
            group.create_task(_fill(path, seed))
    base = await _rss_bytes(watcher)

    agents: list[Agent] = []
    contexts: list[str] = []
    for first in range(0, n_agents, AT_ONCE):
        group_of = range(first, min(first + AT_ONCE, n_agents))
        joined = await asyncio.gather(*(_join(path, number) for number in group_of))
        agents += [agent for agent, _ in joined]
        contexts += [context for _, context in joined]
    connected = await _rss_bytes(watcher)

    began_s = time.perf_counter()
    waited_s = await asyncio.gather(*(_ask(agents[n], contexts[n], n) for n in range(n_agents)))
    makespan_s = time.perf_counter() - began_s
    served = await _rss_bytes(watcher)
    for agent in (*agents, watcher):
        agent.close()
    waited_s = sorted(waited_s)
    return Run(
        makespan_s,
        statistics.fmean(waited_s),
        waited_s[n_agents * 9 // 10],
        (connected - base) / 1024 / n_agents,
        (served - base) / 1024 / n_agents,
    )


async def _fill(path: str, seed: int) -> None:
    agent = await Agent.connect(path, f"warm-{seed}")
    await agent.call("llm.generate", tokens=prompt_tokens(SLOT_TOKENS - 8, seed), max_tokens=4)
    agent.close()


async def _join(path: str, number: int) -> tuple[Agent, str]:
    agent = await Agent.connect(path, f"agent-{number}")
    return agent, (await agent.call("context.create"))["context"]


async def _ask(agent: Agent, context: str, seed: int) -> float:
    reply = await agent.call(
        "llm.generate",
        context=context,
        tokens=prompt_tokens(N_PROMPT, 100 + seed),
        max_tokens=N_OUTPUT,
        temperature=0,
        ignore_eos=True,
    )
    assert reply["usage"]["output_tokens"] == N_OUTPUT
    waited_ms: int = reply["usage"]["waited_ms"]
    return waited_ms / 1000


async def _rss_bytes(watcher: Agent) -> int:
    rss: int = (await watcher.call("sys.status"))["rss_bytes"]
    return rss


def row_of(n_agents: int, runs: list[Run]) -> Row:
    return Row(
        n_agents,
        len(runs),
        Spread.of([run.makespan_s for run in runs]),
        Spread.of([run.makespan_s * 1000 / n_agents for run in runs]),
        Spread.of([run.wait_mean_s for run in runs]),
        Spread.of([run.wait_p90_s for run in runs]),
        Spread.of([run.connected_kib for run in runs]),
        Spread.of([run.served_kib for run in runs]),
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = (
        "agents",
        "makespan, s",
        "per agent, ms",
        "waiting mean, s",
        "p90, s",
        "KiB per agent, connected",
        "KiB per agent, served",
    )
    keys = (
        "makespan_s",
        "ms_per_agent",
        "wait_mean_s",
        "wait_p90_s",
        "connected_kib",
        "served_kib",
    )
    cells = [(f"{r['n_agents']}", *(shown(r[key]) for key in keys)) for r in rows]
    words = (
        f"Each has a context, and asks once: {N_PROMPT} tokens to read, {N_OUTPUT} to generate; "
        f"{N_SLOTS} slots, the default policy.\n\n{table(head, cells)}"
    )
    if len(rows) < 2:
        return words
    sizes = [float(r["n_agents"]) for r in rows]
    times_s = [float(r["makespan_s"]["median"]) for r in rows]
    slope, intercept = statistics.linear_regression(sizes, times_s)
    r_squared = statistics.correlation(sizes, times_s) ** 2
    line = f"{intercept:.2f} s + {slope * 1000:.2f} ms per agent, R² = {r_squared:.5f}"
    return f"{words}\n\nThe straight line through the makespans: {line}."
