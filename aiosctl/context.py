"""Contexts: the conversations that the daemon keeps.  The noun `context`."""

from __future__ import annotations

import json
from typing import Any

import click

from aiosctl import complete, context_tree, render, units
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
        ("what was said in it", 'aiosctl context log "$id"'),
        ("try another way from there", 'aiosctl context fork "$id"'),
        ("forget it", 'aiosctl context rm "$id"'),
    ),
)
def context() -> None:
    """Show, make, copy, rewind and remove contexts: the conversations that the daemon keeps."""


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
    render.line("")
    _show_said(said)


@context.command(
    examples=(("the last answer", "aiosctl context log c4 --json | jq -r '.messages[-1].content'"),)
)
@click.argument("context_id", metavar="CONTEXT", shell_complete=complete.contexts)
@click.option("--tokens", "has_tokens", is_flag=True, help="The token ids too.")
@pass_app
def log(app: App, context_id: str, has_tokens: bool) -> None:
    """Show what was said in a context, and by whom."""
    said = app.call("context.read", context=context_id, tokens=has_tokens)
    if app.is_json:
        render.document(said)
        return
    _show_said(said)


@context.command()
@click.option(
    "-a", "--all", "is_all", is_flag=True, help="Every agent's contexts, not only this one's."
)
@pass_app
def tree(app: App, is_all: bool) -> None:
    """Show which context was forked from which.

    In a pipe: one id a line, each fork indented by two spaces more than its parent. With --json:
    what 'context ls' gives, whose 'parent' is the same.
    """
    result = app.call("context.list", all=is_all)
    if app.is_json:
        render.document(result)
        return
    contexts = result["contexts"]
    others: list[dict[str, Any]] = []
    if not is_all and context_tree.absent_parents(contexts):
        others = app.call("context.list", all=True)["contexts"]
    who = "any agent" if is_all else f"agent {app.name}; --all shows every agent's"
    render.tree(context_tree.branches(contexts, others), nothing=f"no contexts of {who}")


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


@context.command(
    examples=(
        ("another way to go on", "id=$(aiosctl context fork c4)"),
        ("from an earlier place", "aiosctl context fork c4 --tokens 120"),
    )
)
@click.argument("context_id", metavar="CONTEXT", shell_complete=complete.contexts)
@click.argument("name", required=False)
@click.option(
    "--tokens", "n_tokens", type=click.IntRange(min=0), metavar="N", help="Only its first N tokens."
)
@pass_app
def fork(app: App, context_id: str, name: str | None, n_tokens: int | None) -> None:
    """Make a context that starts as a copy of another, and print its id.

    Of a context that a job uses, the copy has what was there before the job.
    """
    result = app.call("context.fork", context=context_id, name=name, n_tokens=n_tokens)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["context"])


@context.command(
    examples=(
        (
            "unsay the last question and its answer, of six messages",
            "aiosctl context rewind c4 --messages 4",
        ),
    )
)
@click.argument("context_id", metavar="CONTEXT", shell_complete=complete.contexts)
@click.option(
    "--tokens", "n_tokens", type=click.IntRange(min=0), metavar="N", help="Keep N tokens."
)
@click.option(
    "--messages", "n_messages", type=click.IntRange(min=0), metavar="N", help="Keep N messages."
)
@pass_app
def rewind(app: App, context_id: str, n_tokens: int | None, n_messages: int | None) -> None:
    """Go back to where a context had so many tokens, or so many messages.

    What came after is gone; to keep it, fork first.
    """
    if (n_tokens is None) == (n_messages is None):
        raise click.UsageError("give one of --tokens and --messages: how much to keep")
    result = app.call(
        "context.rewind", context=context_id, n_tokens=n_tokens, n_messages=n_messages
    )
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("context", result["context"]),
            ("tokens", result["n_tokens"]),
            ("messages", result["n_messages"]),
        ]
    )


@context.command(examples=(("keep it over a restart", "aiosctl context snapshot c4 --to file"),))
@click.argument("context_id", metavar="CONTEXT", shell_complete=complete.contexts)
@click.option(
    "--to", type=click.Choice(("ram", "file")), default="ram", show_default=True, help="Where."
)
@pass_app
def snapshot(app: App, context_id: str, to: str) -> None:
    """Keep what the model has read of a context outside it, so that it needn't be read again."""
    result = app.call("context.snapshot", context=context_id, to=to)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("context", result["context"]),
            ("where", result["residence"]),
            ("snapshot", units.size(result["snapshot_bytes"])),
        ]
    )


@context.command()
@click.argument("context_id", metavar="CONTEXT", shell_complete=complete.contexts)
@pass_app
def prefetch(app: App, context_id: str) -> None:
    """Let the model read a context now, so that the next answer in it starts at once."""
    result = app.call("context.prefetch", context=context_id)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("context", result["context"]),
            ("where", result["residence"]),
            ("read", f"{result['cached_tokens']} tokens"),
        ]
    )


@context.command(examples=(("forget two of them", "aiosctl context rm c4 c5"),))
@click.argument(
    "contexts", nargs=-1, required=True, metavar="CONTEXT…", shell_complete=complete.contexts
)
@pass_app
def rm(app: App, contexts: tuple[str, ...]) -> None:
    """Remove contexts with all that was said in them. Their forks stay.

    A context that a job uses is 'busy'.
    """
    for_each(app, contexts, lambda one: app.call("context.delete", context=one))


def _show_said(said: dict[str, Any]) -> None:
    """The messages, then the tokens if they were asked for, with empty lines between."""
    for number, message in enumerate(said["messages"]):
        if number:
            render.line("")
        render.heading(f"{message['role']}:")
        if message["content"] or not message.get("tool_calls"):
            render.block(message["content"])
        for call in message.get("tool_calls", ()):
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            render.block(f"calls {call['name']} {arguments}")
    if "tokens" in said:
        if said["messages"]:
            render.line("")
        render.heading("tokens:")
        render.line(" ".join(str(token) for token in said["tokens"]))


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
