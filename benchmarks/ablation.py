"""The scheduler taken out and put back, as in the paper's table: no kernel, fifo, rr, fair.

Agents of two kinds, short and long, arrive at random within two seconds, and take two turns each.
"No kernel" is a locked call of llama_cpp.Llama per turn.  The others are the daemon with one lane
(the paper's single core) and with four, on four slots, so that more contexts wait than fit.

Waiting is what an agent's calls spent ready and not running (or waiting for the lock), turnaround
the time from its arrival to its last reply.  Fairness is Jain's index over the agents' progress:
the time an agent takes alone over the time it took here; 1 is: all were slowed down alike.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from aios_sdk.syscalls import POLICY
from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import ROOT, Options, Spread, bars, finish, model_path, n_cores, shown, table
from benchmarks.common import Row as JsonRow
from benchmarks.load import Agent, prompt_tokens
from benchmarks.servers import plain_environment

N_AGENTS = 12
N_TURNS = 2
ARRIVAL_S = 2.0
N_SLOTS = 4
SLOT_TOKENS = 512
LANES = (1, 4)
RR_QUANTA = (4, 16, 64)
NO_KERNEL = "no kernel"
MINUTES = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What an agent asks in each turn."""

    n_prompt: int
    n_output: int


SHORT, LONG = Kind(30, 12), Kind(120, 48)


@dataclass(frozen=True, slots=True)
class Script:
    """An agent: when it arrives, and what it is."""

    at_s: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Life:
    """How it went, in seconds since the beginning."""

    submitted_s: float
    ended_s: float
    waited_s: float

    @property
    def turnaround_s(self) -> float:
        return self.ended_s - self.submitted_s


@dataclass(frozen=True, slots=True)
class Setting:
    """lanes 0: no kernel."""

    n_lanes: int
    policy: str
    quantum_tokens: int | None = None

    def __str__(self) -> str:
        return f"{self.policy} {self.quantum_tokens}" if self.quantum_tokens else self.policy


@dataclass(frozen=True, slots=True)
class Run:
    """One setting's figures in one round.  switches: contexts parked and resumed."""

    execution_s: float
    wait_mean_s: float
    wait_p90_s: float
    turnaround_s: float
    jain: float
    switches: int
    slices: int


@dataclass(frozen=True, slots=True)
class Row:
    """cost: its execution time over fifo's with as many lanes, less one."""

    n_lanes: int
    setting: str
    execution_s: Spread
    wait_mean_s: Spread
    wait_p90_s: Spread
    turnaround_s: Spread
    jain: Spread
    switches: Spread
    slices: Spread
    cost: Spread | None


def main(options: Options) -> None:
    scripts = agents(4 if options.is_quick else N_AGENTS)
    settings = [Setting(0, NO_KERNEL)]
    for n_lanes in LANES[:1] if options.is_quick else LANES:
        settings.append(Setting(n_lanes, "fifo"))
        settings += [Setting(n_lanes, "rr", quantum) for quantum in RR_QUANTA]
        settings += [Setting(n_lanes, p) for p in POLICY.choices or () if p not in ("fifo", "rr")]
    runs: dict[Setting, list[Run]] = {setting: [] for setting in settings}
    for _ in options.rounds(MINUTES):
        alone_s = {kind: alone(kind) for kind in (SHORT, LONG)}
        for setting in settings:
            runs[setting].append(measure(setting, scripts, alone_s))
    rows = [row_of(setting, runs) for setting in settings]
    finish("ablation", options, rows, report, len(runs[settings[0]]))
    bars(
        "ablation",
        options,
        title="The scheduler taken out and put back",
        y_label="seconds",
        labels=[f"{row.setting}\n{row.n_lanes or 1} at once" for row in rows],
        groups={
            "execution": [row.execution_s for row in rows],
            "turnaround, mean": [row.turnaround_s for row in rows],
            "waiting, mean": [row.wait_mean_s for row in rows],
        },
    )


