"""Peers of other uids: a connection made by a child process that has become another user."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHILD = """
import array, os, socket, sys  # all of it now: another user may not be able to read this Python
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[2])
with socket.socket(fileno=int(sys.argv[3])) as parent:
    socket.send_fds(parent, [b"."], [peer.fileno()])
"""


@contextlib.contextmanager
def place_for_all() -> Iterator[Path]:
    """A directory whose socket other users can reach: pytest closes its own at every start."""
    with tempfile.TemporaryDirectory(prefix="aiosd-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def connect_as(uid: int, path: str) -> socket.socket:
    """A connection whose peer credentials are that uid's: they are those of its connect().

    Source: unix(7), SO_PEERCRED.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", CHILD, str(uid), path, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=60,
        )  # fmt: skip
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=fds[0])
