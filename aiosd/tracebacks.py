"""Tracebacks for the log: where a bug happened, and never what was being worked on.

An exception's message may hold anything (a KeyError its key, a UnicodeError the text), so it is
left out; an OSError's number and a SyscallError's code are kept.
"""

from __future__ import annotations

import traceback

from aios_sdk.errors import SyscallError

MAX_LINKS = 16  # exceptions in one chain or group
MAX_FRAMES = 64  # of each


def of(error: BaseException) -> str:
    """The exception with its causes, the first cause first; no messages, no values."""
    parts: list[str] = []
    _add(error, parts)
    return "\n".join(parts)


def _add(error: BaseException, parts: list[str]) -> None:
    if len(parts) >= MAX_LINKS:
        return
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        _add(before, parts)
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            _add(part, parts)
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    parts.append("".join(traceback.format_list(frames)) + _name(error))


def _name(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    match error:
        case SyscallError():
            return f"{name} ({error.code})"
        case OSError(errno=int(number)):
            return f"{name} (errno {number})"
        case _:
            return name
