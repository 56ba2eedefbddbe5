"""Write the man pages: aiosctl.1, one for each of its commands, aiosd.8, aiosd.toml.5.

    python scripts/manpages.py DIRECTORY

Rule: everything is taken from the command line and the settings themselves, so that a page can't
say something else than --help does.  `make man` runs it, and so does `make install`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from aiosctl.__main__ import ENTRIES, aiosctl
from aiosctl.failures import Exit
from aiosd import __main__ as daemon
from aiosd import __version__, config
from aiosd.settings import Bounds, default_of, keys, toml

EXITS = {
    Exit.DONE: "Done.",
    Exit.FAILED: "Failed; the last line on standard error says why.",
    Exit.USAGE: "The command or its parameters are wrong.",
    Exit.NO_DAEMON: "No daemon answers.",
    Exit.DENIED: "Not permitted.",
    Exit.NOT_FOUND: "No such context, job, agent or model, or it isn't yours.",
    Exit.BUSY: "Busy, or a limit is reached; trying again later may help.",
    Exit.INTERRUPTED: "Interrupted by Ctrl-C.",
}
DAEMON_EXITS = {
    0: "Stopped in order.",
    1: "It can't serve; the last line on standard error says why.",
    2: "The command line or the configuration is wrong.",
}
SIGNALS = {
    "SIGTERM, SIGINT": "Stop: calls end, contexts are written to files, then it leaves.",
    "SIGHUP": "Read the configuration again and put into force what can be.",
}
ENVIRONMENT = {
    "AIOSD_SOCKET": "The daemon's socket, if --socket doesn't name it.",
    "NO_COLOR": "If set, no colours on a terminal.",
}
DAEMON_ENVIRONMENT = {
    "AIOSD_SOCKET": "The socket to serve on, if nothing else names it.",
    "XDG_RUNTIME_DIR": "Where the socket is by default, in a directory aiosd.",
    "XDG_STATE_HOME, XDG_DATA_HOME": "Where the state and the models are by default.",
    "NOTIFY_SOCKET, LISTEN_FDS, WATCHDOG_USEC, JOURNAL_STREAM": "As systemd sets them.",
}


# ---------------------------------------------------------------- roff


def escape(text: str) -> str:
    """Text as roff takes it: nothing in it is a request, an escape or a hyphen to break at."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    safe = safe.replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return "\\&" + safe if safe.startswith(".") else safe


def prose(text: str) -> str:
    """A sentence or more; `code` becomes bold."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    return "".join(f"\\fB{escape(p)}\\fR" if i % 2 else escape(p) for i, p in enumerate(parts))


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def paragraphs(text: str) -> Iterator[str]:
    for part in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        yield prose(part)


def terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of things and what they are; the things are roff already."""
    for term, meaning in pairs:
        yield ".TP"
        yield term
        yield meaning or "\\&"


