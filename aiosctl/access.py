"""Who may do what: rights, groups, grants and remembered approvals.  The noun `access`."""

from __future__ import annotations

from typing import Any

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

RIGHTS = ("llm", "context", "memory", "storage", "tool", "ipc", "spawn", "admin")


def _left(expires_ms: object) -> str:
    if not isinstance(expires_ms, int):
        return "-"
    return units.left(expires_ms)


GROUPS = (
    render.Column("GROUP", "name"),
    render.Column("MODE", "mode"),
    render.Column("RIGHTS", "rights", ",".join),
    render.Column("FIXED", "is_fixed", render.yes_no),
    render.Column("MEMBERS", "members", ",".join),
)
GRANTS = (
    render.Column("GRANT", "grant"),
    render.Column("OWNER", "owner"),
    render.Column("HOLDER", "holder"),
    render.Column("KIND", "kind"),
    render.Column("MODE", "mode"),
    render.Column("ENDS", "expires_ms", _left, right=True),
    render.Column("NAME", "name"),
)
RULES = (
    render.Column("RULE", "rule"),
    render.Column("AGENT", "agent"),
    render.Column("ACT", "act"),
    render.Column("KIND", "kind"),
    render.Column("OWNER", "owner"),
    render.Column("NAME", "name"),
)


@click.group(
    cls=Group,
    examples=(
        (
            "let two agents read each other's things",
            "aiosctl access group team --add ada --add bob",
        ),
        ("what an agent holds", "aiosctl access rights bob"),
        ("take a right from it", "aiosctl access rights bob --remove tool"),
        ("lend one file", "aiosctl --agent ada access grant storage bob docs/plan.md --for 3600"),
        ("would it be allowed?", "aiosctl --agent bob access check storage.read ada:/docs/plan.md"),
    ),
)
def access() -> None:
    """Show and change who may do what: an agent owns what it makes; groups and grants open it."""


@access.command()
@click.argument("action")
@click.argument("target", default="")
@pass_app
def check(app: App, action: str, target: str) -> None:
    """Whether the agent (--agent) might do ACTION on TARGET now. Exit code 4 if not.

    ACTION is a syscall, or read, write, delete…; TARGET is KIND:ID, memory:AGENT or AGENT:/PATH.
    """
    result = app.call("access.check", action=action, target=target)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["reason"])
    if not result["allowed"]:
        from aiosctl.failures import Exit

        raise click.exceptions.Exit(Exit.DENIED)


@access.command(
    examples=(
        ("a right, and wait for it", "aiosctl --agent bob access request tool 'to search' --wait"),
        (
            "another agent's file",
            "aiosctl --agent bob access request read 'to review it' --target storage:ada:/plan.md",
        ),
    )
)
@click.argument("right", type=click.Choice((*RIGHTS, "read", "write")))
@click.argument("reason")
@click.option("--target", metavar="TARGET", help="On what: with read and write.")
@click.option("--wait", is_flag=True, help="Until a person has answered.")
@pass_app
def request(app: App, right: str, reason: str, target: str | None, wait: bool) -> None:
    """Ask a person for a right on an agent's behalf (--agent), and print the request's id."""
    result = app.call("access.request", right=right, reason=reason, target=target, wait=wait)
    if app.is_json:
        render.document(result)
        return
    render.line(result["request"])
    render.hint(result["state"])


@access.command()
@pass_app
def groups(app: App) -> None:
    """List your groups. FIXED ones are in the daemon's configuration."""
    result = app.call("access.groups")
    if app.is_json:
        render.document(result)
        return
    render.table(result["groups"], GROUPS, nothing="no groups")


@access.command(
    examples=(
        (
            "make one whose members may read each other's things",
            "aiosctl access group team --add ada --add bob",
        ),
        ("let them write, too", "aiosctl access group team --mode write"),
        ("take one out", "aiosctl access group team --remove bob"),
    ),
)
@click.argument("name", shell_complete=complete.groups)
@click.option("--add", multiple=True, metavar="AGENT", help="Add it; may be repeated.")
@click.option("--remove", multiple=True, metavar="AGENT", help="Remove it; may be repeated.")
@click.option("-m", "--mode", type=click.Choice(("none", "read", "write")), help="How far.")
@pass_app
def group(
    app: App, name: str, add: tuple[str, ...], remove: tuple[str, ...], mode: str | None
) -> None:
    """Make a group, add and remove members; without its last member it is gone."""
    params = {"name": name, "add": list(add), "remove": list(remove), "mode": mode}
    result = app.call("access.group", **params)
    if app.is_json:
        render.document(result)
        return
    render.record(
        [
            ("group", result["name"]),
            ("mode", result["mode"]),
            ("members", ", ".join(result["members"]) or "none: it is gone"),
        ]
    )


