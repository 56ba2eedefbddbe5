"""The syscalls that the daemon knows, in its own words.  `describe`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import click

from aios_sdk.errors import NotFound
from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command

CALLS = (
    render.Column("CALL", "name"),
    render.Column("RIGHT", "right"),
    render.Column("SUMMARY", "summary"),
)
ERRORS = (render.Column("ERROR", "code"), render.Column("SUMMARY", "summary"))
PARAMS = (
    render.Column("PARAM", "name"),
    render.Column("TYPE", "type"),
    render.Column("DEFAULT", "default"),
    render.Column("MEANING", "meaning"),
)
FIELDS = (render.Column("RESULT", "name"), render.Column("TYPE", "type"))


@click.command(
    cls=Command,
    examples=(
        ("all of them", "aiosctl describe"),
        ("one, with its parameters", "aiosctl describe llm.generate"),
        ("its JSON Schemas", "aiosctl describe llm.generate --json"),
        ("the error codes", "aiosctl describe --errors"),
    ),
)
@click.argument("call", required=False)
@click.option("--errors", "is_errors", is_flag=True, help="The error codes instead.")
@pass_app
def describe(app: App, call: str | None, is_errors: bool) -> None:
    """List the daemon's syscalls, or show the parameters and the result of one (CALL).

    'aiosctl call' makes any of them.
    """
    result = app.call("sys.describe")
    syscalls = {entry["name"]: entry for entry in result["syscalls"]}
    if call is not None:
        entry = syscalls.get(call)
        if entry is None:
            raise NotFound(_unknown(call, list(syscalls)))
        _show_call(app, entry)
    elif app.is_json:
        render.document(result)
    elif is_errors:
        render.table(result["errors"], ERRORS, nothing="no errors")
    else:
        render.table(syscalls.values(), CALLS, nothing="no syscalls")


def _unknown(call: str, known: list[str]) -> str:
    close = difflib.get_close_matches(call, known, n=1)
    return f"no syscall {call!r}" + (f", did you mean {close[0]!r}?" if close else "")


def _show_call(app: App, entry: Mapping[str, Any]) -> None:
    if app.is_json:
        render.document(entry)
        return
    render.record(
        [
            ("call", entry["name"]),
            ("does", entry["summary"]),
            ("right", entry.get("right")),
            ("streams", render.yes_no(entry.get("chunk"))),
        ]
    )
    needed = set(entry["params"].get("required", ()))
    params = [
        {
            "name": name,
            "type": _type(schema),
            "default": _default(schema, is_needed=name in needed),
            "meaning": schema.get("description"),
        }
        for name, schema in entry["params"].get("properties", {}).items()
    ]
    render.line("")
    render.table(params, PARAMS, nothing="no parameters")
    fields = [
        {"name": name, "type": _type(schema)}
        for name, schema in entry["result"].get("properties", {}).items()
    ]
    if fields:
        render.line("")
        render.table(fields, FIELDS, nothing="no result")


def _default(schema: Mapping[str, Any], *, is_needed: bool) -> str | None:
    if is_needed:
        return "required"
    if "default" not in schema:
        return None
    return render.compact(schema["default"])


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in a word or two: ``integer``, ``[string]``, ``a|b``, ``{role,content}``."""
    match schema:
        case {"enum": choices}:
            return "|".join(str(choice) for choice in choices)
        case {"anyOf": options}:
            return "|".join(dict.fromkeys(_type(option) for option in options))
        case {"type": "array", "items": items}:
            return f"[{_type(items)}]"
        case {"type": "object", "properties": fields}:
            return "{" + ",".join(fields) + "}"
        case {"type": str(name)}:
            return name
        case _:
            return "any"
