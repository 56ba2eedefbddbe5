"""Models: what the daemon can generate with.  The noun `model`."""

from __future__ import annotations

from pathlib import Path

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Group
from aiosctl.many import for_each

COLUMNS = (
    render.Column("MODEL", "name"),
    render.Column("KIND", "kind"),
    render.Column("PARAMS", "n_params", units.count, right=True),
    render.Column("TRAINED", "n_ctx_train", right=True),
    render.Column("LOADED", "loaded", render.yes_no),
    render.Column("PATH", "path"),
)


@click.group(
    cls=Group,
    examples=(
        ("what there is", "aiosctl model ls"),
        ("one more", "aiosctl model add ~/Downloads/qwen2.5-0.5b-q8.gguf --name qwen"),
        ("serve it", "aiosd --model qwen"),
    ),
)
def model() -> None:
    """List the models, add and remove them."""


@model.command("ls")
@pass_app
def list_(app: App) -> None:
    """List the models the daemon has. TRAINED is the longest context it was trained for."""
    result = app.call("llm.models")
    if app.is_json:
        render.document(result)
        return
    render.table(result["models"], COLUMNS, nothing="no models")


@model.command(examples=(("under a name of its own", "aiosctl model add big.gguf --name big"),))
@click.argument("file", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What to call it.  [default: as its file]")
@pass_app
def add(app: App, file: Path, name: str | None) -> None:
    """Copy a GGUF file into the daemon's models, and print the model's name.

    The daemon reads the file, as its own user. It needs the right 'admin' (root, or the daemon's
    own user).
    """
    result = app.call("model.add", path=str(file.absolute()), name=name)
    if app.is_json:
        render.document(result)
    else:
        render.line(result["name"])


@model.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete.models)
@pass_app
def rm(app: App, names: tuple[str, ...]) -> None:
    """Delete models' files from the daemon's models. It needs the right 'admin'."""
    for_each(app, names, lambda one: app.call("model.remove", name=one))
