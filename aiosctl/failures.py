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
    "context_full": "start a new context, or give a smaller --max-tokens",
    "unavailable": "try again when it serves; 'aiosctl status' tells",
    "engine_failed": "the context is as it was before the call; the daemon's log says more",
}

_LISTS = {
    "no context": "'aiosctl context ls --all' shows what there is",
    "no job": "'aiosctl ps --all' shows what there is",
    "no agent": "'aiosctl agent ls' shows what there is",
    "no request": "'aiosctl approvals ls' shows what waits",
    "no group": "'aiosctl access groups' shows what there is",
    "no grant": "'aiosctl access grants' shows what there is",
    "no rule": "'aiosctl access rules' shows what there is",
    "no file": "'aiosctl fs ls -r' shows what there is",
    "no model": "'aiosctl model ls' shows what there is",
}


def how_to_attach(job: str, from_token: int = 0) -> str:
    """What to type to follow a detached job from one of its tokens on."""
    command = f"aiosctl job attach {job}"
    return (
        f"attach with: {command} --from-token {from_token}"
        if from_token
        else f"attach with: {command}"
    )


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
        case ConnectionLost(job=str(job)):
            return f"{error}; when the daemon answers, {how_to_attach(job, error.from_token)}"
        case ConnectionLost():
            return f"{error}; is the daemon still running? 'aiosctl ping' tells"
        case SyscallError():
            return _explain_syscall(error)
        case _:
            return str(error)


def _explain_syscall(error: SyscallError) -> str:
    advice = _particular(error.code, error.message, error.data) or _ADVICE.get(error.code)
    told = f"{error.message} [{error.code}]"
    return f"{told}; {advice}" if advice else told


def _particular(code: str, message: str, data: dict[str, Any]) -> str | None:
    """Advice that depends on what the daemon said; None when that leads no further."""
    match code, data:
        case "busy", {"job": str(job)}:
            return f"wait for job {job}, or end it with 'aiosctl job kill {job}'"
        case "busy", {"retry_after_ms": int(wait_ms)}:
            return f"try again in {wait_ms / 1000:.1f}s"
        case "quota_exceeded", {"used": used, "limit": limit}:
            return f"used {used} of {limit}"
        case "not_found", _:
            return next((where for noun, where in _LISTS.items() if noun in message), None)
        case "denied", {"right": str(right)}:
            return _how_to_get(right)
        case "internal", {"id": incident}:
            return f"this is a bug in aiosd: look for {incident} in its log"
        case _:
            return None


def _how_to_get(right: str) -> str:
    if right == "spawn":
        return (
            "it is off at first: an admin gives it with 'aiosctl access rights NAME --add spawn', "
            "or the configuration in [access] rights"
        )
    if right == "admin":
        return "it needs the right 'admin', which root and the daemon's own user hold"
    return f"ask for it with: aiosctl --agent NAME access request {right} REASON"
