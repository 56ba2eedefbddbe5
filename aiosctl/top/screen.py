"""The board as lines of text that fit a width and a height.  Pure, but for the words of ages.

Rule: a line is a list of (text, style); no line is longer than the width, none is left out that a
person needs to act: figures, headings, the cursor's row, messages and keys are always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiosctl import units
from aiosctl.render import one_line
from aiosctl.top.board import COLUMNS, VIEWS, Board, Column

Line = list[tuple[str, str]]
NARROW = 100  # columns; below it ids are cut
ID_CHARS = 9
MIN_WIDTH, MIN_HEIGHT = 40, 10
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES = {
    "running": "green", "paused": "yellow", "stalled": "yellow", "delayed": "yellow",
    "cancelling": "red",
}  # fmt: skip
_CURSOR = "on blue white"
KEYS = (
    ("q", "quit"), ("?", "help"), ("↑↓", "choose"), ("k", "kill"), ("p", "pause"), ("r", "resume"),
    ("i n b", "class"), ("←→", "sort"), ("tab", "view"), ("s", "reverse"), ("space", "freeze"),
)  # fmt: skip
HELP = (
    "q, Ctrl-C    quit",
    "↑ ↓ PgUp PgDn Home End   choose a row",
    "← →          sort by the column to the left or right; s turns the order around",
    "tab          jobs, agents, slots",
    "p, r         pause the chosen job, let it go on",
    "k            kill the chosen job, or agent; asks first",
    "i, n, b      make the chosen job interactive, normal, background",
    "space        freeze the screen; once more, and it goes on",
    "+ -          sample less often, more often",
    "?            this help; any key leaves it",
)


def lines(
    board: Board, width: int, height: int, *, message: str = "", is_gone: bool = False
) -> list[Line]:
    """The whole screen; message stands above the keys, e.g. a question."""
    head = header(board, width)
    rows = board.rows()
    shown = fitted(board, rows, width)
    n_rows = max(1, height - len(head) - 3)  # headings, message, keys
    cursor = board.cursor(rows)
    first = max(0, min(cursor - n_rows // 2, len(rows) - n_rows))
    screen = [*head, _fit(_headings(board, shown), width, fill="reverse")]
    for index, row in enumerate(rows[first : first + n_rows], start=first):
        line = _row(row, shown, width)
        if index == cursor:
            line = _fit([(text, _CURSOR) for text, _ in line], width, fill=_CURSOR)
        screen.append(line)
    if not rows:
        screen.append([(f"no {board.view}", "dim")])
    screen += [[] for _ in range(height - 2 - len(screen))]
    note = message or _more(len(rows), first, n_rows)
    style = "bold red" if is_gone else "bold yellow" if message else "dim"
    screen = [*screen[: height - 2], [(_cut(note, width), style)], _keys(width)]
    return [_fit(line, width) for line in screen]


def whole(board: Board) -> list[Line]:
    """Everything, for a pipe: nothing is cut, however many rows there are."""
    every: list[Line] = header(board, 10_000)[:-1]
    for view in VIEWS:
        board.view = view
        rows = board.rows()
        shown = fitted(board, rows, 0)
        every += [[], _headings(board, shown) if rows else [(f"no {view}", "")]]
        every += [_row(row, shown, 0) for row in rows]
    return every


def help_lines(height: int) -> list[Line]:
    return [[("aiosctl top: the keys", "bold")], [], *([(text, "")] for text in HELP)][:height]


# ---------------------------------------------------------------- figures


def header(board: Board, width: int) -> list[Line]:
    """What holds for the daemon as a whole."""
    if board.sample is None:
        return [[("aiosd", "bold"), ("  nothing known yet", "dim")]]
    status, rates = board.sample.status, board.rates()
    cores = status["cores"]
    n_by_state: dict[str, int] = {}
    for core in cores:
        for state, number in core["jobs"].items():
            n_by_state[state] = n_by_state.get(state, 0) + number
    jobs = ", ".join(f"{number} {state}" for state, number in n_by_state.items() if number)
    found = [
        [
            ("aiosd", "bold"),
            (f" {status['version']}", ""),
            (f"  {status['state']}", "green" if status["state"] == "serving" else "yellow"),
            (f"  up {units.seconds(status['uptime_s'])}  {status['agents']} agents", ""),
            (f"  {sum(n_by_state.values())} jobs{': ' if jobs else ''}{jobs}", ""),
        ]
    ]
    for core in cores:
        running = core["jobs"].get("running", 0)
        found.append(
            [
                (core["model"], "bold"),
                (f"  {core['policy']} {core['quantum_tokens']}", ""),
                (f"  lanes {running}/{core['lanes']}", ""),
                (f"  slots {_slots_used(core)}", ""),
                (f"  queue {core['jobs'].get('ready', 0)}", ""),
                (f"  steps/s {rates['steps']:.0f}", ""),
            ]
        )
    speed = (
        f"tokens/s  written {rates['output']:.1f}  read {rates['prompt']:.1f}  "
        f"cached {rates['cached']:.1f}  parks/s {rates['saves']:.1f}  "
    )
    found.append([(speed, ""), (_curve(board.curve, width - len(speed)), "cyan")])
    found.append([(_memory(status, cores), "")])
    return [_fit(line, width) for line in found] + [[]]


def _slots_used(core: dict[str, Any]) -> str:
    used = core.get("slots_used")
    return str(core["n_slots"]) if used is None else f"{used}/{core['n_slots']}"


def _memory(status: dict[str, Any], cores: Sequence[dict[str, Any]]) -> str:
    ram = sum(core["snapshots"]["ram_bytes"] for core in cores)
    file = sum(core["snapshots"]["file_bytes"] for core in cores)
    words = f"memory {units.size(status['rss_bytes'])}  snapshots {units.size(ram)} in RAM, "
    words += f"{units.size(file)} in files"
    if "contexts" in status:
        kept = status["contexts"]
        words += f"  contexts {kept['n']}, {units.size(kept['bytes'])}"
    return words


def _curve(values: Sequence[float], width: int) -> str:
    """A small curve of the last values, the highest one full."""
    last = list(values)[-max(0, min(width, 40)) :]
    most = max(last, default=0.0)
    if len(last) < 2 or most <= 0:
        return ""
    return "".join(_BLOCKS[min(7, int(value / most * 7.999))] for value in last)


# ---------------------------------------------------------------- the table


def fitted(board: Board, rows: Sequence[dict[str, Any]], width: int) -> dict[Column, int]:
    """The columns to be shown and their widths: those that fit, by their worth; width 0 is a pipe,
    where all fit.  One that no row has a value for isn't worth its place."""
    useful = [
        column
        for column in COLUMNS[board.view]
        if any(row.get(column.key) is not None for row in rows)
    ] or [column for column in COLUMNS[board.view] if column.worth >= 8]
    if width and board.view != "agents" and len({row.get("uid") for row in rows}) < 2:
        useful = [column for column in useful if column.key != "uid"]
    chosen: dict[Column, int] = {}
    left = width
    for column in sorted(useful, key=lambda column: -column.worth):
        wide = max([len(column.title), *(len(cell(row, column, width)) for row in rows)])
        if wide <= left or not width:
            chosen[column] = wide
            left -= wide + 2
    return {column: chosen[column] for column in useful if column in chosen}


