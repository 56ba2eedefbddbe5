"""What confines the processes that the daemon starts: tools, MCP servers, agents."""
