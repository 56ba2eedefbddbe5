"""What all benchmarks share: repeated runs and their medians, tables, JSON, plots, machine facts.

Rule 1: a figure that counts is a ratio to a peer or a limit measured in the same run, taken in
turns with it, since absolute figures differ from machine to machine and from hour to hour.
Rule 2: the median of the runs is what is reported, with the lowest and the highest beside it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "out" / "bench"  # the peer's build; not in git
MODEL_NAME = "smollm2-135m-instruct"  # what aiosd serves by default
MODEL_FILE = "SmolLM2-135M-Instruct.Q8_0.gguf"


@dataclass(frozen=True, slots=True)
class Options:
    """How much of it to run.  quick: tiny settings that only show that it works."""

    n_runs: int = 5
    is_quick: bool = False
    llama_source: Path | None = None  # an unpacked llama-cpp-python, else it is downloaded


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 1 if self.high < 1000 else 0
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def n_cores() -> int:
    """What both the daemon and its peers get as their number of threads."""
    return len(os.sched_getaffinity(0))


def model_path() -> Path:
    """The file that the daemon serves by default."""
    found = ROOT / ".venv/share/aiosd/models" / MODEL_FILE
    if not found.exists():
        raise SystemExit(f"{found} is missing: run make setup first")
    return found


def machine() -> dict[str, str | int]:
    """What the figures depend on; nothing that names the machine."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("model name", "Model"))
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": n_cores(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "commit": commit(),
    }


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def save(name: str, options: Options, rows: Sequence[object]) -> None:
    """Write results/NAME.json: machine, settings, one entry per row (a dataclass).

    Quick runs measure nothing, so they leave no results.
    """
    if options.is_quick:
        return
    RESULTS.mkdir(exist_ok=True)
    record = {
        "machine": machine(),
        "runs": options.n_runs,
        "rows": [asdict(row) for row in rows],  # type: ignore[call-overload]  # dataclasses, all
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, so that it can be pasted into RESULTS.md as it is."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    print(f"\n{title}\n")
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


def plot(
    name: str, options: Options, *, title: str, x_label: str, y_label: str, series: Sequence[Series]
) -> None:
    """Write results/NAME.svg: lines over a logarithmic x axis of lanes."""
    if options.is_quick:
        return
    mpl.rcParams["svg.hashsalt"] = name  # the same figures give the same file
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for line in series:
        axes.plot(line.x, line.y, marker="o", label=line.label)
    ticks = sorted({x for line in series for x in line.x})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
