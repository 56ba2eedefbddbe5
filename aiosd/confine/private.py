"""A process's private directory: its HOME and TMPDIR, and who it is; gone when it has ended.

Functions block: call them in a thread.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiosd.confine.identity import Identity

PREFIX = "aiosd-run-"
STEP_FILES = 200
TMP = "tmp"  # what the process may write to
LEADER_FILE = "leader"  # what the launcher notes: its pid and when it began
DAEMON_FILE = "daemon"  # likewise, whose process it is


@dataclass(frozen=True, slots=True)
class Notes:
    """What who finds the directory must know to clear up."""

    daemon: Identity
    leader: Identity | None


def make(uid: int | None, gid: int) -> Path:
    """The directory; only `tmp` in it is the process's own."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    tmp = made / TMP
    tmp.mkdir(mode=0o700)
    if uid is not None:
        made.chmod(0o711)
        os.chown(tmp, uid, gid)
    return made


def write_notes(made: Path) -> None:
    daemon = Identity.of(os.getpid())
    assert daemon is not None
    (made / DAEMON_FILE).write_text(f"{daemon.pid} {daemon.started}")


def read_notes(made: Path) -> Notes | None:
    """None where they were never written, or not whole."""
    try:
        daemon = _identity((made / DAEMON_FILE).read_text())
    except (OSError, ValueError):
        return None
    try:
        leader = _identity((made / LEADER_FILE).read_text())
    except (OSError, ValueError):
        leader = None
    return Notes(daemon, leader)


def _identity(text: str) -> Identity:
    pid, started = text.split()
    return Identity(int(pid), int(started))


def remove(top: Path) -> None:
    """All of it, however deep (deeper than a path can be long) and whatever its modes.  Its
    processes are gone, so nothing changes meanwhile."""
    for _ in removing(top):
        pass


def removing(top: Path) -> Iterator[None]:
    """The same in steps of a few milliseconds: there may be very many files.

    Directories are moved up to the top and emptied there, one by one.
    """
    try:
        at = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        n_moved = 0
        names = yield from _empty(at)
        while names:
            name = names.pop()
            _open_up(name, at)
            inner = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at
            )
            try:
                for each in (yield from _empty(inner)):
                    n_moved += 1
                    _open_up(each, inner)
                    moved = f".moved-{os.getpid()}-{n_moved}"
                    os.rename(each, moved, src_dir_fd=inner, dst_dir_fd=at)
                    names.append(moved)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=at)
    finally:
        os.close(at)
    os.rmdir(top)


def _open_up(name: str, at: int) -> None:
    """Let us into a directory.  chmod() follows links, and another process of its user may have
    put one there just now: OSError then."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _empty(at: int) -> Generator[None, None, list[str]]:
    """Remove the files of a directory; the names of the directories in it."""
    directories = []
    with os.scandir(at) as entries:
        for number, entry in enumerate(list(entries)):
            if number % STEP_FILES == 0:
                yield
            if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=at)
    return directories
