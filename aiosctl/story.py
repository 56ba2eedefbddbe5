"""What happened to one job, and the journal that knows it.  `story` and `journal`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Command

_WORDS = {
    "submitted": "submitted by {agent} on {context}, {priority}",
    "cancel_asked": "asked to end: {outcome}",
    "ran": "came home: {prompt_tokens} tokens read, {output_tokens} written",
    "first_token": "wrote its first token",
    "reader_stalled": "its client stopped reading",
    "reader_drained": "its client reads again",
    "pause_asked": "asked to pause",
    "resume_asked": "asked to go on",
    "priority": "became {priority}",
    "run": "runs in slot {slot}",
    "interrupt": "its run is called home",
    "park": "parked: slot {slot} goes to another",
    "resume": "brought back into slot {slot}",
    "move": "moved from slot {from} to {slot}",
    "told": "its client was told: {state}",
    "ended": "ended: {outcome}",
}
_MORE = {
    "run": (("max_tokens", "for {} tokens"), ("lanes", "lanes in all: {}")),
    "ran": (("outcome", "{}"),),
    "told": (("position", "position {}"),),
    "ended": (
        ("output_tokens", "tokens written: {}"),
        ("slices", "slices: {}"),
        ("parks", "parks: {}"),
        ("waited_ms", "waited: {}"),
        ("total_ms", "in all: {}"),
    ),
}


@click.command(
    cls=Command,
    examples=(
        ("why was it slow", "aiosctl story j12"),
        ("its parks", "aiosctl story j12 --json | jq '.events[]|select(.event==\"park\")'"),
    ),
)
@click.argument("job", metavar="JOB", shell_complete=complete.jobs)
@pass_app
def story(app: App, job: str) -> None:
    """Print all that happened to a job, with times: turns, parks, pauses, its end.

    The daemon remembers so many events of all jobs together (limits.journal_events); a job that
    ended long ago is forgotten.
    """
    result = app.call("job.story", job=job)
    if app.is_json:
        render.document(result)
        return
    events = result["events"]
    if not result["whole"]:
        render.remark(f"the daemon doesn't remember how {job} began; what follows is the rest")
    began_us = events[0]["at_us"] if events else 0
    before_us = began_us
    for event in events:
        since = (event["at_us"] - began_us) / 1e6
        step_ms = (event["at_us"] - before_us) / 1000
        before_us = event["at_us"]
        step = f"+{units.milliseconds(step_ms)}" if step_ms >= 1 else ""
        render.line(f"{since:10.3f}s {step:>8}  {sentence(event)}")


def sentence(event: dict[str, Any]) -> str:
    """What happened, in words; of an event that this version doesn't know, its name."""
    name = str(event.get("event"))
    try:
        words = _WORDS[name].format_map(event)
    except KeyError:
        known = {key: value for key, value in event.items() if key not in ("event", "at_us")}
        return f"{name} {render.compact(known)}" if known else name
    more = (
        text.format(_shown(key, event[key])) for key, text in _MORE.get(name, ()) if key in event
    )
    return ", ".join([words, *more])


def _shown(key: str, value: Any) -> str:
    return units.milliseconds(value) if key.endswith("_ms") else str(value)


@click.command(
    cls=Command,
    examples=(
        ("for a bug report", "aiosctl journal -o journal.gz"),
        ("what happened, once more", "aiosd --replay journal.gz"),
    ),
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), required=True, metavar="FILE",
    help="Write it there.",
)  # fmt: skip
@pass_app
def journal(app: App, output: str) -> None:
    """Save the scheduler's last events, to be replayed with 'aiosd --replay FILE'.

    It holds the names of agents and ids of jobs and contexts of every user, and no words. It needs
    the right 'admin' (root, or the daemon's own user).
    """
    result = app.call("sys.journal")
    try:
        Path(output).write_bytes(result["journal"])
    except OSError as error:
        raise click.UsageError(f"cannot write {output}: {error.strerror}") from error
    figures = {"journal": output, "events": result["events"], "bytes": len(result["journal"])}
    if app.is_json:
        render.document(figures)
        return
    render.record([*figures.items()])
