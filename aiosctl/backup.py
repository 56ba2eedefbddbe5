"""A copy of all that the daemon keeps.  `backup`."""

from __future__ import annotations

from pathlib import Path

import click

from aiosctl import render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Command


@click.command(
    cls=Command, examples=(("one a day", "aiosctl backup /var/backups/aiosd-$(date +%F).db"),)
)
@click.argument("file", type=click.Path(path_type=Path))
@pass_app
def backup(app: App, file: Path) -> None:
    """Copy all contexts, agents and detached jobs to FILE, while the daemon runs.

    Stored files ('fs') are not in it: their versions are, so copy the directory 'storage' of the
    daemon's state directory right after it.

    The daemon writes FILE, as its own user. To go back: stop it, and put FILE where its database
    is. It needs the right 'admin' (root, or the daemon's own user).
    """
    result = app.call("sys.backup", path=str(file.absolute()))
    if app.is_json:
        render.document(result)
        return
    render.record([("backup", result["path"]), ("size", units.size(result["bytes"]))])
