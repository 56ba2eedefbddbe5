"""Jobs: the generations that run or wait.  `ps`, and the noun `job`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from aiosctl import complete, process, render, units, waiting
from aiosctl.app import App, pass_app
from aiosctl.commands import Command, Group
from aiosctl.failures import how_to_attach
from aiosctl.generation import Printer, generate, remark_on
from aiosctl.many import for_each

PRIORITIES = ("interactive", "normal", "background")
COLUMNS = (
    render.Column("JOB", "job"),
    render.Column("AGENT", "agent"),
    render.Column("UID", "uid", right=True),
    render.Column("CONTEXT", "context"),
    render.Column("STATE", "state"),
    render.Column("PRIORITY", "priority"),
    render.Column("TOKENS", "n_output", right=True),
    render.Column("WAITED", "waited_ms", units.milliseconds, right=True),
    render.Column("SLICES", "slices", right=True),
    render.Column("PARKS", "parks", right=True),
)
PARENT = render.Column("PARENT", "parent")
WAIT_COLUMNS = (
    *(column for column in COLUMNS if column.key in ("job", "agent", "uid", "state", "waited_ms")),
    render.Column("WAITS FOR", "waits_for", waiting.words),
)


@click.command(
    cls=Command,
    examples=(
        ("who uses the model now", "aiosctl ps"),
        ("who waits for what", "aiosctl ps --wait"),
        ("every user's jobs (as root or the daemon's user)", "aiosctl ps --all"),
        (
            "the ids of paused jobs",
            "aiosctl ps --json | jq -r '.jobs[]|select(.state==\"paused\").job'",
        ),
    ),
)
@click.option("-a", "--all", "is_all", is_flag=True, help="Other users' jobs too, where allowed.")
@click.option("-w", "--wait", "is_wait", is_flag=True, help="What each job waits for.")
@pass_app
def ps(app: App, is_all: bool, is_wait: bool) -> None:
    """List the jobs of all your agents: what runs, what waits, and what it has cost.

    TOKENS were written so far, WAITED is time in line, SLICES counts its turns on the model, PARKS
    how often its context had to make room for another; agents that the daemon runs come below their
    parents. With --wait: what each waits for, be it a
    lane, its client, a pause, another job that reads the same beginning, or the database.
    """
    result = app.call("job.list", all=True)
    if not is_all:
        # An admin gets everyone's; "mine" is what a person expects without being asked.
        result["jobs"] = [job for job in result["jobs"] if job["uid"] == app.hello["uid"]]
    nothing = "no jobs" if is_all else "no jobs of yours"
    columns = WAIT_COLUMNS if is_wait else COLUMNS
    if not app.is_json and _as_tree(app, result["jobs"], is_all):
        columns = (*columns[:2], PARENT, *columns[2:])
    _show(app, result, nothing, columns)


def _as_tree(app: App, jobs: list[dict[str, Any]], is_all: bool) -> bool:
    """Put the jobs of agents that the daemon runs last, each below its parent's; whether any is."""
    tree = app.call("agent.processes", all=is_all or None)["processes"]
    places = {(row["uid"], row["agent"]): place for place, row in enumerate(tree)}
    depths = process.depths(tree)
    for job in jobs:
        place = places.get((job["uid"], job["agent"]))
        if place is not None:
            job["parent"] = tree[place].get("parent")
            job["agent"] = render.indented([(depths[place], job["agent"])])[0]
            job["place"] = place
    jobs.sort(key=lambda job: job.get("place", -1))
    return any("place" in job for job in jobs)


@click.group(
    cls=Group,
    examples=(
        ("end a job", "aiosctl job kill j12"),
        ("let it wait, then go on", "aiosctl job pause j12 && aiosctl job resume j12"),
        ("let it go first", "aiosctl job priority j12 interactive"),
        ("read what a detached one writes", "aiosctl job attach j12"),
    ),
)
def job() -> None:
    """List, follow, end, pause and rank jobs. 'aiosctl ps' shows the jobs of all your agents."""


@job.command("ls", examples=(("as another of your agents", "aiosctl --agent alice job ls"),))
@click.option(
    "-a", "--all", "is_all", is_flag=True, help="Every agent's jobs, not only this one's."
)
@pass_app
def list_(app: App, is_all: bool) -> None:
    """List the jobs of one agent (--agent), or with --all of every one you may see."""
    who = "any agent" if is_all else f"agent {app.name}; --all shows every agent's"
    _show(app, app.call("job.list", all=is_all), f"no jobs of {who}")


@job.command(examples=(("end two jobs", "aiosctl job kill j12 j13"),))
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…", shell_complete=complete.jobs)
@pass_app
def kill(app: App, jobs: tuple[str, ...]) -> None:
    """End jobs. Their callers get the error 'cancelled', their contexts stay as before the call."""
    for_each(app, jobs, lambda one: app.call("job.cancel", job=one))


@job.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…", shell_complete=complete.jobs)
@pass_app
def pause(app: App, jobs: tuple[str, ...]) -> None:
    """Let jobs wait until they are resumed; they keep what they have written."""
    for_each(app, jobs, lambda one: app.call("job.pause", job=one))


@job.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…", shell_complete=complete.jobs)
@pass_app
def resume(app: App, jobs: tuple[str, ...]) -> None:
    """Let paused jobs go on where they stopped."""
    for_each(app, jobs, lambda one: app.call("job.resume", job=one))


@job.command(examples=(("behind everyone else", "aiosctl job priority j12 background"),))
@click.argument("job_id", metavar="JOB", shell_complete=complete.jobs)
@click.argument("level", metavar="PRIORITY", type=click.Choice(PRIORITIES))
@pass_app
def priority(app: App, job_id: str, level: str) -> None:
    """Change a job's class: interactive, normal or background."""
    for_each(app, (job_id,), lambda one: app.call("job.priority", job=one, priority=level))


@job.command(
    examples=(
        ("start one, read it later", 'job=$(aiosctl run --detach "Tell me a story.")'),
        ("all of it", 'aiosctl job attach "$job"'),
        ("what comes after its first 40 tokens", 'aiosctl job attach "$job" --from-token 40'),
    )
)
@click.argument("job_id", metavar="JOB", shell_complete=complete.jobs)
@click.option(
    "--from-token",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    show_default=True,
    help="The first token wanted.",
)
@pass_app
def attach(app: App, job_id: str, from_token: int) -> None:
    """Print what a detached job has written and goes on writing, until it ends.

    Ctrl-C leaves the job as it is; 'aiosctl job kill' ends it.
    """
    printer = Printer()
    n_tokens = from_token

    def show(chunk: dict[str, Any]) -> None:
        nonlocal n_tokens
        n_tokens += len(chunk["tokens"])
        if not app.is_json:
            printer.show(chunk)

    params = {"job": job_id, "from_token": from_token}
    try:
        result = generate(app, params, show=show, is_patient=False, method="job.attach")
    except BaseException as error:
        printer.end_line()  # whatever comes next starts a line
        if isinstance(error, KeyboardInterrupt):
            render.remark(f"{job_id} goes on; {how_to_attach(job_id, n_tokens)}")
        raise
    if app.is_json:
        render.document(result)
        return
    printer.finish(result["text"])
    remark_on(result, from_token + len(result["tokens"]))


def _show(
    app: App,
    result: dict[str, Any],
    nothing: str,
    columns: Sequence[render.Column] = COLUMNS,
) -> None:
    if app.is_json:
        render.document(result)
        return
    render.table(result["jobs"], columns, nothing=nothing)