@access.command(
    examples=(
        ("what it holds", "aiosctl access rights bob"),
        ("for an hour", "aiosctl access rights bob --add spawn --for 3600"),
    )
)
@click.argument("name", metavar="AGENT", shell_complete=complete.agents)
@click.option("--add", multiple=True, type=click.Choice(RIGHTS), help="Give it; may be repeated.")
@click.option("--remove", multiple=True, type=click.Choice(RIGHTS), help="Take it.")
@click.option(
    "--reset", multiple=True, type=click.Choice(RIGHTS), help="As the configuration has it."
)
@click.option("--for", "expires_s", type=click.IntRange(min=1), metavar="S", help="For S seconds.")
@click.option("--uid", type=click.IntRange(min=0), metavar="UID", help="Another user's agent.")
@pass_app
def rights(app: App, /, name: str, **asked: Any) -> None:
    """Show what an agent holds, or change it, which takes the right admin."""
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in asked.items() if v}
    result = app.call("access.rights", agent=name, **given)
    if app.is_json:
        render.document(result)
        return
    changes = [
        f"{'+' if c['is_held'] else '-'}{c['right']}"
        + (f" (ends in {_left(c['expires_ms'])})" if "expires_ms" in c else "")
        for c in result["changes"]
    ]
    render.record(
        [
            ("agent", result["agent"]),
            ("uid", result["uid"]),
            ("rights", " ".join(result["rights"]) or "none"),
            ("groups", " ".join(result["groups"]) or "none"),
            ("changed", ", ".join(changes) or "nothing"),
        ]
    )


@access.command(
    examples=(
        ("all its notes", "aiosctl --agent ada access grant memory bob"),
        (
            "a folder, to write, for an hour",
            "aiosctl access grant storage @team docs -m write --for 3600",
        ),
    )
)
@click.argument("kind", type=click.Choice(("context", "memory", "storage")))
@click.argument("holder", metavar="AGENT|@GROUP")
@click.argument("name", default="")
@click.option(
    "-m", "--mode", type=click.Choice(("read", "write")), default="read", show_default=True,
    help="How far.",
)  # fmt: skip
@click.option("--for", "expires_s", type=click.IntRange(min=1), metavar="S", help="For S seconds.")
@pass_app
def grant(app: App, /, holder: str, **asked: Any) -> None:
    """Let another of your agents at an agent's (--agent) things, and print the grant's id.

    NAME is a context's or note's id, or a path with all below; without it: all of the kind.
    """
    result = app.call("access.grant", **{"with": holder}, **asked)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["grant"])


@access.command()
@pass_app
def grants(app: App) -> None:
    """List what an agent (--agent) has granted, and what it was granted."""
    result = app.call("access.grants")
    if app.is_json:
        render.document(result)
        return
    render.table([*result["given"], *result["held"]], GRANTS, nothing=f"no grants of {app.name}")


@access.command()
@click.argument("grants", nargs=-1, required=True, metavar="GRANT…")
@pass_app
def revoke(app: App, grants: tuple[str, ...]) -> None:
    """End grants of an agent (--agent)."""
    for_each(app, grants, lambda one: app.call("access.revoke", grant=one))


@access.command()
@pass_app
def rules(app: App) -> None:
    """List what was approved with --remember."""
    result = app.call("access.rules")
    if app.is_json:
        render.document(result)
        return
    render.table(result["rules"], RULES, nothing="nothing was approved for good")


@access.command()
@click.argument("rules", nargs=-1, required=True, metavar="RULE…")
@pass_app
def forget(app: App, rules: tuple[str, ...]) -> None:
    """Have it asked again."""
    for_each(app, rules, lambda one: app.call("access.forget", rule=one))
