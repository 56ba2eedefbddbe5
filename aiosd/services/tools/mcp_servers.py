"""All MCP servers: those of the configuration, and those that tool.load has added.

Rule 1: no server holds anything up: the daemon starts and reloads without waiting for one.
Rule 2: a server is offered to the tool manager as a source of its own, under its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from aios_sdk.errors import Denied, Exists, NotFound, QuotaExceeded, Unavailable
from aiosd.mcp_config import McpConfig
from aiosd.services.tools.manager import ToolManager
from aiosd.services.tools.mcp_server import CreateTask, InWorker, McpServer, Pace

log = structlog.get_logger()

MAX_LOADED = 64  # by tool.load; a configuration may have as many as it names


class McpServers:
    """Every server, by its name."""

    def __init__(
        self,
        manager: ToolManager,
        create_task: CreateTask,
        in_worker: InWorker,
        *,
        hidden: tuple[str, ...] = (),
        pace: Pace | None = None,
    ) -> None:
        """hidden: what no server may touch, whatever it was granted."""
        self._manager = manager
        self._create_task = create_task
        self._in_worker = in_worker
        self._hidden = hidden
        self._pace = pace
        self._servers: dict[str, McpServer] = {}
        self._is_closed = False

    def all(self) -> list[McpServer]:
        """By name."""
        return [self._servers[name] for name in sorted(self._servers)]

    async def configure(self, configs: Mapping[str, McpConfig]) -> None:
        """Have these run, beside what was loaded; what was changed is started anew."""
        if self._is_closed:
            return  # a reload that comes while the daemon leaves
        for server in self.all():
            if not server.is_loaded and configs.get(server.name) != server.config:
                await self._drop(server)
        for name, config in configs.items():
            if name in self._servers and not self._servers[name].is_loaded:
                continue
            if name in self._manager.sources:
                log.error("mcp_server_not_started", server=name, reason="the name is taken")
                continue
            self._manager.add(self._started(name, config, is_loaded=False))

    async def load(self, name: str, config: McpConfig) -> McpServer:
        """One more, until the daemon ends.  Waits until it runs; if it doesn't, it isn't kept.

        Exists, QuotaExceeded, ToolFailed, Unavailable.
        """
        if self._is_closed:
            raise Unavailable("the daemon is shutting down")
        n_loaded = sum(server.is_loaded for server in self._servers.values())
        if name in self._servers or name in self._manager.sources:
            raise Exists(f"there is a source of tools {name!r} already", name=name)
        if n_loaded >= MAX_LOADED:
            raise QuotaExceeded(
                f"{n_loaded} servers are loaded, limit is {MAX_LOADED}",
                limit=MAX_LOADED,
                used=n_loaded,
            )
        server = self._started(name, config, is_loaded=True)
        try:
            await server.ready()
            self._manager.add(server)
        except BaseException:
            self._servers.pop(name, None)
            await server.close()
            raise
        return server

    async def unload(self, name: str) -> None:
        """End one that was loaded.  NotFound, Denied."""
        server = self._servers.get(name)
        if server is None or name not in self._manager.sources:
            raise NotFound(f"no MCP server {name!r}", name=name)
        if not server.is_loaded:
            raise Denied(f"MCP server {name!r} is the configuration's: take it out and reload")
        await self._drop(server)

    async def close(self) -> None:
        """End all of them, side by side, for good."""
        self._is_closed = True
        async with asyncio.TaskGroup() as group:
            for server in self.all():
                group.create_task(self._drop(server))

    def _started(self, name: str, config: McpConfig, *, is_loaded: bool) -> McpServer:
        server = McpServer(
            name,
            config,
            self._in_worker,
            hidden=self._hidden,
            is_loaded=is_loaded,
            pace=self._pace,
        )
        self._servers[name] = server
        server.start(self._create_task)
        return server

    async def _drop(self, server: McpServer) -> None:
        self._servers.pop(server.name, None)
        if self._manager.sources.get(server.name) is server:
            await self._manager.remove(server.name)  # which closes it
        else:
            await server.close()
