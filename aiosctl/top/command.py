"""The daemon at work, live.  `top`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from aios_sdk.errors import ClientError, SyscallError
from aiosctl import render
from aiosctl.app import App, pass_app
from aiosctl.commands import Command
from aiosctl.failures import explain
from aiosctl.top import screen
from aiosctl.top.board import Board, Sample

if TYPE_CHECKING:
    from rich.console import Console

    from aiosctl.top.keyboard import Keyboard

ONCE_S = 0.5  # between the two samples of a single screen, so that it has rates
INTERVALS_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
ANSWER_S = 3.0  # a daemon that says nothing for so long is shown as gone
PAGE = 10
CLASSES = {"i": "interactive", "n": "normal", "b": "background"}


@click.command(
    cls=Command,
    examples=(
        ("watch the daemon work", "aiosctl top"),
        ("one screen of it, for a log", "aiosctl top --once"),
        ("the figures, for a program", "aiosctl top --json | jq .rates"),
    ),
)
@click.option(
    "-d", "--delay", type=click.FloatRange(0.1, 3600), default=1.0, metavar="SECONDS",
    show_default=True, help="Time between two samples.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one screen and leave; so it does in a pipe.")
@pass_app
def top(app: App, delay: float, once: bool) -> None:
    """Watch jobs, agents and slots, and how fast the model reads and writes.

    Keys: arrows choose and sort, tab changes the view, p pauses, r resumes, k kills, i n b set the
    class, ? shows all. You see your own agents (root and the daemon's user see all).
    """
    is_live = render.is_terminal(sys.stdout) and sys.stdin is not None and sys.stdin.isatty()
    if app.is_json or once or not is_live:
        _print_once(app)
        return
    app.timeout_s = ANSWER_S
    Live(app, delay).run()


def sampled(app: App) -> Sample:
    """What the daemon is doing now."""
    status = app.call("sys.status")
    jobs = app.call("job.list", all=True)["jobs"]
    agents = app.call("agent.list")["agents"]
    return Sample(time.monotonic(), status, jobs, agents)


def _print_once(app: App) -> None:
    board = Board()
    board.take(sampled(app))
    time.sleep(ONCE_S)
    board.take(sampled(app))
    sample = board.sample
    assert sample is not None
    if app.is_json:
        render.document(
            {
                "status": sample.status,
                "rates": board.rates(),
                "jobs": board.rows(),
                "agents": sample.agents,
            }
        )
        return
    for line in screen.whole(board):
        render.line("".join(text for text, _ in line).rstrip())


@dataclass(slots=True)
class Question:
    """Something to be confirmed by y."""

    words: str
    act: Callable[[], object]
    done: str


class Live:
    """The loop: sample, draw, and wait for a key until the next sample is due."""

    def __init__(self, app: App, delay_s: float) -> None:
        self._app = app
        self._delay_s = delay_s
        self._board = Board()
        self._message = ""
        self._question: Question | None = None
        self._is_gone = False
        self._is_frozen = False
        self._has_help = False

    def run(self) -> None:
        from rich.console import Console

        from aiosctl.top.keyboard import keyboard

        self._board.take(sampled(self._app))  # without a daemon there is no screen to be drawn
        console = Console(markup=False, highlight=False, emoji=False)
        try:
            with keyboard() as keys, console.screen(hide_cursor=True):
                self._serve(console, keys)
        except (KeyboardInterrupt, EOFError):
            pass  # Ctrl-C, or the terminal has gone: both are ways to leave

    def _serve(self, console: Console, keys: Keyboard) -> None:
        due_s = time.monotonic() + min(self._delay_s, ONCE_S)  # rates come soon
        while True:
            self._draw(console)
            key = keys.key(due_s - time.monotonic())
            if key is None:
                if not self._is_frozen:
                    self._sample()
                due_s = time.monotonic() + self._delay_s
            elif key == "q" and self._question is None:
                return
            elif key != "resize":
                self._press(key, console.size.width)

    def _sample(self) -> None:
        try:
            self._board.take(sampled(self._app))
        except ClientError as error:
            self._is_gone = True
            self._message = f"the daemon is gone, trying again: {error}"
        except SyscallError as error:
            self._message = explain(error)
        else:
            if self._is_gone:
                self._is_gone, self._message = False, "the daemon is back"

    def _draw(self, console: Console) -> None:
        from rich.text import Text

        width, height = console.size
        if self._has_help:
            lines = screen.help_lines(height)
        elif width < screen.MIN_WIDTH or height < screen.MIN_HEIGHT:
            lines = [[(f"{width}x{height} is too small", "")], [("q quits", "")]][:height]
        else:
            lines = screen.lines(
                self._board, width, height, message=self._words(), is_gone=self._is_gone
            )
        text = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            for part, style in line:
                text.append(part, style)
        _show(console, text)

    def _words(self) -> str:
        if self._question is not None:
            return f"{self._question.words}  y: yes, any other key: no"
        if self._is_frozen and not self._message:
            return "frozen; space goes on"
        return self._message

    # ------------------------------------------------------------ keys

    def _press(self, key: str, width: int) -> None:
        question, self._question = self._question, None
        if question is not None:
            self._message = ""
            if key in ("y", "Y"):
                self._act(question.act, question.done)
            return
        if self._has_help:
            self._has_help = False
            return
        if not self._is_gone:
            self._message = ""
        board = self._board
        match key:
            case "up" | "down":
                board.move(-1 if key == "up" else 1)
            case "page_up" | "page_down":
                board.move(-PAGE if key == "page_up" else PAGE)
            case "home" | "end":
                board.move(-len(board.rows()) if key == "home" else len(board.rows()))
            case "left" | "right" | "<" | ">":
                shown = screen.fitted(board, board.rows(), width)
                board.sort_next(-1 if key in ("left", "<") else 1, list(shown))
            case "s":
                board.reverse()
            case "tab":
                board.next_view()
            case "space":
                self._is_frozen = not self._is_frozen
            case "+" | "-":
                self._change_delay(1 if key == "+" else -1)
            case "?" | "h":
                self._has_help = True
            case "p" | "r" | "k" | "i" | "n" | "b":
                self._steer(key)
            case _:
                pass

    def _change_delay(self, by: int) -> None:
        choices: Iterable[float] = INTERVALS_S if by > 0 else reversed(INTERVALS_S)
        for seconds in choices:
            if (seconds > self._delay_s) if by > 0 else (seconds < self._delay_s):
                self._delay_s = seconds
                break
        self._message = f"a sample every {self._delay_s:g} s"

    def _steer(self, key: str) -> None:
        """Act on what the cursor points at."""
        row, view = self._board.chosen(), self._board.view
        if row is None:
            return
        if view == "agents" and key == "k":
            name = row["agent"]
            words = f"kill agent {name}: its connections and jobs end?"
            self._question = Question(
                words, lambda: self._app.call("agent.kill", agent=name), f"killed agent {name}"
            )
            return
        job = row.get("job")
        if job is None:
            self._message = "there is no job here; tab goes to the jobs"
            return
        match key:
            case "k":
                words = f"kill {job} of {row.get('agent')}?"
                self._question = Question(
                    words, lambda: self._app.call("job.cancel", job=job), f"killed {job}"
                )
            case "p" | "r":
                verb = "pause" if key == "p" else "resume"
                self._act(lambda: self._app.call(f"job.{verb}", job=job), f"{verb}d {job}")
            case _:
                level = CLASSES[key]
                self._act(
                    lambda: self._app.call("job.priority", job=job, priority=level),
                    f"{job} is {level} now",
                )

    def _act(self, act: Callable[[], Any], done: str) -> None:
        try:
            act()
        except SyscallError as error:
            self._message = explain(error)
        except ClientError as error:
            self._is_gone, self._message = True, f"the daemon is gone: {error}"
        else:
            self._message = done
            self._sample()  # what was done is seen at once
            self._message = self._message or done


def _show(console: Console, text: Any) -> None:
    from rich.control import Control
    from rich.screen import Screen

    console.print(Control.home(), end="")
    console.print(Screen(text), end="")
