"""The benchmarks' page is made from their figures, and their bookkeeping is right."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import (
    ablation,
    agents,
    interference,
    results,
    rr_overhead,
    scale,
    show,
    spawn,
    switch,
    tools,
)
from benchmarks.common import Options, Spread, shown, table
from benchmarks.workload import Outcome, Workload, in_threads


def test_the_page_of_results_is_what_the_figures_say() -> None:
    before = results.PAGE.read_text()
    assert before == results.page(), "run: python -m benchmarks results"


def test_a_figure_shows_its_median_and_its_noise() -> None:
    assert Spread.of([3.0, 1.0, 2.5]) == Spread(2.5, 1.0, 3.0)
    assert shown({"median": 2.5, "low": 1.0, "high": 3.0}) == "2.50 (1.00 to 3.00)"
    assert shown({"median": 0.25, "low": 0.25, "high": 0.25}, 100) == "25.0"
    assert table(("a", "long"), [("1", "2")]) == "| a | long |\n| - | ---- |\n| 1 | 2    |"


def test_rounds_end_with_the_minutes_but_one_is_always_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(0, 50)  # each look at the clock is 50 s after the one before
    ticking = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("benchmarks.common.time", ticking)
    assert list(Options(n_runs=9).rounds(0.1)) == [0]
    assert list(Options(n_runs=9).rounds(5)) == [0, 1]
    assert list(Options(n_runs=3, minutes=1000).rounds(0)) == [0, 1, 2]


def test_a_peers_times_are_compared_with_ours_of_the_same_round() -> None:
    ours, theirs = agents.Cell(8, "Q8_0", agents.AIOSD), agents.Cell(8, "Q8_0", agents.LLAMA_8)
    whole = 8 * 2 * 32

    def figures(cold_s: float, limit_s: float | None, n_output: int = whole) -> agents.Figures:
        return agents.Figures(Outcome(cold_s, n_output), None, limit_s)

    taken = {
        ours: agents.Taken({0: figures(10, 8), 1: figures(20, 16)}),
        theirs: agents.Taken({0: figures(25, None), 1: figures(40, None, whole - 1)}),
    }
    line = agents.line_of(theirs, taken, whole)
    assert line.times_ours_cold == Spread(2.25, 2.0, 2.5)
    assert (line.is_whole, line.n_runs, line.warm_s, line.limit_s) == (False, 2, None, None)
    assert agents.line_of(ours, taken, whole).of_limit == Spread(1.25, 1.25, 1.25)


def test_the_group_sends_whole_conversations_and_counts_what_came() -> None:
    seen: list[list[str]] = []

    def answer(messages: list[dict[str, str]], n_output: int) -> tuple[str, int]:
        seen.append([message["role"] for message in messages])
        return "yes", n_output

    outcome = in_threads(answer, Workload(2, n_output=3, n_rules=1))
    assert outcome.n_output == 2 * 2 * 3
    first, second = ["system", "user"], ["system", "user", "assistant", "user"]
    assert sorted(seen) == sorted([first, first, second, second])


S = Spread(2.0, 1.0, 3.0)
TWICE = Spread(4.0, 4.0, 4.0)
GAPS = interference.Gaps(S, S, S)
SITUATION = rr_overhead.Situation("resident", 16, 16, 8)


@pytest.mark.parametrize(
    ("report", "rows", "expected"),
    [
        (
            agents.report,
            [
                agents.Line(8, "Q8_0", agents.AIOSD, 3, S, S, None, None, S, S, True),
                agents.Line(8, "Q8_0", agents.LLAMA_8, 3, S, S, S, S, None, None, False),
            ],
            "Q8_0, 8 agents, cold: 2.00 of 2.0, met; Q8_0, 8 agents, warm: 2.00 of 1.3, met",
        ),
        (
            ablation.report,
            [ablation.Row(4, "rr 16", S, S, S, S, S, S, S, S)],
            "| 200.0 (100.0 to 300.0) |",
        ),
        (
            scale.report,
            [scale.Row(50, 1, S, S, S, S, S, S), scale.Row(100, 1, TWICE, S, S, S, S, S)],
            "0.00 s + 40.00 ms per agent, R² = 1.00000",
        ),
        (
            interference.report,
            [
                interference.Talk("aiosd", GAPS, GAPS, S, S, S, S),
                interference.Person("aiosd", S, S, S),
                interference.Ping(S, S, S),
            ],
            "the guide is 20 ms at p99: met",
        ),
        (switch.report, [switch.Row(512, 2048, S, S, S, S, S)], "| 512    | 2   |"),
        (
            tools.report,
            [
                tools.Row(kind, way, spread, spread)
                for kind in tools.KINDS
                for way, spread in ((tools.DIRECT, S), (tools.DAEMON, TWICE))
            ],
            "an MCP server's tool: +2.00 ms a call, and 2.00 of the calls per second.",
        ),
        (
            spawn.report,
            [spawn.Row(spawn.BARE, S, S), spawn.Row(spawn.SPAWNED, TWICE, TWICE)],
            "The daemon adds 2.0 ms: 2.00 of the bare one.",
        ),
        (rr_overhead.report, [rr_overhead.Row(SITUATION, 4, S, S, S, 9, 7)], "| 16/16/8 "),
    ],
    ids=lambda value: getattr(value, "__module__", ""),
)
def test_each_report_reads_what_is_kept(
    report: Callable[[Sequence[Any]], str], rows: list[Any], expected: str
) -> None:
    kept = json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))
    assert expected in report(kept)


def test_the_show_says_what_is_left_over_and_what_is_not_accounted() -> None:
    before = show.Seen(1, 30, 2, 2, 0, 0, 10**9)
    fewer = dataclasses.replace(before, processes=0, memory_bytes=10**9 + show.MAX_GROWTH_BYTES)
    assert fewer.left_over(before) == []
    more = show.Seen(2, 31, 2, 2, 1, 0, 10**9 + 2**29)
    assert more.left_over(before) == [
        "2 processes, 1 before",
        "31 descriptors, 30 before",
        "1 jobs, 0 before",
        "512 MiB more memory, 256 is the limit",
    ]
    ended = {"done": 3.0, "cancelled": 1.0}
    assert show.unaccounted({"aiosd_jobs_submitted": {"": 4.0}, "aiosd_jobs_ended": ended}) == []
    assert show.unaccounted({"aiosd_jobs_submitted": {"": 5.0}, "aiosd_jobs_ended": ended}) == [
        "5 jobs were submitted, 4 have ended"
    ]
