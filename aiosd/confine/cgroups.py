"""Control groups, where we may make them: the only true bounds for memory, processes and CPU.

Version 2 where they are delegated to us (systemd: Delegate=cpu memory pids), version 1
where its hierarchies are writable.  Each process gets a group of its own, removed at its end.
Functions block for moments: call them in a thread.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from aiosd.confine.identity import Identity
from aiosd.confine.model import Bounds

NEEDED = {"memory", "pids"}
USED = {*NEEDED, "cpu"}
CPU_PERIOD_US = 100_000
MAIN = "aiosd-main"  # the leaf that we move to: version 2 has processes in leaves only
_numbers = count(1)
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups are made: a directory per controller, the same one for all in version 2.

    why_not  in words, where one is None
    """

    memory: Path | None
    pids: Path | None
    cpu: Path | None = None
    is_v2: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """One process's groups."""

    dirs: tuple[Path, ...]
    is_v2: bool

    @property
    def procs(self) -> list[str]:
        """The files that the launcher writes itself into."""
        return [str(each / "cgroup.procs") for each in self.dirs]

    def reason(self) -> str | None:
        """Which of its bounds it ran into, if one."""
        for each in self.dirs:
            if self.is_v2 and _field(each / "memory.events", "oom_kill"):
                return "out of its memory"
            if not self.is_v2 and _field(each / "memory.oom_control", "oom_kill"):
                return "out of its memory"
        return None

    def was_full(self) -> bool:
        """Whether starting another process was refused."""
        return any(_field(each / "pids.events", "max") for each in self.dirs)

    def kill(self) -> None:
        """Everything in it, whatever group or session it made itself."""
        for each in self.dirs:
            if self.is_v2:
                try:
                    (each / "cgroup.kill").write_text("1")
                    continue
                except OSError:
                    pass  # before Linux 5.14
            for pid in _pids(each):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)

    def remove(self, within_s: float) -> bool:
        """Kill what is in it until nothing is, then remove it; whether that worked."""
        limit = time.monotonic() + within_s
        pause_s = 0.001
        while True:
            left = [each for each in self.dirs if not _removed(each)]
            if not left:
                return True
            if time.monotonic() > limit:
                return False
            self.kill()
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)


def make(bounds: Bounds) -> Group | None:
    """A group with these bounds, or None where none can be made."""
    at = place()
    us = Identity.of(os.getpid())
    assert us is not None
    name = f"aiosd-{us.pid}-{us.started}-{next(_numbers)}"
    wanted = (
        (at.memory, bounds.memory_bytes, _bound_memory),
        (at.pids, bounds.n_processes, _bound_processes),
        (at.cpu, bounds.cpu_percent, _bound_cpu),
    )
    dirs = {parent / name for parent, most, _ in wanted if parent and most is not None}
    if not dirs:
        return None
    group = Group(tuple(sorted(dirs)), at.is_v2)
    try:
        for each in group.dirs:
            each.mkdir()
        for parent, most, bound in wanted:
            if parent and most is not None:
                bound(parent / name, most, at.is_v2)
    except OSError:
        group.remove(0)
        raise
    return group


def left_behind() -> list[Group]:
    """Those of daemons that are no more."""
    at = place()
    found = []
    for parent in filter(None, {at.memory, at.pids, at.cpu}):
        for each in parent.glob("aiosd-*-*-*"):
            match = re.fullmatch(r"aiosd-(\d+)-(\d+)-\d+", each.name)
            if match and not Identity(int(match[1]), int(match[2])).is_running:
                found.append(Group((each,), at.is_v2))
    return found


def _bound_memory(group: Path, n_bytes: int, is_v2: bool) -> None:
    if is_v2:
        (group / "memory.max").write_text(str(n_bytes))
        optional = (("memory.swap.max", "0"), ("memory.oom.group", "1"))
    else:
        (group / "memory.limit_in_bytes").write_text(str(n_bytes))
        optional = (("memory.memsw.limit_in_bytes", str(n_bytes)), ("memory.swappiness", "0"))
    for name, value in optional:
        with contextlib.suppress(OSError):  # no swap accounting in this kernel
            (group / name).write_text(value)


def _bound_processes(group: Path, most: int, _is_v2: bool) -> None:
    (group / "pids.max").write_text(str(most))


def _bound_cpu(group: Path, percent: int, is_v2: bool) -> None:
    quota_us = percent * CPU_PERIOD_US // 100
    if is_v2:
        (group / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))


@functools.cache
def _place() -> Place:
    mounts = _mounts()
    own = _own()
    if "" in mounts and "" in own:
        at = _v2(mounts[""] / own[""].lstrip("/"))
        if at.memory:
            return at
        why_not = at.why_not
    else:
        why_not = "no cgroup file system is mounted"
    found: dict[str, Path | None] = {}
    for controller in sorted(USED):
        found[controller] = None
        if controller in mounts and controller in own:
            parent = mounts[controller] / own[controller].lstrip("/")
            if _can_make(parent):
                found[controller] = parent
            else:
                why_not = f"{parent} is not writable"
    return Place(found["memory"], found["pids"], found["cpu"], why_not=why_not)


def place() -> Place:
    """Where groups can be made.  Found once, at the first call; moves us to a leaf in version 2."""
    with _lock:
        return _place()


def _v2(own: Path) -> Place:
    def no(why: str) -> Place:
        return Place(None, None, why_not=why)

    try:
        if own.name == MAIN:  # moved before: by an earlier part of this process
            own = own.parent
        offered = set((own / "cgroup.controllers").read_text().split())
        if missing := NEEDED - offered:
            return no(f"{own} has no controller {', '.join(sorted(missing))}: set Delegate=")
        if not _can_make(own):
            return no(
                f"{own} is not writable: set Delegate=cpu memory pids, ProtectControlGroups=no"
            )
        wanted = USED & offered
        if not set((own / "cgroup.subtree_control").read_text().split()) >= wanted:
            others = set(_pids(own)) - {os.getpid()}
            if others:
                return no(f"{own} has other processes than this one")
            (own / MAIN).mkdir(exist_ok=True)
            (own / MAIN / "cgroup.procs").write_text(str(os.getpid()))
            enabling = " ".join(f"+{controller}" for controller in sorted(wanted))
            (own / "cgroup.subtree_control").write_text(enabling)
    except OSError as error:
        return no(f"{own}: {error.strerror}")
    return Place(own, own, own if "cpu" in wanted else None, is_v2=True)


def _can_make(parent: Path) -> bool:
    trial = parent / f"aiosd-{os.getpid()}-trial"
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError:
        return False
    return True


def _mounts() -> dict[str, Path]:
    """Controller -> where its hierarchy is mounted; "" is version 2."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        # A mount of part of the hierarchy (a container's) shows paths relative to that part.
        at = Path(before.split()[4])
        if kind == "cgroup2":
            found.setdefault("", at)
        elif kind == "cgroup":
            for name in USED & set(options.split(",")):
                found.setdefault(name, at)
    return found


def _own() -> dict[str, str]:
    """Controller -> our group."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _pids(group: Path) -> list[int]:
    try:
        return [int(each) for each in (group / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []


def _field(file: Path, name: str) -> int:
    try:
        lines = (line.split() for line in file.read_text().splitlines())
        return next((int(words[1]) for words in lines if words[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
