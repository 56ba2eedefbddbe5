"""The daemon at a glance.  `status`."""

from __future__ import annotations

from typing import Any

import click

from aiosctl import render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Command


@click.command(cls=Command, examples=(("for a program", "aiosctl status --json"),))
@pass_app
def status(app: App) -> None:
    """Show what the daemon is and does: its models, its jobs, its memory.

    Contexts live in the model's slots, then in snapshots in RAM, then in files; what is in none of
    these is read again when it is needed.
    """
    result = app.call("sys.status")
    if app.is_json:
        render.document(result)
        return
    figures = [
        ("aiosd", result["version"]),
        ("state", result["state"]),
        ("pid", result["pid"]),
        ("up", units.seconds(result["uptime_s"])),
        ("memory", units.size(result["rss_bytes"])),
        ("agents", result["agents"]),
    ]
    if "contexts" in result:
        kept = result["contexts"]
        figures.append(("contexts", f"{kept['n']}, {_used(kept['bytes'], kept['limit_bytes'])}"))
    render.record(figures)
    for core in result["cores"]:
        render.line("")
        render.record(_core(core))


def _core(core: dict[str, Any]) -> list[tuple[str, Any]]:
    jobs, tokens, snapshots = core["jobs"], core["tokens"], core["snapshots"]
    return [
        ("model", core["model"]),
        ("policy", f"{core['policy']}, {core['quantum_tokens']} tokens a turn"),
        ("lanes", core["lanes"]),
        ("slots", f"{core['n_slots']} of {core['slot_tokens']} tokens"),
        ("jobs", ", ".join(f"{number} {state}" for state, number in jobs.items())),
        ("steps", core["steps"]),
        ("tokens", ", ".join(f"{number} {kind}" for kind, number in tokens.items())),
        (
            "snapshots",
            f"{_used(snapshots['ram_bytes'], snapshots.get('ram_limit_bytes'))} in RAM, "
            f"{_used(snapshots['file_bytes'], snapshots.get('file_limit_bytes'))} in files",
        ),
    ]


def _used(n_bytes: int, limit_bytes: int | None) -> str:
    used = units.size(n_bytes)
    return used if limit_bytes is None else f"{used} of {units.size(limit_bytes)}"
