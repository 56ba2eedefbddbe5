"""Who is connected and what they have used: an Agent per (uid, name) while it has anything here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiosd.kernel.model import AgentId


@dataclass(slots=True)
class Agent:
    """One agent's figures.  n_tokens: prompt tokens read and tokens given, over all its jobs.

    After a restart the tokens of jobs without a context are forgotten.
    """

    id: AgentId
    since_ms: int
    n_connections: int = 0
    n_jobs: int = 0
    n_processes: int = 0  # at most one
    n_tokens: int = 0


class AgentRegistry:
    """Agents with a connection, a job, a process or a context; others are forgotten: names can't
    pile up."""

    def __init__(self, has_contexts: Callable[[AgentId], bool]) -> None:
        self._has_contexts = has_contexts
        self._agents: dict[AgentId, Agent] = {}

    def get(self, agent: AgentId) -> Agent | None:
        return self._agents.get(agent)

    def enter(self, agent: AgentId, now_ms: int) -> Agent:
        """The agent's record, made if need be."""
        return self._agents.setdefault(agent, Agent(agent, now_ms))

    def restore(self, agent: AgentId, since_ms: int, n_tokens: int) -> None:
        """An agent that an earlier daemon knew, if it has contexts here."""
        if self._has_contexts(agent):
            self._agents[agent] = Agent(agent, since_ms, n_tokens=n_tokens)

    def leave(self, agent: AgentId) -> None:
        """Forget the agent if it has nothing here any more."""
        found = self._agents.get(agent)
        if found is None or found.n_connections or found.n_jobs or found.n_processes:
            return
        if not self._has_contexts(agent):
            del self._agents[agent]

    def all(self) -> Iterator[Agent]:
        return iter(self._agents.values())
