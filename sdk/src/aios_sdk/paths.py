"""Where the daemon's socket is: one answer for daemon, clients and aiosctl."""

from __future__ import annotations

import os
import re
from pathlib import Path

SYSTEM_SOCKET = "/run/aiosd/aiosd.sock"
_DESCRIPTOR = re.compile(r"fd:([0-9]{1,7})", re.ASCII)


def descriptor_in(socket: str) -> int | None:
    """N of ``fd:N``, the connection that the daemon gave to an agent it started; None: a path."""
    found = _DESCRIPTOR.fullmatch(socket)
    return int(found[1]) if found else None


def given_agent(socket: str | None = None) -> str | None:
    """The name that goes with the daemon's own connection, for a process that the daemon started:
    that one can't go by another.  None for everybody else."""
    is_given = descriptor_in(socket or default_socket()) is not None
    return os.environ.get("AIOSD_AGENT") if is_given else None


def default_socket() -> str:
    """$AIOSD_SOCKET (a path, or fd:N); else the user's own socket if it exists, else the system's
    if that exists, else the user's: the path at which a daemon of this user will listen."""
    named = os.environ.get("AIOSD_SOCKET")
    if named:
        return named
    own = user_socket()
    return SYSTEM_SOCKET if _exists(SYSTEM_SOCKET) and not _exists(own) else own


def user_socket() -> str:
    """In $XDG_RUNTIME_DIR/aiosd; without it in /run/user/<uid>/aiosd, or in /tmp/aiosd-<uid>."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if not Path(runtime_dir).is_absolute():
        uid = os.getuid()
        runtime_dir = f"/run/user/{uid}"
        if not Path(runtime_dir).is_dir():
            return f"/tmp/aiosd-{uid}/aiosd.sock"  # noqa: S108 - the daemon makes it 0700 and checks
    return str(Path(runtime_dir) / "aiosd" / "aiosd.sock")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except PermissionError:  # it may well be there: connecting will say that it is denied
        return True
