"""Contexts: the conversations that the daemon keeps.  The noun `context`."""

from __future__ import annotations

from typing import Any

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

COLUMNS = (
    render.Column("CONTEXT", "context"),
    render.Column("AGENT", "agent"),
    render.Column("MODEL", "model"),
    render.Column("TOKENS", "n_tokens", right=True),
    render.Column("MESSAGES", "n_messages", right=True),
    render.Column("WHERE", "residence"),
    render.Column("SNAPSHOT", "snapshot_bytes", units.size, right=True),
    render.Column("BUSY", "busy", render.yes_no),
    render.Column("AGE", "created_ms", units.age, right=True),
    render.Column("USED", "used_ms", units.age, right=True),
    render.Column("NAME", "name"),  # the last one, since it alone may contain spaces
)


@click.group(
    cls=Group,
    examples=(
        ("one that several runs share", "id=$(aiosctl context create)"),
        ("use it", 'aiosctl run --context "$id" "My name is Ada."'),
        ("what was said in it", 'aiosctl context show "$id"'),
        ("forget it", 'aiosctl context rm "$id"'),
    ),
)
def context() -> None:
    """List, show, make and remove contexts: the conversations that the daemon keeps."""


@context.command("ls")
@click.option(
    "-a", "--all", "is_all", is_flag=True, help="Every agent's contexts, not only this one's."
)
@pass_app
def list_(app: App, is_all: bool) -> None:
    """List the contexts of one agent (--agent), or with --all of every one you may see.

    WHERE says where its cells are: in a slot of the model, as a snapshot in ram or in a file, or
    nowhere (tokens), which costs time at its next use.
    """
    result = app.call("context.list", all=is_all)
    if app.is_json:
        render.document(result)
        return
    who = "any agent" if is_all else f"agent {app.name}; --all shows every agent's"
    render.table(result["contexts"], COLUMNS, nothing=f"no contexts of {who}")


@context.command()
@click.argument("context_id", metavar="CONTEXT", shell_complete=complete.contexts)
@click.option("--tokens", "has_tokens", is_flag=True, help="The token ids too.")
@pass_app
def show(app: App, context_id: str, has_tokens: bool) -> None:
    """Show a context's figures and what was said in it."""
    info = app.call("context.info", context=context_id)
    said = app.call("context.read", context=context_id, tokens=has_tokens)
    if app.is_json:
        render.document({**info, **said})
        return
    render.record(_figures(info))
    for message in said["messages"]:
        render.line("")
        render.heading(f"{message['role']}:")
        render.block(message["content"])
    if has_tokens:
        render.line("")
        render.heading("tokens:")
        render.line(" ".join(str(token) for token in said.get("tokens", ())))


@context.command()
@click.argument("name", required=False)
@click.option("-s", "--system", metavar="TEXT", help="The system message.")
@click.option("-m", "--model", metavar="NAME", help="A model's name; see 'aiosctl model ls'.")
@pass_app
def create(app: App, name: str | None, system: str | None, model: str | None) -> None:
    """Make an empty context and print its id. NAME is for people and need not be unique."""
    given = {"name": name, "system": system, "model": model}
    params = {key: value for key, value in given.items() if value is not None}
    result = app.call("context.create", **params)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["context"])


@context.command(examples=(("forget two of them", "aiosctl context rm c4 c5"),))
@click.argument(
    "contexts", nargs=-1, required=True, metavar="CONTEXT…", shell_complete=complete.contexts
)
@pass_app
def rm(app: App, contexts: tuple[str, ...]) -> None:
    """Remove contexts with all that was said in them. A context that a job uses is 'busy'."""
    for_each(app, contexts, lambda one: app.call("context.delete", context=one))


def _figures(info: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("context", info["context"]),
        ("name", info.get("name")),
        ("agent", info["agent"]),
        ("model", info["model"]),
        ("tokens", info["n_tokens"]),
        ("messages", info["n_messages"]),
        ("where", info["residence"]),
        ("snapshot", units.size(info["snapshot_bytes"])),
        ("busy", render.yes_no(info["busy"])),
        ("parent", info.get("parent")),
        ("age", units.age(info["created_ms"])),
        ("last used", units.age(info["used_ms"]) + " ago"),
    ]
