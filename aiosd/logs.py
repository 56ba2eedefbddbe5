"""Structured logs: to the journal with fields of its own, to a terminal, or as JSON lines.

Rule 1: one canonical line per syscall, nothing per token, never prompt text, tokens or contents,
nor anything derived from them: exceptions lose their messages (tracebacks.py).
Rule 2: a thread of its own writes, so that a stuck reader never stops the daemon.  Past MAX_LINES
waiting lines new ones are dropped, and their number is logged when there is room again.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import MutableMapping
from typing import Any, Protocol, TextIO

import structlog

from aiosd import journald, tracebacks

MAX_LINES = 10_000
PREFIX = "AIOSD_"  # of our fields in the journal: AIOSD_AGENT, AIOSD_JOB, AIOSD_UID, …
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_MESSAGE = structlog.processors.LogfmtRenderer(bool_as_flag=False)

Event = MutableMapping[str, Any]
log = structlog.get_logger()


class _Sink(Protocol):
    """Where lines go; both raise OSError or ValueError when it is gone."""

    def write(self, line: Any, *, is_last: bool) -> None: ...
    def tell_dropped(self, n_lines: int) -> None: ...


class _StreamSink:
    """Lines of text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str, *, is_last: bool) -> None:
        self._stream.write(line + "\n")
        if is_last:
            self._stream.flush()

    def tell_dropped(self, n_lines: int) -> None:
        self._stream.write(f"({n_lines} log lines were dropped: nobody read them)\n")


class _JournalSink:
    """Entries of the journal.  While it is away its socket refuses, and entries are lost."""

    def __init__(self, way: journald.Journal) -> None:
        self._way = way

    def write(self, line: bytes, *, is_last: bool) -> None:  # noqa: ARG002 - nothing is buffered
        try:
            self._way.write(line)
        except OSError:
            if _writer is not None:
                _writer.n_dropped += 1

    def tell_dropped(self, n_lines: int) -> None:
        event = {"event": "log_lines_dropped", "level": "warning", "lines": n_lines}
        self.write(_to_journal(None, "warning", event), is_last=False)


class _Writer:
    """A bounded queue of lines and the daemon thread that writes them."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._lines: queue.Queue[str | bytes | None] = queue.Queue(MAX_LINES)
        self.n_dropped = 0
        self._n_untold = 0  # of them, those the log doesn't say yet
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def msg(self, line: str | bytes) -> None:
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
            try:
                if self._n_untold and self._lines.qsize() < MAX_LINES // 2:
                    untold, self._n_untold = self._n_untold, 0
                    self._sink.tell_dropped(untold)
                self._sink.write(line, is_last=self._lines.empty())
            except (OSError, ValueError):
                return  # stderr is gone; there is nowhere left to say so


_writer: _Writer | None = None
_level = logging.INFO


def set_level(level: str) -> None:
    """From now on only what is as grave as this: debug, info, warning or error."""
    global _level  # noqa: PLW0603 - the process has one log
    _level = _LEVELS.get(level, logging.ERROR)


def configure(level: str, form: str) -> None:
    """Route structlog, and what libraries log, to stderr or the journal.

    form: console, json, journal, or auto: the journal if stderr is its stream, console on a
    terminal, else json.
    """
    global _writer  # noqa: PLW0603 - the process has one stderr
    set_level(level)
    form = _form(form)
    sink = _JournalSink(journald.Journal()) if form == "journal" else _StreamSink(sys.stderr)
    writer = _writer = _Writer(sink)
    structlog.configure(
        processors=[_drop_below_level, *processors(form)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)
    threading.excepthook = lambda args: _say_bug("thread", args.exc_value)
    sys.unraisablehook = lambda args: _say_bug("cleanup", args.exc_value)


def processors(form: str) -> list[Any]:
    """From an event to a line: of console, json or journal."""
    head: list[Any] = [structlog.processors.add_log_level, _safe_traceback]
    if form == "journal":
        return [*head, _to_journal]  # it has a clock of its own
    head.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    if form == "console":
        return [*head, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [*head, structlog.processors.JSONRenderer()]


def say_loop_bug(_loop: object, context: dict[str, Any]) -> None:
    """The event loop's exception handler.  Its own would show callbacks with their arguments."""
    _say_bug("loop", context.get("exception"))


def n_dropped() -> int:
    """Lines dropped so far because nobody took them."""
    return _writer.n_dropped if _writer is not None else 0


def flush(timeout_s: float = 1.0) -> None:
    """Write what is waiting before the process ends."""
    if _writer is not None:
        _writer.close(timeout_s)


def _form(form: str) -> str:
    if form != "auto":
        return form
    if journald.is_stream(sys.stderr.fileno(), os.environ) and journald.SOCKET.exists():
        return "journal"
    return "console" if sys.stderr.isatty() else "json"


def _say_bug(name: str, error: object) -> None:
    known = error if isinstance(error, BaseException) else None
    log.error("bug", name=name, exc_info=known)


class _Library(logging.Handler):
    """What libraries log.  Their format is their code's; what they put into it may be anyone's."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log.warning("library", name=record.name, says=str(record.msg)[:200], exc_info=error)


def _drop_below_level(_logger: object, method: str, event: Event) -> Event:
    """Loggers are made once and kept, so the level, which may change, is looked at per line."""
    if _LEVELS.get(method, logging.ERROR) < _level:
        raise structlog.DropEvent
    return event


def _safe_traceback(_logger: object, _method: str, event: Event) -> Event:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = tracebacks.of(error)
    return event


def _to_journal(_logger: object, method: str, event: Event) -> bytes:
    """The journal's own fields, ours with a prefix, and a message that says it all."""
    facts = dict(event)
    name, level = facts.pop("event"), facts.pop("level", method)
    exception = facts.pop("exception", None)
    said = {key: value for key, value in facts.items() if value is not None}
    message = " ".join(filter(None, (str(name), str(_MESSAGE(None, method, dict(said))))))
    if exception is not None:
        message = f"{message}\n{exception}"
    fields = {
        "MESSAGE": message,
        "PRIORITY": PRIORITIES.get(level, PRIORITIES["error"]),
        "SYSLOG_IDENTIFIER": "aiosd",
        f"{PREFIX}EVENT": name,
        f"{PREFIX}EXCEPTION": exception,
    }
    return journald.encode(fields | {PREFIX + key: value for key, value in said.items()})
