"""What round robin costs: throughput at quantum 16 beside fifo's, on the same jobs.

Three situations.  "resident": more jobs than lanes, a slot for each, so a switch is only another
batch.  "parking": more jobs than slots, so that every switch saves one context and restores
another.  "one lane": the paper's single core.  Counted is all output over the time from the first
call to the last reply, prompts included, in a fresh daemon each time.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import Options, Spread, print_table, save
from benchmarks.load import run_jobs

QUANTUM_TOKENS = 16
SLOT_TOKENS = 512
N_PROMPT = 64
N_OUTPUT = 128
TARGET = 0.97


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
    fifo: Spread
    rr: Spread
    ratio: float
    slices: int
    parks: int


@dataclass(frozen=True, slots=True)
class Run:
    tokens_per_s: float
    slices: int
    parks: int


def main(options: Options) -> None:
    rows = [measure(situation, options) for situation in SITUATIONS]
    save("rr_overhead", options, rows)
    print_table(
        f"Round robin (quantum {QUANTUM_TOKENS}) beside fifo, tokens per second",
        ("situation", "jobs/slots/lanes", "fifo", "rr", "ratio", "slices", "parks"),
        [
            (
                row.situation.name,
                f"{row.situation.n_jobs}/{row.situation.n_slots}/{row.situation.n_lanes}",
                f"{row.fifo}",
                f"{row.rr}",
                f"{row.ratio:.3f}",
                f"{row.slices}",
                f"{row.parks}",
            )
            for row in rows
        ],
    )
    print(f"target {TARGET} for resident contexts")


def measure(situation: Situation, options: Options) -> Row:
    """Both policies in turns."""
    n_output = 32 if options.is_quick else N_OUTPUT
    fifo, rr = [], []
    for _ in range(options.n_runs):
        fifo.append(run(situation, "fifo", n_output))
        rr.append(run(situation, "rr", n_output))
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(fifo, rr, strict=True)]
    return Row(
        situation,
        Spread.of([r.tokens_per_s for r in fifo]),
        Spread.of([r.tokens_per_s for r in rr]),
        Spread.of(ratios).median,
        rr[-1].slices,
        rr[-1].parks,
    )


def run(situation: Situation, policy: str, n_output: int) -> Run:
    flags: Flags = {
        "slots": situation.n_slots,
        "lanes": situation.n_lanes,
        "slot-tokens": SLOT_TOKENS,
        "policy": policy,
        "quantum": QUANTUM_TOKENS,
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
