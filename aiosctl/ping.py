"""Whether the daemon answers, and how fast.  `ping`."""

from __future__ import annotations

import time
from typing import Any

import click

from aiosctl import render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Command

MAX_COUNT = 1_000_000  # each is a float kept for the figures at the end


@click.command(
    cls=Command,
    examples=(
        ("is it there", "aiosctl ping && echo yes"),
        ("how fast, over a hundred calls", "aiosctl ping -c 100 -i 0"),
    ),
)
@click.option(
    "-c", "--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N",
    show_default=True, help="So many calls.",
)  # fmt: skip
@click.option(
    "-i", "--interval", type=click.FloatRange(0, 3600), default=1.0, metavar="SECONDS",
    show_default=True, help="Time between two calls.",
)  # fmt: skip
@pass_app
def ping(app: App, count: int, interval: float) -> None:
    """Call the daemon and time its answers. Ctrl-C ends it early and still shows the figures."""
    server = app.hello["server"]
    taken_ms: list[float] = []
    try:
        for number in range(1, count + 1):
            if number > 1:
                time.sleep(interval)
            started_ns = time.perf_counter_ns()
            app.call("sys.ping")
            taken_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
            if not app.is_json:
                render.line(
                    f"{server['name']} {server['version']}: {units.milliseconds(taken_ms[-1])}"
                )
                render.flush()
    finally:
        if taken_ms and (app.is_json or count > 1):
            _show(app, taken_ms)


def _show(app: App, taken_ms: list[float]) -> None:
    figures = _figures(taken_ms)
    if app.is_json:
        render.document(figures)
        return
    shown = (f"{name} {units.milliseconds(figures[f'{name}_ms'])}" for name in _NAMES)
    render.line(f"{len(taken_ms)} calls: " + ", ".join(shown))


_NAMES = ("min", "avg", "p50", "p99", "max")


def _figures(taken_ms: list[float]) -> dict[str, Any]:
    ordered = sorted(taken_ms)

    def share(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return {
        "count": len(ordered),
        "min_ms": ordered[0],
        "avg_ms": sum(ordered) / len(ordered),
        "p50_ms": share(0.50),
        "p99_ms": share(0.99),
        "max_ms": ordered[-1],
    }
