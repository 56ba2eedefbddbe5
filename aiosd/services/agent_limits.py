"""What agent.limits set: kept in the database, for agents that are here or yet to come."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from aios_sdk.errors import QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services.database import Database, Transaction

MAX_AGENTS = 65_536
"""Agents with limits of their own: an administrator's loop is no reason to fill the disk."""


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """None is the default for all."""

    max_jobs: int | None = None
    tokens_per_minute: int | None = None
    weight: int | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None


DEFAULTS = AgentLimits()
_COLUMNS = tuple(field.name for field in dataclasses.fields(AgentLimits))


class LimitBook:
    """The limits of each agent that has some of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limits: dict[AgentId, AgentLimits] = {}
        self._turn = asyncio.Lock()  # of changes: each builds on what the one before it left

    async def load(self) -> list[AgentId]:
        """Read what an earlier daemon kept: who has limits."""
        self._limits = await self._database.read(_load)
        return list(self._limits)

    def of(self, agent: AgentId) -> AgentLimits:
        return self._limits.get(agent, DEFAULTS)

    async def change(self, agent: AgentId, asked: Mapping[str, int | None]) -> AgentLimits:
        """Set some of the agent's limits; None brings the default back."""
        async with self._turn:
            return await self._change(agent, asked)

    async def _change(self, agent: AgentId, asked: Mapping[str, int | None]) -> AgentLimits:
        new = dataclasses.replace(self.of(agent), **asked)
        if agent not in self._limits and len(self._limits) >= MAX_AGENTS:
            raise QuotaExceeded(
                f"{len(self._limits)} agents have limits of their own, limit is {MAX_AGENTS}",
                limit=MAX_AGENTS,
                used=len(self._limits),
            )
        await self._database.write(lambda transaction: _save(transaction, agent, new))
        if new == DEFAULTS:
            self._limits.pop(agent, None)
        else:
            self._limits[agent] = new
        return new


def _load(transaction: Transaction) -> dict[AgentId, AgentLimits]:
    rows = transaction.execute(f"SELECT uid, name, {', '.join(_COLUMNS)} FROM agent_limits")  # noqa: S608 - our own names
    return {AgentId(uid, name): AgentLimits(*limits) for uid, name, *limits in rows}


def _save(transaction: Transaction, agent: AgentId, limits: AgentLimits) -> None:
    if limits == DEFAULTS:
        transaction.execute("DELETE FROM agent_limits WHERE (uid, name) = (?, ?)", (*agent,))
        return
    transaction.execute(
        f"INSERT OR REPLACE INTO agent_limits (uid, name, {', '.join(_COLUMNS)})"  # noqa: S608 - our own names
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*agent, *dataclasses.astuple(limits)),
    )
