"""What a confinement means on this machine, in words: what may be touched, what is bounded and
how, and what is not, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aiosd.confine import cgroups, disk, filters, landlock
from aiosd.confine.model import MIB, Bounds, ConfineError, Confinement

BASE_WORDS = (
    "what every program needs: /usr and /lib, names and certificates in /etc, its own part of "
    "/proc; Python's environment if it is Python"
)
PRIVATE_WORDS = "a private directory (HOME, TMPDIR), which goes when it ends"
CALLS_WORDS = (
    "seccomp: no tracing of others, no unix sockets, no session or group of its own, no "
    "namespaces or mounts, no io_uring, bpf, keys or kernel modules; setuid programs gain nothing"
)


@dataclass(frozen=True, slots=True)
class Description:
    """read, write  paths · kept  what is enforced, and how · not_kept  what isn't, and why"""

    read: tuple[str, ...]
    write: tuple[str, ...]
    network: str
    kept: Mapping[str, str]
    not_kept: Mapping[str, str]

    def as_data(self) -> dict[str, Any]:
        """For a reply: plain maps and lists."""
        return {**asdict(self), "read": [*self.read], "write": [*self.write]}


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """What this machine has to confine with.

    memory, processes  how their bounds are kept, in words
    why_not            why no cgroup can be made for a bound, if so
    """

    landlock_abi: int
    has_seccomp: bool
    memory: str
    processes: str
    why_not: str

    @classmethod
    def here(cls) -> Mechanisms:
        """Blocks for moments at the first call."""
        at = cgroups.place()
        try:
            filters.program(is_networked=False)
            has_seccomp = True
        except ConfineError:
            has_seccomp = False
        version = "cgroup v2" if at.is_v2 else "cgroup v1"
        return cls(
            landlock.abi(),
            has_seccomp,
            version if at.memory else "each process alone",
            version if at.pids else "nobody" if os.geteuid() == 0 else "the whole user",
            at.why_not if not (at.memory and at.pids) else "",
        )


def describe(confinement: Confinement, uid: int | None = None) -> Description:
    """What this confinement means here.  Blocks for moments at the first call."""
    grant = confinement.grant
    kept: dict[str, str] = {"calls": CALLS_WORDS}
    not_kept: dict[str, str] = {}
    _files(grant.is_networked, kept, not_kept)
    _bounds(confinement.bounds, uid, kept, not_kept)
    return Description(
        (*grant.read, *grant.write, BASE_WORDS),
        (*grant.write, PRIVATE_WORDS),
        "IP (TCP, UDP), servers of this machine included" if grant.is_networked else "none",
        kept,
        not_kept,
    )


def _files(is_networked: bool, kept: dict[str, str], not_kept: dict[str, str]) -> None:
    abi = landlock.abi()
    if abi == 0:
        not_kept["files"] = "this kernel has no Landlock: only permissions keep it from files"
        not_kept["signals"] = "to processes of the same user"
        return
    kept["files"] = f"Landlock ABI {abi}: only the paths above"
    for since, words in landlock.SINCE.items():
        if abi < since:
            not_kept[words.partition(" ")[0]] = f"{words}: Landlock ABI {since}, this is {abi}"
    if abi >= 6:
        kept["signals"] = "none to processes other than its own"
    if not is_networked:
        kept["network"] = "seccomp refuses IP sockets" + ("; Landlock TCP" if abi >= 4 else "")


def _bounds(
    bounds: Bounds, uid: int | None, kept: dict[str, str], not_kept: dict[str, str]
) -> None:
    at = cgroups.place()
    unbounded = "no bound is set"
    if bounds.memory_bytes is None:
        not_kept["memory"] = unbounded
    elif at.memory:
        kept["memory"] = f"{_size(bounds.memory_bytes)} for all of it together (cgroup)"
    else:
        kept["memory"] = f"{_size(bounds.memory_bytes)} for each process (RLIMIT_DATA)"
        not_kept["memory"] = f"all of it together, and shared memory: no cgroup, {at.why_not}"
    if bounds.n_processes is None:
        not_kept["processes"] = unbounded
    elif at.pids:
        kept["processes"] = f"{bounds.n_processes}, threads counted (cgroup)"
    elif (os.geteuid() if uid is None else uid) == 0:
        not_kept["processes"] = f"root has no limit of processes: no cgroup, {at.why_not}"
    else:
        not_kept["processes"] = (
            f"only roughly, all of the user's together (RLIMIT_NPROC): no cgroup, {at.why_not}"
        )
    for name, value, words in (
        ("descriptors", bounds.n_files, f"{bounds.n_files} open in each process"),
        ("file size", bounds.file_bytes, f"{_size(bounds.file_bytes or 0)} for each file"),
        ("CPU time", bounds.cpu_s, f"{bounds.cpu_s} s for each process"),
    ):
        (not_kept if value is None else kept)[name] = unbounded if value is None else words
    if bounds.cpu_percent is None:
        not_kept["CPU share"] = unbounded
    elif at.cpu:
        kept["CPU share"] = f"{bounds.cpu_percent} % of a core for all of it together (cgroup)"
    else:
        not_kept["CPU share"] = f"no cgroup, {at.why_not or 'without a controller cpu'}"
    if bounds.disk_bytes is None:
        not_kept["disk"] = unbounded
    else:
        kept["disk"] = (
            f"it ends when it has written {_size(bounds.disk_bytes)}, looked at every "
            f"{disk.INTERVAL_S:g} s"
        )
        not_kept["disk"] = "what is written between two looks"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / MIB:g} MiB" if n_bytes >= MIB else f"{n_bytes} bytes"
