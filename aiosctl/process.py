"""Agents that the daemon runs: `aiosctl agent run|ps|logs|wait|signal|stop|inspect`."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Command, Size
from aiosctl.failures import Exit
from aiosctl.many import for_each

RESTARTS = ("no", "on_failure", "always")
RIGHTS = ("llm", "context", "memory", "storage", "tool", "ipc", "spawn")
LIMITS = (
    "tokens",
    "jobs",
    "wall_s",
    "memory_bytes",
    "cpu_s",
    "cpu_percent",
    "n_processes",
    "disk_bytes",
)
COLUMNS = (
    render.Column("AGENT", "label"),
    render.Column("PARENT", "parent"),
    render.Column("UID", "uid", right=True),
    render.Column("PID", "pid", right=True),
    render.Column("STATE", "state"),
    render.Column("RESTARTS", "restarts", right=True),
    render.Column("TOKENS", "tokens", right=True),
    render.Column("SINCE", "started_ms", units.age, right=True),
    render.Column("END", "end"),
)
_WORDS = {
    "restarts": "too many restarts in a row",
    "signal": "by a signal",
    "kill": "killed",
    "parent": "with what spawned it",
    "wall_time": "its time was up",
    "daemon": "with the daemon",
    "start": "it could not be started",
}
_NAME = click.argument("name", metavar="AGENT", shell_complete=complete.processes)


@click.command(
    cls=Command,
    examples=(
        ("run a script as the agent bob", "aiosctl agent run bob -- python bob.py"),
        (
            "for an hour at most, on 10,000 tokens",
            "aiosctl agent run bob --time 3600 --tokens 10000 -- python bob.py",
        ),
        (
            "in the background, started again whatever happens",
            "aiosctl agent run bob --detach --restart always -- python bob.py",
        ),
        ("with a directory to read", "aiosctl agent run bob --read ./data -- python bob.py data"),
    ),
)
@click.argument("name", metavar="AGENT")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND [ARGUMENT…]")
@click.option("--restart", type=click.Choice(RESTARTS), help="When it has ended.")
@click.option("--detach", is_flag=True, help="Leave it to the daemon; 'aiosctl agent ps' shows it.")
@click.option("--tokens", type=int, metavar="N", help="Of all its jobs.")
@click.option("--jobs", type=int, metavar="N", help="At once.")
@click.option("--time", "wall_s", type=int, metavar="SECONDS", help="How long it may run.")
@click.option("--cpu", "cpu_s", type=int, metavar="SECONDS", help="Of CPU time.")
@click.option("--cpu-percent", type=int, metavar="PERCENT", help="Of one core, all together.")
@click.option("--memory", "memory_bytes", type=Size(), metavar="BYTES", help="Of its process.")
@click.option("--disk", "disk_bytes", type=Size(), metavar="BYTES", help="Of its directory.")
@click.option("--processes", "n_processes", type=int, metavar="N", help="And threads.")
@click.option("--read", multiple=True, metavar="PATH", help="What it may read. Repeatable.")
@click.option("--write", multiple=True, metavar="PATH", help="What it may change. Repeatable.")
@click.option("--network", is_flag=True, help="It may reach the network.")
@click.option("--cwd", metavar="DIR", help="Where it starts.  [default: its private directory]")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Nothing is inherited.")
@click.option(
    "--right",
    "rights",
    multiple=True,
    type=click.Choice(RIGHTS),
    help="At most these; yours if none is given. Repeatable.",
)
@pass_app
def run(app: App, /, name: str, words: tuple[str, ...], detach: bool, **options: Any) -> None:
    """Run COMMAND as an agent of its own, confined, and show what it writes until it ends.

    It gets a connection under its name, a directory that goes when it ends, and nothing else:
    no network, no files but programs and libraries, what --read and --write grant, and the files
    that ARGUMENTs name. A name without a slash is looked for beside the daemon's own Python, then
    on the usual path.

    Ctrl-C asks it to end, a second one kills it. The exit code is its own, or 128 and the signal's
    number.
    """
    params = _params(name, words, options)
    made = app.call("agent.spawn", **params, detach=detach or None)
    which = {"agent": made["agent"], "process": made["process"]}
    if detach:
        if app.is_json:
            render.document(made)
            return
        render.line(made["agent"])
        render.hint(f"read what it writes with: aiosctl agent logs -f {made['agent']}")
        return
    info = _until_it_ends(app, which)
    if app.is_json:
        render.document(info, is_line=True)
    elif info.get("ended_by") != "exit":
        render.remark(f"agent {made['agent']} ended: {_end(info)}")
    raise click.exceptions.Exit(_exit_code(info))


def _until_it_ends(app: App, which: Mapping[str, str]) -> dict[str, Any]:
    """Show its output.  Ctrl-C goes to it, not to us."""
    after = 0  # a line may be shown twice, when Ctrl-C comes in its middle
    for name in ("term", "kill", None):
        try:
            with app.stream("agent.logs", after=after, **which) as stream:
                for chunk in stream:
                    _show(app, chunk["lines"])
                    after = chunk["lines"][-1]["seq"]  # type: ignore[index]  # it has some
                _tell_lost(stream.result)
            return app.call("agent.wait", **which)
        except KeyboardInterrupt:
            if name is None:
                raise
            app.call("agent.signal", signal=name, **which)
    raise AssertionError("unreachable")


def _show(app: App, lines: Any) -> None:
    for line in lines:
        if app.is_json:
            render.document(line, is_line=True)
        else:
            render.relay(line["text"], is_error=line["source"] == "stderr")


@click.command(
    cls=Command,
    examples=(
        ("what runs, each below its parent", "aiosctl agent ps"),
        ("what has ended, too", "aiosctl agent ps --ended"),
    ),
)
@click.option("-a", "--all", "is_all", is_flag=True, help="Other users' too, where allowed.")
@click.option("--ended", is_flag=True, help="Those that have ended lately, too.")
@pass_app
def ps(app: App, is_all: bool, ended: bool) -> None:
    """List the agents that the daemon runs as processes, as a tree."""
    result = app.call("agent.processes", all=is_all or None, ended=ended or None)
    if app.is_json:
        render.document(result)
        return
    processes = result["processes"]
    names = [row["agent"] for row in processes]
    labels = render.indented(zip(depths(processes), names, strict=True))
    rows = [
        {**row, "label": label, "end": _end(row) if row["state"] == "ended" else None}
        for row, label in zip(processes, labels, strict=True)
    ]
    render.table(
        rows, COLUMNS, nothing="no agent runs as a process; 'aiosctl agent run' starts one"
    )


def depths(processes: Sequence[Mapping[str, Any]]) -> list[int]:
    """How deep in the tree each is; parents come before their children."""
    found: dict[tuple[int, str], int] = {}
    for row in processes:
        found[row["uid"], row["agent"]] = found.get((row["uid"], row.get("parent", "")), -1) + 1
    return [found[row["uid"], row["agent"]] for row in processes]


@click.command(cls=Command, examples=(("follow it", "aiosctl agent logs -f bob"),))
@_NAME
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@click.option("-n", "--lines", type=click.IntRange(0, 10_000), default=1000, metavar="N",
              show_default=True, help="The last so many at first.")  # fmt: skip
@pass_app
def logs(app: App, name: str, follow: bool, lines: int) -> None:
    """Print what an agent's process wrote, as far as the daemon keeps it: stdout to stdout,
    stderr to stderr."""
    if not follow:
        result = app.call("agent.logs", agent=name, lines=lines)
        _show(app, result["lines"])
        _tell_lost(result)
        return
    with app.stream("agent.logs", agent=name, lines=lines) as stream:
        for chunk in stream:
            _show(app, chunk["lines"])
        _tell_lost(stream.result)


def _tell_lost(result: Mapping[str, Any]) -> None:
    """The daemon keeps the last of what it wrote."""
    if result["dropped"]:
        render.remark(f"{result['dropped']} lines are lost: the daemon keeps the last ones alone")


@click.command(cls=Command, examples=(("for a minute at most", "aiosctl agent wait -t 60 bob"),))
@_NAME
@click.option("-t", "--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait so long.")
@pass_app
def wait(app: App, name: str, timeout: float | None) -> None:
    """Wait until an agent's process has ended for good, and print how.

    It fails if that takes longer than the timeout.
    """
    timeout_ms = None if timeout is None else round(timeout * 1000)
    info = app.call("agent.wait", agent=name, timeout_ms=timeout_ms)
    if app.is_json:
        render.document(info)
    else:
        render.line(_end(info) if info["state"] == "ended" else str(info["state"]))
    if info["state"] != "ended":
        raise click.exceptions.Exit(Exit.FAILED)


@click.command(cls=Command, examples=(("freeze it", "aiosctl agent signal bob stop"),))
@_NAME
@click.argument("signal", type=click.Choice(("stop", "cont", "term", "kill")))
@pass_app
def signal(app: App, name: str, signal: str) -> None:
    """Stop an agent's process, let it go on (cont), ask it to end (term), or kill it."""
    app.call("agent.signal", agent=name, signal=signal)
    if app.is_json:
        render.document({"agent": name, "signal": signal})


