"""A source of tools that are coroutines of a test's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aios_sdk.errors import NotFound
from aiosd.kernel.model import AgentId
from aiosd.services.tools.manager import ToolManager
from aiosd.services.tools.model import Progress, Tool, ToolResult
from aiosd.tools_config import Tools

ADA, BOB, ZED = AgentId(1, "ada"), AgentId(1, "bob"), AgentId(2, "zed")
Body = Callable[..., Awaitable[ToolResult]]


class Source:
    """Tools by name, each with what its calls do: body(arguments, caller, on_progress)."""

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self.is_closed = False
        self._tools: dict[str, tuple[Tool, Body]] = {}

    def offer(self, name: str, body: Body, **fields: Any) -> None:
        parameters = fields.pop("parameters", {"type": "object"})
        self._tools[name] = Tool(name, "A tool.", parameters, self.name, **fields), body

    def tools(self) -> Sequence[Tool]:
        return [tool for tool, _ in self._tools.values()]

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        return await self._tools[tool.name][1](arguments, caller, on_progress)

    async def close(self) -> None:
        self.is_closed = True


class Everyone:
    """A doorkeeper who keeps some tools from some agents."""

    def __init__(self) -> None:
        self.hidden: set[tuple[AgentId, str]] = set()
        self.bounded: list[tuple[AgentId, str, str]] = []

    def may_use(self, agent: AgentId, tool: Tool) -> bool:
        return (agent, tool.name) not in self.hidden

    def check(self, agent: AgentId, tool: Tool) -> None:
        if not self.may_use(agent, tool):
            raise NotFound(f"no tool {tool.name!r}")

    def note_bounded(self, agent: AgentId, tool: Tool, bound: str) -> None:
        self.bounded.append((agent, tool.name, bound))


class Noted:
    """What an observer was told."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str]] = []

    def tool_ended(self, tool: Tool, caller: AgentId, outcome: str, duration_s: float) -> None:
        self.ended.append((tool.name, caller.name, outcome))


async def in_worker(work: Callable[[], Any], uid: int = 0, size: int = 0) -> Any:
    return await asyncio.to_thread(work)


async def admit(_: Tool, __: Mapping[str, Any]) -> None:
    """Nobody has to be asked."""


def manager(source: Source, **config: Any) -> ToolManager:
    made = ToolManager(lambda: Tools(**config), Everyone(), in_worker, Noted())
    made.add(source)
    return made
