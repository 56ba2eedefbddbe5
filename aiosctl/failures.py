"""From exceptions to one line on stderr and an exit code.

Rule: the line says what happened and, where something can be done, what.
"""

from __future__ import annotations

import enum
from typing import Any

from aios_sdk.errors import (
    AiosError,
    ConnectionLost,
    NoDaemon,
    SocketDenied,
    SyscallError,
)


class Exit(enum.IntEnum):
    """aiosctl's exit codes; scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    DENIED = 4
    NOT_FOUND = 5
    BUSY = 6
    INTERRUPTED = 130  # as the shell reports a program that SIGINT ended
    BROKEN_PIPE = 141  # likewise SIGPIPE


_EXITS = {
    "invalid_params": Exit.USAGE,
    "unknown_method": Exit.USAGE,
    "denied": Exit.DENIED,
    "not_found": Exit.NOT_FOUND,
    "busy": Exit.BUSY,
    "quota_exceeded": Exit.BUSY,
}
_ADVICE = {
    "unknown_method": "'aiosctl describe' lists what the daemon knows",
    "not_found": "'aiosctl ps --all', 'context ls --all' and 'agent ls' show what there is",
    "context_full": "start a new context, or give a smaller --max-tokens",
    "unavailable": "'aiosctl status' shows what the daemon is doing",
    "engine_failed": "the context is as it was before the call; the daemon's log says more",
}


def exit_code(error: AiosError) -> Exit:
    """The exit code for what the SDK raised."""
    match error:
        case NoDaemon() | ConnectionLost():
            return Exit.NO_DAEMON
        case SocketDenied():
            return Exit.DENIED
        case SyscallError():
            return _EXITS.get(error.code, Exit.FAILED)
        case _:
            return Exit.FAILED


def explain(error: AiosError) -> str:
    """The line for what the SDK raised."""
    match error:
        case NoDaemon():
            return (
                f"no daemon at {error.path} ({error.reason}); start one with 'aiosd &' or "
                "'systemctl start aiosd', or name its socket with --socket"
            )
        case SocketDenied():
            return (
                f"permission denied at {error.path}; a daemon is there, but its socket isn't open "
                "to you: join its group ('sudo usermod -aG aiosd $USER', then log in again), or "
                "start your own with 'aiosd &'"
            )
        case ConnectionLost():
            return f"{error}; is the daemon still running? 'aiosctl ping' tells"
        case SyscallError():
            return _explain_syscall(error)
        case _:
            return str(error)


def _explain_syscall(error: SyscallError) -> str:
    advice = _figures(error.code, error.data) or _ADVICE.get(error.code)
    told = f"{error.message} [{error.code}]"
    return f"{told}; {advice}" if advice else told


def _figures(code: str, data: dict[str, Any]) -> str | None:
    """Advice that depends on what the daemon measured; None when it sent no figures."""
    match code, data:
        case "busy", {"job": str(job)}:
            return f"wait for job {job}, or end it with 'aiosctl job kill {job}'"
        case "busy", {"retry_after_ms": int(wait_ms)}:
            return f"try again in {wait_ms / 1000:.1f}s"
        case "quota_exceeded", {"used": used, "limit": limit}:
            return f"used {used} of {limit}"
        case "denied", {"right": str(right)}:
            return f"it needs the right '{right}', which root and the daemon's own user hold"
        case "internal", {"id": incident}:
            return f"this is a bug in aiosd: look for {incident} in its log"
        case _:
            return None