@click.command(cls=Command, examples=(("end two", "aiosctl agent stop bob carol"),))
@click.argument(
    "names", nargs=-1, required=True, metavar="AGENT…", shell_complete=complete.processes
)
@click.option("--grace", type=click.FloatRange(0), default=10, metavar="SECONDS",
              show_default=True, help="Before it is killed.")  # fmt: skip
@pass_app
def stop(app: App, names: tuple[str, ...], grace: float) -> None:
    """Ask agents' processes to end, and kill those that don't. They aren't started again."""
    for_each(app, names, lambda one: _stop(app, one, grace))


def _stop(app: App, name: str, grace_s: float) -> None:
    app.call("agent.signal", agent=name, signal="term")
    info = app.call("agent.wait", agent=name, timeout_ms=round(grace_s * 1000))
    if info["state"] != "ended":
        app.call("agent.signal", agent=name, signal="kill")
        app.call("agent.wait", agent=name)


@click.command(cls=Command)
@_NAME
@pass_app
def inspect(app: App, name: str) -> None:
    """Show all about an agent's process: its command, rights, limits, what it may touch."""
    result = app.call("agent.inspect", agent=name)
    if app.is_json:
        render.document(result)
        return
    held = result["confinement"]
    shown: list[tuple[str, Any]] = [
        ("agent", result["agent"]),
        ("process", result["process"]),
        ("uid", result["uid"]),
        ("parent", result.get("parent")),
        ("children", _listed(result["children"])),
        ("state", result["state"]),
        ("end", _end(result) if result["state"] == "ended" else None),
        ("pid", result.get("pid")),
        ("connected", render.yes_no(result["connected"])),
        ("started", f"{units.age(result['started_ms'])} ago"),
        ("restart", result["restart"]),
        ("restarts", result["restarts"]),
        ("detached", render.yes_no(result["detached"])),
        ("command", " ".join(result["command"])),
        ("directory", result.get("cwd", "its own")),
        ("variables", _listed(result["env"])),
        ("rights", _listed(result["rights"])),
        ("tokens", result["tokens"]),
        *((f"limit {key}", value) for key, value in result["limits"].items()),
        *(("reads", path) for path in held["read"]),
        *(("writes", path) for path in held["write"]),
        ("network", held["network"]),
        *((f"bound: {what}", words) for what, words in held["kept"].items()),
        *((f"not: {what}", words) for what, words in held["not_kept"].items()),
    ]
    render.record(shown)


