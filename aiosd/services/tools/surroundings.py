"""What the tool manager needs of the daemon around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from aiosd.kernel.model import AgentId
from aiosd.services.tools.model import Tool

T = TypeVar("T")

LONG_WORK = 64 * 1024
"""InWorker's size of work that may take long: one of a uid at a time."""


class Doorkeeper(Protocol):
    """Who may use which tool."""

    def may_use(self, agent: AgentId, tool: Tool) -> bool:
        """Whether the tool is there for the agent; leaves no trace."""
        ...

    def check(self, agent: AgentId, tool: Tool) -> None:
        """Nothing if the agent may use it, maybe once a person has said so; NotFound or Denied."""
        ...

    def note_bounded(self, agent: AgentId, tool: Tool, bound: str) -> None:
        """A call of the tool was ended for using too much: let it be known."""
        ...


class Observer(Protocol):
    """Who is told what happens."""

    def tool_ended(self, tool: Tool, caller: AgentId, outcome: str, duration_s: float) -> None: ...


class InWorker(Protocol):
    """Runs CPU work off the event loop; see Daemon.in_worker."""

    def __call__(self, work: Callable[[], T], uid: int = 0, size: int = 0) -> Awaitable[T]: ...
