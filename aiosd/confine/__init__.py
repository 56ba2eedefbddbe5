"""What confines the processes that the daemon starts: tools, MCP servers, agents.

    process = await spawn(argv, Confinement(Grant(read=("/srv/data",))), stdout=PIPE)
    try:
        ...
    finally:
        await process.end(grace_s=2)

`plan` works out what a small launcher is to do, `launcher` restricts itself so and becomes the
program: Landlock for files (`landlock`, `paths`), seccomp for calls (`filters`), resource limits,
control groups (`cgroups`), a session and a private directory of its own (`private`).  `describe`
says what of all this holds on the machine at hand; `sweep` clears up after a daemon was killed.
"""

from aiosd.confine.describing import Description, Mechanisms, describe
from aiosd.confine.leftovers import sweep
from aiosd.confine.model import Bounds, ConfineError, Confinement, ExitStatus, Grant
from aiosd.confine.process import DEVNULL, PIPE, STDOUT, Process, spawn

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Bounds",
    "ConfineError",
    "Confinement",
    "Description",
    "ExitStatus",
    "Grant",
    "Mechanisms",
    "Process",
    "describe",
    "spawn",
    "sweep",
]
