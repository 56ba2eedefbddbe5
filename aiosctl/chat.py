"""A conversation, turn by turn, in one context.  `chat`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Any

import click

from aios_sdk.errors import AiosError, ClientError, NotFound, SyscallError
from aiosctl import complete, render, standard_input
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.failures import Exit, exit_code, explain
from aiosctl.generation import Interrupted, Printer, generate, remark_on

PROMPT = "> "
HELP = """\
/new    forget what was said, start again
/help   this list
/quit   leave (as Ctrl-D does)
Ctrl-C  end the answer that is being written
Anything else is a message. To begin one with '/', type '//'."""


@click.command(
    cls=Command,
    examples=(
        ("talk", "aiosctl chat"),
        ("with a role", 'aiosctl chat --system "You are a pirate."'),
        ("go on where you left", "aiosctl chat --context c3"),
        ("two turns from a script", "printf 'My name is Ada.\\nWhat is it?\\n' | aiosctl chat"),
    ),
)
@click.option(
    "-c", "--context", metavar="ID", shell_complete=complete.contexts, help="Go on in this context."
)
@click.option("-s", "--system", metavar="TEXT", help="What the model is told about its role first.")
@click.option("-m", "--model", metavar="NAME", help="A model's name; see 'aiosctl model ls'.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    metavar="N",
    show_default=True,
    help="The most tokens of one answer.",
)
@click.option(
    "-t",
    "--temperature",
    type=click.FloatRange(min=0),
    metavar="X",
    help="0 is always the likeliest word; higher is more varied.  [default: 0.7]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 2),
    metavar="N",
    help="The same seed gives the same answers.",
)
@click.option(
    "--keep/--no-keep",
    "is_kept",
    default=None,
    help="Keep the context at the end [default: on a terminal only].",
)
@pass_app
def chat(
    app: App,
    /,
    context: str | None,
    system: str | None,
    model: str | None,
    is_kept: bool | None,
    **options: Any,
) -> None:  # fmt: skip
    """Talk with the model. It remembers what was said; /help lists what else you can type.

    In a pipe each line is a message and each answer goes to standard output.
    """
    if app.is_json:
        raise click.UsageError("chat has no JSON form; 'aiosctl run --json --context ID' has")
    if context is not None and (system is not None or model is not None):
        raise click.UsageError("--system and --model are chosen when a context is made")
    is_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    made = {"system": system, "model": model}
    talk = Talk(
        app,
        made={key: value for key, value in made.items() if value is not None},
        options={key: value for key, value in options.items() if value is not None},
        context=context,
        is_own=context is None,
        is_kept=is_terminal if is_kept is None else is_kept,
    )
    if context is not None:
        app.call("context.info", context=context)  # a wrong id is told now, not after typing
    else:
        _ = app.client  # connects: as above, for a daemon that isn't there
    try:
        code = _talk_on_terminal(talk) if is_terminal else _talk_in_pipe(talk)
    finally:
        talk.leave()
    if code:
        raise click.exceptions.Exit(code)


@dataclass(slots=True)
class Talk:
    """The conversation: its context, made at the first message, and what /new makes anew."""

    app: App
    made: dict[str, Any]  # params of context.create
    options: dict[str, Any]  # params of llm.generate
    context: str | None
    is_own: bool
    is_kept: bool
    n_turns: int = 0

    def say(self, message: str) -> None:
        """Send a message, print the answer.  Cancelled: it leaves no trace in the context."""
        if self.context is None:
            self.context = str(self.app.call("context.create", **self.made)["context"])
            self.is_own = True
        params = {
            **self.options,
            "context": self.context,
            "messages": [{"role": "user", "content": message}],
        }
        printer = Printer()
        try:
            result = generate(self.app, params, show=printer.show, is_patient=True)
        except BaseException:
            printer.end_line()
            raise
        printer.finish(result["text"])
        remark_on(result, self.options["max_tokens"])
        self.n_turns += 1

    def start_again(self) -> None:
        self.leave()
        self.context, self.n_turns = None, 0

    def leave(self) -> None:
        """Remove our own context, or say where it is.  Someone else's --context stays anyway."""
        if self.context is None or not self.is_own:
            return
        if self.is_kept and self.n_turns:
            render.hint(f"kept; go on with: aiosctl chat --context {self.context}")
            return
        with contextlib.suppress(AiosError):  # it has gone, or has forgotten it: nothing to remove
            self.app.call("context.delete", context=self.context)
        self.context = None


def _talk_in_pipe(talk: Talk) -> int:
    """Every line is a message; the first failure ends it."""
    while (line := standard_input.read_line("a message")) is not None:
        if not _obey(talk, line.strip()):
            break
    return Exit.DONE


def _talk_on_terminal(talk: Talk) -> int:
    import readline  # gives input() its line editing

    readline.set_auto_history(True)
    render.hint("/help lists commands, Ctrl-D leaves")
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            render.verbatim("\n")
            return Exit.DONE
        except KeyboardInterrupt:
            render.verbatim("\n")  # drops the line, as a shell does
            continue
        except UnicodeDecodeError:
            render.remark("that line isn't text in the terminal's encoding")
            continue
        try:
            if not _obey(talk, line.strip()):
                return Exit.DONE
        except KeyboardInterrupt as error:
            render.verbatim("\n")  # the terminal has shown ^C
            render.hint("ended; the conversation is as it was before your message")
            if not isinstance(error, Interrupted):
                talk.app.close()  # it may have hit a message in the middle: connect anew
        except NotFound as error:
            render.remark(explain(error))
            return exit_code(error)
        except SyscallError as error:
            render.remark(explain(error))  # the next message may fare better
        except ClientError as error:
            render.remark(explain(error))
            return exit_code(error)


def _obey(talk: Talk, line: str) -> bool:
    """Act on one line.  False: leave."""
    match line:
        case "":
            pass
        case "/quit" | "/exit" | "/q":
            return False
        case "/new":
            talk.start_again()
        case "/help" | "/?":
            render.verbatim(HELP)
        case _ if line.startswith("//"):
            talk.say(line[1:])
        case _ if line.startswith("/"):
            render.remark(f"no command {line.split(maxsplit=1)[0]!r}; /help lists them")
        case _:
            talk.say(line)
    return True
