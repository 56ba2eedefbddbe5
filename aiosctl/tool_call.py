"""One tool.call, shown while it happens: progress on a terminal's stderr, Ctrl-C cancels it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from aiosctl import render
from aiosctl.app import App
from aiosctl.generation import interrupts

_ERASE = "\r\x1b[K"


def run(app: App, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result of the call."""
    is_watched = render.is_terminal(sys.stderr)
    with (
        app.stream("tool.call", name=name, arguments=arguments) as stream,
        interrupts(stream, is_patient=False),
    ):
        try:
            for chunk in stream:
                if is_watched and "progress" in chunk:
                    sys.stderr.write(_ERASE + render.one_line(_says(chunk)))
                    sys.stderr.flush()
        finally:
            if is_watched:
                sys.stderr.write(_ERASE)
                sys.stderr.flush()
        return stream.result


def arguments_from(
    words: Iterable[str], text: str | None, schema: dict[str, Any]
) -> dict[str, Any]:
    """KEY=VALUE words, each read as the schema asks, on top of a JSON object."""
    given = _object(text) if text is not None else {}
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{word!r} isn't KEY=VALUE")
        if key in given:
            raise click.UsageError(f"{key!r} is given twice")
        given[key] = _value(value, known.get(key))
    return given


def _object(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--args isn't JSON: {error}") from error
    if not isinstance(given, dict):
        raise click.UsageError("--args is not a JSON object")
    return given


def _value(text: str, schema: object) -> Any:
    """Text where the schema takes text alone; else JSON, and a bare word that is none is text."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _says(chunk: dict[str, Any]) -> str:
    progress, total = f"{chunk['progress']:g}", chunk.get("total")
    how_far = progress if total is None else f"{progress} of {total:g}"
    return " ".join(filter(None, (how_far, chunk.get("message"))))
