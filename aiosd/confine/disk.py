"""How much a process has written: looked at now and then, since only the kernel's quotas, which
need root and a file system that has them, would stop it in the act."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

INTERVAL_S = 1.0
SHARE = 20  # a look may take a 20th of the time between looks
MOST_ENTRIES = 200_000  # files and directories: more can't be looked at in reasonable time


@dataclass(slots=True)
class Growth:
    """What directories have grown by since the first look.

    own    the private directory, which was empty
    given  the paths of the grant, which may have held something
    """

    own: str
    given: tuple[str, ...]
    limit_bytes: int
    next_s: float = 0.0  # until the next look; at first only what the grant holds is counted
    _before: int | None = field(default=None)

    def look(self) -> str | None:
        """Why the process must end, if it must.  Blocks: call it in a thread."""
        began = time.monotonic()
        held, words = _size(self.given)
        if self._before is None:
            self._before = held
        written, own_words = _size((self.own,))
        self.next_s = max(INTERVAL_S, SHARE * (time.monotonic() - began))
        grown = held - self._before + written
        if grown > self.limit_bytes:
            return f"it wrote {grown} bytes, the limit is {self.limit_bytes}"
        return own_words or words


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
