"""aiosctl, the command line of aiosd: knows the daemon only through the SDK."""
