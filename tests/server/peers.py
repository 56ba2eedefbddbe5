"""Peers of other uids: a connection made by a child process that has become another user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

CHILD = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[2])
with socket.socket(fileno=3) as parent:
    socket.send_fds(parent, [b"."], [peer.fileno()])
"""


def open_to_all(path: str) -> None:
    """Let other users reach the socket; pytest's directories are the test's own."""
    Path(path).chmod(0o666)
    for parent in Path(path).parents:
        if parent.stat().st_uid == os.getuid() and len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o011)


def connect_as(uid: int, path: str) -> socket.socket:
    """A connection whose peer credentials are that uid's: they are those of its connect().

    Source: unix(7), SO_PEERCRED.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            ["sh", "-c", f'exec 3<&{theirs.fileno()}; exec "$@"', "sh",
             sys.executable, "-I", "-S", "-c", CHILD, str(uid), path],
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=60,
        )  # fmt: skip
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=fds[0])