def agents(n_agents: int) -> list[Script]:
    """The same in every run."""
    chance = random.Random(11)
    kinds = [SHORT, LONG] * (n_agents // 2)
    chance.shuffle(kinds)
    arrivals = sorted(chance.uniform(0, ARRIVAL_S) for _ in kinds)
    return [Script(at_s, kind) for at_s, kind in zip(arrivals, kinds, strict=True)]


def alone(kind: Kind) -> float:
    """How long an agent takes with nobody beside it."""
    lives, _, _ = in_daemon(Setting(1, "fifo"), [Script(0.0, kind)])
    return lives[0].turnaround_s


def measure(setting: Setting, scripts: list[Script], alone_s: dict[Kind, float]) -> Run:
    if setting.n_lanes == 0:
        lives, switches, slices = without_kernel(scripts), 0, 0
    else:
        lives, switches, slices = in_daemon(setting, scripts)
    waits = sorted(life.waited_s for life in lives)
    progress = [
        alone_s[script.kind] / life.turnaround_s
        for script, life in zip(scripts, lives, strict=True)
    ]
    return Run(
        execution_s=max(life.ended_s for life in lives) - min(life.submitted_s for life in lives),
        wait_mean_s=sum(waits) / len(waits),
        wait_p90_s=waits[min(len(waits) - 1, len(waits) * 9 // 10)],
        turnaround_s=sum(life.turnaround_s for life in lives) / len(lives),
        jain=sum(progress) ** 2 / (len(progress) * sum(x * x for x in progress)),
        switches=switches,
        slices=slices,
    )


def prompt(agent: int, turn: int, kind: Kind) -> list[int]:
    return prompt_tokens(kind.n_prompt, 1000 * turn + agent)


def without_kernel(scripts: list[Script]) -> list[Life]:
    asked = [
        {
            "at_s": script.at_s,
            "turns": [
                {"tokens": prompt(n, turn, script.kind), "n_output": script.kind.n_output}
                for turn in range(N_TURNS)
            ],
        }
        for n, script in enumerate(scripts)
    ]
    command = [sys.executable, "-m", "benchmarks.locked", "jobs", str(model_path())]
    done = subprocess.run(
        command,
        input=json.dumps(asked),
        env=plain_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks.locked ended with {done.returncode}: {done.stderr[-2000:]}")
    return [Life(**figures) for figures in json.loads(done.stdout.splitlines()[-1])]


def in_daemon(setting: Setting, scripts: list[Script]) -> tuple[list[Life], int, int]:
    """(how it went, contexts parked and resumed, slices)."""
    flags: Flags = {
        "model": str(Path(model_path())),
        "slots": N_SLOTS,
        "lanes": setting.n_lanes,
        "slot-tokens": SLOT_TOKENS,
        "threads": n_cores(),
        "policy": setting.policy,
        "quantum": setting.quantum_tokens or 16,
    }
    with (
        PrivateDaemon(flags) as daemon,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_in_daemon(daemon.socket, scripts))


async def _in_daemon(path: str, scripts: list[Script]) -> tuple[list[Life], int, int]:
    watcher = await Agent.connect(path, "watcher")
    await watcher.call("llm.generate", tokens=prompt_tokens(32, 5), max_tokens=4)  # warms up
    connections = [await Agent.connect(path, f"agent-{n}") for n in range(len(scripts))]
    before = await _switches(watcher)
    n_slices = 0
    began_s = time.perf_counter()

    async def live(number: int) -> Life:
        nonlocal n_slices
        script, agent = scripts[number], connections[number]
        await asyncio.sleep(script.at_s)
        submitted_s = time.perf_counter()
        context = (await agent.call("context.create"))["context"]
        waited_ms = 0
        for turn in range(N_TURNS):
            reply = await agent.call(
                "llm.generate",
                context=context,
                tokens=prompt(number, turn, script.kind),
                max_tokens=script.kind.n_output,
                temperature=0,
                ignore_eos=True,
            )
            waited_ms += reply["usage"]["waited_ms"]
            n_slices += reply["usage"]["slices"]
        return Life(submitted_s - began_s, time.perf_counter() - began_s, waited_ms / 1000)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(live(number)) for number in range(len(scripts))]
    switches = await _switches(watcher) - before
    for agent in (*connections, watcher):
        agent.close()
    return [task.result() for task in tasks], switches, n_slices


async def _switches(watcher: Agent) -> int:
    counts: dict[str, int] = (await watcher.call("sys.status"))["cores"][0]["switches"]
    return counts["saves"] + counts["loads"]


def row_of(setting: Setting, runs: dict[Setting, list[Run]]) -> Row:
    taken = [asdict(run) for run in runs[setting]]
    cost = None
    if setting.n_lanes and setting.policy != "fifo":
        fifo = runs[Setting(setting.n_lanes, "fifo")]
        pairs = zip(runs[setting], fifo, strict=True)
        cost = Spread.of([run.execution_s / its.execution_s - 1 for run, its in pairs])
    spreads: dict[str, Any] = {key: Spread.of([run[key] for run in taken]) for key in taken[0]}
    return Row(setting.n_lanes, str(setting), cost=cost, **spreads)


def report(rows: Sequence[JsonRow]) -> str:
    head = (
        "lanes",
        "policy",
        "execution, s",
        "waiting mean, s",
        "p90, s",
        "turnaround mean, s",
        "Jain's index",
        "parks and resumes",
        "slices",
        "cost against fifo, %",
    )
    cells = [
        (
            f"{r['n_lanes'] or ''}",
            r["setting"],
            *(shown(r[key]) for key in ("execution_s", "wait_mean_s", "wait_p90_s")),
            shown(r["turnaround_s"]),
            shown(r["jain"]),
            *(f"{r[key]['median']:.0f}" for key in ("switches", "slices")),
            shown(r["cost"], 100) if r["cost"] else "",
        )
        for r in rows
    ]
    return (
        f"{N_AGENTS} agents, half of them with prompts of {SHORT.n_prompt} and answers of "
        f"{SHORT.n_output} tokens, half with {LONG.n_prompt} and {LONG.n_output}, {N_TURNS} turns "
        f"each, arriving within {ARRIVAL_S:.0f} s; {N_SLOTS} slots.\n\n{table(head, cells)}"
    )
