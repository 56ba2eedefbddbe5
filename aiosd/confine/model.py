"""The nouns of confinement: what a process may touch, what it may use, how it ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 2**20


class ConfineError(Exception):
    """The process was not started, since it could not be confined or run as asked; says which."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a process may touch beyond what every program needs (paths.BASE).

    read          files, and directories with all that is in them: to read and to execute
    write         likewise, and to change, make and remove there
    is_networked  IP sockets (TCP, UDP), which reach this machine's own servers as well
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    is_networked: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a process and all that it starts may use; None is no bound of ours.

    memory_bytes  of all together in a cgroup where one can be made, else of each (RLIMIT_DATA)
    n_processes   processes and threads: in a cgroup, else roughly, per user (RLIMIT_NPROC)
    n_files       open descriptors of each process
    file_bytes    the size of one file that is written
    cpu_s         CPU seconds of each process
    disk_bytes    what all files in the directories it may write to may grow by, looked at
                  now and then: it ends when it has written more
    cpu_percent   of one core's time, all together, in a cgroup; without one it isn't bounded
    """

    memory_bytes: int | None = 512 * MIB
    n_processes: int | None = 64
    n_files: int | None = 256
    file_bytes: int | None = 256 * MIB
    cpu_s: int | None = None
    disk_bytes: int | None = 512 * MIB
    cpu_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Confinement:
    """All that is decided about a process before it starts.

    env             its environment; PATH, LANG, TZ, HOME and TMPDIR are added where it has none
    hidden          no grant may hold one of these or be in one: the daemon's state, its socket
    is_resolved     what is granted was decided on as paths without links: one that is a link by now
                    is refused
    needs_landlock  refuse to run where the kernel has no Landlock; False runs with seccomp alone
    """

    grant: Grant = Grant()
    bounds: Bounds = Bounds()
    env: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    is_resolved: bool = False
    needs_landlock: bool = True


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: with a code, or by a signal.  reason: the bound that did, if one."""

    code: int | None
    signal: int | None = None
    reason: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        if self.signal is None:
            words = f"exit code {self.code}"
        else:
            try:
                words = f"ended by {signal.Signals(self.signal).name}"
            except ValueError:  # a real-time signal
                words = f"ended by signal {self.signal}"
        return f"{words}: {self.reason}" if self.reason else words
