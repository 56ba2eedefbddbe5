"""What is known about each agent while the show runs, and what it comes to in the end.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

TAIL_CHARS = 400  # of an agent's words: more than a line of any terminal

State = Literal["ready", "running", "stalled", "paused", "waiting", "done"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One finished llm.generate, as its reply tells it.

    wait_ms   all the time it could have run and another had its lane
    ttft_ms   from the call to its first token
    """

    agent: str
    text: str
    n_output: int
    wait_ms: int
    ttft_ms: int
    slices: int
    parks: int


@dataclass(slots=True)
class Row:
    """One agent: its finished turns, and what job.list said last of the turn under way."""

    agent: str
    state: State = "waiting"
    turns: list[Turn] = field(default_factory=list)
    n_now: int = 0
    wait_now_ms: int = 0
    slices_now: int = 0
    parks_now: int = 0
    tail: str = ""

    @property
    def n_output(self) -> int:
        return sum(turn.n_output for turn in self.turns) + self.n_now

    @property
    def wait_ms(self) -> int:
        return sum(turn.wait_ms for turn in self.turns) + self.wait_now_ms

    @property
    def slices(self) -> int:
        return sum(turn.slices for turn in self.turns) + self.slices_now

    @property
    def parks(self) -> int:
        return sum(turn.parks for turn in self.turns) + self.parks_now

    def says(self, text: str, n_tokens: int) -> None:
        """Words of the turn under way."""
        self.tail = (self.tail + text)[-TAIL_CHARS:]
        self.n_now += n_tokens

    def ends_turn(self, turn: Turn, *, is_last: bool) -> None:
        """What the turn cost is known exactly now; what was seen under way counts no more."""
        self.turns.append(turn)
        self.n_now = self.wait_now_ms = self.slices_now = self.parks_now = 0
        self.state = "done" if is_last else "waiting"
        self.tail += " | "


@dataclass(slots=True)
class Board:
    """All agents of one run."""

    policy: str
    rows: dict[str, Row]
    elapsed_s: float = 0.0

    @property
    def n_output(self) -> int:
        return sum(row.n_output for row in self.rows.values())

    def count(self, state: State) -> int:
        return sum(row.state == state for row in self.rows.values())


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures."""

    policy: str
    makespan_s: float
    mean_wait_s: float
    p90_wait_s: float
    mean_first_word_s: float
    tokens_per_s: float
    switches: int
    parks: int
    texts: tuple[tuple[str, str], ...]  # (agent, what it said), in order of agent and turn


def summarise(board: Board) -> Summary:
    """Figures over the finished turns of a run; at least one."""
    turns = [turn for row in board.rows.values() for turn in row.turns]
    waits_ms = [turn.wait_ms for turn in turns]
    return Summary(
        policy=board.policy,
        makespan_s=board.elapsed_s,
        mean_wait_s=sum(waits_ms) / len(turns) / 1000,
        p90_wait_s=percentile(waits_ms, 90) / 1000,
        mean_first_word_s=sum(turn.ttft_ms for turn in turns) / len(turns) / 1000,
        tokens_per_s=sum(turn.n_output for turn in turns) / board.elapsed_s,
        switches=sum(turn.slices for turn in turns),
        parks=sum(turn.parks for turn in turns),
        texts=tuple((turn.agent, turn.text) for turn in turns),
    )


def percentile(values: Sequence[int], percent: int) -> int:
    """The smallest value that at least so many percent of the values don't exceed."""
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[max(rank, 1) - 1]
