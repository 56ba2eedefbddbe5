"""The daemon's log, where systemd's journal has it.  `logs`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from aios_sdk.paths import SYSTEM_SOCKET, default_socket
from aiosctl import complete, render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.failures import Exit

UNIT = "aiosd"
PREFIX = "AIOSD_"  # of the daemon's own fields
LINES = 200  # of the past, unless --since or --lines asks for others
LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
_ELSEWHERE = (
    "aiosd logs to its standard error: if it was started by hand, look there, or start it with "
    "'aiosd 2> aiosd.log'"
)


@click.command(
    cls=Command,
    examples=(
        ("what happened last", "aiosctl logs"),
        ("what happens now", "aiosctl logs -f"),
        ("what became of a job", "aiosctl logs --job j12"),
        ("one agent's calls of today", "aiosctl logs --agent alice --since today"),
        ("for a program", "aiosctl logs --json --since -1h | jq -r .outcome"),
    ),
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines as they come.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help=f"So many.  [default: {LINES}]"
)
@click.option(
    "--since", metavar="TIME", help="From then on: '09:30', 'today', '-2h'; see systemd.time(7)."
)
@click.option(
    "--job", metavar="JOB", shell_complete=complete.jobs, help="Only what is about this job."
)
@click.option(
    "--user/--system",
    "is_user",
    default=None,
    help="Your own daemon's log, or the system's.  [default: as the socket]",
)
@pass_app
def logs(app: App, /, job: str | None, is_user: bool | None, **options: Any) -> None:
    """Show the daemon's log, as systemd's journal has it. With --agent, only that agent's lines.

    The system's log is for root and the groups systemd-journal and adm. Nothing that anybody said
    to the model, or it to them, is in it.
    """
    if is_user is None:
        is_user = (app.socket or default_socket()) != SYSTEM_SOCKET
    command = _command(is_user=is_user, **options)
    matches = [f"{PREFIX}AGENT={app.agent}"] if app.agent else []
    matches += [f"{PREFIX}JOB={job}"] if job else []
    n_shown = 0
    with subprocess.Popen([*command, *matches], stdout=subprocess.PIPE) as process:
        try:
            for entry in _entries(process):
                n_shown += 1
                if app.is_json:
                    render.document(_document(entry), is_line=True)
                else:
                    render.words(_line(entry) + "\n")
        finally:
            process.terminate()
    if process.returncode > 0:  # it has said why
        raise click.exceptions.Exit(Exit.FAILED)
    if not n_shown:
        whose = "your user's" if is_user else "the system's"
        other = "--system" if is_user else "--user"
        what = "lines like these" if matches else f"lines of {UNIT}"
        render.remark(f"no {what} in {whose} journal; {other} looks in the other, and {_ELSEWHERE}")


def _command(*, is_user: bool, follow: bool, lines: int | None, since: str | None) -> list[str]:
    """journalctl with its options.  Leaves if there is none."""
    program = shutil.which("journalctl")
    if program is None:
        render.remark(f"there is no journalctl here, so no journal; {_ELSEWHERE}")
        raise click.exceptions.Exit(Exit.FAILED)
    command = [program, "--output=json", "--all", "--quiet", "--no-pager", f"--unit={UNIT}"]
    if is_user:
        command[-1] = f"--user-unit={UNIT}"
    if lines is None and since is None:
        lines = LINES
    if lines is not None:
        command.append(f"--lines={lines}")
    if since is not None:
        command.append(f"--since={since}")
    if follow:
        command.append("--follow")
    return command


def _entries(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that was cut off
        if isinstance(entry, dict):
            yield entry
    process.wait()


def _text(value: object) -> str:
    """A field as text: the journal gives what isn't printable as a list of bytes."""
    if isinstance(value, list):
        numbers = (byte for byte in value if isinstance(byte, int) and 0 <= byte < 256)
        return bytes(numbers).decode("utf-8", "replace")
    return "" if value is None else str(value)


def _at(entry: dict[str, Any]) -> datetime:
    micros = _text(entry.get("__REALTIME_TIMESTAMP"))
    return datetime.fromtimestamp(int(micros) / 1e6 if micros.isdecimal() else 0, UTC)


def _level(entry: dict[str, Any]) -> str:
    number = _text(entry.get("PRIORITY"))
    return LEVELS[int(number)] if number.isdecimal() and int(number) < len(LEVELS) else "info"


def _line(entry: dict[str, Any]) -> str:
    """The time where we are, how grave it is unless it isn't, and the message."""
    at, level = _at(entry).astimezone(), _level(entry)
    grave = "" if level in ("info", "notice") else f"{level}: "
    return f"{at:%Y-%m-%d %H:%M:%S}  {grave}{_text(entry.get('MESSAGE'))}"


def _document(entry: dict[str, Any]) -> dict[str, Any]:
    """As `aiosd --log-format json` writes it; lines of others (systemd) have a message."""
    own = {
        key.removeprefix(PREFIX).lower(): _text(value)
        for key, value in entry.items()
        if key.startswith(PREFIX)
    }
    head = {"timestamp": _at(entry).isoformat(), "level": _level(entry)}
    return head | (own or {"message": _text(entry.get("MESSAGE"))})
