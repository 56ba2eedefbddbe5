"""MCP servers: started, ended and looked at while the daemon runs.  Verbs of the noun `tool`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aiosctl import commands, render
from aiosctl.app import App, pass_app
from aiosctl.many import for_each

COLUMNS = (
    render.Column("SERVER", "name"),
    render.Column("STATE", "state"),
    render.Column("OVER", "over"),
    render.Column("LOADED", "is_loaded", render.yes_no),
    render.Column("PID", "pid", right=True),
    render.Column("TOOLS", "tools", right=True),
    render.Column("RESTARTS", "restarts", right=True),
    render.Column("LAST ERROR", "last_error"),
)


@click.command(
    cls=commands.Command,
    examples=(
        ("a program", "aiosctl tool load time --read /opt/mcp -- /opt/mcp/bin/mcp-server-time"),
        ("what runs already", "aiosctl tool load wiki --url http://127.0.0.1:8080/mcp"),
        ("with the network", "aiosctl tool load fetch --network -- mcp-server-fetch"),
    ),
)
@click.argument("name")
@click.argument("command", nargs=-1)
@click.option("--url", metavar="URL", help="Reach a server over streamable HTTP.")
@click.option("--header", "headers", multiple=True, metavar="NAME=TEXT", help="Sent to the URL.")
@click.option("--env", multiple=True, metavar="NAME=TEXT", help="A variable of its environment.")
@click.option("--cwd", metavar="DIR", help="Its working directory.  [default: a private one]")
@click.option("--read", multiple=True, metavar="PATH", help="What it may read, too.")
@click.option("--write", multiple=True, metavar="PATH", help="What it may read and change.")
@click.option("--network", is_flag=True, help="Let it use the network.")
@click.option(
    "--irreversible", multiple=True, metavar="TOOL", help="A tool of it that can't be undone; or *."
)
@pass_app
def load(  # noqa: PLR0917 - click passes them by name
    app: App,
    name: str,
    command: tuple[str, ...],
    url: str | None,
    headers: tuple[str, ...],
    env: tuple[str, ...],
    cwd: str | None,
    read: tuple[str, ...],
    write: tuple[str, ...],
    network: bool,
    irreversible: tuple[str, ...],
) -> None:
    """Start an MCP server, and offer its tools as NAME.tool until the daemon ends.

    It needs the right 'admin'. The server is confined: it may touch what the system's programs
    need and what is granted here. To have it for good, write it into the configuration: [mcp.NAME].
    """
    if bool(command) == (url is not None):
        raise click.UsageError("give a command (after --) or a --url")
    asked = {
        "command": command[0] if command else None,
        "args": list(command[1:]) or None,
        "url": url,
        "headers": _pairs(headers, "--header"),
        "env": _pairs(env, "--env"),
        "cwd": cwd,
        "read": list(read) or None,
        "write": list(write) or None,
        "network": network or None,
        "irreversible": list(irreversible) or None,
    }
    result = app.call("tool.load", name=name, **asked)
    if app.is_json:
        render.document(result)
        return
    for tool in result["tools"]:
        render.line(tool)
    for reason in result["left_out"]:
        render.remark(f"left out: {reason}")


@click.command(cls=commands.Command)
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@pass_app
def unload(app: App, names: tuple[str, ...]) -> None:
    """End MCP servers that were loaded. It needs the right 'admin'."""
    for_each(app, names, lambda one: app.call("tool.unload", name=one))


@click.command(
    cls=commands.Command,
    examples=(("why one doesn't start", "aiosctl tool servers time --logs"),),
)
@click.argument("name", required=False)
@click.option("--logs", is_flag=True, help="What each said last on its stderr.")
@pass_app
def servers(app: App, name: str | None, logs: bool) -> None:
    """List the MCP servers: state, restarts, last error. It needs the right 'admin'."""
    result = app.call("tool.servers", name=name, logs=logs)
    if app.is_json:
        render.document(result)
        return
    if not logs:
        render.table(result["servers"], COLUMNS, nothing="no MCP servers")
        return
    for server in result["servers"]:
        for line in [*server["left_out"], *server["log"]]:
            render.line(f"{server['name']}: {line}")


def _pairs(texts: Sequence[str], option: str) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in texts]
    for text, (key, sign, _) in zip(texts, pairs, strict=True):
        if not key or not sign:
            raise click.UsageError(f"{option} {text!r} is not NAME=TEXT")
    return {key: value for key, _, value in pairs} or None
