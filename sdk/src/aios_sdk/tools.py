"""The daemon's tools: `client.tools`, blocking and asyncio.

    with Client(agent="ada") as client:
        for tool in client.tools.list():
            print(tool["name"], tool["description"])
        print(client.tools.call("calculator", {"expression": "6 * 7"})["content"])

Rule: both say the same; only the waiting differs.  A result with is_error is a tool's own word that
it could not; ToolFailed is raised when it gave none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from aios_sdk.results import CallMessage, ToolInfo, ToolOutcome, ToolResult, field

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient
    from aios_sdk.aiostream import AsyncStream
    from aios_sdk.client import Client
    from aios_sdk.stream import Stream


class Tools:
    """The tools that the client's agent may use."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> Sequence[ToolInfo]:
        return cast(Sequence[ToolInfo], field(self._client.call("tool.list"), "tools", list))

    def call(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline_ms: int | None = None,
    ) -> ToolResult:
        """Run a tool.  InvalidParams, before anything runs, if its schema refuses the arguments."""
        result = self._client.call("tool.call", **_call(name, arguments, deadline_ms))
        return cast(ToolResult, result)

    def call_stream(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline_ms: int | None = None,
    ) -> Stream:
        """As call(), but an iterator of how far it is: maps with progress, total and message."""
        return self._client.stream("tool.call", **_call(name, arguments, deadline_ms))

    def call_all(self, calls: Sequence[CallMessage]) -> Sequence[ToolOutcome]:
        """Several calls, such as a model's: each has its own result, or its own error."""
        result = self._client.call("tool.call_all", calls=[*calls])
        return cast(Sequence[ToolOutcome], field(result, "results", list))


class AsyncTools:
    """As Tools, with await."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> Sequence[ToolInfo]:
        return cast(Sequence[ToolInfo], field(await self._client.call("tool.list"), "tools", list))

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline_ms: int | None = None,
    ) -> ToolResult:
        """Run a tool.  InvalidParams, before anything runs, if its schema refuses the arguments."""
        result = await self._client.call("tool.call", **_call(name, arguments, deadline_ms))
        return cast(ToolResult, result)

    def call_stream(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline_ms: int | None = None,
    ) -> AsyncStream:
        """As call(), but an async iterator of how far it is."""
        return self._client.stream("tool.call", **_call(name, arguments, deadline_ms))

    async def call_all(self, calls: Sequence[CallMessage]) -> Sequence[ToolOutcome]:
        """Several calls, such as a model's: each has its own result, or its own error."""
        result = await self._client.call("tool.call_all", calls=[*calls])
        return cast(Sequence[ToolOutcome], field(result, "results", list))


def _call(
    name: str, arguments: Mapping[str, object] | None, deadline_ms: int | None
) -> dict[str, object]:
    return {"name": name, "arguments": {**(arguments or {})}, "deadline_ms": deadline_ms}
