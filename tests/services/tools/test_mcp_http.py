"""MCP servers as sources of tools, over HTTP: real ones, and such as nobody should write."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiosd.mcp_config import parse
from aiosd.services.tools.mcp_server import State
from aiosd.services.tools.model import Progress, ToolFailed
from tests.services.tools import mcp_programs
from tests.services.tools.mcp_started import call, run, started, until


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(mcp_programs.HERE / "mcp_everything.py"),
        "http",
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def test_over_http_calls_progress_and_cancellation_work(tmp_path: Path) -> None:
    async def test() -> None:
        port, seen = free_port(), list[Progress]()
        config = parse({"url": f"http://127.0.0.1:{port}/mcp"}, "")
        async with listening(port), started(config) as server, asyncio.TaskGroup() as group:
            await server.ready()
            assert server.pid is None
            assert (await call(server, "count", seen.append, n=2)).content == "counted"
            await until(lambda: len(seen) == 2)
            waiting = group.create_task(call(server, "wait", seen=str(tmp_path / "w")))
            await until((tmp_path / "w.began").exists)
            waiting.cancel()
            await until((tmp_path / "w.cancelled").exists)
            assert server.n_restarts == 0

    run(test)


def test_over_http_a_server_that_was_restarted_is_found_again() -> None:
    async def test() -> None:
        port = free_port()
        async with started(parse({"url": f"http://127.0.0.1:{port}/mcp"}, "")) as server:
            async with listening(port):
                await until(lambda: server.state is State.RUNNING)
                assert (await call(server, "echo", text="one")).content == "one"
            async with listening(port):
                # It may notice before the call or by it: the new server doesn't know the session.
                assert (await call(server, "echo", text="two")).content == "two"
                with pytest.raises(ToolFailed, match="was lost during the call"):
                    await call(server, "die")
                await until(lambda: server.state is State.RESTARTING)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(call(server, "echo", text="three"))
                async with listening(port):
                    assert (await waiting).content == "three"

    run(test)


@contextlib.asynccontextmanager
async def answering(head: str, body: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The url of an HTTP server that gives the same answer to everybody, and what it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            length = re.search(rb"content-length: ([0-9]+)", asked[-1].lower())
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/mcp", asked


@pytest.mark.parametrize(
    ("head", "body", "why"),
    [
        (
            "200 OK\r\ncontent-type: application/json",
            b"x" * 2_000_000,
            "ReadError: an answer of more than 1048576 bytes",
        ),
        (
            "200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip",
            b"x",
            "ReadError: an answer packed with 'gzip', which nobody asked for",
        ),
        (
            "200 OK\r\ncontent-type: text/event-stream",
            b"data: " + b"x" * 2_000_000 + b"\n\n",
            "MCPError: SSE stream failed: ",
        ),
        ("307 Moved\r\nlocation: http://127.0.0.2:9/mcp", b"", "MCPError: Redirect to "),
        ("500 Broken", b"", "MCPError: Server returned an error response"),
    ],
)
def test_over_http_a_server_that_answers_badly_is_refused(head: str, body: bytes, why: str) -> None:
    async def test() -> None:
        async with answering(head, body) as (url, asked):
            config = parse({"url": url, "headers": {"x-key": "k"}}, "")
            async with started(config) as server:
                with pytest.raises(ToolFailed, match=f"did not start: {re.escape(why)}"):
                    await server.ready()
        assert b"x-key: k" in asked[0].lower()

    run(test)