# ---------------------------------------------------------------- what several share


def _params(name: str, words: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The params of agent.spawn, with only what was given."""
    command, *args = words
    if "/" in command:
        command = _absolute(command)
    args = [_absolute(arg) if _is_file(arg) else arg for arg in args]
    files = [arg for arg in args if _is_file(arg)]
    grants: dict[str, Any] = {
        "read": list(dict.fromkeys([*map(_absolute, options["read"]), *files])),
        "write": [_absolute(path) for path in options["write"]],
        "network": options["network"],
    }
    limits = {key: options[key] for key in LIMITS if options[key] is not None}
    given = {
        "args": args,
        "env": _env(options["env"]),
        "grants": {key: value for key, value in grants.items() if value},
        "limits": limits,
        "rights": list(options["rights"]),
        "restart": options["restart"],
        "cwd": None if options["cwd"] is None else _absolute(options["cwd"]),
    }
    return {"name": name, "command": command} | {k: v for k, v in given.items() if v}


def _env(given: Iterable[str]) -> dict[str, str]:
    found = {}
    for one in given:
        name, has_value, value = one.partition("=")
        if not has_value:
            raise click.UsageError(f"--env is {one!r}, expected NAME=VALUE")
        found[name] = value
    return found


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _listed(names: Sequence[str]) -> str | None:
    return ", ".join(names) or None


def _end(info: Mapping[str, Any]) -> str:
    """How it ended, in words."""
    how = f"ended by {info['signal']}" if "signal" in info else None
    if how is None and "exit_code" in info:
        how = f"exit code {info['exit_code']}"
    why = _WORDS.get(info.get("ended_by", ""))
    return ": ".join(part for part in (how, why, info.get("reason")) if part) or "ended"


def _exit_code(info: Mapping[str, Any]) -> int:
    if "signal" in info:
        try:
            return 128 + signals.Signals[info["signal"]]
        except KeyError:  # one that this system doesn't have
            return Exit.FAILED
    return int(info.get("exit_code", Exit.FAILED))


COMMANDS = (run, ps, logs, wait, signal, stop, inspect)
