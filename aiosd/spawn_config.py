"""The [spawn] table: which agents the daemon runs as processes, and what these may use."""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.settings import GIB, KIB, MIB, key


@dataclass(frozen=True, slots=True)
class SpawnConfig:
    """Who may spawn at all is a matter of the right `spawn`, which the table [access] gives."""

    commands: tuple[str, ...] = key(
        ("*",),
        "Programs that may be run: paths, after links are resolved; `*` and `?` match, also a "
        "slash.",
        pattern=r"[/*].*",
        reloads=True,
    )
    read: tuple[str, ...] = key(
        (),
        "Paths that spawners of other users may let their agents read, beside what every program "
        "needs; `*` and `?` match. The daemon's own user may grant what it can reach itself; a "
        "spawned agent only what it was granted.",
        pattern=r"[/*].*",
        reloads=True,
    )
    write: tuple[str, ...] = key(
        (), "Likewise, to write as well.", pattern=r"[/*].*", reloads=True
    )  # fmt: skip
    network: bool = key(
        False, "Spawners of other users may let their agents reach the network.", reloads=True
    )
    processes: int = key(
        256, "Agents that run at once; past it `quota_exceeded`.", low=0, high=65536, reloads=True
    )
    processes_per_uid: int = key(
        64,
        "Agents of one uid that run at once; past it `quota_exceeded`.",
        low=0,
        high=65536,
        reloads=True,
    )
    ended_per_uid: int = key(
        64,
        "Ended ones of one uid whose end and output can still be asked for; past it the oldest go, "
        "four times as many where their spawners may still wait for them.",
        low=0,
        high=65536,
        reloads=True,
    )
    log_bytes: int = key(
        256 * KIB,
        "Output of one agent that is kept, in RAM; past it the oldest lines go.",
        low=4 * KIB,
        high=4 * MIB,
        is_bytes=True,
        reloads=True,
    )
    wall_s: int = key(
        0, "How long one may run at most; 0: as long as it wants.", low=0, high=10**9, reloads=True
    )
    tokens: int = key(
        0, "Tokens of all its jobs; 0: no limit.", low=0, high=10**15, reloads=True
    )  # fmt: skip
    memory_bytes: int = key(
        2 * GIB,
        "Memory of one agent's process: of all it starts together where a cgroup is writable, "
        "else of each.",
        low=16 * MIB,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    cpu_s: int = key(
        0, "CPU seconds of each of its processes; 0: no limit.", low=0, high=10**9, reloads=True
    )
    cpu_percent: int = key(
        0,
        "CPU time of all its processes together, in percent of one core, where a cgroup is "
        "writable; 0: no limit.",
        low=0,
        high=100_000,
        reloads=True,
    )
    n_processes: int = key(
        64, "Processes and threads it may have.", low=1, high=65536, reloads=True
    )  # fmt: skip
    file_bytes: int = key(
        256 * MIB, "One file it writes.", low=KIB, high=1024**5, is_bytes=True, reloads=True
    )
    disk_bytes: int = key(
        512 * MIB,
        "All it writes to its directory, which goes when it ends.",
        low=KIB,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    restarts: int = key(
        10,
        "Starts in a row without a minute of running; past it it isn't started again.",
        low=0,
        high=10**6,
        reloads=True,
    )
    grace_s: int = key(
        5, "Between TERM and KILL when one must end.", low=0, high=600, reloads=True
    )  # fmt: skip
