"""Whether all is well with the daemon, its machine and its model.  `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

import click

from aios_sdk.errors import AiosError
from aios_sdk.paths import default_socket
from aiosctl import checkup, render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.failures import Exit, explain
from aiosctl.finding import Finding, State

COLUMNS = (
    render.Column("STATE", "state"),
    render.Column("CHECK", "check"),
    render.Column("WHAT", "words"),
)


@click.command(
    cls=Command,
    examples=(
        ("is all well", "aiosctl doctor"),
        ("without trying the model", "aiosctl doctor --seconds 0"),
        (
            "only the problems",
            "aiosctl doctor --json | jq '.checks[] | select(.state==\"problem\")'",
        ),
    ),
)
@click.option(
    "--seconds", type=click.FloatRange(0, 3600), default=25.0, metavar="N", show_default=True,
    help="How long to try whether scheduling changes an answer; 0 leaves it out.",
)  # fmt: skip
@pass_app
def doctor(app: App, seconds: float) -> None:
    """Look at the installation, the socket, rights, memory, disk and model, and try the promise.

    The promise is that scheduling never changes an answer: some answers are taken alone, and again
    among others in slices of one token, parked, forked and from a snapshot file. That sets the
    policy for some seconds, which needs the right 'admin'; Ctrl-C puts it back.

    Exit code 0: all is well. 1: there is a problem.
    """
    findings = []
    for finding in _findings(app, seconds):
        findings.append(finding)
        render.hint(f"{finding.check}: {finding.state}")
    rows = [{"check": f.check, "state": f.state.value, "words": f.words} for f in findings]
    is_well = all(finding.state is not State.PROBLEM for finding in findings)
    if app.is_json:
        render.document({"well": is_well, "checks": rows})
    else:
        render.table(rows, COLUMNS, nothing="nothing was looked at")
    if not is_well:
        raise click.exceptions.Exit(Exit.FAILED)


def _findings(app: App, seconds: float) -> Iterator[Finding]:
    yield checkup.socket(app.socket or default_socket())
    try:
        hello = app.hello
        status = app.call("sys.status")
        models = app.call("llm.models")["models"]
    except AiosError as error:
        yield Finding("daemon", State.PROBLEM, explain(error))
        return
    server: dict[str, Any] = hello["server"]
    core = status["cores"][0]
    words = f"{server['name']} {status['state']}, pid {status['pid']}, policy {core['policy']}"
    yield Finding("daemon", State.OK, words)
    yield checkup.versions(_installed("aiosd"), _installed("aios-sdk"), server["version"])
    yield checkup.rights(hello)
    available = checkup.available_memory()
    if available is None:
        yield Finding("memory", State.UNKNOWN, "this machine doesn't tell how much is available")
    else:
        yield checkup.memory(status, available, checkup.cgroup_limit(status["pid"]))
    yield checkup.disk(status)
    yield checkup.confinement(status)
    loaded = next((model for model in models if model["loaded"]), None)
    if loaded is None:
        yield Finding("model", State.PROBLEM, "no model is loaded")
        return
    yield from checkup.model(loaded, core["slot_tokens"])
    if seconds:
        yield _promise(app, status, seconds)


def _promise(app: App, status: dict[str, Any], seconds: float) -> Finding:
    from aios_sdk.client import Client
    from aiosctl.promise import CHECK, Trial

    core = status["cores"][0]
    busy = sum(core["jobs"].get(state, 0) for state in ("ready", "running", "stalled"))
    if busy:
        render.hint(f"{busy} jobs of others are under way: alone isn't quite alone")
    trial = Trial(
        Client(app.socket, agent=app.name),
        app.client,
        status,
        is_admin="admin" in app.hello["rights"],
        seconds=seconds,
        progress=lambda words: render.hint(f"{CHECK}: {words}"),
    )
    try:
        return trial.run().finding(is_promised=bool(core.get("exact", True)))
    except AiosError as error:
        return Finding(CHECK, State.PROBLEM, f"it could not be tried: {explain(error)}")


def _installed(distribution: str) -> str:
    try:
        return version_of(distribution)
    except PackageNotFoundError:
        return "not installed"
