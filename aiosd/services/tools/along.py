"""The tools that come along, as a source; those that need the daemon's services are its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aios_sdk import toolbox
from aiosd.kernel.model import AgentId
from aiosd.services.tools.builtin import calculator, clock, fetch, programs
from aiosd.services.tools.local import LocalTool, local
from aiosd.services.tools.model import Progress, Tool, ToolResult
from aiosd.services.tools.processes import Place
from aiosd.tools_config import Tools

SOURCE: Final = "builtin"
_FUNCTIONS: Final = (
    calculator.calculator,
    clock.clock,
    programs.python,
    programs.shell,
    fetch.fetch,
)

Body = Callable[[AgentId, Mapping[str, Any]], Awaitable[ToolResult]]


def along() -> list[LocalTool]:
    """Each with what it is told of the configuration."""
    return [
        local(
            SOURCE,
            Place("module", f"{function.__module__}:{function.__name__}"),
            toolbox.spec_of(function),
            **(_FETCH if function is fetch.fetch else {}),
        )
        for function in _FUNCTIONS
    ]


def _fetch_env(config: Tools) -> dict[str, str]:
    return {
        fetch.HOSTS_VAR: " ".join(config.allowed_hosts),
        fetch.PRIVATE_VAR: "yes" if config.fetch_private else "no",
    }


_FETCH: Final[Mapping[str, Any]] = {
    "env": _fetch_env,
    "is_on": lambda config: bool(config.allowed_hosts),
}


class InDaemon:
    """A ToolSource of tools that the daemon's own services carry out: no process is needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tools: dict[str, tuple[Tool, Body]] = {}

    def offer(self, like: Callable[..., Any], body: Body) -> None:
        """A tool that says of itself what this function does; body carries it out."""
        spec = toolbox.spec_of(like)
        one = local(self.name, Place("module", ""), spec)
        self._tools[spec.name] = one.tool, body

    def tools(self) -> Sequence[Tool]:
        return [tool for tool, _ in self._tools.values()]

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: Callable[[Progress], None],  # noqa: ARG002 - they are quick
    ) -> ToolResult:
        return await self._tools[tool.name][1](caller, arguments)

    async def close(self) -> None:
        """There is nothing to end."""
