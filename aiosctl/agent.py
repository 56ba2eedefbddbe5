"""Agents: who is connected or owns something.  The noun `agent`; process.py has those that the
daemon runs."""

from __future__ import annotations

import click

from aiosctl import complete, process, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group, Size
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
        ("have the daemon run one", "aiosctl agent run bob -- python bob.py"),
    ),
)
def agent() -> None:
    """List, show, run and end agents: who is connected, or owns contexts."""


for command in process.COMMANDS:
    agent.add_command(command)


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
    """End agents' connections, jobs and processes. Their contexts stay."""
    for_each(app, names, lambda one: app.call("agent.kill", agent=one))


@agent.command(
    examples=(
        ("what holds for an agent", "aiosctl agent limits alice"),
        ("slow it down", "aiosctl agent limits alice --tokens-per-minute 600"),
        ("twice the share of the others", "aiosctl agent limits alice --weight 2"),
    ),
)
@click.argument("name", metavar="AGENT", shell_complete=complete.agents)
@click.option("--max-jobs", type=int, metavar="N", help="Jobs queued and running; 0: the default.")
@click.option(
    "--tokens-per-minute", type=int, metavar="N", help="Over it its jobs wait; 0: no limit."
)
@click.option("--weight", type=int, metavar="N", help="Its share under the fair policy; usually 1.")
@click.option("--memory", "memory_bytes", type=Size(), metavar="BYTES", help="Bytes of notes.")
@click.option("--storage", "storage_bytes", type=Size(), metavar="BYTES", help="Bytes of files.")
@pass_app
def limits(app: App, /, name: str, **asked: int | None) -> None:
    """Show or set what an agent may use. Setting needs the right admin and lasts over restarts."""
    given = {key: value for key, value in asked.items() if value is not None}
    result = app.call("agent.limits", agent=name, **given)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("agent", result["agent"]),
            ("uid", result["uid"]),
            ("most jobs", result["max_jobs"]),
            ("tokens a minute", result["tokens_per_minute"] or "no limit"),
            ("weight", result["weight"]),
            ("memory", _size(result["memory_bytes"])),
            ("storage", _size(result["storage_bytes"])),
        ]
    )


def _size(n_bytes: int) -> str:
    return units.size(n_bytes) if n_bytes else "the default"
