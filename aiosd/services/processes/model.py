"""A process that runs an agent: what it was asked to be, where it stands, when it starts again.

Rule: plain values and pure functions; who starts and ends processes is server/processes.py.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiosd.confine import ExitStatus

Restart = Literal["no", "on_failure", "always"]
STEADY_S = 60.0  # a run that lasted so long was a good one: restarts are counted anew
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 60.0


class State(enum.Enum):
    """Where a process is.  ENDED is for good; all others count against the limits."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"  # by agent.signal stop
    WAITING = "waiting"  # to be started again
    ENDING = "ending"  # asked to end, and not gone yet
    ENDED = "ended"


class Why(enum.Enum):
    """What ended a process, in one word."""

    EXIT = "exit"  # it did, and isn't to be started again
    RESTARTS = "restarts"  # too many in a row
    SIGNAL = "signal"  # agent.signal term or kill
    KILL = "kill"  # agent.kill
    PARENT = "parent"  # the connection that spawned it has ended
    WALL_TIME = "wall_time"
    DAEMON = "daemon"  # which is shutting down
    START = "start"  # it could not be started


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit but what the configuration says."""

    tokens: int | None = None
    jobs: int | None = None
    wall_s: int | None = None
    memory_bytes: int | None = None
    cpu_s: int | None = None
    cpu_percent: int | None = None
    n_processes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """What agent.spawn asked for, checked.  Lasts in the database as JSON where it is kept.

    program   the file, after links; argv[0] is what it was called
    rights    the most that it may hold
    is_kept   outlives the connection that spawned it
    """

    program: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    limits: Limits = Limits()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    is_networked: bool = False
    rights: tuple[str, ...] = ()
    restart: Restart = "no"
    is_kept: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        raw: dict[str, Any] = json.loads(text)
        lists = {name: tuple(raw[name]) for name in ("argv", "read", "write", "rights")}
        return Spec(**{**raw, **lists, "limits": Limits(**raw["limits"])})


@dataclass(slots=True)
class Attempts:
    """How often a process was started again, and whether it is once more."""

    n_restarts: int = 0
    n_in_a_row: int = 0

    def delay_s(
        self, restart: Restart, status: ExitStatus | None, ran_s: float, max_in_a_row: int
    ) -> float | Why:
        """How long to wait before the next start, or why there is none.  status: of the run that
        ended, None if it could not even be started."""
        is_ok = status is not None and status.is_ok
        if restart == "no" or (restart == "on_failure" and is_ok):
            return Why.EXIT if status is not None else Why.START
        if ran_s >= STEADY_S:
            self.n_in_a_row = 0
        if self.n_in_a_row >= max_in_a_row:
            return Why.RESTARTS
        delay_s = min(FIRST_DELAY_S * 2.0**self.n_in_a_row, MAX_DELAY_S)
        self.n_in_a_row += 1
        self.n_restarts += 1
        return delay_s
