"""Decode throughput at 1 to 32 lanes, through the daemon and its socket, beside llama.cpp's own
llama-batched-bench with the same file, threads, KV types and layout at the same depth.

How the daemon is measured: n agents stream n equal greedy jobs.  The time counted begins when the
last of them has shown its first token, so that all prompts are read, and ends when the first of
them has shown its last; the tokens counted are those that arrived between.  The peer counts
decoding alone too, and doesn't sample; the daemon samples (greedily), and makes text and messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks import peer
from benchmarks.common import (
    MODEL_NAME,
    Options,
    Series,
    Spread,
    finish,
    model_path,
    n_cores,
    plot,
    shown,
    table,
)
from benchmarks.common import Row as JsonRow
from benchmarks.load import JobTimes, run_jobs

LANES = (1, 4, 8, 16, 32)
SLOT_TOKENS = 512
N_PROMPT = 64
N_OUTPUT = 160
TARGET = 0.95
MINUTES = 4.0


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens per second over all lanes; ratio: the median of the pairs' ratios."""

    n_lanes: int
    aiosd: Spread
    llama_cpp: Spread
    ratio: float
    n_threads: int


def main(options: Options) -> None:
    program = peer.build(options, peer.BATCHED_BENCH)
    model = model_path()
    lanes = LANES[:2] if options.is_quick else LANES
    ours: dict[int, list[float]] = {n_lanes: [] for n_lanes in lanes}
    theirs: dict[int, list[float]] = {n_lanes: [] for n_lanes in lanes}
    for _ in options.rounds(MINUTES):
        for n_lanes in lanes:
            our, their = measure(program, model, n_lanes, 16 if options.is_quick else N_OUTPUT)
            ours[n_lanes].append(our)
            theirs[n_lanes].append(their)
    rows = [row_of(n_lanes, ours[n_lanes], theirs[n_lanes]) for n_lanes in lanes]
    finish("decode", options, rows, report, len(ours[lanes[0]]))
    plot(
        "decode",
        options,
        title="Decode throughput",
        x_label="lanes",
        y_label="tokens per second",
        series=[
            Series("llama-batched-bench", lanes, [r.llama_cpp.median for r in rows]),
            Series("aiosd, through its socket", lanes, [r.aiosd.median for r in rows]),
        ],
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = ("lanes", "aiosd", "llama-batched-bench", "ratio")
    cells = [
        (f"{r['n_lanes']}", shown(r["aiosd"]), shown(r["llama_cpp"]), f"{r['ratio']:.3f}")
        for r in rows
    ]
    worst = min(rows, key=lambda row: float(row["ratio"]))
    return (
        f"Tokens per second over all lanes ({MODEL_NAME}, depth {N_PROMPT} to "
        f"{N_PROMPT + N_OUTPUT}, {rows[0]['n_threads']} threads); ours through the socket, "
        f"sampling and text included, the peer's decoding alone.\n\n{table(head, cells)}\n\n"
        f"Worst: {worst['ratio']:.3f} at {worst['n_lanes']} lanes; the target is {TARGET}."
    )


def measure(program: Path, model: Path, n_lanes: int, n_output: int) -> tuple[float, float]:
    """(ours, the peer's), one after the other, so that a slow minute of the machine slows both."""
    figures = peer.run(
        program,
        model,
        n_lanes=n_lanes,
        n_prompt=N_PROMPT,
        n_output=n_output,
        n_threads=n_cores(),
        slot_tokens=SLOT_TOKENS,
    )
    ours = through_the_daemon(model, n_lanes, n_output, n_cores())
    return ours, figures.decode_tokens_per_s


def row_of(n_lanes: int, ours: list[float], theirs: list[float]) -> Row:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = Spread.of(ratios).median
    return Row(n_lanes, Spread.of(ours), Spread.of(theirs), ratio, n_cores())


def through_the_daemon(model: Path, n_lanes: int, n_output: int, n_threads: int) -> float:
    """Tokens per second of a fresh daemon with as many slots as lanes."""
    flags: Flags = {
        "model": str(model),
        "slots": n_lanes,
        "lanes": n_lanes,
        "slot-tokens": SLOT_TOKENS,
        "threads": n_threads,
        "policy": "fifo",
    }
    with PrivateDaemon(flags) as daemon:
        run_jobs(daemon.socket, n_jobs=n_lanes, n_prompt=8, n_output=4)  # as the peer warms up
        return steady_tokens_per_s(
            run_jobs(daemon.socket, n_jobs=n_lanes, n_prompt=N_PROMPT, n_output=n_output)
        )


def steady_tokens_per_s(jobs: list[JobTimes]) -> float:
    """Tokens per second while all of the jobs were generating."""
    began_s = max(job.arrivals[0][0] for job in jobs)
    ended_s = min(job.arrivals[-1][0] for job in jobs)
    n_tokens = sum(n for job in jobs for when_s, n in job.arrivals if began_s < when_s <= ended_s)
    return n_tokens / (ended_s - began_s)
