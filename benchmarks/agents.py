"""A group of agents, 1 to 64: how long until all are done, beside the peers and beside the limit.

The work is in workload.py.  Each figure is of a server just started ("cold"), and then, where it
says so, of another group's work on the same server ("warm": the system prompt has been read).  The
limit is what the model alone needs, measured in the same run with the work's own depths and piece
lengths: each distinct token read once, and every generated token at the batched rate.

What matters most is measured first; everything is repeated as long as the minutes last.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aios_sdk import Client
from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks import peer
from benchmarks.common import (
    RESULTS,
    Options,
    Row,
    Series,
    Spread,
    finish,
    machine,
    model_path,
    n_cores,
    note,
    packaged_path,
    plot,
    shown,
    table,
)
from benchmarks.servers import example_server, in_child, llama_server
from benchmarks.workload import N_OUTPUT, N_TURNS, Outcome, Workload, through_aiosd, through_http

N_SLOTS = 8
SLOT_TOKENS = 2048
MINUTES = 8.0
AIOSD, LLAMA_8, LLAMA, EXAMPLE, LOCKED, URL = (
    "aiosd",
    "llama-server, 8 slots",
    "llama-server, its defaults",
    "llama-cpp-python examples/server, 8 slots",
    "a locked llama_cpp.Llama",
    "the server at --url",
)
# The most important first.  Both weights, then those that are measured on Q8_0 alone.
ON_BOTH = (AIOSD, LLAMA_8)
ON_Q8_0 = (LLAMA, EXAMPLE, LOCKED, URL)
SIZES = (8, 24, 1, 64)
ALL_SERVERS_UP_TO = 24
WARM_AT = (8, 24)
TARGETS = {  # of llama-server's time with 8 slots over ours: (weights, agents): (cold, warm)
    ("Q4_1", 8): (2.5, None),
    ("Q4_1", 24): (1.8, None),
    ("Q8_0", 8): (2.0, 1.3),
    ("Q8_0", 24): (1.5, 1.3),
}
LIMIT_TARGET = 1.3


@dataclass(frozen=True, slots=True)
class Cell:
    """One server with one file and so many agents."""

    n_agents: int
    weights: str
    server: str


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement; limit_s of the same moment, for aiosd only."""

    cold: Outcome
    warm: Outcome | None
    limit_s: float | None


@dataclass(slots=True)
class Taken:
    """All of one cell, by the round."""

    by_round: dict[int, Figures] = field(default_factory=dict)
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens of the shared beginning, and what each turn adds."""

    n_shared: int
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A cell's medians.  times_ours: its makespan over aiosd's in the same round."""

    n_agents: int
    weights: str
    server: str
    n_runs: int
    cold_s: Spread
    warm_s: Spread | None
    times_ours_cold: Spread | None
    times_ours_warm: Spread | None
    of_limit: Spread | None  # ours over the limit
    limit_s: Spread | None
    is_whole: bool  # it gave as many tokens as it was asked for


def main(options: Options) -> None:
    bench = Bench(options)
    sizes = (2,) if options.is_quick else options.sizes or SIZES
    kept = earlier() if options.is_more else []
    known = {(line.n_agents, line.weights) for line in kept}  # a peer is measured beside ours
    cells = [
        Cell(n_agents, weights, server)
        for n_agents in sizes
        for weights, server in bench.servers(n_agents)
        if (n_agents, weights) not in known
    ]
    minutes = MINUTES if options.minutes is None else options.minutes
    until_s = time.monotonic() + 60 * minutes
    taken = {cell: Taken() for cell in cells}
    for n_round in range(options.n_runs):
        for cell in cells:
            began_s = time.monotonic()
            if began_s + taken[cell].longest_s > until_s:
                if not n_round:
                    note(f"no time for {cell.server}, {cell.n_agents} agents, {cell.weights}")
                continue
            try:
                taken[cell].by_round[n_round] = bench.measure(cell)
            except Exception as error:  # a peer's failure is no reason to lose the other figures
                if cell.server == AIOSD:
                    raise
                note(f"{cell.server}, {cell.n_agents} agents, {cell.weights}: {error}")
            spent_s = time.monotonic() - began_s
            taken[cell].longest_s = max(taken[cell].longest_s, spent_s)
            note(f"{cell.n_agents} agents, {cell.weights}, {cell.server}: {spent_s:.0f} s in all")
        if time.monotonic() > until_s:
            break
    lines = [
        line_of(cell, taken, bench.work(cell.n_agents).n_generated)
        for cell in cells
        if taken[cell].by_round
    ]
    if kept:
        # The limit stands beside ours; what is new goes with what is there of its size.
        lines = sorted(kept + lines, key=lambda line: (line.n_agents, line.weights != "Q8_0"))
    finish("agents", options, lines, report, max(line.n_runs for line in lines))
    _plot(options, lines)


