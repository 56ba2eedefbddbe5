"""One act on several ids, as `rm` and `kill` do it: all are tried, each failure is told.

Rule: stdout names what was done, one id a line; the exit code is that of the first failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from aios_sdk.errors import SyscallError
from aiosctl import render
from aiosctl.app import App
from aiosctl.failures import exit_code, explain


def for_each(app: App, ids: Sequence[str], act: Callable[[str], object]) -> None:
    """Act on every id once, in the order given.

    With --json: ``{"done": [id], "failed": [{"id", "code", "message"}]}``.  An error of the
    connection ends it at once: what follows would fail the same way.
    """
    done: list[str] = []
    failed: list[tuple[str, SyscallError]] = []
    for one in dict.fromkeys(ids):
        try:
            act(one)
        except SyscallError as error:
            failed.append((one, error))
            render.remark(f"{one}: {explain(error)}")
        else:
            done.append(one)
            if not app.is_json:
                render.line(one)
    if app.is_json:
        render.document(
            {
                "done": done,
                "failed": [
                    {"id": one, "code": error.code, "message": error.message}
                    for one, error in failed
                ],
            }
        )
    if failed:
        raise click.exceptions.Exit(exit_code(failed[0][1]))
