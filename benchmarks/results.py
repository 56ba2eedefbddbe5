"""RESULTS.md, made from results/*.json: nothing in it is copied by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks import (
    ablation,
    agents,
    decode,
    interference,
    memory,
    restart,
    rr_overhead,
    scale,
    spawn,
    storage,
    switch,
    syscalls,
    tools,
)
from benchmarks.common import RESULTS, ROOT, Options, Row

PAGE = ROOT / "benchmarks" / "RESULTS.md"
HEAD = """\
# Results

Made by `make bench`, and by `python -m benchmarks results` from the JSON in `results/`. Each
figure stands beside a peer or a limit measured in the same run. Medians, with the lowest and the
highest of the runs; a figure without them was taken once. The model is SmolLM2-135M-Instruct, as
Q8_0 where nothing else is said.
"""


class Benchmark(Protocol):
    """A module that measures something."""

    def main(self, options: Options) -> None: ...

    def report(self, rows: Sequence[Row]) -> str: ...


@dataclass(frozen=True, slots=True)
class Named:
    title: str
    module: Benchmark


BENCHMARKS: dict[str, Named] = {
    "agents": Named("A group of agents", agents),
    "ablation": Named("The scheduler taken out and put back", ablation),
    "scale": Named("Many agents", scale),
    "interference": Named(
        "A long prompt beside talkers, a person beside background work", interference
    ),
    "switch": Named("A context switch beside reading again", switch),
    "decode": Named("Decode throughput beside llama.cpp's own llama-batched-bench", decode),
    "rr_overhead": Named("Round robin beside FIFO", rr_overhead),
    "syscalls": Named("Null syscalls beside a bare MessagePack echo on uvloop", syscalls),
    "memory": Named("Memory: the block of RAM, vectors, and many agents' notes", memory),
    "storage": Named("Small files beside plain files and plain SQLite", storage),
    "tools": Named("A tool's call beside the same without the daemon", tools),
    "spawn": Named("Starting an agent", spawn),
    "restart": Named("After a restart", restart),
}


def write() -> None:
    """Make the page anew."""
    PAGE.write_text(page())


def page() -> str:
    """The page as the figures that are there say it."""
    sections = [section(name, of) for name, of in BENCHMARKS.items()]
    return HEAD + "\n" + "\n\n".join(sections) + "\n"


def section(name: str, of: Named) -> str:
    path = RESULTS / f"{name}.json"
    heading = f"## {of.title}"
    if not path.exists():
        return f"{heading}\n\nNot taken yet: `python -m benchmarks {name}`."
    record: dict[str, Any] = json.loads(path.read_text())
    machine = record["machine"]
    runs = "1 run" if record["runs"] == 1 else f"{record['runs']} runs"
    where = (
        f"{runs}; {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"llama-cpp-python {machine['llama_cpp_python']}, commit {machine['commit']}"
    )
    parts = [heading, of.module.report(record["rows"]), f"*{where}.*"]
    if (RESULTS / f"{name}.svg").exists():
        parts.append(f"![{name}](results/{name}.svg)")
    return "\n\n".join(parts)
