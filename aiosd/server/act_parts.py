"""What an act is made of: the tools it offers, the calls it has made, what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from aios_sdk.errors import InvalidParams
from aiosd.engine.calls import to_json
from aiosd.server.calls.base import Result
from aiosd.services.tools.model import Tool

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

MAX_TOOLS = 128  # as many as llm.generate takes
SHOWN_CHARS = 4096  # of what a call brought, in the act's result; chunks have all of it


@dataclass(frozen=True, slots=True)
class Offer:
    """What the model may call: as generate takes it, and which of these the client runs."""

    tools: tuple[dict[str, Any], ...]
    of_client: frozenset[str]


@dataclass(slots=True)
class Made:
    """A call that the model asked for, and what came of it."""

    call: Mapping[str, Any]
    round: int
    content: str = "cancelled: the act ended before this call did"
    is_error: bool = True
    duration_ms: int = 0

    def describe(self) -> Result:
        return {
            **self.call,
            "round": self.round,
            "content": self.content,
            "is_error": self.is_error,
            "duration_ms": self.duration_ms,
        }


@dataclass(slots=True)
class Sums:
    """What all rounds cost."""

    usage: dict[str, int] = field(default_factory=dict)
    tools_ms: int = 0

    def add(self, usage: Mapping[str, int]) -> None:
        for name, value in usage.items():
            if name == "ttft_ms" and self.usage:
                continue  # the first words' time is the first round's
            self.usage[name] = self.usage.get(name, 0) + value


def offered(daemon: Daemon, call: Call) -> Offer:
    """The tools that the call names.  NotFound, Denied, InvalidParams.

    Of one name the caller's own counts, where the daemon's was found by a pattern.
    """
    p = call.params
    own = p.get("client_tools", ())
    names = {tool["name"] for tool in own}
    found: dict[str, Tool] = {}
    if p.get("tools"):
        daemon.access.check_right(call.agent, "tool", "llm.act with tools")
    for name in p.get("tools", ()):
        if "*" in name:
            all_ = [tool for tool in daemon.tools.list(call.agent) if tool.name not in names]
            fit = [tool for tool in all_ if fnmatchcase(tool.name, name)]
        else:
            fit = [daemon.tools.get(name, call.agent)[0]]
        found.update((tool.name, tool) for tool in fit)
    if len(found) + len(own) > MAX_TOOLS:
        raise InvalidParams(
            f"{len(found) + len(own)} tools, limit is {MAX_TOOLS}: name fewer",
            field="tools",
            limit=MAX_TOOLS,
        )
    if own and "context" not in p:
        raise InvalidParams(
            "client_tools needs a context: what the caller's tools bring comes with another "
            "llm.act, which goes on there",
            field="client_tools",
        )
    for place, tool in enumerate(own):
        if tool["name"] in found:
            field_ = f"client_tools[{place}].name"
            raise InvalidParams(f"{field_} is {tool['name']!r}, as one of tools", field=field_)
    tools = [
        {"name": t.name, "description": t.description, "parameters": dict(t.parameters)}
        for t in found.values()
    ]
    return Offer((*tools, *own), frozenset(tool["name"] for tool in own))


def shown(made: Sequence[Made], n_bytes: int) -> list[Result]:
    """The newest calls, as many as so many bytes hold, in the order they were made."""
    found = []
    for one in reversed(made):
        plain = one.describe()
        n_bytes -= len(to_json(plain).encode())
        if n_bytes < 0:
            break
        found.append(plain)
    return found[::-1]
