"""Tools: what agents and models can call.  The noun `tool`."""

from __future__ import annotations

import sys
from typing import Any

import click

from aiosctl import complete, render, tool_call, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.tool_servers import load, servers, unload

COLUMNS = (
    render.Column("TOOL", "name"),
    render.Column("SOURCE", "source"),
    render.Column("IRREVERSIBLE", "irreversible", render.yes_no),
    render.Column("RUNNING", "running", right=True),
    render.Column("WAITING", "waiting", right=True),
    render.Column("USUALLY", "usual_ms", units.milliseconds, right=True),
    render.Column("DESCRIPTION", "description", lambda text: text.partition("\n")[0]),
)


@click.group(
    cls=Group,
    examples=(
        ("what there is", "aiosctl tool ls"),
        ("call one", "aiosctl tool call calculator expression='6 * 7'"),
        ("what one takes", "aiosctl tool show calculator"),
        ("what one may touch", "aiosctl tool check python"),
        ("an MCP server's", "aiosctl tool load wiki --url http://127.0.0.1:8080/mcp"),
    ),
)
def tool() -> None:
    """List and call tools; load and watch the MCP servers that bring some."""


for _command in (load, unload, servers):
    tool.add_command(_command)


@tool.command("ls")
@pass_app
def list_(app: App) -> None:
    """List the tools that the agent (--agent) may use. USUALLY is how long calls took lately."""
    result = app.call("tool.list")
    if app.is_json:
        render.document(result)
        return
    render.table(result["tools"], COLUMNS, nothing=f"no tools for agent {app.name}")


@tool.command()
@click.argument("name", shell_complete=complete.tools)
@pass_app
def show(app: App, name: str) -> None:
    """Show what a tool says of itself: what it does, and its arguments."""
    found = _found(app, name)
    if found is None:
        app.call("tool.call", name=name)  # says why not
        return
    if app.is_json:
        render.document(found)
        return
    required = found["parameters"].get("required", [])
    render.block(found["description"])
    render.line("")
    render.record(
        [
            (key, _about(schema, is_required=key in required))
            for key, schema in found["parameters"].get("properties", {}).items()
        ]
        or [("(no arguments)", "")]
    )


@tool.command()
@click.argument("name", shell_complete=complete.tools)
@pass_app
def check(app: App, name: str) -> None:
    """Show what a tool may touch, which bounds are kept here, and which aren't, and why."""
    found = app.call("tool.check", name=name)
    if app.is_json:
        render.document(found)
        return
    render.record(
        [
            ("tool", found["name"]),
            ("source", found["source"]),
            ("irreversible", render.yes_no(found["irreversible"])),
            ("asks a person", render.yes_no(found["asks"])),
            *(("reads", path) for path in found["read"]),
            *(("writes", path) for path in found["write"]),
            ("network", found["network"]),
            *((f"bound: {what}", words) for what, words in found["kept"].items()),
            *((f"not: {what}", words) for what, words in found["not_kept"].items()),
        ]
    )


@tool.command(
    examples=(
        ("arguments by name", "aiosctl tool call clock timezone=Europe/Paris"),
        ("as JSON", 'aiosctl tool call add --args \'{"a": 1, "b": 2}\''),
    )
)
@click.argument("name", shell_complete=complete.tools)
@click.argument("words", nargs=-1, metavar="[KEY=VALUE…]")
@click.option("--args", "text", metavar="JSON", help="Arguments as a JSON object.")
@pass_app
def call(app: App, name: str, words: tuple[str, ...], text: str | None) -> None:
    """Call a tool and print what it says; Ctrl-C cancels it.

    A value is text where the tool takes text, and JSON elsewhere. The exit code is 1 when the tool
    says that it could not do it.
    """
    found = _found(app, name) if words else None
    parameters = {} if found is None else found["parameters"]
    result = tool_call.run(app, name, tool_call.arguments_from(words, text, parameters))
    if app.is_json:
        render.document(result)
    else:
        render.block(result["content"])
    if result["is_error"]:
        sys.exit(1)


def _found(app: App, name: str) -> dict[str, Any] | None:
    """The tool as tool.list has it."""
    tools: list[dict[str, Any]] = app.call("tool.list")["tools"]
    return next((one for one in tools if one["name"] == name), None)


def _about(schema: dict[str, Any], *, is_required: bool) -> str:
    kind = schema.get("type") or render.compact(schema.get("enum", "any"))
    default = f", default {render.compact(schema['default'])}" if "default" in schema else ""
    words = schema.get("description", "")
    return f"{kind}{', required' if is_required else default}{': ' + words if words else ''}"