def _headings(board: Board, shown: dict[Column, int]) -> Line:
    line: Line = []
    for column, wide in shown.items():
        is_sorted = column.key == board.sorted_by[board.view]
        text = column.title.rjust(wide) if column.is_number else column.title.ljust(wide)
        line += [(text, "reverse bold underline" if is_sorted else "reverse"), ("  ", "reverse")]
    return line


def _row(row: dict[str, Any], shown: dict[Column, int], width: int) -> Line:
    line: Line = []
    for column, wide in shown.items():
        text = cell(row, column, width)
        style = _STYLES.get(text, "") if column.key == "state" else ""
        line += [(text.rjust(wide) if column.is_number else text.ljust(wide), style), ("  ", "")]
    return line


def cell(row: dict[str, Any], column: Column, width: int) -> str:
    """A value as it reads; width 0 is a pipe, where nothing is cut."""
    value = row.get(column.key)
    if value is None:
        return "-"
    match column.key:
        case "waited_ms":
            return units.milliseconds(value)
        case "rate":
            return f"{value:.1f}"
        case "job" | "context" if 0 < width < NARROW:
            return one_line(str(value))[:ID_CHARS]
    return one_line(str(value))


# ---------------------------------------------------------------- below


def _more(n_rows: int, first: int, n_shown: int) -> str:
    if n_rows <= n_shown:
        return ""
    return f"{first + 1} to {min(n_rows, first + n_shown)} of {n_rows}"


def _keys(width: int) -> Line:
    line: Line = []
    used = 0
    for key, words in KEYS:
        needed = len(key) + len(words) + 3
        if used + needed - 2 > width:
            break
        line += [(key, "bold"), (f" {words}  ", "dim")]
        used += needed
    return line


def _cut(text: str, width: int) -> str:
    shown = one_line(text)
    return shown if len(shown) <= width else shown[: max(0, width - 1)] + "…"


def _fit(line: Line, width: int, fill: str = "") -> Line:
    """The line, cut at the width; filled up to it if there is a style to fill with."""
    fitting: Line = []
    left = width
    for text, style in line:
        part = one_line(text)[:left]
        left -= len(part)
        if part:
            fitting.append((part, style))
    return [*fitting, (" " * left, fill)] if fill and left else fitting
