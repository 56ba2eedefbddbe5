"""The nouns of the tool manager: a tool, a call's caller and result, and where tools come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from aiosd.kernel.model import AgentId

if TYPE_CHECKING:
    from aiosd.confine import Confinement


@dataclass(frozen=True, slots=True)
class Tool:
    """What may be called.

    name            as agents call it: "calculator", or "server.tool" for one of an MCP server
    parameters      JSON Schema of its arguments, an object
    source          the name of where it comes from
    is_irreversible what it does can't be undone: a person may have to be asked
    is_ordered      of a list of calls, those of ordered tools run one after another, in its order
    max_parallel    calls at once; more wait in line, agents in turn
    timeout_s       a call takes no longer
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    source: str
    is_irreversible: bool = False
    is_ordered: bool = True
    max_parallel: int = 1
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call brought: text for the model, and the same as data where the tool has it.

    is_error  the tool ran and says that it could not do it: an answer, which models may read
    is_cut    there was more of it than the manager lets through
    """

    content: str
    structured: Mapping[str, Any] | None = None
    is_error: bool = False
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is, as the tool tells it; total is None where it can't know."""

    progress: float
    total: float | None = None
    message: str | None = None


class ToolFailed(Exception):  # noqa: N818 - the wire's name of it is tool_failed
    """The tool did not run to an answer: it died, took too long, or could not be reached.

    bound  what its process was ended by for using too much, if that was it
    """

    def __init__(self, words: str, bound: str | None = None) -> None:
        super().__init__(words)
        self.bound = bound


class ToolSource(Protocol):
    """Where tools come from.  Arguments are valid by the tool's schema when call() gets them."""

    @property
    def name(self) -> str: ...

    def tools(self) -> Sequence[Tool]:
        """What it offers now."""
        ...

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        """Carry the call out.  Raises ToolFailed.  Cancelling it ends every process of the call;
        deadlines, room in line and the size of the result are the manager's part."""
        ...

    async def close(self) -> None:
        """End its processes."""
        ...


@runtime_checkable
class Confined(Protocol):
    """A ToolSource whose calls run in confined processes of this machine."""

    def confinement(self, tool: Tool) -> Confinement | None:
        """What holds for the tool's process; None if it has none here."""
        ...
