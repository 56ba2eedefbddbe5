"""Agents: who is connected or owns something.  The noun `agent`."""

from __future__ import annotations

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

COLUMNS = (
    render.Column("AGENT", "agent"),
    render.Column("UID", "uid", right=True),
    render.Column("CONNECTIONS", "connections", right=True),
    render.Column("CONTEXTS", "contexts", right=True),
    render.Column("JOBS", "jobs", right=True),
    render.Column("TOKENS", "tokens", right=True),
    render.Column("SINCE", "since_ms", units.age, right=True),
)


@click.group(
    cls=Group,
    examples=(
        ("who is there", "aiosctl agent ls"),
        ("end all that an agent does", "aiosctl agent kill alice"),
    ),
)
def agent() -> None:
    """List, show and end agents: who is connected, or owns contexts."""


@agent.command("ls")
@pass_app
def list_(app: App) -> None:
    """List the agents you may see; aiosctl itself is one while it asks."""
    result = app.call("agent.list")
    if app.is_json:
        render.document(result)
        return
    render.table(result["agents"], COLUMNS, nothing="no agents")


@agent.command()
@click.argument("name", metavar="AGENT", shell_complete=complete.agents)
@pass_app
def info(app: App, name: str) -> None:
    """Show one agent."""
    result = app.call("agent.info", agent=name)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("agent", result["agent"]),
            ("uid", result["uid"]),
            ("connections", result["connections"]),
            ("contexts", result["contexts"]),
            ("jobs", result["jobs"]),
            ("tokens", result["tokens"]),
            ("since", units.age(result["since_ms"])),
        ]
    )


@agent.command(examples=(("end two agents", "aiosctl agent kill alice bob"),))
@click.argument("names", nargs=-1, required=True, metavar="AGENT…", shell_complete=complete.agents)
@pass_app
def kill(app: App, names: tuple[str, ...]) -> None:
    """End agents' connections and jobs. Their contexts stay."""
    for_each(app, names, lambda one: app.call("agent.kill", agent=one))
