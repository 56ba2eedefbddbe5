"""aiosctl: the arguments, and the exit codes of what they lead to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from aiosctl import render
from aiosctl.app import App
from aiosctl.commands import HELP_NAMES, Entry, LazyGroup
from aiosctl.failures import Exit, exit_code, explain

TALK, LOOK, MANAGE, OTHER = "Talk to the model", "Look", "Manage", "Other"

ENTRIES = {
    "run": Entry("aiosctl.run", "run", "Send one prompt, print the answer as it comes.", TALK),
    "act": Entry("aiosctl.act", "act", "Let the model work with tools.", TALK),
    "chat": Entry("aiosctl.chat", "chat", "Talk with the model, turn by turn.", TALK),
    "status": Entry("aiosctl.status", "status", "What the daemon is and does.", LOOK),
    "ps": Entry("aiosctl.job", "ps", "The jobs of all your agents.", LOOK),
    "top": Entry("aiosctl.top.command", "top", "The daemon at work, live.", LOOK),
    "story": Entry("aiosctl.story", "story", "All that happened to one job.", LOOK),
    "trace": Entry("aiosctl.trace", "trace", "What the slots did, as a trace or picture.", LOOK),
    "events": Entry("aiosctl.events", "events", "What happens, as it happens.", LOOK),
    "logs": Entry("aiosctl.logs", "logs", "The daemon's log.", LOOK),
    "metrics": Entry("aiosctl.metrics", "metrics", "The figures, for Prometheus.", LOOK),
    "ping": Entry("aiosctl.ping", "ping", "Whether the daemon answers, and how fast.", LOOK),
    "doctor": Entry(
        "aiosctl.doctor", "doctor", "Whether all is well, here and with this model.", LOOK
    ),
    "job": Entry("aiosctl.job", "job", "List, follow, end, pause and rank jobs.", MANAGE),
    "context": Entry(
        "aiosctl.context", "context", "Show, fork, rewind and remove contexts.", MANAGE
    ),
    "approvals": Entry(
        "aiosctl.approvals", "approvals", "List, approve and deny what agents ask.", MANAGE
    ),
    "access": Entry("aiosctl.access", "access", "Rights, groups, grants and rules.", MANAGE),
    "audit": Entry("aiosctl.audit", "audit", "What was denied, asked and approved.", LOOK),
    "agent": Entry("aiosctl.agent", "agent", "List, run and end agents.", MANAGE),
    "memory": Entry("aiosctl.memory", "memory", "Add and find what agents remember.", MANAGE),
    "ipc": Entry("aiosctl.ipc", "ipc", "Send, receive and count agents' messages.", MANAGE),
    "fs": Entry("aiosctl.fs", "fs", "Store, read and share agents' files.", MANAGE),
    "model": Entry("aiosctl.model", "model", "List, add and remove models.", MANAGE),
    "tool": Entry("aiosctl.tool", "tool", "List and call tools, load MCP servers.", MANAGE),
    "policy": Entry("aiosctl.policy", "policy", "Show or set how jobs share the model.", MANAGE),
    "backup": Entry("aiosctl.backup", "backup", "Copy all that the daemon keeps.", MANAGE),
    "describe": Entry("aiosctl.describe", "describe", "The syscalls and their parameters.", OTHER),
    "call": Entry("aiosctl.call", "call", "Make any syscall by its name.", OTHER),
    "completion": Entry(
        "aiosctl.completion", "completion", "Print a script that completes in your shell.", OTHER
    ),
    "journal": Entry(
        "aiosctl.story", "journal", "Save the scheduler's events for a bug report.", OTHER
    ),
    "version": Entry(
        "aiosctl.version", "version", "The versions of aiosctl and the daemon.", OTHER
    ),
}


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        render.line(f"aiosctl {version('aiosd')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    entries=ENTRIES,
    context_settings=HELP_NAMES,
    subcommand_metavar="COMMAND …",
    options_metavar="[OPTIONS]",
    examples=(
        ("ask something", 'aiosctl run "Why is the sky blue?"'),
        ("see who is working", "aiosctl ps"),
        ("the same for a program", "aiosctl ps --json"),
        ("more about a command", "aiosctl run --help"),
    ),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show aiosctl's version and exit.",
)
def aiosctl() -> None:
    """Talk to aiosd, the operating system for LLM agents.

    aiosd runs one local model for many agents. aiosctl asks it questions, shows who is using
    the model, and manages their jobs and contexts. If no daemon runs yet, start one: aiosd &
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run aiosctl; the exit code."""
    if "_AIOSCTL_COMPLETE" in os.environ:  # a shell asks what could come next
        aiosctl.main(prog_name="aiosctl")
    if sys.stdout is None:  # started with stdout closed
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # A terminal that can't show a character shows '?'; an answer isn't lost over it.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # real files here
    app = App()
    try:
        try:
            code = _run(sys.argv[1:] if args is None else list(args), app)
        finally:
            app.close()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _leave(Exit.INTERRUPTED)
    except BrokenPipeError:
        return _leave(Exit.BROKEN_PIPE)
    except OSError as error:
        render.remark(f"cannot write the output: {error.strerror or error}")
        return _leave(Exit.FAILED)
    return code


def _run(args: list[str], app: App) -> int:
    # Not click's main(): it has exit codes of its own for errors, interrupts and broken pipes.
    try:
        with aiosctl.make_context("aiosctl", args, obj=app) as ctx:
            aiosctl.invoke(ctx)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the whole help, on stderr
        return Exit.USAGE
    except click.UsageError as error:
        render.remark(_usage(error))
        return Exit.USAGE
    except KeyError as error:  # of a result: every other map here is ours
        render.remark(
            f"the daemon's answer has no {error}; is it of another version? 'aiosctl version' tells"
        )
        return Exit.FAILED
    except Exception as error:
        from aios_sdk.errors import AiosError

        if not isinstance(error, AiosError):
            raise
        render.remark(explain(error))
        return exit_code(error)
    return Exit.DONE


def _usage(error: click.UsageError) -> str:
    """What click found wrong, in our manner, and where to read on."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    if error.ctx is None:
        return message
    path = f"'{error.ctx.command_path} --help'"
    return f"{message} See {path}" if message[-1:] in "?)" else f"{message}; see {path}"


def _leave(code: Exit) -> int:
    """Exit without the interpreter's last flush, which could fail or block once more."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # there is no stdout to silence
    return code


if __name__ == "__main__":
    sys.exit(main())
