"""What there is to look at when an MCP server fails: what it said on stderr, and errors in words.

Both are for people who look for why, and never go into the daemon's log.
"""

from __future__ import annotations

from collections import deque

from aiosd.confine import ConfineError
from aiosd.services.tools.model import ToolFailed

MAX_LINE_CHARS = 2000
LINE_COST_BYTES = 64  # what an object takes beside


class ServerLog:
    """The newest lines, of at most max_bytes together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lines: deque[str] = deque()
        self._n_bytes = 0
        self._rest = b""  # of a line that hasn't ended

    def feed(self, data: bytes) -> None:
        """Bytes as they come; a line that never ends is taken apart."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines[max(0, len(lines) - self._max_bytes // LINE_COST_BYTES) :]:
            self.add(line.decode(errors="replace"))
        while len(rest) > MAX_LINE_CHARS:
            self.add(rest[:MAX_LINE_CHARS].decode(errors="replace"))
            rest = rest[MAX_LINE_CHARS:]
        self._rest = rest

    def add(self, line: str) -> None:
        """One line; what could steer a terminal is taken out."""
        line = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line.rstrip())
        line = line[:MAX_LINE_CHARS]
        self._lines.append(line)
        self._n_bytes += _size(line)
        while self._n_bytes > self._max_bytes:
            self._n_bytes -= _size(self._lines.popleft())

    def lines(self) -> list[str]:
        """All that is kept, oldest first, with the line that hasn't ended."""
        rest = [self._rest.decode(errors="replace")] if self._rest else []
        return [*self._lines, *rest]


def _size(line: str) -> int:
    return len(line) + LINE_COST_BYTES


def why(error: BaseException) -> str:
    """The first thing that went wrong, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it took too long"
    words = str(getattr(error, "message", "") or error)  # the SDK's errors have a message
    if isinstance(error, ToolFailed | ConfineError):
        return words[:300]
    return f"{type(error).__name__}: {words[:300]}".rstrip(": ")
