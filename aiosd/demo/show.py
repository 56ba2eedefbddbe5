"""How the show looks: a live table on a terminal, plain lines elsewhere, then a comparison."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aiosd.demo.board import Board, Row, Summary, Turn

PLAIN_EVERY_S = 2.0
STYLES = {"running": "bold green", "ready": "yellow", "done": "dim", "paused": "magenta"}


class Screen(Protocol):
    """Where a run is shown while it lasts."""

    def update(self, board: Board) -> None: ...
    def turn(self, board: Board, turn: Turn) -> None: ...
    def close(self) -> None: ...


def open_screen(console: Console) -> Screen:
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class LiveScreen:
    """One table, drawn over itself."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def update(self, board: Board) -> None:
        self._live.update(table(board), refresh=True)

    def turn(self, board: Board, turn: Turn) -> None:
        """The table shows it anyway."""

    def close(self) -> None:
        self._live.stop()


class PlainScreen:
    """A line now and then, and one for each finished turn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = PLAIN_EVERY_S

    def update(self, board: Board) -> None:
        if board.elapsed_s < self._next_s:
            return
        self._next_s = board.elapsed_s + PLAIN_EVERY_S
        self._say(
            board,
            f"{board.count('running')} running, {board.count('ready')} ready, "
            f"{board.count('done')} done, {board.n_output} tokens",
        )

    def turn(self, board: Board, turn: Turn) -> None:
        self._say(
            board,
            f"{turn.agent} gave {turn.n_output} tokens in {turn.slices} slices, "
            f"waited {turn.wait_ms / 1000:.1f} s, parked {turn.parks} times",
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _say(self, board: Board, words: str) -> None:
        line = f"{board.policy:<4} {board.elapsed_s:5.1f} s  {words}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def table(board: Board) -> Group:
    grid = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    grid.add_column("agent", no_wrap=True)
    grid.add_column("state", no_wrap=True, min_width=8)
    for name in ("tokens", "slices", "wait s", "parks"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("says", ratio=1, no_wrap=True, overflow="crop")
    for row in board.rows.values():
        grid.add_row(*_cells(row))
    rate = board.n_output / board.elapsed_s if board.elapsed_s else 0.0
    head = Text(f"{board.policy}  {board.elapsed_s:.1f} s  ", style="bold")
    head.append(f"{board.n_output} tokens, {rate:.0f} per second", style="not bold")
    return Group(head, grid)


def _cells(row: Row) -> list[Text]:
    style = STYLES.get(row.state, "")
    figures = (f"{row.n_output}", f"{row.slices}", f"{row.wait_ms / 1000:.1f}", f"{row.parks}")
    words = " ".join(row.tail.split())[-60:]
    return [
        Text(row.agent, style="cyan"),
        Text(row.state, style=style),
        *(Text(figure) for figure in figures),
        Text(words, style="dim"),
    ]


def compare(console: Console, summaries: list[Summary]) -> None:
    """The runs side by side, and whether the agents said the same in all of them."""
    grid = Table(title="The same work under each scheduler", title_justify="left")
    grid.add_column("")
    for summary in summaries:
        grid.add_column(summary.policy, justify="right")
    for name, cells in _comparison(summaries):
        grid.add_row(name, *cells)
    console.print()
    console.print(grid, highlight=False)
    console.print("wait: how long a turn was ready and others had the lanes", style="dim")
    first = summaries[0]
    for other in summaries[1:]:
        n_same = sum(a == b for a, b in zip(first.texts, other.texts, strict=True))
        console.print(
            f"{n_same} of {len(first.texts)} answers are the same, letter by letter, "
            f"under {first.policy} and {other.policy}.",
            highlight=False,
        )


def _comparison(summaries: list[Summary]) -> list[tuple[str, list[str]]]:
    return [
        ("all done after (s)", [f"{s.makespan_s:.1f}" for s in summaries]),
        ("wait, mean (s)", [f"{s.mean_wait_s:.1f}" for s in summaries]),
        ("wait, 90th percentile (s)", [f"{s.p90_wait_s:.1f}" for s in summaries]),
        ("first word after, mean (s)", [f"{s.mean_first_word_s:.1f}" for s in summaries]),
        ("tokens per second", [f"{s.tokens_per_s:.0f}" for s in summaries]),
        ("context switches", [f"{s.switches}" for s in summaries]),
        ("contexts parked", [f"{s.parks}" for s in summaries]),
    ]
