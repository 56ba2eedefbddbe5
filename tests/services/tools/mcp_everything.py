"""An MCP server made with the SDK's server side, whose tools do what servers may do to us.

python mcp_everything.py stdio | http PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("everything", log_level="ERROR")


def _leave(path: str) -> None:
    Path(path).touch()


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
def data(n: int) -> dict[str, int]:
    """Twice as much."""
    return {"n": n, "double": 2 * n}


@server.tool(structured_output=False)
def fail(why: str) -> types.CallToolResult:
    """Say that it went wrong."""
    said = types.TextContent(type="text", text=why)
    return types.CallToolResult(content=[said], is_error=True)


@server.tool(structured_output=False)
def mixed() -> list[types.ContentBlock]:
    """Content of every kind."""
    text = types.TextResourceContents(uri="note://1", text="a note")
    blob = types.BlobResourceContents(uri="blob://1", mime_type="x/y", blob="AAECAw==")
    return [
        types.TextContent(type="text", text="first"),
        types.ImageContent(type="image", data="AAEC", mime_type="image/png"),
        types.AudioContent(type="audio", data="AA==", mime_type="audio/wav"),
        types.ResourceLink(type="resource_link", uri="file:///x", name="x", description="an x"),
        types.EmbeddedResource(type="resource", resource=text),
        types.EmbeddedResource(type="resource", resource=blob),
    ]


@server.tool(annotations=types.ToolAnnotations(destructive_hint=True))
def wipe() -> str:
    """It calls itself destructive."""
    return "wiped"


@server.tool(annotations=types.ToolAnnotations(destructive_hint=False, read_only_hint=True))
def tidy() -> str:
    """It calls itself harmless."""
    return "tidied"


@server.tool()
async def die() -> str:
    """End the process in mid-call."""
    os.write(2, b"I die\n")
    os._exit(7)


@server.tool()
def pid() -> int:
    """Its process."""
    return os.getpid()


@server.tool()
def look(path: str) -> str:
    """Read a file."""
    return Path(path).read_text()


@server.tool()
async def count(n: int, ctx: Context[Any, Any]) -> str:
    """Report progress n times."""
    for i in range(n):
        await ctx.report_progress(i + 1, n, f"step {i + 1}")
    return "counted"


@server.tool()
async def wait(seen: str) -> str:
    """Wait for ever; leave a file when it began, and one when it was cancelled."""
    _leave(seen + ".began")
    try:
        await asyncio.Event().wait()
    finally:
        _leave(seen + ".cancelled")
    return ""


@server.tool()
async def hang(seen: str) -> str:
    """Block the whole server."""
    _leave(seen + ".began")
    os.read(os.pipe()[0], 1)
    return ""


@server.tool()
async def grow(ctx: Context[Any, Any]) -> str:
    """Offer one more tool, and say so."""
    server.add_tool(echo, name="grown")
    await ctx.session.send_tool_list_changed()
    return "grown"


@server.tool()
async def ask(ctx: Context[Any, Any]) -> str:
    """Have the client's model answer."""
    said = types.SamplingMessage(
        role="user", content=types.TextContent(type="text", text="who are you?")
    )
    try:
        await ctx.session.create_message([said], max_tokens=10)
    except Exception as error:
        return f"refused: {type(error).__name__}"
    return "answered"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[2]))
