"""How commands are built on click: lazy groups, global options anywhere, examples in help.

Rule: a command's module is imported when that command runs (or is asked for help), not before.
"""

# ruff: noqa: ARG002 - click calls these methods with a context, wanted or not

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from aiosctl import units
from aiosctl.app import App

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
# What people type who know other tools; only ever suggested, never run.
_OTHER_WORDS = {
    "list": "ls",
    "delete": "rm",
    "remove": "rm",
    "del": "rm",
    "info": "show",
    "get": "show",
    "new": "create",
    "cancel": "kill",
    "stop": "kill",
    "continue": "resume",
    "renice": "priority",
    "jobs": "ps",
    "htop": "top",
    "generate": "run",
    "contexts": "context",
    "agents": "agent",
    "models": "model",
    "copy": "fork",
    "clone": "fork",
    "undo": "rewind",
    "read": "log",
    "follow": "attach",
    "help": "--help",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of a lazy group: where it is, and its line in the group's help."""

    module: str
    attribute: str
    summary: str
    section: str


class Size(click.ParamType[int]):
    """Bytes, written as 512M or 2G too."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else units.parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _GlobalOption(click.Option):
    """An option that aiosctl takes before and after the subcommand; the last one given wins."""


def _set_socket(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(App).socket = value


def _set_agent(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(App).agent = value


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(App).is_json = True


def _global_options() -> list[click.Parameter]:
    return [
        _GlobalOption(
            ["--socket"],
            metavar="PATH",
            expose_value=False,
            callback=_set_socket,
            # Not click's envvar: the SDK reads the variable, and a --socket anywhere must beat it.
            help="The daemon's socket.  [default: $AIOSD_SOCKET, else yours, else the system's]",
        ),
        _GlobalOption(
            ["--agent"],
            metavar="NAME",
            expose_value=False,
            callback=_set_agent,
            help="Act as this agent of yours.  [default: aiosctl]",
        ),
        _GlobalOption(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_set_json,
            help="Print the result as one JSON document.",
        ),
    ]


class Command(click.Command):
    """A command with the global options, and with examples in its help."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.params.extend(_global_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_examples(self.examples, formatter)


class Group(click.Group):
    """A noun with verbs: global options, examples, and a suggestion for a verb it doesn't know."""

    command_class = Command

    def __init__(
        self,
        *args: Any,
        examples: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.params.extend(_global_options())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            if args[0] not in known:
                _unknown_command(ctx, args[0], known)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_examples(self.examples, formatter)


class LazyGroup(Group):
    """A group whose commands are imported one at a time, from a table of entries."""

    def __init__(self, *args: Any, entries: dict[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.{entry.attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone: help must not import every command."""
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name, entry.summary)
                        for name, entry in self.entries.items()
                        if entry.section == section
                    ]
                )


def _unknown_command(ctx: click.Context, word: str, known: Iterable[str]) -> NoReturn:
    candidates = list(known)
    other = _OTHER_WORDS.get(word)
    if other is not None and (other in candidates or other.startswith("-")):
        close = [other]
    else:
        close = difflib.get_close_matches(word, candidates, n=2)
    message = f"no command {word!r}"
    if close:
        message += "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    raise click.UsageError(message, ctx)


def _format_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    own: list[tuple[str, str]] = []
    everywhere: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and isinstance(param, click.Option):
            is_everywhere = isinstance(param, _GlobalOption) or "--help" in param.opts
            (everywhere if is_everywhere else own).append(record)
    for title, records in (("Options", own), ("Options of every command", everywhere)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def _format_examples(examples: Sequence[tuple[str, str]], formatter: click.HelpFormatter) -> None:
    """Each with what it does above it, so that the command itself is never wrapped."""
    if examples:
        with formatter.section("Examples"):
            for meaning, command in examples:
                formatter.write(f"{'':{formatter.current_indent}}# {meaning}\n")
                formatter.write(f"{'':{formatter.current_indent}}{command}\n")
