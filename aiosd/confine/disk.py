"""How much a process has written: looked at now and then, since only the kernel's quotas, which
need root and a file system that has them, would stop it in the act."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiosd.confine.identity import members

INTERVAL_S = 1.0
DEEP_EVERY = 10  # looks
SHARE = 20  # a look may take a 20th of the time between looks
MOST_ENTRIES = 200_000  # files and directories: more can't be looked at in reasonable time


@dataclass(slots=True)
class Growth:
    """What directories have grown by since the first look.

    own    the private directory, which was empty
    given  the paths of the grant, which may have held something
    pgid   the group of those who write
    """

    own: str
    given: tuple[str, ...]
    limit_bytes: int
    pgid: int = 0
    next_s: float = 0.0  # until the next look; at first only what the grant holds is counted
    _before: int | None = field(default=None)
    _n_looks: int = field(default=0)
    _free_before: int = field(init=False)

    def __post_init__(self) -> None:
        self._free_before = self._free()  # before it can write

    def look(self) -> str | None:
        """Why the process must end, if it must.  Blocks: call it in a thread."""
        began = time.monotonic()
        held, words = _size(self.given)
        if self._before is None:
            self._before = held
        written, own_words = _size((self.own,))
        grown = held - self._before + written
        # Files without a name are slow to find: now and then, and when the space is gone.
        self._n_looks += 1
        is_space_gone = self._free_before - self._free() > self.limit_bytes - grown
        if is_space_gone or self._n_looks % DEEP_EVERY == 0:
            nameless, their_words = _nameless(self.pgid)
            grown += nameless
            words = their_words or words
        self.next_s = max(INTERVAL_S, SHARE * (time.monotonic() - began))
        if grown > self.limit_bytes:
            return f"it wrote {grown} bytes, the limit is {self.limit_bytes}"
        return own_words or words

    def _free(self) -> int:
        """Bytes free where it may write; a file system may count more than once."""
        return sum(_free_at(each) for each in (self.own, *self.given))


def _free_at(path: str) -> int:
    try:
        status = os.statvfs(path)
    except OSError:
        return 0
    return status.f_bfree * status.f_frsize


def _nameless(pgid: int) -> tuple[int, str | None]:
    """Bytes of files without a name that a group has open or mapped."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in members(pgid):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    status = os.stat(f"/proc/{pid}/fd/{fd}")
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                        sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
            with open(f"/proc/{pid}/maps") as maps:
                for line in maps:
                    if line.endswith("(deleted)\n"):
                        span, _, _, device, inode = line.split()[:5]
                        first, last = (int(each, 16) for each in span.split("-"))
                        major, minor = (int(each, 16) for each in device.split(":"))
                        of = os.makedev(major, minor), int(inode)
                        sizes[of] = max(sizes.get(of, 0), last - first)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        except PermissionError:
            return sum(sizes.values()), "it hides which files it has open, while the disk fills"
    return sum(sizes.values()), None


def _size(tops: Iterable[str]) -> tuple[int, str | None]:
    """Bytes on the disk of all files, and what makes them impossible to count, if anything."""
    total = n_entries = 0
    left = list(tops)
    while left:
        at = left.pop()
        try:
            with os.scandir(at) as entries:
                for entry in entries:
                    n_entries += 1
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        except NotADirectoryError:  # a file was granted
            total += os.lstat(at).st_blocks * 512
        except OSError as error:
            if len(at) > 4000:
                return total, f"its directories are too deep to be looked at: {error.strerror}"
            if isinstance(error, PermissionError) and os.lstat(at).st_uid == os.geteuid():
                return total, f"it closed a directory, which so can't be looked into: {at[-100:]}"
            continue  # removed meanwhile, or another user's
        if n_entries > MOST_ENTRIES:
            return total, f"it may write where there are more than {MOST_ENTRIES} files"
    return total, None
