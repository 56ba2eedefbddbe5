"""Structured logs on stderr, written by a thread so that a stuck reader never stops the daemon.

One canonical line per syscall, nothing per token, never prompt text.  Past MAX_LINES waiting
lines new ones are dropped, and their number is logged when there is room again.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

MAX_LINES = 10_000


class _Writer:
    """A bounded queue of lines and the daemon thread that writes them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self.n_dropped = 0
        self._n_untold = 0  # of them, those the log doesn't say yet
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.n_dropped += 1
            self._n_untold += 1

    debug = info = warning = error = critical = exception = msg

    def close(self, timeout_s: float) -> None:
        """Write what is waiting, for at most so long."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._n_untold and self._lines.qsize() < MAX_LINES // 2:
                line = f"{line}\n({self._n_untold} log lines were dropped: nobody read them)"
                self._n_untold = 0
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                return  # stderr is gone; there is nowhere left to say so


_writer: _Writer | None = None
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_level = logging.INFO


def set_level(level: str) -> None:
    """From now on only what is as grave as this: debug, info, warning or error."""
    global _level  # noqa: PLW0603 - the process has one log
    _level = _LEVELS.get(level, logging.ERROR)


def _drop_below_level(_logger: object, method: str, event: MutableMapping[str, Any]) -> Any:
    """Loggers are made once and kept, so the level, which may change, is looked at per line."""
    if _LEVELS.get(method, logging.ERROR) < _level:
        raise structlog.DropEvent
    return event


def configure(level: str, form: str) -> None:
    """Route structlog to stderr.  form: console, json, or auto (console on a terminal)."""
    global _writer  # noqa: PLW0603 - the process has one stderr
    set_level(level)
    _writer = _Writer(sys.stderr)
    is_console = form == "console" or (form == "auto" and sys.stderr.isatty())
    # Plain tracebacks: prettier ones show local variables, and those hold people's words.
    tail: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    writer = _writer
    structlog.configure(
        processors=[
            _drop_below_level,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tail,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )


def n_dropped() -> int:
    """Lines dropped so far because nobody took them."""
    return _writer.n_dropped if _writer is not None else 0


def flush(timeout_s: float = 1.0) -> None:
    """Write what is waiting before the process ends."""
    if _writer is not None:
        _writer.close(timeout_s)
