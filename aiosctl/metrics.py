"""The daemon's figures as Prometheus reads them.  `metrics`."""

from __future__ import annotations

import click

from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command


@click.command(
    cls=Command,
    examples=(
        ("how long jobs waited", "aiosctl metrics | grep aiosd_queue_seconds"),
        (
            "for the node exporter's textfile collector",
            "aiosctl metrics > aiosd.prom.new && mv aiosd.prom.new aiosd.prom",
        ),
    ),
)
@pass_app
def metrics(app: App) -> None:
    """Print the daemon's figures in Prometheus' text format: its load, and nobody's part in it.

    To have Prometheus scrape them, set 'listen' in the [metrics] table of the daemon's
    configuration.
    """
    result = app.call("sys.metrics")
    if app.is_json:
        render.document(result)
        return
    render.verbatim(result["text"])