def earlier() -> list[Line]:
    """What benchmarks/results has of agents.  ValueError: it is of another machine."""
    record = json.loads((RESULTS / "agents.json").read_text())
    if record["machine"] != machine():
        raise ValueError(f"the results are of {record['machine']}, this is {machine()}")
    lines = []
    for row in record["rows"]:
        spreads = {name: Spread(**row[name]) for name in row if isinstance(row[name], dict)}
        lines.append(Line(**{**row, **spreads}))
    return lines


class Bench:
    """What there is to measure with."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.models = {"Q8_0": model_path(), "Q4_1": packaged_path()}
        self.llama_server = options.llama_server or peer.build(options, peer.LLAMA_SERVER)
        self.example_server = peer.example_server(options)
        self._shape: Shape | None = None

    def servers(self, n_agents: int) -> Iterator[tuple[str, str]]:
        """(weights, server) for so many agents, in order."""
        for weights in ("Q8_0", "Q4_1") if n_agents in WARM_AT or n_agents == 2 else ("Q8_0",):
            for server in ON_BOTH:
                yield weights, server
        if n_agents > ALL_SERVERS_UP_TO:
            return
        for server in ON_Q8_0:
            if server == EXAMPLE and self.example_server is None:
                continue
            if server == URL and self.options.url is None:
                continue
            yield "Q8_0", server

    def work(self, n_agents: int, wave: int = 0) -> Workload:
        if self.options.is_quick:
            return Workload(n_agents, n_output=4, n_rules=4, wave=wave)
        return Workload(n_agents, wave=wave)

    def measure(self, cell: Cell) -> Figures:
        model = self.models[cell.weights]
        work = self.work(cell.n_agents)
        is_warm = cell.n_agents in WARM_AT and cell.server in ON_BOTH
        if cell.server == LOCKED:
            numbers = (work.n_agents, work.n_turns, work.n_output, work.n_rules)
            told = in_child(
                "benchmarks.locked", "agents", str(model), *map(str, numbers), plain=True
            )
            return Figures(Outcome(told["makespan_s"], int(told["n_output"])), None, None)
        if cell.server == AIOSD:
            flags: Flags = {
                "model": str(model),
                "slots": N_SLOTS,
                "slot-tokens": SLOT_TOKENS,
                "threads": n_cores(),
            }
            with PrivateDaemon(flags) as daemon:
                cold = through_aiosd(daemon.socket, work)
                second = self.work(cell.n_agents, wave=1)
                warm = through_aiosd(daemon.socket, second) if is_warm else None
                shape = self._shape = self._shape or shape_of(daemon.socket, work)
            return Figures(cold, warm, limit_s(model, work, shape))
        with self._peer(cell.server, model) as url:
            cold = through_http(url, work)
            second = self.work(cell.n_agents, wave=1)
            return Figures(cold, through_http(url, second) if is_warm else None, None)

    @contextlib.contextmanager
    def _peer(self, server: str, model: Path) -> Iterator[str]:
        if server == URL:
            assert self.options.url is not None  # or it weren't in the plan
            yield self.options.url
        elif server == EXAMPLE:
            assert self.example_server is not None
            with example_server(self.example_server, model, n_slots=N_SLOTS) as url:
                yield url
        else:
            n_slots = N_SLOTS if server == LLAMA_8 else None
            with llama_server(
                self.llama_server, model, n_slots=n_slots, slot_tokens=SLOT_TOKENS
            ) as url:
                yield url


def shape_of(path: str, work: Workload) -> Shape:
    """As the daemon counts them."""
    with Client(path, agent="shape") as client:
        context = client.context(system=work.system)
        n_shared = context.info()["n_tokens"]
        pieces = []
        for turn in range(work.n_turns):
            reply = context.ask(work.question(0, turn), max_tokens=work.n_output, ignore_eos=True)
            pieces.append(reply.usage.prompt_tokens)
        return Shape(n_shared, tuple(pieces))


def limit_s(model: Path, work: Workload, shape: Shape) -> float:
    """What the model alone needs for the work."""
    n_lanes = min(work.n_agents, N_SLOTS)
    pieces = ",".join(map(str, shape.pieces))
    numbers = (str(n_lanes), str(shape.n_shared), pieces, str(work.n_output))
    told = in_child("benchmarks.probe", "rates", str(model), *numbers)
    return told["shared_s"] + (told["pieces_s"] + told["decode_s"]) * work.n_agents / n_lanes


# ---------------------------------------------------------------- figures


def line_of(cell: Cell, taken: dict[Cell, Taken], n_asked: int) -> Line:
    runs = taken[cell].by_round
    ours = taken[Cell(cell.n_agents, cell.weights, AIOSD)].by_round
    warm = [run.warm.makespan_s for run in runs.values() if run.warm]
    both = [(run, ours[n]) for n, run in runs.items() if n in ours and cell.server != AIOSD]
    return Line(
        cell.n_agents,
        cell.weights,
        cell.server,
        len(runs),
        Spread.of([run.cold.makespan_s for run in runs.values()]),
        _spread(warm),
        _spread([run.cold.makespan_s / our.cold.makespan_s for run, our in both]),
        _spread(
            [
                run.warm.makespan_s / our.warm.makespan_s
                for run, our in both
                if run.warm and our.warm
            ]
        ),
        _spread([run.cold.makespan_s / run.limit_s for run in runs.values() if run.limit_s]),
        _spread([run.limit_s for run in runs.values() if run.limit_s]),
        all(run.cold.n_output >= n_asked for run in runs.values()),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


def report(rows: Sequence[Row]) -> str:
    head = ("agents", "weights", "server", "cold, s", "× aiosd's", "warm, s", "× aiosd's", "runs")
    cells, missed = [], set()
    limits = []
    for r in sorted(rows, key=lambda row: (row["n_agents"], row["weights"] != "Q8_0")):
        if r["limit_s"]:
            cells.append(_cells(r, "the limit", shown(r["limit_s"]), "", "", ""))
            limits.append(f"{shown(r['of_limit'])} at {r['n_agents']} on {r['weights']}")
        if not r["is_whole"]:
            missed.add(r["server"])
        cells.append(
            _cells(
                r,
                r["server"],
                shown(r["cold_s"]),
                shown(r["times_ours_cold"]) if r["times_ours_cold"] else "",
                shown(r["warm_s"]) if r["warm_s"] else "",
                shown(r["times_ours_warm"]) if r["times_ours_warm"] else "",
            )
        )
    words = [
        f"Seconds from the first call to the last reply; {N_TURNS} turns of "
        f"{N_OUTPUT} tokens each, under one system prompt of about 700 tokens, with a "
        "tool call of 0.1 to 0.5 s between. × aiosd's: over aiosd's time in the same round.",
        table(head, cells),
        "Ours over the limit, which knows of no waits, target "
        f"{LIMIT_TARGET}: {'; '.join(limits)}.",
    ]
    if verdicts := list(_against_targets(rows)):
        words.append(f"Targets against llama-server with 8 slots: {'; '.join(verdicts)}.")
    if missed:
        words.append(f"Fewer tokens than asked for came from: {', '.join(sorted(missed))}.")
    return "\n\n".join(words)


def _cells(r: Row, server: str, *figures: str) -> tuple[str, ...]:
    return (f"{r['n_agents']}", r["weights"], server, *figures, f"{r['n_runs']}")


def _against_targets(rows: Sequence[Row]) -> Iterator[str]:
    for (weights, n_agents), targets in TARGETS.items():
        for r in rows:
            if (r["weights"], r["n_agents"], r["server"]) != (weights, n_agents, LLAMA_8):
                continue
            for kind, target in zip(("cold", "warm"), targets, strict=True):
                times = r[f"times_ours_{kind}"]
                if target and times:
                    verdict = "met" if times["median"] >= target else "missed"
                    found = f"{times['median']:.2f} of {target}"
                    yield f"{weights}, {n_agents} agents, {kind}: {found}, {verdict}"


def _plot(options: Options, lines: Sequence[Line]) -> None:
    series = []
    for server in (AIOSD, LLAMA_8, *ON_Q8_0):
        of = sorted(
            (x for x in lines if x.server == server and x.weights == "Q8_0"),
            key=lambda line: line.n_agents,
        )
        if of:
            sizes = [line.n_agents for line in of]
            series.append(Series(server, sizes, [line.cold_s.median for line in of]))
            limits = [line.limit_s.median for line in of if line.limit_s]
            if limits:
                series.append(Series("the limit", sizes, limits))
    plot(
        "agents",
        options,
        title="A group of agents, Q8_0, cold",
        x_label="agents",
        y_label="seconds until all are done",
        series=series,
    )
