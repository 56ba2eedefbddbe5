"""An MCP server as a test has it, without a daemon: started, called, closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import uvloop

from aiosd.kernel.model import AgentId
from aiosd.mcp_config import McpConfig
from aiosd.services.tools.mcp_server import McpServer, Pace, State
from aiosd.services.tools.model import Progress, ToolResult

ADA = AgentId(1000, "ada")
LIMIT_S = 60.0  # far above what anything here takes
QUICK = Pace(first_s=0.01, most_s=0.05, failed_after=1000)


async def in_worker(work: Callable[[], Any], uid: int = 0, size: int = 0) -> Any:
    return await asyncio.to_thread(work)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test()

    uvloop.run(limited())


@contextlib.asynccontextmanager
async def started(config: McpConfig, pace: Pace = QUICK) -> AsyncIterator[McpServer]:
    async with asyncio.TaskGroup() as group:
        server = McpServer("s", config, in_worker, pace=pace)
        server.start(group.create_task)
        try:
            yield server
        finally:
            await server.close()
    assert server.state is State.STOPPED
    assert server.pid is None


async def call(
    server: McpServer,
    tool: str,
    on_progress: Callable[[Progress], None] = lambda _: None,
    **arguments: Any,
) -> ToolResult:
    found = next(one for one in server.tools() if one.name == f"s.{tool}")
    return await server.call(found, arguments, ADA, on_progress)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for is in another process
        await asyncio.sleep(0.01)
