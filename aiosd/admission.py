"""Who may queue another job: bounds per agent, per uid and in all, with an honest retry_after_ms.

By Little's law a queue of n jobs that each stay for t empties at n / t: the next place is free
after t / n, if nobody else takes it.
"""

from __future__ import annotations

from collections import Counter

from aios_sdk.errors import Busy
from aiosd.kernel.model import AgentId

LEAST_RETRY_MS = 50
SMOOTHING = 0.1  # of a moving average over the jobs that ended


class Admission:
    """Counts jobs from their submission to their end."""

    def __init__(self, jobs_per_agent: int, jobs_per_uid: int, max_jobs: int) -> None:
        self.change(jobs_per_agent, jobs_per_uid, max_jobs)
        self._limits: dict[AgentId, int] = {}
        self._by_agent: Counter[AgentId] = Counter()
        self._by_uid: Counter[int] = Counter()
        self._n_jobs = 0
        self._mean_stay_ms = 1000.0

    def change(self, jobs_per_agent: int, jobs_per_uid: int, max_jobs: int) -> None:
        """Other limits from now on; who has more keeps what it has."""
        self.jobs_per_agent = jobs_per_agent
        self.jobs_per_uid = jobs_per_uid
        self.max_jobs = max_jobs

    def limit(self, agent: AgentId, max_jobs: int | None) -> None:
        """The agent's own limit; None: the one for all."""
        if max_jobs is None:
            self._limits.pop(agent, None)
        else:
            self._limits[agent] = max_jobs

    def check(self, agent: AgentId) -> None:
        """Raises Busy if the agent, its uid or the daemon has as many jobs as it may."""
        agent_limit = self._limits.get(agent, self.jobs_per_agent)
        for whose, n_jobs, limit in (
            (f"agent {agent.name}", self._by_agent[agent], agent_limit),
            (f"uid {agent.uid}", self._by_uid[agent.uid], self.jobs_per_uid),
            ("the daemon", self._n_jobs, self.max_jobs),
        ):
            if n_jobs >= limit:
                retry_ms = max(LEAST_RETRY_MS, int(self._mean_stay_ms / n_jobs))
                raise Busy(
                    f"{whose} has {n_jobs} jobs, limit is {limit}; try again in {retry_ms} ms",
                    retry_after_ms=retry_ms,
                    queue_depth=n_jobs,
                    limit=limit,
                )

    def enter(self, agent: AgentId) -> None:
        """The agent submitted a job.  Raises Busy."""
        self.check(agent)
        self._by_agent[agent] += 1
        self._by_uid[agent.uid] += 1
        self._n_jobs += 1

    def leave(self, agent: AgentId, stayed_ns: int) -> None:
        """A job of the agent ended after so long."""
        self._by_agent[agent] -= 1
        self._by_uid[agent.uid] -= 1
        if not self._by_agent[agent]:
            del self._by_agent[agent]
        if not self._by_uid[agent.uid]:
            del self._by_uid[agent.uid]
        self._n_jobs -= 1
        self._mean_stay_ms += SMOOTHING * (stayed_ns / 1e6 - self._mean_stay_ms)
