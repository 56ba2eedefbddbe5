"""What happens in the daemon, as it happens.  `events`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click

from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command

EVENT_WIDTH, AGENT_WIDTH = 9, 12
_OWN_PLACE = ("id", "tag", "event", "at_ms", "agent", "uid")  # not among the facts at the end


@click.command(
    cls=Command,
    examples=(
        ("watch, until Ctrl-C", "aiosctl events"),
        ("the next ten", "aiosctl events -n 10"),
        ("for a program, one JSON document a line", "aiosctl events --json | jq -c .event"),
    ),
)
@click.option(
    "-n", "--number", type=click.IntRange(min=1), metavar="N", help="Leave after so many events."
)
@pass_app
def events(app: App, number: int | None) -> None:
    """Show what happens from now on: jobs that start, park, resume and end, what was refused, and
    changes of the daemon itself.

    You see what concerns your own agents; root and the daemon's own user see everyone's. Who reads
    too slowly is told how many events were lost, and where.
    """
    left = number
    with app.stream("sys.events") as stream:
        for event in stream:
            is_news = event["event"] != "listening"
            if app.is_json:
                render.document(event, is_line=True)
            elif is_news:
                render.line(_line(event, app.hello["uid"]))
                render.flush()
            else:
                render.hint("listening; Ctrl-C ends it")
            if is_news and left is not None:
                left -= 1
                if not left:
                    return


def _line(event: dict[str, Any], own_uid: int) -> str:
    uid = event.get("uid", own_uid)
    who = event.get("agent", "-")
    if uid != own_uid:
        who = f"{who} ({uid})"
    facts = (
        f"{key}={_fact(value)}"
        for key, value in event.items()
        if key not in _OWN_PLACE and value is not None
    )
    when, kind = _time(event["at_ms"]), event["event"]
    return f"{when}  {kind:<{EVENT_WIDTH}}  {who:<{AGENT_WIDTH}}  {' '.join(facts)}".rstrip()


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return str(value)


def _time(at_ms: int) -> str:
    """The time of day where a person looks, the whole of it, in UTC, for a file."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    if render.is_terminal(sys.stdout):
        return at.astimezone().strftime("%H:%M:%S")
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"