def examples(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for meaning, command in pairs:
        yield ".PP"
        yield prose(meaning[:1].upper() + meaning[1:] + ":")
        yield ".PP"
        yield ".RS 4"
        yield ".EX"
        yield escape(command)
        yield ".EE"
        yield ".RE"


def page(name: str, section: int, summary: str, manual: str, body: Iterable[str]) -> str:
    """A whole page.  The version stands where a date would: it says more, and is the same for all
    who build it."""
    head = f'.TH "{name.upper()}" {section} "aiosd {__version__}" "aiosd" "{manual}"'
    title = f"{escape(name)} \\- {prose(summary.rstrip('.'))}"
    # Ragged, without hyphenation: pages are read in terminals.
    return "\n".join([head, ".nh", ".ad l", ".SH NAME", title, *body]) + "\n"


# ---------------------------------------------------------------- aiosctl


def options(command: click.Command, ctx: click.Context, *, is_everywhere: bool) -> Iterator[str]:
    """Its own options, or those that every command has."""
    found = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        is_shared = type(param).__name__ == "_GlobalOption" or "--help" in param.opts
        if record is not None and isinstance(param, click.Option) and is_shared == is_everywhere:
            found.append((bold(record[0]), prose(record[1])))
    return terms(found)


def usage(command: click.Command, ctx: click.Context) -> str:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    return f"{bold(ctx.command_path)} {escape(pieces)}".rstrip()


def described(command: click.Command) -> str:
    text = (command.help or "").partition("\f")[0]
    return text.replace("\b", "")


def command_page(name: str, summary: str) -> str:
    root = click.Context(aiosctl, info_name="aiosctl")
    command = aiosctl.get_command(root, name)
    assert command is not None
    ctx = click.Context(command, info_name=name, parent=root)
    body = [".SH SYNOPSIS", usage(command, ctx), ".SH DESCRIPTION", *paragraphs(described(command))]
    if isinstance(command, click.Group):
        body.append(".SH COMMANDS")
        for verb in command.list_commands(ctx):
            inner = command.get_command(ctx, verb)
            assert inner is not None
            inner_ctx = click.Context(inner, info_name=verb, parent=ctx)
            body += [".SS", usage(inner, inner_ctx), *paragraphs(described(inner))]
            body += options(inner, inner_ctx, is_everywhere=False)
            body += examples(getattr(inner, "examples", ()))
    own = list(options(command, ctx, is_everywhere=False))
    body += [".SH OPTIONS", *own, *options(command, ctx, is_everywhere=True)]
    if given := getattr(command, "examples", ()):
        body += [".SH EXAMPLES", *examples(given)]
    body += see_also("aiosctl(1)", "aiosd(8)")
    return page(f"aiosctl-{name}", 1, summary[:1].lower() + summary[1:], "User Commands", body)


def aiosctl_page() -> str:
    ctx = click.Context(aiosctl, info_name="aiosctl")
    body = [".SH SYNOPSIS", usage(aiosctl, ctx), ".SH DESCRIPTION", *paragraphs(described(aiosctl))]
    body.append(".SH COMMANDS")
    for section in dict.fromkeys(entry.section for entry in ENTRIES.values()):
        body += [".SS " + escape(section)]
        body += terms(
            (bold(f"aiosctl-{name}") + "(1)", prose(entry.summary))
            for name, entry in ENTRIES.items()
            if entry.section == section
        )
    body += [".SH OPTIONS", *options(aiosctl, ctx, is_everywhere=False)]
    body += ["Every command takes:", *options(aiosctl, ctx, is_everywhere=True)]
    body += [".SH EXIT STATUS", *terms((bold(str(int(k))), prose(v)) for k, v in EXITS.items())]
    body += [".SH ENVIRONMENT", *terms((bold(k), prose(v)) for k, v in ENVIRONMENT.items())]
    body += [".SH EXAMPLES", *examples(getattr(aiosctl, "examples", ()))]
    body += see_also("aiosd(8)", *(f"aiosctl-{name}(1)" for name in ENTRIES))
    return page("aiosctl", 1, "talk to aiosd, the operating system for LLM agents",
                "User Commands", body)  # fmt: skip


def see_also(*pages: str) -> list[str]:
    linked = (re.sub(r"^(.*)(\(\d\))$", lambda m: bold(m[1]) + m[2], name) for name in pages)
    return [".SH SEE ALSO", ",\n".join(linked)]


# ---------------------------------------------------------------- aiosd


def aiosd_page() -> str:
    parser = daemon.parser()
    formatter = argparse.HelpFormatter("aiosd")
    found = []
    for action in parser._actions:  # argparse has no other list of them
        value = ""
        if action.nargs != 0:
            choices = "|".join(map(str, action.choices or ()))
            value = f" \\fI{escape(str(action.metavar or choices or action.dest.upper()))}\\fR"
        term = ", ".join(bold(option) + value for option in action.option_strings)
        found.append((term, prose(formatter._expand_help(action))))
    body = [
        ".SH SYNOPSIS", f"{bold('aiosd')} [{escape('--config')} \\fIFILE\\fR] [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION", *paragraphs(parser.description or ""), *paragraphs(parser.epilog or ""),
        ".SH OPTIONS", *terms(found),
        ".SH SIGNALS", *terms((bold(k), prose(v)) for k, v in SIGNALS.items()),
        ".SH EXIT STATUS", *terms((bold(str(k)), prose(v)) for k, v in DAEMON_EXITS.items()),
        ".SH ENVIRONMENT", *terms((bold(k), prose(v)) for k, v in DAEMON_ENVIRONMENT.items()),
        ".SH FILES",
        *terms([
            (bold("/etc/aiosd/aiosd.toml"), "The settings of the system's daemon."),
            (bold("/run/aiosd/aiosd.sock"), "Its socket; members of the group aiosd may connect."),
        ]),
        *see_also("aiosctl(1)", "aiosd.toml(5)", "systemctl(1)", "journalctl(1)"),
    ]  # fmt: skip
    return page(
        "aiosd", 8, "share one local model among many agents", "System Administration", body
    )


def settings_page() -> str:
    body = [
        ".SH DESCRIPTION", *paragraphs(
            "`aiosd --config FILE` reads TOML. Keys of the first table are flags too, with dashes "
            "for underscores; flags win over the file. An unknown key, a wrong type or a value "
            "past its bound is an error; `aiosd --check-config` finds it, and prints what is in "
            "force. Sizes are bytes, or text such as `\"512M\"`. A key marked `live` takes effect "
            "at SIGHUP (`systemctl reload aiosd`), the others at a restart."
        ),
        ".SH KEYS", *settings(config.Config),
    ]  # fmt: skip
    for name, of in config.TABLES.items():
        body += [f".SH TABLE [{escape(name.upper())}]", *settings(of)]
    body += see_also("aiosd(8)")
    return page("aiosd.toml", 5, "settings of aiosd", "File Formats", body)


def settings(of: type[Any], *, reloads: bool = False) -> Iterator[str]:
    """reloads: the tables in a table are live where their key is."""
    inner: list[str] = []

    def about(field: dataclasses.Field[Any], bounds: Bounds) -> str:
        facts = [f"default {bounds.default_text or toml(default_of(field), field.name)}"]
        if bounds.choices:
            several = "several" if isinstance(field.default, tuple) else "one"
            facts.append(f"{several} of {', '.join(bounds.choices)}")
        elif bounds.low is not None:
            facts.append(f"{bounds.low} to {bounds.high}")
        facts.append("live" if bounds.reloads or reloads else "needs a restart")
        return f"{prose(bounds.summary)}\n.br\n{escape('(' + '; '.join(facts) + ')')}"

    for name, (field, bounds) in keys(of).items():
        if bounds.table is not None:
            kind = f"{name}.NAME" if bounds.name_pattern else name
            inner += [".SS", escape(f"Tables {kind}"), *paragraphs(bounds.summary)]
            inner += settings(bounds.table, reloads=bounds.reloads)
        else:
            yield from terms([(bold(name), about(field, bounds))])
    yield from inner


# ---------------------------------------------------------------- all of them


def pages() -> dict[str, str]:
    """File name -> page."""
    made = {"aiosctl.1": aiosctl_page(), "aiosd.8": aiosd_page(), "aiosd.toml.5": settings_page()}
    for name, entry in ENTRIES.items():
        made[f"aiosctl-{name}.1"] = command_page(name, entry.summary)
    return made


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: manpages.py DIRECTORY")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
