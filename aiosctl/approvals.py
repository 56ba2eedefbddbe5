"""What waits for a person: agents' acts to confirm, rights they ask for.  The noun `approvals`."""

from __future__ import annotations

from typing import Any, cast

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

COLUMNS = (
    render.Column("REQUEST", "request"),
    render.Column("AGENT", "agent"),
    render.Column("UID", "uid", right=True),
    render.Column("ACT", "act"),
    render.Column("KIND", "kind"),
    render.Column("OWNER", "owner"),
    render.Column("AGE", "created_ms", units.age, right=True),
    render.Column("NAME", "name"),
    render.Column("REASON", "reason"),
)


@click.group(
    cls=Group,
    examples=(
        ("what waits", "aiosctl approvals ls"),
        ("be told as it comes", "aiosctl approvals watch"),
        ("yes, this once", "aiosctl approvals approve q12"),
        ("yes, and don't ask again", "aiosctl approvals approve --remember q12"),
        ("no", "aiosctl approvals deny q12"),
    ),
)
def approvals() -> None:
    """List, watch, approve and deny what agents may do only when a person says so.

    Which acts ask is in the daemon's configuration: [[access.confirm]]. No answer in time is a no.
    """


@approvals.command("ls")
@pass_app
def list_(app: App) -> None:
    """List what waits for a person, oldest first."""
    _show(app, app.call("access.pending"))


@approvals.command(
    examples=(("for a program", "aiosctl approvals watch --json | jq -c .requests"),)
)
@pass_app
def watch(app: App) -> None:
    """Show each request as it comes, until Ctrl-C. With --json: all that wait, at every change."""
    told: set[str] = set()
    with app.stream("access.pending") as stream:
        render.hint("watching; Ctrl-C ends it")
        for chunk in stream:
            requests = cast(list[dict[str, Any]], chunk["requests"])
            if app.is_json:
                render.document({"requests": requests}, is_line=True)
                continue
            for request in requests:
                if request["request"] not in told:
                    render.line(_line(request))
            render.flush()
            told = {request["request"] for request in requests}


@approvals.command()
@click.argument("requests", nargs=-1, required=True, shell_complete=complete.requests)
@click.option(
    "--remember",
    is_flag=True,
    help="Don't ask again: for this agent, act and thing. A right: for good, not for a while.",
)
@pass_app
def approve(app: App, requests: tuple[str, ...], remember: bool) -> None:
    """Say yes: what waits goes on."""
    for_each(app, requests, lambda one: app.call("access.approve", request=one, remember=remember))


@approvals.command()
@click.argument("requests", nargs=-1, required=True, shell_complete=complete.requests)
@pass_app
def deny(app: App, requests: tuple[str, ...]) -> None:
    """Say no: what waits ends with 'denied'."""
    for_each(app, requests, lambda one: app.call("access.deny", request=one))


def _show(app: App, result: dict[str, Any]) -> None:
    if app.is_json:
        render.document(result)
        return
    render.table(result["requests"], COLUMNS, nothing="nothing waits for you")


def _line(request: dict[str, Any]) -> str:
    whose = f" of {request['owner']}" if "owner" in request else ""
    what = f"{request['act']} {request['kind']} {request['name']}".rstrip()
    why = f": {request['reason']}" if request["reason"] else ""
    return f"{request['request']}  {request['agent']} ({request['uid']})  {what}{whose}{why}"
