"""What confines the processes that the daemon starts: tools, MCP servers, agents.

    process = await spawn(argv, Confinement(Grant(read=("/srv/data",))), stdout=PIPE)
    try:
        ...
    finally:
        await process.end(grace_s=2)

`plan` works out what a small launcher is to do, `launcher` restricts itself so and becomes the
program: Landlock for files (`landlock`, `paths`), seccomp for calls (`filters`), resource limits,
control groups (`cgroups`), a session and a private directory of its own (`private`).
"""

from aiosd.confine.model import Bounds, ConfineError, Confinement, ExitStatus, Grant
from aiosd.confine.process import DEVNULL, PIPE, STDOUT, Process, launcher_argv, spawn

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Bounds",
    "ConfineError",
    "Confinement",
    "ExitStatus",
    "Grant",
    "Process",
    "launcher_argv",
    "spawn",
]
