"""The Unix socket: made safely, recognised when stale, removed at the end.

Rule 1: never unlink a socket somebody serves on: connect first (DESIGN 9.15).
Rule 2: the socket's mode is right from its first moment: it is bound under a umask.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

BACKLOG = 4096
MAX_PATH_BYTES = 107  # sun_path, less its NUL.  Source: unix(7)


class ListenError(Exception):
    """The daemon can't serve here; str() says why and what to do."""


def listen(path: Path, mode: int) -> tuple[socket.socket, int]:
    """A listening socket at the path, with that file mode, and its inode.  ListenError: why not."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ListenError(
            f"the socket path {path} is {len(os.fsencode(path))} bytes long, "
            f"the system's limit is {MAX_PATH_BYTES}"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_umask = os.umask(0o777 & ~mode)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(old_umask)
        sock.listen(BACKLOG)
    except OSError as error:
        raise ListenError(f"can't serve on {path}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock, path.lstat().st_ino


def _remove_stale(path: Path) -> None:
    """Unlink the socket of a daemon that was killed; refuse anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(
            f"{path} is there and is not a socket; move it away or choose another --socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # a full backlog: somebody serves
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise ListenError(
        f"somebody serves on {path} already; stop that daemon or choose another --socket"
    )


def unlink_own(path: Path, inode: int) -> None:
    """Remove the socket's file, unless it is another daemon's by now."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory: one daemon at a time.  ListenError if another holds it."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ListenError(f"can't use the state directory {state_dir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise ListenError(
                f"another aiosd (pid {holder or 'unknown'}) uses the state directory {state_dir}; "
                "stop it or choose another --state-dir"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit; returns it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
