"""Tools as calls meet them: who may use which, and asking a person first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosd.kernel.model import AgentId
from aiosd.services.access import Target, Verdict
from aiosd.services.tools.manager import Admit
from aiosd.services.tools.model import Tool

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class ToolDoorkeeper:
    """The manager's Doorkeeper, by what the access manager decides."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def may_use(self, agent: AgentId, tool: Tool) -> bool:
        access = self._d.access
        decision = access.decide(access.subject(agent), "use", target_of(tool))
        return decision.verdict in (Verdict.ALLOWED, Verdict.ASK)

    def check(self, agent: AgentId, tool: Tool) -> None:
        access = self._d.access
        access.check(access.subject(agent), "use", target_of(tool), is_confirmed=True)


def target_of(tool: Tool) -> Target:
    return Target("tool", None, tool.name, is_irreversible=tool.is_irreversible)


def admission(daemon: Daemon, call: Call) -> Admit:
    """What ToolManager.call asks on behalf of the call before it runs a tool."""

    async def admit(tool: Tool) -> None:
        await daemon.access.admit(call, "use", target_of(tool))

    return admit
