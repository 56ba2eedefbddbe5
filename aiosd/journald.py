"""systemd's journal, in its native protocol: an entry is a datagram of fields.

Source: systemd.io/JOURNAL_NATIVE_PROTOCOL.  A field is KEY=value and a newline; a value with a
newline in it is KEY, a newline, its length as 64 bits little-endian, the value, a newline.  An
entry too large for a datagram goes as a sealed memory file, whose descriptor is sent instead.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
MAX_VALUE = 64 * 1024  # characters of one value: a traceback is far shorter
_NOT_IN_KEYS = re.compile(r"[^A-Z0-9_]")
_LENGTH = struct.Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def is_stream(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether the descriptor is the journal's stream.  Source: systemd.exec(5), $JOURNAL_STREAM."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (int(device), int(inode))


def encode(fields: Mapping[str, object]) -> bytes:
    """An entry.  Keys become what the journal takes; values are text; None is left out."""
    parts: list[bytes] = []
    for key, value in fields.items():
        if value is None:
            continue
        name = _NOT_IN_KEYS.sub("_", key.upper())[:64].encode()
        data = str(value)[:MAX_VALUE].encode("utf-8", "replace")
        if b"\n" in data:
            parts.append(name + b"\n" + _LENGTH.pack(len(data)) + data + b"\n")
        else:
            parts.append(name + b"=" + data + b"\n")
    return b"".join(parts)


class Journal:
    """The way there.  write() waits while the journal is busy: call it on a thread of its own."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def write(self, entry: bytes) -> None:
        """Raises OSError when the journal isn't there."""
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_as_file(entry)

    def close(self) -> None:
        self._socket.close()

    def _send_as_file(self, entry: bytes) -> None:
        fd = os.memfd_create("aiosd-journal", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = array.array("i", [fd])
            self._socket.sendmsg(
                [b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, self._path
            )
        finally:
            os.close(fd)
