"""The MCP server that benchmarks/tools.py asks through the daemon, and directly for comparison.

`python -m benchmarks.mcp_add` serves on its stdin and stdout until they close.
"""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

server = MCPServer("add")


@server.tool()
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    server.run()
