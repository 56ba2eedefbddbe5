"""Any syscall by its name, for what no other command does.  `call`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from aios_sdk.syscalls import TABLE, Param
from aiosctl import render, standard_input
from aiosctl.app import App, pass_app
from aiosctl.commands import Command


@click.command(
    cls=Command,
    examples=(
        ("without parameters", "aiosctl call sys.status"),
        ("with some", "aiosctl call llm.tokenize text='Hello there'"),
        ("lists and maps are JSON", "aiosctl call llm.detokenize tokens='[19556, 665]'"),
        ("all of them as JSON", 'echo \'{"text": "Hello"}\' | aiosctl call llm.tokenize -'),
        (
            "streamed, one JSON document a line",
            "aiosctl call llm.generate prompt='One, two' stream=true",
        ),
    ),
)
@click.argument("method")
@click.argument("params", nargs=-1, metavar="[KEY=VALUE… | -]")
@pass_app
def call(app: App, method: str, params: tuple[str, ...]) -> None:
    """Make the syscall METHOD and print its result as JSON.

    A value is read as the parameter's type asks ('aiosctl describe METHOD' shows them): text as it
    is, anything else as JSON. With '-', or when a syscall that needs parameters gets none, all of
    them are read from standard input as one JSON object.
    """
    given = _from_stdin() if _reads_stdin(method, params) else _from_words(method, params)
    if given.get("stream") is not True:
        render.document(app.call(method, **given))
        return
    given.pop("stream")
    with app.stream(method, **given) as stream:
        for chunk in stream:
            render.document(chunk, is_line=True)
        render.document(stream.result, is_line=True)


def _reads_stdin(method: str, params: tuple[str, ...]) -> bool:
    """Whether '-' says so, or nothing was given to a call that can't do without.

    Never for a call that can: a program that runs us with an open pipe would wait for ever.
    """
    if params:
        return params == ("-",)
    known = TABLE.get(method)
    is_needy = known is None or any(p.is_required for p in known.params) or bool(known.one_of)
    return is_needy and sys.stdin is not None and not sys.stdin.isatty()


def _from_stdin() -> dict[str, Any]:
    text = standard_input.read_text("the parameters")
    if not text.strip():
        return {}
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"standard input isn't JSON: {error}") from error
    if not isinstance(given, dict):
        raise click.UsageError(f"standard input is a JSON {type(given).__name__}, not an object")
    return given


def _from_words(method: str, words: tuple[str, ...]) -> dict[str, Any]:
    known = TABLE.get(method)
    types = {p.name: p for p in known.params} if known is not None else {}
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{word!r} isn't KEY=VALUE")
        if key in given:
            raise click.UsageError(f"{key!r} is given twice")
        given[key] = _value(key, value, types.get(key))
    return given


def _value(key: str, text: str, param: Param | None) -> Any:
    kind = param.type.schema().get("type") if param is not None else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if kind is None:  # a parameter we don't know, or of several types: a bare word is text
            return text
        raise click.UsageError(f"{key}={text!r} isn't JSON, and {key} is of type {kind}") from error
