"""Which process a number means: a number is used again, but not with the same start time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A process by its number and when it began, in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this number now, if one has; a zombie is none."""
        found = _stat(pid)
        return None if found is None or found[0] in "ZX" else cls(pid, int(found[19]))

    @property
    def is_running(self) -> bool:
        return Identity.of(self.pid) == self


def members(pgid: int) -> Iterator[int]:
    """The processes of a group, without those that wait only for their end to be noticed."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            found = _stat(int(name))
            if found is not None and int(found[2]) == pgid and found[0] not in "ZX":
                yield int(name)


def _stat(pid: int) -> list[str] | None:
    """The fields after the name, which may hold anything: state, ppid, pgrp, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
