"""What all benchmarks share: repeated runs and their medians, tables, JSON, plots, machine facts.

Rule 1: a figure that counts is a ratio to a peer or a limit measured in the same run, taken in
turns with it, since absolute figures differ from machine to machine and from hour to hour.
Rule 2: the median of the runs is what is reported, with the lowest and the highest beside it.
Rule 3: what is printed, and what stands in RESULTS.md, is made from the JSON, by the same report().
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from aiosd import models

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "out" / "bench"  # the peer's build; not in git
MODEL_NAME = "smollm2-135m-instruct"  # what aiosd serves by default

Row = Mapping[str, Any]
"""A row of results as JSON has it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much of it to run.  quick: tiny settings that only show that it works."""

    n_runs: int = 5
    is_quick: bool = False
    llama_source: Path | None = None  # an unpacked llama-cpp-python, else it is downloaded
    url: str | None = None  # of an OpenAI-compatible server, as one more peer
    llama_server: Path | None = None  # the program, else it is built
    sizes: tuple[int, ...] = ()  # numbers of agents, where a benchmark has several
    minutes: float | None = None  # of each benchmark, instead of its own limit
    is_more: bool = False  # agents: add to the results there are what they don't have yet

    def rounds(self, minutes: float) -> Iterator[int]:
        """0, 1, …: as many as runs were asked for, as long as one more fits into the minutes.

        The first is always taken.
        """
        began_s = round_began_s = time.monotonic()
        until_s = began_s + 60 * (minutes if self.minutes is None else self.minutes)
        longest_s = 0.0
        for n in range(self.n_runs):
            if n and time.monotonic() + longest_s > until_s:
                note(f"{n} of {self.n_runs} runs: one more would take too long")
                return
            round_began_s = time.monotonic()
            yield n
            longest_s = max(longest_s, time.monotonic() - round_began_s)


def note(text: str) -> None:
    """What goes on, for who watches; not part of any result."""
    sys.stderr.write(f"benchmarks: {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def shown(spread: Mapping[str, float], factor: float = 1.0) -> str:
    """A Spread as JSON has it, in a cell of a table."""
    median, low, high = (spread[key] * factor for key in ("median", "low", "high"))
    digits = 0 if high >= 1000 else 1 if high >= 10 else 2
    if low == high:
        return f"{median:.{digits}f}"
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


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
    """The file that the daemon serves by default, prepared as Q8_0."""
    try:
        return models.locate(models.DEFAULT.name, models.packaged_dir())
    except models.ModelError as error:
        raise SystemExit(f"{error}; or run make setup") from None


def packaged_path() -> Path:
    """The same model as it comes in its package, Q4_1."""
    return models.packaged_source()


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


def finish(
    name: str,
    options: Options,
    rows: Sequence[object],
    report: Callable[[Sequence[Row]], str],
    n_runs: int | None = None,
) -> None:
    """Print the report, and write results/NAME.json: machine, runs, an entry per dataclass in rows.

    Quick runs measure nothing, so they leave no results.  n_runs: if it wasn't what was asked for.
    """
    plain = [asdict(row) for row in rows]  # type: ignore[call-overload]  # dataclasses, all
    print(f"\n{report(plain)}\n", flush=True)
    if options.is_quick:
        return
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "runs": n_runs or options.n_runs, "rows": plain}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(
    name: str,
    options: Options,
    *,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    is_log: bool = True,
    is_log_y: bool = False,
) -> None:
    """Write results/NAME.svg: lines over an x axis, logarithmic if it is one of lanes or agents."""
    if options.is_quick:
        return
    mpl.rcParams["svg.hashsalt"] = name  # the same figures give the same file
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for line in series:
        axes.plot(line.x, line.y, marker="o", label=line.label)
    ticks = sorted({x for line in series for x in line.x})
    if is_log:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if is_log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    _keep(figure, name)


def bars(
    name: str,
    options: Options,
    *,
    title: str,
    y_label: str,
    groups: Mapping[str, Sequence[Spread]],
    labels: Sequence[str],
) -> None:
    """Write results/NAME.svg: for each label a bar of each group, a whisker from low to high."""
    if options.is_quick:
        return
    mpl.rcParams["svg.hashsalt"] = name
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(groups)
    for n, (group, spreads) in enumerate(groups.items()):
        places = [i + (n - (len(groups) - 1) / 2) * width for i in range(len(labels))]
        whiskers = [
            [s.median - s.low for s in spreads],
            [s.high - s.median for s in spreads],
        ]
        heights = [s.median for s in spreads]
        axes.bar(places, heights, width, yerr=whiskers, capsize=2, label=group)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(title=title, ylabel=y_label)
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    _keep(figure, name)


def _keep(figure: Figure, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
