"""MCP over streamable HTTP: the SDK's transport, on a client that bounds what a server may answer.

Rule 1: nothing is read without a limit: events by the SDK's own, whole bodies by ours, and nothing
is unpacked, since what a few bytes unpack to has no limit.
Rule 2: requests go to the url and nowhere else: no proxy of the environment, no other origin.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import httpx2
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client

from aiosd.mcp_config import McpConfig
from aiosd.services.tools.mcp_server import InWorker

CONNECT_S = 10.0
SPARE_S = 30.0  # a server may be silent for as long as a call may take, and a little more
GOODBYE_S = 2.0  # to end the session when we leave


class _Bounded(httpx2.AsyncByteStream):
    """A body, up to a limit."""

    def __init__(self, body: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._body = body
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        n_bytes = 0
        async for chunk in self._body:
            n_bytes += len(chunk)
            if n_bytes > self._max_bytes:
                raise httpx2.ReadError(f"an answer of more than {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """HTTP whose answers have a limit."""

    def __init__(self, max_bytes: int, on_forgotten: Callable[[], None]) -> None:
        super().__init__(trust_env=False)
        self._max_bytes = max_bytes
        self._on_forgotten = on_forgotten

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "DELETE":  # the SDK's goodbye, which a hanging server mustn't hold up
            request.extensions["timeout"] = dict.fromkeys(
                ("connect", "read", "write", "pool"), GOODBYE_S
            )
        response = await super().handle_async_request(request)
        has_session = request.method == "POST" and "mcp-session-id" in request.headers
        if response.status_code == 404 and has_session:
            self._on_forgotten()  # the protocol's word for it, whatever the body says
        packed = response.headers.get("content-encoding", "identity")
        if packed != "identity":
            await response.aclose()
            raise httpx2.ReadError(f"an answer packed with {packed[:40]!r}, which nobody asked for")
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        if not is_stream and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(response.stream, self._max_bytes)
        return response


@contextlib.asynccontextmanager
async def reached(
    config: McpConfig, in_worker: InWorker, on_forgotten: Callable[[], None]
) -> AsyncIterator[TransportStreams]:
    """Both streams of the server at the config's url.

    on_forgotten: told when the server refuses a request since it doesn't know the session any more.
    """
    client: httpx2.AsyncClient
    client = await in_worker(lambda: _client(config, on_forgotten))  # reads certificates
    async with (
        client,
        streamable_http_client(
            config.url, http_client=client, max_sse_event_size=config.frame_bytes
        ) as streams,
    ):
        yield streams


def _client(config: McpConfig, on_forgotten: Callable[[], None]) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=_BoundedTransport(config.frame_bytes, on_forgotten),
        headers={"accept-encoding": "identity", **config.headers},
        timeout=httpx2.Timeout(CONNECT_S, read=config.timeout_s + SPARE_S),
        trust_env=False,
    )
