"""`agent.*`: who is here; those that the daemon runs are in process.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aios_sdk.errors import NotFound
from aiosd.kernel.model import AgentId
from aiosd.server.calls.base import Result
from aiosd.server.calls.process import AgentProcesses
from aiosd.server.turns import in_turns
from aiosd.services.access import Target

if TYPE_CHECKING:
    from aiosd.server.session import Call
    from aiosd.services.agents import Agent


LIMITS = ("max_jobs", "tokens_per_minute", "weight", "memory_bytes", "storage_bytes")


class Agents(AgentProcesses):
    """Every call of the noun."""

    async def agent_list(self, call: Call) -> Result:
        async with self._d.listings[call.session.uid]:
            found = [
                self._describe_agent(agent)
                async for agent in in_turns(list(self._d.agents.all()))
                # One that was here when the list was begun may have left.
                if self._d.agents.get(agent.id) and self._d.access.sees(call, agent.id)
            ]
        return {"agents": found}

    def agent_info(self, call: Call) -> Result:
        agent = self._d.agents.get(self._agent(call))
        assert agent is not None
        return self._describe_agent(agent)

    def agent_kill(self, call: Call) -> Result:
        """The agent's connections and jobs end, its contexts stay."""
        agent = self._agent(call)
        self._d.access.check(call, "steer", Target("agent", agent, agent.name))
        self._d.kill(agent, but_answer_first=call.session)
        return {}

    async def agent_limits(self, call: Call) -> Result:
        name, book = call.params["agent"], self._d.agent_limits
        try:
            agent = self._agent(call)
        except NotFound:
            agent = AgentId(call.agent.uid, name)  # yet to come
        asked = {key: call.params[key] or None for key in LIMITS if key in call.params}
        if asked:
            await self._d.access.admit(call, "admin", Target("agent", agent, name))
            await book.change(agent, asked)
            self._d.put_in_force(agent)
        limits = book.of(agent)
        return {
            "agent": name,
            "uid": agent.uid,
            "max_jobs": limits.max_jobs or self._d.config.limits.jobs_per_agent,
            "tokens_per_minute": limits.tokens_per_minute or 0,
            "weight": limits.weight or 1,
            "memory_bytes": self._d.memory_quota(agent).of_agent,
            "storage_bytes": self._d.storage_limits(agent).n_bytes,
        }

    def _agent(self, call: Call) -> AgentId:
        """The agent so named: of one's own uid first, for an admin also of another."""
        name = call.params["agent"]
        own = AgentId(call.agent.uid, name)
        if self._d.agents.get(own) and self._d.access.sees(call, own):
            return own
        if call.is_admin:
            for agent in self._d.agents.all():
                if agent.id.name == name:
                    self._d.access.note_admin_sees(call)
                    return agent.id
        raise NotFound(f"no agent {name!r}", agent=name)

    def _describe_agent(self, agent: Agent) -> Result:
        process = self._d.processes.running(agent.id)
        return {
            **({} if process is None else {"process": process.id}),
            "agent": agent.id.name,
            "uid": agent.id.uid,
            "connections": agent.n_connections,
            "contexts": self._d.contexts.count_by_agent()[agent.id],
            "jobs": agent.n_jobs,
            "tokens": agent.n_tokens,
            "since_ms": agent.since_ms,
        }
