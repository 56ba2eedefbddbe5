"""The audit: what was denied, asked, approved, changed and done as admin.  `audit`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from aiosctl import complete, render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.failures import Exit


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


EVENTS = ("denied", "hidden", "asked", "withdrawn", "refused", "approved", "admin", "changed")
COLUMNS = (
    render.Column("TIME", "last_ms", _time),
    render.Column("EVENT", "event"),
    render.Column("N", "n", right=True),
    render.Column("AGENT", "agent"),
    render.Column("UID", "uid", right=True),
    render.Column("ACT", "act"),
    render.Column("KIND", "kind"),
    render.Column("OWNER", "owner"),
    render.Column("BY", "by"),
    render.Column("NAME", "name"),
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Ago(click.ParamType[float]):
    """How long ago: 30s, 15m, 2h, 7d."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        match = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        if not match:
            self.fail(f"{value!r} is not an age; write 30s, 15m, 2h or 7d", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


@click.command(
    cls=Command,
    examples=(
        ("the newest decisions", "aiosctl audit"),
        ("what an agent was denied today", "aiosctl audit --of bob --event denied --since 1d"),
        ("whether the record is whole", "aiosctl audit --verify"),
    ),
)
@click.option(
    "--of", "whose", metavar="AGENT", shell_complete=complete.agents, help="Only this agent's."
)
@click.option("--uid", type=click.IntRange(min=0), metavar="UID", help="Only this user's.")
@click.option("--event", type=click.Choice(EVENTS), help="Only these.")
@click.option("--since", type=Ago(), metavar="AGE", help="Not older than 30s, 15m, 2h, 7d…")
@click.option(
    "-n", "--number", "limit", type=click.IntRange(1, 10_000), default=100, show_default=True,
    metavar="N", help="The newest so many.",
)  # fmt: skip
@click.option(
    "--verify",
    is_flag=True,
    help="Check that nothing was changed, removed or cut off; exit code 1 if something was.",
)
@click.option(
    "--head",
    metavar="SEQ:HASH",
    help="With --verify: the head as you noted it before, which must still be there.",
)
@pass_app
def audit(app: App, /, since: float | None, whose: str | None, **asked: Any) -> None:
    """Show what was denied, asked, approved, changed and done as admin, oldest first.

    You see what concerns your own agents; root and the daemon's own user see everyone's. N counts
    alike ones, the last of them at TIME.
    """
    if asked["head"] and not asked["verify"]:
        raise click.UsageError("--head needs --verify")
    given = {name: value for name, value in asked.items() if value not in (None, False)}
    if whose is not None:
        given["agent"] = whose
    if since is not None:
        given["since_ms"] = int(1000 * (datetime.now(UTC).timestamp() - since))
    result = app.call("access.audit", **given)
    if app.is_json:
        render.document(result)
    elif asked["verify"]:
        _show_chain(result["chain"])
    else:
        render.table(result["entries"], COLUMNS, nothing="nothing was denied, asked or approved")
    if asked["verify"] and not result["chain"]["is_whole"]:
        raise click.exceptions.Exit(Exit.FAILED)


def _show_chain(chain: dict[str, Any]) -> None:
    render.record(
        [
            ("whole", render.yes_no(chain["is_whole"])),
            *([("problem", chain["problem"])] if "problem" in chain else []),
            ("entries", f"{chain['first']} to {chain['last']}"),
            ("head", f"{chain['head']}:{chain['hash']}"),
        ]
    )
