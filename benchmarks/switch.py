"""A context switch: parking a context and taking it up again, beside reading it again.

The model alone, so that nothing else is in the figures: what the daemon does at a switch is these
calls.  What switching costs a whole schedule is in rr_overhead and ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Options, Series, Spread, finish, model_path, plot, shown, table
from benchmarks.common import Row as JsonRow
from benchmarks.servers import in_child

LENGTHS = (128, 512, 1024, 2048)
MINUTES = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds.  ratio: reading again over park and resume, the median of the runs'."""

    n_tokens: int
    snapshot_bytes: int
    read_ms: Spread
    park_ms: Spread
    resume_ms: Spread
    per_1000_ms: Spread
    ratio: Spread


def main(options: Options) -> None:
    lengths = LENGTHS[:1] if options.is_quick else LENGTHS
    taken: list[dict[str, Any]] = []
    for _ in options.rounds(MINUTES):
        text = ",".join(map(str, lengths))
        taken.append(in_child("benchmarks.probe", "switch", str(model_path()), text))
    rows = [row_of(n_tokens, [figures[str(n_tokens)] for figures in taken]) for n_tokens in lengths]
    finish("switch", options, rows, report, len(taken))
    plot(
        "switch",
        options,
        title="A context switch beside reading again",
        x_label="tokens",
        y_label="milliseconds",
        series=[
            Series("read", lengths, [row.read_ms.median for row in rows]),
            Series("park", lengths, [row.park_ms.median for row in rows]),
            Series("resume", lengths, [row.resume_ms.median for row in rows]),
        ],
        is_log_y=True,
    )


def row_of(n_tokens: int, taken: list[dict[str, float]]) -> Row:
    both = [run["park_s"] + run["resume_s"] for run in taken]
    return Row(
        n_tokens,
        int(taken[0]["bytes"]),
        Spread.of([run["read_s"] * 1000 for run in taken]),
        Spread.of([run["park_s"] * 1000 for run in taken]),
        Spread.of([run["resume_s"] * 1000 for run in taken]),
        Spread.of([seconds * 1e6 / n_tokens for seconds in both]),
        Spread.of([run["read_s"] / seconds for run, seconds in zip(taken, both, strict=True)]),
    )


def report(rows: Sequence[JsonRow]) -> str:
    head = (
        "tokens",
        "KiB",
        "read, ms",
        "park, ms",
        "resume, ms",
        "both per 1,000 tokens, ms",
        "ratio",
    )
    cells = [
        (
            f"{r['n_tokens']}",
            f"{r['snapshot_bytes'] / 1024:.0f}",
            *(shown(r[key]) for key in ("read_ms", "park_ms", "resume_ms", "per_1000_ms", "ratio")),
        )
        for r in rows
    ]
    return f"Ratio: reading again over parking and resuming.\n\n{table(head, cells)}"
