"""What was sampled and what is chosen: rates, order, the cursor.  Pure: no clock, no socket.

Rule: the cursor stays with what it points at, not with the line, until that is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiosctl import waiting

HISTORY = 120  # samples of tokens per second kept for the small curve
VIEWS = ("jobs", "agents", "slots")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon said, and when (in seconds of any clock)."""

    at_s: float
    status: dict[str, Any]
    jobs: list[dict[str, Any]]
    agents: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, where its value is, and what makes it worth its place: less goes first."""

    title: str
    key: str
    worth: int
    is_number: bool = False


COLUMNS: dict[str, tuple[Column, ...]] = {
    "jobs": (
        Column("JOB", "job", 9),
        Column("AGENT", "agent", 9),
        Column("UID", "uid", 2, is_number=True),
        Column("STATE", "state", 9),
        Column("CLASS", "priority", 7),
        Column("TOKENS", "n_output", 8, is_number=True),
        Column("TOK/S", "rate", 8, is_number=True),
        Column("WAITED", "waited_ms", 6, is_number=True),
        Column("PARKS", "parks", 5, is_number=True),
        Column("SLICES", "slices", 4, is_number=True),
        Column("WAITS FOR", "waits", 3),
        Column("CONTEXT", "context", 1),
    ),
    "agents": (
        Column("AGENT", "agent", 9),
        Column("UID", "uid", 8, is_number=True),
        Column("CONNECTIONS", "connections", 5, is_number=True),
        Column("CONTEXTS", "contexts", 6, is_number=True),
        Column("JOBS", "jobs", 7, is_number=True),
        Column("TOKENS", "tokens", 8, is_number=True),
        Column("TOK/S", "rate", 8, is_number=True),
    ),
    "slots": (
        Column("SLOT", "slot", 9, is_number=True),
        Column("STATE", "state", 9),
        Column("AGENT", "agent", 9),
        Column("UID", "uid", 5, is_number=True),
        Column("JOB", "job", 8),
        Column("CONTEXT", "context", 7),
    ),
}
IDS = {"jobs": "job", "agents": "agent", "slots": "slot"}


@dataclass(slots=True)
class Board:
    """The state of the screen: samples in, keys in, rows out."""

    sample: Sample | None = None
    before: Sample | None = None
    view: str = "jobs"
    sorted_by: dict[str, str] = field(
        default_factory=lambda: {"jobs": "agent", "agents": "tokens", "slots": "slot"}
    )
    is_descending: dict[str, bool] = field(
        default_factory=lambda: {"jobs": False, "agents": True, "slots": False}
    )
    at: dict[str, tuple[object, ...] | None] = field(default_factory=dict)  # of each view
    line: dict[str, int] = field(default_factory=dict)
    curve: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def take(self, sample: Sample) -> None:
        self.before, self.sample = self.sample, sample
        self.curve.append(self.rates()["output"])

    # ------------------------------------------------------------ figures

    def rates(self) -> dict[str, float]:
        """Tokens, steps and parks per second between the last two samples, all cores together."""
        kinds = ("prompt", "cached", "output")
        if self.sample is None:
            return dict.fromkeys((*kinds, "steps", "saves"), 0.0)
        now, then = self.sample.status["cores"], []
        if self.before is not None and not self._is_new_daemon():
            then = self.before.status["cores"]
        figures: dict[str, float] = {}
        for kind in kinds:
            figures[kind] = self._per_s(
                sum(core["tokens"][kind] for core in now),
                sum(core["tokens"][kind] for core in then) if then else None,
            )
        figures["steps"] = self._per_s(
            sum(core["steps"] for core in now), sum(c["steps"] for c in then) if then else None
        )
        figures["saves"] = self._per_s(_saves(now), _saves(then) if then else None)
        return figures

    def _is_new_daemon(self) -> bool:
        assert self.sample is not None
        assert self.before is not None
        return bool(self.sample.status["pid"] != self.before.status["pid"])

    def _per_s(self, now: float, then: float | None) -> float:
        if then is None or self.sample is None or self.before is None:
            return 0.0
        took_s = self.sample.at_s - self.before.at_s
        return max(0.0, now - then) / took_s if took_s > 0 else 0.0

    # ------------------------------------------------------------ rows

    def rows(self) -> list[dict[str, Any]]:
        """Of the view, in its order."""
        if self.sample is None:
            return []
        key = self.sorted_by[self.view]
        rows = getattr(self, f"_{self.view}")(self.sample)
        rows.sort(key=lambda row: _rank(row.get(IDS[self.view])))
        rows.sort(key=lambda row: _rank(row.get(key)), reverse=self.is_descending[self.view])
        return list(rows)

    def _jobs(self, sample: Sample) -> list[dict[str, Any]]:
        then = {job["job"]: job["n_output"] for job in self.before.jobs} if self.before else {}
        return [
            {
                **job,
                "rate": self._per_s(job["n_output"], then.get(job["job"])),
                "waits": waits(job),
            }
            for job in sample.jobs
        ]

    def _agents(self, sample: Sample) -> list[dict[str, Any]]:
        then = {}
        if self.before is not None:
            then = {(a["uid"], a["agent"]): a["tokens"] for a in self.before.agents}
        return [
            {
                **agent,
                "rate": self._per_s(agent["tokens"], then.get((agent["uid"], agent["agent"]))),
            }
            for agent in sample.agents
        ]

    def _slots(self, sample: Sample) -> list[dict[str, Any]]:
        rows = []
        for core in sample.status["cores"]:
            held = {slot["slot"]: slot for slot in core.get("slots", ())}
            for number in range(core["n_slots"]):
                known = held.get(number, {})
                state = "-" if not known else "running" if known.get("running") else "resident"
                rows.append({"slot": number, **known, "state": state})
        return rows

    # ------------------------------------------------------------ the cursor, the order

    def cursor(self, rows: Sequence[dict[str, Any]]) -> int:
        """The line of the cursor; it stays with its row, else with its place."""
        if not rows:
            return 0
        wanted = self.at.get(self.view)
        for index, row in enumerate(rows):
            if self._id(row) == wanted:
                self.line[self.view] = index
                return index
        index = min(self.line.get(self.view, 0), len(rows) - 1)
        self.at[self.view] = self._id(rows[index])
        return index

    def move(self, by: int) -> None:
        rows = self.rows()
        if rows:
            index = max(0, min(len(rows) - 1, self.cursor(rows) + by))
            self.at[self.view], self.line[self.view] = self._id(rows[index]), index

    def chosen(self) -> dict[str, Any] | None:
        """What the cursor points at."""
        rows = self.rows()
        return rows[self.cursor(rows)] if rows else None

    def sort_next(self, by: int, shown: Sequence[Column]) -> None:
        """Sort by the next column to the right (1) or left (-1) of those that are shown."""
        keys = [column.key for column in shown]
        now = self.sorted_by[self.view]
        index = keys.index(now) if now in keys else 0
        chosen = shown[max(0, min(len(keys) - 1, index + by))]
        if chosen.key != now:
            self.sorted_by[self.view] = chosen.key
            self.is_descending[self.view] = chosen.is_number

    def reverse(self) -> None:
        self.is_descending[self.view] = not self.is_descending[self.view]

    def next_view(self) -> None:
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]

    def _id(self, row: dict[str, Any]) -> tuple[object, ...]:
        return (row.get("uid") if self.view == "agents" else None, row.get(IDS[self.view]))


def waits(job: dict[str, Any]) -> str | None:
    """What the job waits for, in words; None if it doesn't, or the daemon doesn't say."""
    told = job.get("waits_for")
    return waiting.words(told) if isinstance(told, dict) else None


def _saves(cores: Sequence[dict[str, Any]]) -> int:
    return sum(core.get("switches", {}).get("saves", 0) for core in cores)


def _rank(value: object) -> tuple[int, float, str]:
    """Sorts numbers before texts, and what is missing before both."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (2, 0.0, str(value))
