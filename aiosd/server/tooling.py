"""Tools as calls meet them: who may use which, and asking a person first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from aios_sdk import toolbox
from aiosd.kernel.model import AgentId
from aiosd.services.access import Target, Verdict
from aiosd.services.documents import Mode
from aiosd.services.tools import along
from aiosd.services.tools.local import LocalTools, places
from aiosd.services.tools.manager import Admit
from aiosd.services.tools.model import Progress, Tool, ToolResult
from aiosd.tools_config import Tools

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

ABOUT_CHARS: Final = 1000  # of the arguments, for the person who is asked


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

    def note_bounded(self, agent: AgentId, tool: Tool, bound: str) -> None:
        self._d.access.note("bounded", agent, "use", target_of(tool), bound)


def target_of(tool: Tool) -> Target:
    return Target("tool", None, tool.name, is_irreversible=tool.is_irreversible)


def admission(daemon: Daemon, call: Call) -> Admit:
    """What ToolManager.call asks on behalf of the call before it runs a tool."""

    async def admit(tool: Tool, arguments: Mapping[str, Any]) -> None:
        target = target_of(tool)
        asks = daemon.access.decide(call.subject, "use", target).verdict is Verdict.ASK
        await daemon.access.admit(call, "use", target, about=_shown(arguments) if asks else "")

    return admit


def _shown(arguments: Mapping[str, Any]) -> str:
    """As a person who must confirm sees them; that there is more comes first, not to be missed."""
    text = json.dumps(arguments, ensure_ascii=False)
    if len(text) <= ABOUT_CHARS:
        return text
    return f"[the first {ABOUT_CHARS} of {len(text)} characters] {text[:ABOUT_CHARS]}"


def tell_progress(to: Call, progress: Progress, **more: Any) -> None:
    """A chunk; lost on a peer that doesn't read: the next report says more."""
    if to.params["stream"] and not to.session.is_stalled:
        total = {} if progress.total is None else {"total": progress.total}
        message = {} if progress.message is None else {"message": progress.message}
        to.emit({**more, "progress": progress.progress, **total, **message})


class OwnTools:
    """The sources that every daemon has: tools that come along, and those of files."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        hidden = (daemon.config.state_dir, daemon.config.socket)
        self._along = LocalTools(along.SOURCE, self._config, hidden, along.along())
        self._local = LocalTools("local", self._config, hidden)
        in_daemon = along.InDaemon("daemon")
        in_daemon.offer(storage_search, self._search_storage)
        for source in (self._along, in_daemon, self._local):
            daemon.tools.add(source)

    async def load(self) -> None:
        """Find the tools of files and packages, at first or anew."""
        directory = self._d.config.tools.directory
        await self._local.load(await self._d.in_worker(lambda: places(directory)))

    async def keep_spares(self) -> None:
        """Have processes started for the next calls, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._along.keep_spares())
            group.create_task(self._local.keep_spares())

    def _config(self) -> Tools:
        return self._d.config.tools

    async def _search_storage(self, agent: AgentId, arguments: Mapping[str, Any]) -> ToolResult:
        access = self._d.access
        access.check(access.subject(agent), "read", Target("storage", agent))
        k = arguments.get("k", 5)
        found = await self._d.storage_index.search(agent, arguments["query"], k, Mode.HYBRID)
        results = [{"path": m.path, "snippet": m.snippet, "score": m.score} for m in found.results]
        parts = [f"{one['path']}:\n{one['snippet']}" for one in results]
        return ToolResult("\n\n".join(parts) or "nothing was found", {"results": results})


def storage_search(
    query: Annotated[str, {"minLength": 1, "maxLength": 10_000}],
    k: Annotated[int, {"minimum": 1, "maximum": 100}] = 5,
) -> None:
    """Search your stored files by words and by meaning; gives paths and what fits in them.

    Args:
        query: words, or a sentence
        k: so many results at most
    """


toolbox.tool(max_parallel=8, ordered=False)(storage_search)
