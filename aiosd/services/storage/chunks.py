"""Text files in parts that can be searched, and what is shown of a part.  Pure.

Where a part ends depends on the words near its end alone, so that an edit changes the parts around
it and leaves the others as they were: they need no new vector.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MIN_CHARS = 400
MAX_CHARS = 1000  # about the 256 tokens that small embedders read
SNIPPET_CHARS = 300
_ONE_IN = 4  # lines that may end a part


@dataclass(frozen=True, slots=True)
class Chunk:
    """start: in bytes."""

    start: int
    text: str


def text_of(data: bytes) -> str | None:
    """The file as text, or None if it is none: not UTF-8, or with NULs."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def chunks(text: str) -> list[Chunk]:
    """The parts, those of nothing but space left out."""
    made: list[Chunk] = []
    start = at = 0
    held: list[str] = []
    n_chars = 0
    for line in _lines(text):
        if held and n_chars + len(line) > MAX_CHARS:
            made.append(Chunk(start, "".join(held)))
            start, held, n_chars = at, [], 0
        held.append(line)
        n_chars += len(line)
        at += len(line.encode())
        if n_chars >= MIN_CHARS and _may_end(line):
            made.append(Chunk(start, "".join(held)))
            start, held, n_chars = at, [], 0
    if held:
        made.append(Chunk(start, "".join(held)))
    return [chunk for chunk in made if not chunk.text.isspace()]


def snippet(text: str, query: str) -> str:
    """What to show of a part: around the first of the query's words, on one line."""
    words = [re.escape(word) for word in re.findall(r"\w+", query)]
    found = re.search("|".join(words), text, re.IGNORECASE) if words else None
    begin = max(0, found.start() - SNIPPET_CHARS // 3) if found else 0
    shown = " ".join(text[begin : begin + SNIPPET_CHARS].split())
    before = "…" if begin else ""
    return before + shown + ("…" if begin + SNIPPET_CHARS < len(text) else "")


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        for begin in range(0, len(line), MAX_CHARS):
            yield line[begin : begin + MAX_CHARS]


def _may_end(line: str) -> bool:
    return line.isspace() or zlib.crc32(line.encode()) % _ONE_IN == 0
