"""`tool.*`: what agents may call besides the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from aios_sdk.errors import InvalidParams, NotFound, SyscallError
from aios_sdk.errors import ToolFailed as Failed
from aios_sdk.syscalls import MCP_SERVER
from aiosd import confine
from aiosd.mcp_config import parse
from aiosd.server import tooling
from aiosd.server.calls.base import Result
from aiosd.services.access import Target, Verdict
from aiosd.services.tools.manager import ToolCall
from aiosd.services.tools.mcp_server import McpServer
from aiosd.services.tools.model import Confined, Tool, ToolFailed, ToolResult
from aiosd.settings import ConfigError

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

_UNCONFINED: Final[Result] = {
    "read": ["what the daemon's own services, or a server elsewhere, do for the caller"],
    "write": [],
    "network": "as its source has it",
    "kept": {},
    "not_kept": {"process": "no process of this machine runs it"},
}


class ToolCalls:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def tool_list(self, call: Call) -> Result:
        return {"tools": [self._describe(tool) for tool in self._d.tools.list(call.agent)]}

    async def tool_check(self, call: Call) -> Result:
        tool, source = self._d.tools.get(call.params["name"], call.agent)
        subject, target = call.subject, tooling.target_of(tool)
        decision = self._d.access.decide(subject, "use", target)
        confinement = source.confinement(tool) if isinstance(source, Confined) else None
        if confinement is None:
            touched = dict(_UNCONFINED)
        else:
            described = await self._d.in_worker(lambda: confine.describe(confinement))
            touched = described.as_data()
        time = f"{tool.timeout_s:g} s for a call, which is then ended with all it has started"
        size = f"{self._d.config.tools.result_bytes} bytes of text, and of data"
        return {
            "name": tool.name,
            "source": tool.source,
            "irreversible": tool.is_irreversible,
            "asks": decision.verdict is Verdict.ASK,
            "confined": confinement is not None,
            **touched,
            "kept": {**touched["kept"], "time": time, "result": size},
        }

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

    async def tool_load(self, call: Call) -> Result:
        p = call.params
        name, keys = p["name"], [param.name for param in MCP_SERVER]
        try:
            config = parse({key: p[key] for key in keys if key in p}, "")
        except ConfigError as error:
            raise InvalidParams(str(error)) from None
        await self._d.access.admit(call, "admin", Target("tool", None, name))
        try:
            server = await self._d.mcp.load(name, config)
        except ToolFailed as error:
            raise Failed(str(error), name=name) from None
        tools = [tool.name for tool in server.tools()]
        return {"name": name, "tools": tools, "left_out": list(server.left_out)}

    async def tool_unload(self, call: Call) -> Result:
        name = call.params["name"]
        await self._d.access.admit(call, "admin", Target("tool", None, name))
        await self._d.mcp.unload(name)
        return {}

    def tool_servers(self, call: Call) -> Result:
        name, logs = call.params.get("name"), call.params["logs"]
        servers = [s for s in self._d.mcp.all() if name in (None, s.name)]
        if name is not None and not servers:
            raise NotFound(f"no MCP server {name!r}", name=name)
        return {"servers": [_server(server, logs=logs) for server in servers]}

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


def _server(server: McpServer, *, logs: bool) -> Result:
    return {
        "name": server.name,
        "state": server.state.value,
        "over": "stdio" if server.config.command else "http",
        "is_loaded": server.is_loaded,
        **({} if server.pid is None else {"pid": server.pid}),
        "tools": len(server.tools()),
        "restarts": server.n_restarts,
        **({"last_error": server.last_error} if server.last_error else {}),
        "left_out": list(server.left_out),
        **({"log": server.log.lines()} if logs else {}),
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
