"""One prompt, one answer.  `run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from aiosctl import complete, render, standard_input
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.failures import how_to_attach
from aiosctl.generation import Printer, cost, generate, remark_on

PRIORITIES = ("interactive", "normal", "background")
MAX_CONSTRAINT_BYTES = 1024 * 1024  # of a schema or a grammar; the daemon's own limit is lower


@click.command(
    cls=Command,
    examples=(
        ("ask", 'aiosctl run "Name three rivers."'),
        ("ask about a file", 'aiosctl run "Summarise this:" - < notes.txt'),
        ("the same words every time", 'aiosctl run --temperature 0 "One, two, three,"'),
        ("JSON of a given shape", 'aiosctl run --schema person.json "Invent a person."'),
        ("go on in a conversation", 'aiosctl run --context c3 "And the fourth?"'),
        ("everything there is to know", 'aiosctl run --json "Hello" | jq .usage'),
        ("don't wait for it", 'job=$(aiosctl run --detach "Tell me a story.")'),
    ),
)
@click.argument("prompt", nargs=-1)
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    default=256,
    metavar="N",
    show_default=True,
    help="Stop after so many tokens.",
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
    help="The same seed gives the same answer.",
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; several times.")
@click.option(
    "--schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A JSON Schema that the answer must satisfy.",
)
@click.option(
    "--grammar",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A GBNF grammar that the answer must satisfy.",
)
@click.option(
    "-c",
    "--context",
    metavar="ID",
    shell_complete=complete.contexts,
    help="Go on in this context; see 'aiosctl context --help'.",
)
@click.option("-s", "--system", metavar="TEXT", help="What the model is told about its role first.")
@click.option("-m", "--model", metavar="NAME", help="A model's name; see 'aiosctl model ls'.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="The job's class.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001, max=2_000_000),
    metavar="SECONDS",
    help="Give up after so long.",
)
@click.option(
    "--recall",
    type=click.IntRange(1, 16),
    metavar="N",
    help="Tell the model up to N things the agent remembers of it; see 'aiosctl memory'.",
)
@click.option("--raw", is_flag=True, help="The prompt as it is, without the chat template.")
@click.option(
    "--stream/--no-stream",
    "is_streamed",
    default=None,
    help="Print words as they come (the default), or all at the end. With --json, "
    "--stream prints each chunk on a line of its own.",
)
@click.option("--usage", is_flag=True, help="Show on stderr what it cost.")
@click.option(
    "--detach",
    "is_detached",
    is_flag=True,
    help="Print the job's id and leave; 'aiosctl job attach' gives the answer.",
)
@pass_app
def run(
    app: App,
    /,
    prompt: tuple[str, ...],
    is_streamed: bool | None,
    usage: bool,
    is_detached: bool,
    **options: Any,
) -> None:
    """Send PROMPT to the model and print its answer as it comes.

    Several words are joined by spaces. A '-' among them stands for what is on standard input;
    without PROMPT all of it comes from there. Ctrl-C ends the job in the daemon too.

    Nothing but the answer goes to standard output (as one line at least: a newline ends it). While
    the job waits for others, a terminal shows its place in line.
    """
    if is_detached and (usage or is_streamed is not None):
        raise click.UsageError("--detach doesn't wait for the answer: no --usage, --[no-]stream")
    params = _params(prompt_of(prompt), options)
    if is_detached:
        _detach(app, params)
        return
    if app.is_json:
        is_lines = is_streamed is True
        show = show_line if is_lines else show_nothing
        result = generate(app, params, show=show, is_patient=False, shows_news=is_lines)
        render.document(result, is_line=is_lines)
    else:
        printer = Printer(is_immediate=is_streamed is not False)
        try:
            result = generate(app, params, show=printer.show, is_patient=False)
        except BaseException:
            printer.end_line()  # whatever comes next, a message or a prompt, starts a line
            raise
        printer.finish(result["text"])
        remark_on(result, params["max_tokens"])
    if usage:
        render.remark(cost(result))


def _detach(app: App, params: dict[str, Any]) -> None:
    """Start the job, tell its id, leave: the job goes on without us."""
    with app.stream("llm.generate", **params, detach=True) as stream:
        job = stream.wait_job()
    if app.is_json:
        render.document({"job": job})
        return
    render.line(job)
    render.hint(how_to_attach(job))


def show_line(chunk: dict[str, Any]) -> None:
    """A chunk, for a program."""
    render.document(chunk, is_line=True)


def show_nothing(_chunk: dict[str, Any]) -> None:
    """The result has it all."""


def prompt_of(words: tuple[str, ...]) -> str:
    """The prompt that the words are; '-', or none: standard input."""
    if not words or "-" in words:
        from sys import stdin

        if not words and stdin is not None and stdin.isatty():
            raise click.UsageError(
                'no prompt: give one, as in: aiosctl run "Name three rivers." '
                "(or 'aiosctl chat' to talk)"
            )
        text = standard_input.read_text("the prompt")
        words = tuple(text if word == "-" else word for word in words) or (text,)
    prompt = " ".join(words)
    if not prompt.strip():
        raise click.UsageError("the prompt is empty")
    return prompt


def _params(prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    """The call's params, with only what was given: the daemon knows the defaults."""
    params: dict[str, Any] = {"max_tokens": options["max_tokens"]}
    for name in ("temperature", "seed", "context", "model", "priority"):
        if options[name] is not None:
            params[name] = options[name]
    if options["recall"] is not None:
        if options["raw"]:
            raise click.UsageError("--recall needs the chat template: no --raw")
        params["recall"] = {"k": options["recall"]}
    if options["stop"]:
        params["stop"] = list(options["stop"])
    if options["timeout"] is not None:
        params["deadline_ms"] = max(1, round(options["timeout"] * 1000))
    if options["schema"] is not None and options["grammar"] is not None:
        raise click.UsageError("--schema and --grammar exclude each other")
    if options["schema"] is not None:
        params["schema"] = _schema(options["schema"])
    if options["grammar"] is not None:
        params["grammar"] = _file(options["grammar"], "--grammar")
    if options["raw"]:
        if options["system"] is not None:
            raise click.UsageError("--raw has no chat template, so --system has no place in it")
        params["prompt"] = prompt
        return params
    system = options["system"]
    before = [] if system is None else [{"role": "system", "content": system}]
    params["messages"] = [*before, {"role": "user", "content": prompt}]
    return params


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(_file(path, "--schema"))
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--schema {path} isn't JSON: {error}") from error
    if not isinstance(schema, dict):
        raise click.UsageError(f"--schema {path} is a JSON {type(schema).__name__}, not an object")
    return schema


def _file(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONSTRAINT_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"{option} {path}: {error.strerror}") from error
    if len(data) > MAX_CONSTRAINT_BYTES:
        raise click.UsageError(f"{option} {path} has more than {MAX_CONSTRAINT_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{option} {path} isn't UTF-8 text") from error
