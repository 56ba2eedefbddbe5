"""Who runs next: the line of ready jobs, and how long a turn lasts.

Rule 1: a job's key doesn't change while it is in the line; whoever changes what the key is made
of takes the job out first.
Rule 2: every question about the line costs O(log n) steps of Python, apart from the jobs asked for.

Fifo and RoundRobin differ by one method, the quantum.  fair.py has the third, policies.py all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice

from aiosd.kernel.model import AgentId, Job, JobId

Key = tuple[int, ...]
"""Sorts the line; its last part is the ticket, so no two are equal."""


class Fifo:
    """First come, first finished: jobs go in the order of their tickets and keep their lanes."""

    name = "fifo"

    def __init__(self, quantum_tokens: int) -> None:
        self.quantum_tokens = quantum_tokens
        # A sorted list beats a heap here: position, both ends and removal come for free, and
        # making room among 4,096 pointers is one memmove of 32 KiB, about a microsecond.
        self._line: list[tuple[Key, JobId]] = []
        self._jobs: dict[JobId, tuple[Key, Job]] = {}

    def quantum(self) -> int | None:
        """Tokens of one turn while others wait; None: a turn ends with the job."""
        return None

    def key(self, job: Job) -> Key:
        return (job.ticket,)

    def rank(self, job: Job) -> int:  # noqa: ARG002 - here all are alike
        """The job's class: a smaller one doesn't wait for the turns of greater ones to end."""
        return 0

    def best_rank(self) -> int | None:
        """The smallest rank in the line; None if it is empty."""
        return 0 if self._line else None

    def set_weight(self, agent: AgentId, weight: int) -> None:
        """The agent's share, where the policy has shares."""

    def note_time(self, now_ns: int) -> None:
        """Called before each choice, when all who are ready stand in the line."""

    def charge(self, job: Job, n_tokens: int, rank: int) -> None:  # noqa: ARG002 - as in rank()
        """The job, not in the line, took so many tokens for the first time, as one of that rank
        (which it may have left meanwhile)."""
        job.used_tokens += n_tokens

    def is_used_up(self, job: Job) -> bool:
        if not job.used_tokens:
            return False  # every turn has a token at least
        left = self.allowance(job)
        return left is not None and left <= 0

    def lead_tokens(self, job: Job) -> int:  # noqa: ARG002 - here all are alike
        """How much more the job's owner was given than others who are ready, where that counts."""
        return 0

    def is_half_used(self, job: Job) -> bool:
        """Whether less than half a turn is left, or nothing."""
        if not job.used_tokens:
            return False
        left = self.allowance(job)
        return left is not None and 2 * left < self.quantum_tokens

    def allowance(self, job: Job) -> int | None:
        """Tokens left of the job's turn while others wait; None: no bound."""
        quantum = self.quantum()
        return None if quantum is None else max(1, quantum + job.extra_tokens) - job.used_tokens

    def add(self, job: Job) -> None:
        key = self.key(job)
        insort(self._line, (key, job.id))
        self._jobs[job.id] = (key, job)

    def remove(self, job: Job) -> None:
        """Raises KeyError if the job is not in the line."""
        key, _ = self._jobs.pop(job.id)
        del self._line[bisect_left(self._line, (key, job.id))]

    def first(self, n_jobs: int) -> list[Job]:
        """The next to run, best first; they stay in the line."""
        return [self._jobs[job][1] for _, job in islice(self._line, n_jobs)]

    def position(self, job: Job) -> int:
        """The job's place in the line, from 1.  Raises KeyError if it is not in it."""
        key, _ = self._jobs[job.id]
        return bisect_left(self._line, (key, job.id)) + 1

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Job]:
        return (self._jobs[job][1] for _, job in self._line)

    def __contains__(self, job: Job) -> bool:
        return job.id in self._jobs

    def check(self) -> None:
        """Raises AssertionError unless the line is in order."""
        if list(self) != sorted(self, key=self.key):
            raise AssertionError("the line is out of order")


class RoundRobin(Fifo):
    """Each job runs a quantum of tokens, then goes to the back of the line if anyone waits."""

    name = "rr"

    def quantum(self) -> int | None:
        return self.quantum_tokens
