"""What the slots did lately, as a trace or a picture.  `trace`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command

MAX_S = 86_400
TRACE = click.Path(dir_okay=False, writable=True, allow_dash=True)


@click.command(
    cls=Command,
    examples=(
        ("the last ten seconds, to open in https://ui.perfetto.dev", "aiosctl trace -o trace.json"),
        ("the next five, as a picture", "aiosctl trace --seconds 5 --ahead --svg trace.svg"),
    ),
)
@click.option(
    "--seconds", type=click.FloatRange(0, MAX_S), default=10.0, metavar="N", show_default=True,
    help="How much of it.",
)  # fmt: skip
@click.option("--ahead", is_flag=True, help="The next seconds, not the last ones: wait for them.")
@click.option(
    "-o",
    "--output",
    type=TRACE,
    metavar="FILE",
    help="Write the trace there; - is standard output.",
)
@click.option("--svg", type=TRACE, metavar="FILE", help="Draw it there, as one SVG picture.")
@pass_app
def trace(app: App, seconds: float, ahead: bool, output: str | None, svg: str | None) -> None:
    """Write what the model's slots did: whose work was read, written, parked and resumed, and when.

    The trace is Chrome's trace-event JSON, which Perfetto opens. You see your own agents (root and
    the daemon's user see all), and how many lanes were in use in total.
    """
    if ahead:
        app.client  # noqa: B018 - whether there is a daemon is to be known before waiting
        time.sleep(seconds)
    result = app.call("sys.trace", seconds=seconds)
    if output is None and svg is None:
        output = "-"
    if output is not None:
        _write(output, render.json_text(result))
    if svg is not None:
        from aiosctl import picture

        _write(svg, picture.svg(result))
    if app.is_json and output != "-":
        render.document(_told(result, output, svg))


def _told(result: dict[str, Any], output: str | None, svg: str | None) -> dict[str, Any]:
    return {"events": len(result["traceEvents"]), "output": output, "svg": svg}


def _write(path: str, text: str) -> None:
    if path == "-":
        render.verbatim(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
