"""The Unix sockets: passed by the service manager, or made safely and removed at the end.

Rule 1: never unlink a socket somebody serves on: connect first (DESIGN 9.15).
Rule 2: the socket's mode is right from its first moment: it is bound under a umask.
Rule 3: what the service manager passed is its own: neither bound, nor changed, nor removed here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

BACKLOG = 4096
MAX_PATH_BYTES = 107  # sun_path, less its NUL.  Source: unix(7)
FIRST_PASSED_FD = 3  # Source: sd_listen_fds(3), SD_LISTEN_FDS_START
MAX_PASSED_FDS = 16  # a unit with more ListenStream= lines than anyone needs


class ListenError(Exception):
    """The daemon can't serve here; str() says why and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A socket to serve on.  inode is None where the service manager owns its file."""

    sock: socket.socket
    path: str
    inode: int | None = None

    def remove(self) -> None:
        """Remove its file, if it is ours."""
        if self.inode is not None:
            unlink_own(Path(self.path), self.inode)


def endpoints(
    path: Path, mode: int, environ: MutableMapping[str, str] | None = None
) -> tuple[Endpoint, ...]:
    """What to serve on: the sockets the service manager passed, or else one of our own at the path.

    ListenError: why not.
    """
    if passed := passed_sockets(os.environ if environ is None else environ):
        return passed
    sock, inode = listen(path, mode)
    return (Endpoint(sock, str(path), inode),)


def passed_sockets(environ: MutableMapping[str, str]) -> tuple[Endpoint, ...]:
    """The sockets of a socket unit; none if the variables are for another process or missing.

    Takes the variables out of the environment.  ListenError if a descriptor is something else
    than a listening Unix stream socket.  Source: sd_listen_fds(3).
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    if int(count) > MAX_PASSED_FDS:
        raise ListenError(
            f"the service manager passed {count} descriptors, the limit is {MAX_PASSED_FDS}; "
            "use fewer ListenStream= lines in aiosd.socket"
        )
    return tuple(_adopt(FIRST_PASSED_FD + index) for index in range(int(count)))


def _adopt(fd: int) -> Endpoint:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(
            f"descriptor {fd}, which the service manager passed, is no socket: {error.strerror}"
        ) from error
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not is_listening:
        raise ListenError(
            f"descriptor {fd}, which the service manager passed, is not a listening Unix stream "
            "socket; aiosd.socket needs ListenStream= with a path, and Accept=no"
        )
    sock.setblocking(False)
    name = sock.getsockname()
    return Endpoint(sock, "@" + os.fsdecode(name[1:]) if isinstance(name, bytes) else name)


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
