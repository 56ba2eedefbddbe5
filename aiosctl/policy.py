"""The scheduling policy: what is in force, and changing it.  `policy`."""

from __future__ import annotations

import click

from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command


@click.command(
    cls=Command,
    examples=(
        ("what is in force", "aiosctl policy"),
        (
            "turns of 16 tokens, 4 jobs side by side",
            "aiosctl policy --policy rr --quantum 16 --lanes 4",
        ),
    ),
)
@click.option("--policy", "name", type=click.Choice(("fifo", "rr", "fair")), help="Who runs next.")
@click.option("--quantum", type=click.IntRange(min=1), metavar="N", help="A turn, in tokens.")
@click.option("--lanes", type=click.IntRange(min=1), metavar="N", help="Jobs that step together.")
@pass_app
def policy(app: App, name: str | None, quantum: int | None, lanes: int | None) -> None:
    """Show how jobs share the model, or change it.

    fifo: first come, first finished. rr: each job in turn runs a quantum of tokens. fair: whoever
    has had least goes first. A change needs the right 'admin' (root, or the daemon's own user),
    takes effect at the next step and loses nothing.
    """
    given = {"policy": name, "quantum_tokens": quantum, "lanes": lanes}
    params = {key: value for key, value in given.items() if value is not None}
    result = app.call("sys.policy", **params)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("policy", result["policy"]),
            ("quantum", f"{result['quantum_tokens']} tokens"),
            ("lanes", result["lanes"]),
        ]
    )
