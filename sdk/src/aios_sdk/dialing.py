"""One attempt to connect to the daemon's socket, and what its failure means.

On a Unix socket connect() succeeds or fails at once, so both clients share this; they only wait
in different ways between attempts.

Rule: the connection that the daemon gave to a process (``fd:N``) is taken once, for good.  It
carries any number of calls, so one client is enough; and when it has ended there is no other.  Only
a process that leaves it inheritable, as a shell does, hands it on: to one child after another.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

from aios_sdk.errors import NoDaemon, SocketDenied
from aios_sdk.paths import descriptor_in

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
    fd = descriptor_in(path)
    if fd is not None:
        return _adopted(fd, path)
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


_adopting = threading.Lock()
_taken: set[int] = set()


def _adopted(fd: int, path: str) -> socket.socket:
    """The connection that the daemon gave to this process, which no child of ours inherits."""
    with _adopting:
        if fd in _taken:
            raise NoDaemon(
                path,
                "the daemon gave this process one connection, which another client has taken, or "
                "which has ended: one client carries any number of calls, share it",
            )
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            reason = f"it is no connection of this process: {error.strerror}"
            raise NoDaemon(path, reason) from None
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            sock.detach()
            raise NoDaemon(path, "it is no Unix stream socket")
        _taken.add(fd)
    sock.setblocking(False)
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
