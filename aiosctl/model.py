"""Models: what the daemon can generate with.  The noun `model`."""

from __future__ import annotations

import click

from aiosctl import render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group

COLUMNS = (
    render.Column("MODEL", "name"),
    render.Column("KIND", "kind"),
    render.Column("PARAMS", "n_params", units.count, right=True),
    render.Column("TRAINED", "n_ctx_train", right=True),
    render.Column("LOADED", "loaded", render.yes_no),
    render.Column("PATH", "path"),
)


@click.group(cls=Group, examples=(("what there is", "aiosctl model ls"),))
def model() -> None:
    """List the models."""


@model.command("ls")
@pass_app
def list_(app: App) -> None:
    """List the models the daemon has. TRAINED is the longest context it was trained for."""
    result = app.call("llm.models")
    if app.is_json:
        render.document(result)
        return
    render.table(result["models"], COLUMNS, nothing="no models")
