"""The versions of both ends.  `version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

from aios_sdk.errors import AiosError
from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command


@click.command(cls=Command)
@pass_app
def version(app: App) -> None:
    """Show the versions of aiosctl, of its SDK, and of the daemon if one answers."""
    try:
        server = app.hello["server"]["version"]
    except AiosError:
        server = None  # which is no failure here: the question has an answer without it
    versions = {"aiosctl": _installed("aiosd"), "aios-sdk": _installed("aios-sdk"), "aiosd": server}
    if app.is_json:
        render.document(versions)
        return
    render.record([(name, found or "no daemon answers") for name, found in versions.items()])


def _installed(distribution: str) -> str:
    try:
        return version_of(distribution)
    except PackageNotFoundError:
        return "not installed"
