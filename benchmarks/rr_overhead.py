"""What round robin costs: throughput at several quanta beside fifo's, on the same jobs.

Three situations.  "resident": more jobs than lanes, a slot for each, so a switch is only another
batch.  "parking": more jobs than slots, so that every switch saves one context and restores
another.  "one lane": the paper's single core.  Counted is all output over the time from the first
call to the last reply, prompts included, in a fresh daemon each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import Options, Spread, finish, shown, table
from benchmarks.common import Row as JsonRow
from benchmarks.load import run_jobs

QUANTA = (4, 16, 64)
SLOT_TOKENS = 512
N_PROMPT = 64
N_OUTPUT = 96
TARGET = 0.97
MINUTES = 4.0


@dataclass(frozen=True, slots=True)
class Situation:
    name: str
    n_jobs: int
    n_slots: int
    n_lanes: int


SITUATIONS = (
    Situation("resident", n_jobs=16, n_slots=16, n_lanes=8),
    Situation("parking", n_jobs=16, n_slots=8, n_lanes=8),
    Situation("one lane", n_jobs=4, n_slots=4, n_lanes=1),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens per second under each policy; slices and parks of one rr run, all jobs together."""

    situation: Situation
    quantum_tokens: int
    fifo: Spread
    rr: Spread
    ratio: Spread
    slices: int
    parks: int


@dataclass(frozen=True, slots=True)
class Run:
    tokens_per_s: float
    slices: int
    parks: int


def main(options: Options) -> None:
    situations = SITUATIONS[:1] if options.is_quick else SITUATIONS
    runs: dict[tuple[Situation, int | None], list[Run]] = {
        (situation, quantum): [] for situation in situations for quantum in (None, *QUANTA)
    }
    for _ in options.rounds(MINUTES):
        for (situation, quantum), taken in runs.items():
            taken.append(run(situation, quantum, 16 if options.is_quick else N_OUTPUT))
    rows = [row_of(s, q, runs[s, None], runs[s, q]) for s in situations for q in QUANTA]
    finish("rr_overhead", options, rows, report, len(runs[situations[0], None]))


def row_of(situation: Situation, quantum: int, fifo: list[Run], rr: list[Run]) -> Row:
    """The ratio is of runs of the same round."""
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(fifo, rr, strict=True)]
    return Row(
        situation,
        quantum,
        Spread.of([r.tokens_per_s for r in fifo]),
        Spread.of([r.tokens_per_s for r in rr]),
        Spread.of(ratios),
        rr[-1].slices,
        rr[-1].parks,
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = ("situation", "jobs/slots/lanes", "quantum", "fifo", "rr", "ratio", "slices", "parks")
    cells = []
    for r in rows:
        s = r["situation"]
        cells.append(
            (
                s["name"],
                f"{s['n_jobs']}/{s['n_slots']}/{s['n_lanes']}",
                f"{r['quantum_tokens']}",
                shown(r["fifo"]),
                shown(r["rr"]),
                shown(r["ratio"]),
                f"{r['slices']}",
                f"{r['parks']}",
            )
        )
    return (
        f"Tokens per second of all jobs together, prompts included.\n\n{table(head, cells)}\n\n"
        f"The target is {TARGET} for resident contexts at quantum 16."
    )


def run(situation: Situation, quantum: int | None, n_output: int) -> Run:
    """None: fifo."""
    flags: Flags = {
        "slots": situation.n_slots,
        "lanes": situation.n_lanes,
        "slot-tokens": SLOT_TOKENS,
        "policy": "fifo" if quantum is None else "rr",
        "quantum": quantum or 1,
    }
    with PrivateDaemon(flags) as daemon:
        run_jobs(daemon.socket, n_jobs=situation.n_lanes, n_prompt=8, n_output=4)
        jobs = run_jobs(
            daemon.socket, n_jobs=situation.n_jobs, n_prompt=N_PROMPT, n_output=n_output
        )
    spent_s = max(job.ended_s for job in jobs) - min(job.submitted_s for job in jobs)
    return Run(
        n_output * len(jobs) / spent_s,
        sum(job.usage["slices"] for job in jobs),
        sum(job.usage["parks"] for job in jobs),
    )
