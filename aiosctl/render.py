"""What commands print: rows and records as text, results as JSON.  The one place that does.

Rule 1: stdout carries only what was asked for; remarks go to stderr.
Rule 2: no control character from the daemon, a model or a name reaches a terminal.
Rule 3: in a pipe the layout depends on the data alone: no colour, no width, nothing cut.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

EMPTY = "-"  # a cell without a value, so that a line always has all its columns

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TRICKY = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_STATE_STYLES = {
    "running": "green",
    "serving": "green",
    "paused": "yellow",
    "stalled": "yellow",
    "cancelling": "red",
    "ok": "green",
    "note": "yellow",
    "unknown": "yellow",
    "problem": "red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, where in a row its value is, and how the value reads."""

    title: str
    key: str
    show: Callable[[Any], str] = str
    right: bool = False

    def cell(self, row: Mapping[str, Any]) -> str:
        value = row.get(self.key)
        return one_line(self.show(value)) if value is not None else EMPTY


@dataclass(frozen=True, slots=True)
class Branch:
    """One line of a tree: how deep it is, what it is, and what a person is told besides."""

    depth: int
    label: str
    figures: str = ""


def tree(branches: Sequence[Branch], *, nothing: str) -> None:
    """Draw branches, each after its parent: with rich on a terminal, as indented labels in a pipe.

    Without branches a person gets the words in ``nothing``.
    """
    if not is_terminal(sys.stdout):
        for branch in branches:
            _write("  " * branch.depth + one_line(branch.label) + "\n")
    elif branches:
        _draw_tree(branches)
    else:
        hint(nothing)


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, nothing: str) -> None:
    """Draw rows under headings: with rich on a terminal, as aligned text in a pipe.

    Without rows a pipe gets the headings alone, a person the words in ``nothing``.
    """
    cells = [[column.cell(row) for column in columns] for row in rows]
    if is_terminal(sys.stdout):
        if cells:
            _draw_table(cells, columns)
        else:
            hint(nothing)
        return
    lines = [[column.title for column in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        padded = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        )
        _write("  ".join(padded).rstrip() + "\n")


def record(pairs: Sequence[tuple[str, Any]]) -> None:
    """One thing's figures, one per line: ``name  value``."""
    width = max((len(name) for name, _ in pairs), default=0)
    lines = [
        (name.ljust(width), EMPTY if value is None else one_line(str(value)))
        for name, value in pairs
    ]
    if is_terminal(sys.stdout):
        _draw_record(lines)
        return
    for name, value in lines:
        _write(f"{name}  {value}\n")


def document(value: Any, *, is_line: bool = False) -> None:
    """One JSON document: bytes as base64, indented unless it's one line among many."""
    _write(json_text(value, indent=None if is_line else 2))
    if is_line:
        sys.stdout.flush()


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as one JSON document, with its newline."""
    plain = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    # Inside strings only, where \\uXXXX means the same: C1 controls move terminals too, and
    # lone surrogates have no UTF-8.
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", plain) + "\n"


def compact(value: Any) -> str:
    """A value as JSON inside a line of text."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def words(text: str) -> None:
    """A model's or a person's text as it comes: without controls on a terminal, else whole."""
    _write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def relay(text: str, *, is_error: bool) -> None:
    """A line that another program wrote, to the stream that it meant."""
    stream = sys.stderr if is_error else sys.stdout
    if stream is not None:
        stream.write((printable(text) if stream.isatty() else text) + "\n")
        stream.flush()


def indented(labels: Iterable[tuple[int, str]]) -> list[str]:
    """Labels of a tree's rows, given how deep each is: indented for a person, plain in a pipe."""
    step = "  " if is_terminal(sys.stdout) else ""
    return [step * depth + label for depth, label in labels]


def line(text: str) -> None:
    """One line of ours on stdout."""
    _write(one_line(text) + "\n")


def heading(text: str) -> None:
    """A line above what belongs to it; bold where that's possible and wanted."""
    is_bold = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    _write(f"\x1b[1m{one_line(text)}\x1b[0m\n" if is_bold else f"{one_line(text)}\n")


def block(text: str) -> None:
    """Someone's text on lines of its own."""
    words(text)
    if not text.endswith("\n"):
        _write("\n")


def verbatim(text: str) -> None:
    """A script or a document of ours, as it is."""
    _write(text if text.endswith("\n") else text + "\n")


def flush() -> None:
    """What was printed is on its way, so that a reader sees it in time."""
    sys.stdout.flush()


def remark(text: str) -> None:
    """One line on stderr, as all of aiosctl's messages read."""
    if sys.stderr is not None:
        sys.stderr.write(f"aiosctl: {one_line(text)}\n")
        sys.stderr.flush()


def hint(text: str) -> None:
    """A remark for people, not for logs: only when someone watches stderr."""
    if is_terminal(sys.stderr):
        remark(text)


def yes_no(value: object) -> str:
    """A truth as a cell reads it."""
    return "yes" if value else "no"


def printable(text: str) -> str:
    """Text without control characters other than newline and tab."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Text that can't leave its line: control and direction characters become one space."""
    return _TRICKY.sub(" ", text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether we may draw: a terminal, and one that can more than a line printer."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _write(text: str) -> None:
    sys.stdout.write(text)


def _plain(value: Any) -> Any:
    """The value with only what JSON can say: bytes become base64, NaN and infinity null."""
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _draw_table(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in cells:
        # Text, not str: a name like "[red]" is not markup.
        drawn.add_row(*(Text(cell, style=_STATE_STYLES.get(cell, "")) for cell in row))
    _draw(drawn)


def _draw_record(lines: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in lines:
        drawn.add_row(Text(name, style="bold"), Text(value, style=_STATE_STYLES.get(value, "")))
    _draw(drawn)


def _draw_tree(branches: Sequence[Branch]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    root = Tree("", hide_root=True)
    path = [root]  # from the root to the last one drawn
    for branch in branches:
        label = Text(one_line(branch.label), style="bold" if branch.figures else "dim")
        label.append(f"  {one_line(branch.figures)}".rstrip(), style="not bold")
        del path[branch.depth + 1 :]
        path.append(path[-1].add(label))
    _draw(root)


def _draw(drawn: Any) -> None:
    from rich.console import Console

    Console(file=sys.stdout, markup=False, highlight=False, emoji=False).print(drawn)
