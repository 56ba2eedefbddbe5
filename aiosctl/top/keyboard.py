"""A terminal that tells keys one by one, and is left as it was found.

Rule: whatever ends the program, Ctrl-C and SIGTERM too, the terminal gets back its modes.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SEQUENCES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left",
    b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "right", b"\x1bOD": "left",
    b"\x1b[5~": "page_up", b"\x1b[6~": "page_down", b"\x1b[H": "home", b"\x1b[F": "end",
    b"\x1b[1~": "home", b"\x1b[4~": "end", b"\x1bOH": "home", b"\x1bOF": "end",
}  # fmt: skip
_NAMED = {"\x1b": "escape", "\t": "tab", "\r": "enter", "\n": "enter", " ": "space"}
_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O.)", re.DOTALL)  # ECMA-48: CSI; and SS3
MAX_READ = 256
_ESCAPE_S = 0.05  # how long the rest of an arrow key may take


class Keyboard:
    """key() waits for one; a new size of the window counts as the key "resize"."""

    def __init__(self, descriptor: int, wakes: int) -> None:
        self._descriptor = descriptor
        self._wakes = wakes
        self._typed = b""

    def key(self, wait_s: float) -> str | None:
        """The next key, None if none comes in time.  EOFError: the terminal has gone."""
        if not self._typed:
            ready, _, _ = select.select([self._descriptor, self._wakes], [], [], max(0.0, wait_s))
            if self._wakes in ready:
                os.read(self._wakes, MAX_READ)
                return "resize"
            if not ready:
                return None
            self._read()
        if self._typed == b"\x1b" and select.select([self._descriptor], [], [], _ESCAPE_S)[0]:
            self._read()  # an arrow that came in two pieces
        found = _SEQUENCE.match(self._typed)
        if found is not None:
            self._typed = self._typed[found.end() :]
            return _SEQUENCES.get(found[0], "unknown")
        first, self._typed = self._typed[:1].decode("ascii", "replace"), self._typed[1:]
        return _NAMED.get(first, first)

    def _read(self) -> None:
        data = os.read(self._descriptor, MAX_READ)
        if not data:
            raise EOFError
        self._typed += data


@contextmanager
def keyboard() -> Iterator[Keyboard]:
    """The keys of standard input, unechoed, for as long as the block lasts."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def resized(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # then it is known already
            os.write(writer, b"r")

    def ended(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    handlers = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGWINCH, resized), (signal.SIGTERM, ended))
    }
    try:
        tty.setcbreak(descriptor)
        modes = termios.tcgetattr(descriptor)
        modes[6][termios.VSUSP] = b"\x00"  # a program that stops here would leave its screen behind
        termios.tcsetattr(descriptor, termios.TCSANOW, modes)
        yield Keyboard(descriptor, reader)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
