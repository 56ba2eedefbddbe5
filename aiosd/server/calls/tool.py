"""`tool.*`: what agents may call besides the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aios_sdk.errors import SyscallError
from aiosd.server import tooling
from aiosd.server.calls.base import Result
from aiosd.services.tools.manager import ToolCall
from aiosd.services.tools.model import Tool, ToolResult

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class ToolCalls:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def tool_list(self, call: Call) -> Result:
        return {"tools": [self._describe(tool) for tool in self._d.tools.list(call.agent)]}

    async def tool_call(self, call: Call) -> Result:
        p, began_ns = call.params, time.monotonic_ns()
        result = await self._d.tools.call(
            p["name"],
            p["arguments"],
            call.agent,
            admit=tooling.admission(self._d, call),
            on_progress=lambda progress: tooling.tell_progress(call, progress),
        )
        return {**said(result), "duration_ms": (time.monotonic_ns() - began_ns) // 10**6}

    async def tool_call_all(self, call: Call) -> Result:
        asked = call.params["calls"]
        ids = [one.get("id", str(i)) for i, one in enumerate(asked)]
        results = await self._d.tools.call_all(
            [ToolCall(one["name"], one["arguments"]) for one in asked],
            call.agent,
            admit=tooling.admission(self._d, call),
            on_progress=lambda i, progress: tooling.tell_progress(call, progress, call=ids[i]),
        )
        return {
            "results": [
                {"id": id_, "name": one["name"], **_ended(result)}
                for id_, one, result in zip(ids, asked, results, strict=True)
            ]
        }

    def _describe(self, tool: Tool) -> Result:
        usual_s = self._d.tools.usual_s(tool.name)
        return {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
            "source": tool.source,
            "irreversible": tool.is_irreversible,
            "ordered": tool.is_ordered,
            "max_parallel": tool.max_parallel,
            "timeout_s": tool.timeout_s,
            "running": self._d.tools.n_running(tool.name),
            "waiting": self._d.tools.n_waiting(tool.name),
            **({} if usual_s is None else {"usual_ms": round(usual_s * 1000)}),
        }


def said(result: ToolResult) -> Result:
    """A result as the wire says it."""
    structured = {} if result.structured is None else {"structured": dict(result.structured)}
    cut = {"cut": True} if result.is_cut else {}
    return {"content": result.content, **structured, "is_error": result.is_error, **cut}


def _ended(result: ToolResult | SyscallError) -> Result:
    if isinstance(result, SyscallError):
        return {"error": result.to_wire()}
    return {"result": said(result)}
