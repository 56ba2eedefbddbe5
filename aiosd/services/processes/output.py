"""What a process has written to stdout and stderr: the last of it, line by line, in RAM.

Rule 1: it never holds more than its limit; a line is cut at MAX_LINE_BYTES, and goes on as another.
Rule 2: a reader that is to have all of it holds up who writes, as a pipe does; others miss what is
gone before they come to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Source = Literal["stdout", "stderr"]
MAX_LINE_BYTES = 4096
LINE_COST_BYTES = 128  # beside its text: empty lines take memory too


@dataclass(frozen=True, slots=True)
class Line:
    """seq: from 1 on, over both sources in the order they were read."""

    seq: int
    at_ms: int
    source: Source
    text: str

    @property
    def cost(self) -> int:
        return LINE_COST_BYTES + len(self.text)


class Output:
    """The lines, oldest first.  changed is set, and made anew, when there is more."""

    def __init__(self, limit_bytes: int) -> None:
        self.changed = asyncio.Event()
        self.n_lines = 0  # all there were
        self._limit = limit_bytes
        self._n_bytes = 0
        self._lines: deque[Line] = deque()
        self._readers: dict[object, int] = {}  # that are to have all: the last line each has
        self.is_released = False
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._begun: dict[Source, bytes] = {"stdout": b"", "stderr": b""}

    def feed(self, source: Source, data: bytes, now_ms: int) -> None:
        """Some bytes came.  A line is there when its newline is, or when it is too long."""
        *lines, rest = (self._begun[source] + data).split(b"\n")
        for line in lines:
            self._add(source, line, now_ms)
        while len(rest) > MAX_LINE_BYTES:
            self._add(source, rest[:MAX_LINE_BYTES], now_ms)
            rest = rest[MAX_LINE_BYTES:]
        self._begun[source] = rest
        if lines:
            self.tell()

    def finish(self, now_ms: int) -> None:
        """The process has ended: what has no newline is a line too."""
        for source, rest in self._begun.items():
            if rest:
                self._add(source, rest, now_ms)
                self._begun[source] = b""
        self.tell()

    async def room(self) -> None:
        """Until every reader that is to have all has had most of it."""
        await self._has_room.wait()

    def read(self, reader: object, seq: int | None) -> None:
        """A reader that is to have all has had the lines up to that one; None: it leaves."""
        if seq is None:
            self._readers.pop(reader, None)
        elif not self.is_released:
            self._readers[reader] = seq
        self._make_room()

    def release(self) -> None:
        """Who writes has ended: what is still to come comes now, whoever has read what.  Until
        is_released is taken back."""
        self.is_released = True
        self._readers.clear()
        self._make_room()

    def after(self, seq: int, limit: int) -> list[Line]:
        """The next lines after that one, as far as they are still there."""
        n_past = max(0, seq - self.n_dropped)
        return list(islice(self._lines, n_past, n_past + limit))

    @property
    def n_dropped(self) -> int:
        """Lines that are gone: the oldest."""
        return self.n_lines - len(self._lines)

    def tell(self) -> None:
        """Wake who waits for more."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _add(self, source: Source, data: bytes, now_ms: int) -> None:
        for at in range(0, max(len(data), 1), MAX_LINE_BYTES):
            text = data[at : at + MAX_LINE_BYTES].decode(errors="replace")
            self.n_lines += 1
            line = Line(self.n_lines, now_ms, source, text)
            self._lines.append(line)
            self._n_bytes += line.cost
        while self._n_bytes > self._limit and self._lines:
            self._n_bytes -= self._lines.popleft().cost
        self._make_room()

    def _make_room(self) -> None:
        n_unread = self.n_lines - min(self._readers.values(), default=self.n_lines)
        if self._n_bytes > self._limit // 2 and n_unread > len(self._lines) // 2:
            self._has_room.clear()
        else:
            self._has_room.set()
