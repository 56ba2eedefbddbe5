"""What a shell may offer for an argument: ids and names that the daemon knows now.

Rule: completing never fails and never waits long; without a daemon there is nothing to offer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from aiosctl.app import App

MAX_OFFERED = 200  # more is no help to anyone who chooses by eye
WAIT_S = 1.0  # a shell that hangs at TAB is worse than one that offers nothing

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(method: str, listed: str, key: str, about: str, **params: Any) -> Completer:
    def complete(
        ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from aios_sdk.client import Client
        from aios_sdk.errors import AiosError

        app = ctx.ensure_object(App)
        try:
            with Client(app.socket, agent=app.name, timeout_s=WAIT_S) as client:
                result: dict[str, Any] = client.call(method, **params)
            rows = result[listed]
        except (AiosError, KeyError, OSError):
            return []
        offered = [
            CompletionItem(str(row[key]), help=str(row.get(about, "")))
            for row in rows
            if str(row.get(key, "")).startswith(incomplete)
        ]
        return offered[:MAX_OFFERED]

    return complete


jobs = _completer("job.list", "jobs", "job", "agent", all=True)
contexts = _completer("context.list", "contexts", "context", "agent", all=True)
agents = _completer("agent.list", "agents", "agent", "uid")
processes = _completer("agent.processes", "processes", "agent", "state")
requests = _completer("access.pending", "requests", "request", "act")
groups = _completer("access.groups", "groups", "name", "mode")
models = _completer("llm.models", "models", "name", "kind")
tools = _completer("tool.list", "tools", "name", "source")
