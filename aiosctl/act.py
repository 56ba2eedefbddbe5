"""One prompt, and the model's work with tools until it answers.  `act`.

Rule: stdout gets the model's words; calls, and what they brought, go to stderr.
"""

from __future__ import annotations

from typing import Any

import click

from aiosctl import complete, render, units
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.generation import generate
from aiosctl.run import PRIORITIES, prompt_of, show_line, show_nothing

SHOWN_CHARS = 300  # of arguments and of what a call brought


@click.command(
    cls=Command,
    examples=(
        ("with a tool", 'aiosctl act "What is 6 times 7?" --tool calculator'),
        ("with all that there are", "aiosctl act --tool '*' \"What is new in my files?\""),
        ("go on in a conversation", 'aiosctl act --context c3 --tool clock "And now?"'),
        ("every step for a program", 'aiosctl act --json --stream --tool clock "What day is it?"'),
    ),
)
@click.argument("prompt", nargs=-1)
@click.option(
    "--tool",
    "tools",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.tools,
    help="A tool that the model may call, or a pattern; several times. See 'aiosctl tool ls'.",
)
@click.option(
    "--tool-choice",
    metavar="auto|required|NAME",
    help="Whether it has to call one at first, and which.",
)
@click.option(
    "--max-rounds", type=click.IntRange(1, 1000), metavar="N", help="So often it may call. [8]"
)
@click.option(
    "-n", "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Of each answer. [256]"
)
@click.option("-t", "--temperature", type=click.FloatRange(min=0), metavar="X", help="[0.7]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), metavar="N", help="Of the draws.")
@click.option(
    "-c",
    "--context",
    metavar="ID",
    shell_complete=complete.contexts,
    help="Go on in this context; see 'aiosctl context --help'.",
)
@click.option("-s", "--system", metavar="TEXT", help="What the model is told about its role first.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="The jobs' class.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001, max=2_000_000),
    metavar="SECONDS",
    help="Give up after so long.",
)
@click.option(
    "--stream/--no-stream",
    "is_streamed",
    default=None,
    help="Show each step as it comes (the default), or the answer at the end. With --json, "
    "--stream prints each chunk on a line of its own.",
)
@click.option("--usage", is_flag=True, help="Show on stderr what it cost.")
@pass_app
def act(
    app: App,
    /,
    prompt: tuple[str, ...],
    is_streamed: bool | None,
    usage: bool,
    **options: Any,
) -> None:
    """Send PROMPT to the model and let it call tools until it answers.

    Its words go to standard output as they come; its calls, and what they brought, to standard
    error. A call that a person has to approve waits ('aiosctl approvals'). Ctrl-C ends all of it,
    also a tool that runs.
    """
    params = _params(prompt_of(prompt), options)
    is_lines = app.is_json and is_streamed is True
    if app.is_json:
        show = show_line if is_lines else show_nothing
        result = generate(
            app, params, show=show, is_patient=False, shows_news=is_lines, method="llm.act"
        )
        render.document(result, is_line=is_lines)
    else:
        steps = _Steps()
        show = show_nothing if is_streamed is False else steps.show
        try:
            result = generate(app, params, show=show, is_patient=False, method="llm.act")
        finally:
            steps.end_line()
        if is_streamed is False and result["text"]:
            render.block(result["text"])
        if result["finish"] == "rounds":
            render.hint("it had to answer: --max-rounds allows more calls")
        if result["finish"] == "length":
            render.hint("the answer was cut; --max-tokens allows more")
    if usage:
        render.remark(_cost(result))


class _Steps:
    """Prints words, and tells of calls on lines of their own."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, chunk: dict[str, Any]) -> None:
        match chunk:
            case {"text": str(text)}:
                if text:
                    self._last = text[-1]
                    render.words(text)
            case {"tool_calls": list(calls)}:
                for call in calls:
                    self._tell(f"{call['name']} {render.compact(call['arguments'])}")
            case {"tool_result": result}:
                how = "failed: " if result["is_error"] else ""
                took = units.milliseconds(result["duration_ms"])
                self._tell(f"{result['name']} ({took}): {how}{result['content']}")
            case {"message": str(message)}:
                self._tell(message)

    def end_line(self) -> None:
        if self._last not in ("", "\n"):
            render.verbatim("\n")
            render.flush()
        self._last = ""

    def _tell(self, text: str) -> None:
        self.end_line()
        render.remark(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…")


def _params(prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    """The call's params, with only what was given: the daemon knows the defaults."""
    names = ("tool_choice", "max_rounds", "max_tokens", "temperature", "seed", "context")
    params = {name: options[name] for name in (*names, "priority") if options[name] is not None}
    if options["tools"]:
        params["tools"] = list(options["tools"])
    if options["timeout"] is not None:
        params["deadline_ms"] = max(1, round(options["timeout"] * 1000))
    system = options["system"]
    before = [] if system is None else [{"role": "system", "content": system}]
    params["messages"] = [*before, {"role": "user", "content": prompt}]
    return params


def _cost(result: dict[str, Any]) -> str:
    usage = result["usage"]
    return (
        f"{result['rounds']} rounds, {result['n_calls']} calls, "
        f"{usage['prompt_tokens']} prompt + {usage['cached_tokens']} cached + "
        f"{usage['output_tokens']} output tokens, "
        f"tools {units.milliseconds(usage['tools_ms'])}, "
        f"total {units.milliseconds(usage['total_ms'])}, "
        f"seed {result['seed']}, finish {result['finish']}"
    )
