"""One attempt to connect to the daemon's socket, and what its failure means.

On a Unix socket connect() succeeds or fails at once, so both clients share this; they only wait
in different ways between attempts.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from aios_sdk.errors import NoDaemon, SocketDenied

_ABSENT = {
    errno.ENOENT: "there is no socket",
    errno.ENOTDIR: "there is no such directory",
    errno.ECONNREFUSED: "nobody listens on it",
    errno.EPROTOTYPE: "it is a socket of another kind",
}


def dial(path: str) -> socket.socket | None:
    """A connected, non-blocking socket; None if the accept backlog is full (try again soon).

    Raises NoDaemon or SocketDenied.
    """
    _refuse_a_stranger(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        return None
    except PermissionError:
        sock.close()
        raise SocketDenied(path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        sock.close()
        number = error.errno if isinstance(error, OSError) else None
        reason = _ABSENT.get(number, str(error)) if number is not None else str(error)
        raise NoDaemon(path, reason) from None
    return sock


def _refuse_a_stranger(path: str) -> None:
    """Anyone may make a directory in /tmp: what listens in another user's is not our daemon."""
    if not path.startswith("/tmp/aiosd-"):  # noqa: S108 - this is the check itself
        return
    try:
        owner = Path(path).parent.stat().st_uid
    except OSError:
        return  # connect() will say what is wrong
    if owner not in (0, os.getuid()):
        raise NoDaemon(path, f"its directory belongs to uid {owner}, not to you")
