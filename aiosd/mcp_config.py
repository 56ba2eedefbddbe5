"""The [mcp.NAME] tables: MCP servers, what they may touch, and how much of anything they get.

tool.load takes the same keys, so that a server can be tried before it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiosd.settings import GIB, KIB, MIB, ConfigError, checked, key

SERVER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}"  # its tools are NAME.tool
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}"


@dataclass(frozen=True, slots=True)
class McpConfig:
    """A program to start (`command`), or a server that runs already (`url`)."""

    command: str = key("", "The program to start, spoken with over its stdin and stdout.")
    args: tuple[str, ...] = key((), "Its arguments.")
    env: Mapping[str, str] = key(
        {}, "Its environment, beside PATH, HOME, LANG, TZ and TMPDIR.", name_pattern=_VARIABLE
    )
    cwd: str = key(
        "",
        "Its working directory; without one a private directory that goes with it, which is its "
        "HOME and TMPDIR too.",
        pattern=r"(/.{0,4095})?",
    )
    url: str = key(
        "",
        "In place of a command: where a server listens, over streamable HTTP. The daemon itself "
        "connects to it, and never through a proxy.",
        pattern=r"(https?://[^\s]{1,2000})?",
    )
    headers: Mapping[str, str] = key({}, "Sent to the url with each request.", name_pattern=_HEADER)
    read: tuple[str, ...] = key(
        (), "Files and directories it may read, beside the system's.", pattern=r"/.{0,4095}"
    )
    write: tuple[str, ...] = key(
        (), "Files and directories it may read and change.", pattern=r"/.{0,4095}"
    )
    network: bool = key(False, "Whether it may use the network.")
    memory: int = key(
        GIB,
        "Memory of all its processes; 0: not bounded.",
        low=0,
        high=1024**5,
        is_bytes=True,
    )
    processes: int = key(64, "Its processes; 0: not bounded.", low=0, high=65536)
    files: int = key(256, "Its open files; 0: not bounded.", low=0, high=1_048_576)
    file_bytes: int = key(
        256 * MIB,
        "One file that it writes; 0: not bounded.",
        low=0,
        high=1024**5,
        is_bytes=True,
    )
    disk: int = key(
        512 * MIB,
        "What all that it writes may grow by; 0: not bounded.",
        low=0,
        high=1024**5,
        is_bytes=True,
    )
    irreversible: tuple[str, ...] = key(
        (),
        "Its tools, by name or pattern, that can't be undone. Those that call themselves "
        "destructive are so too; nothing that a server says makes one harmless.",
        pattern=r"[A-Za-z0-9._*?-]{1,128}",
    )
    max_parallel: int = key(4, "Calls of one of its tools at once.", low=1, high=1024)
    timeout_s: int = key(60, "The longest that a call may take.", low=1, high=86400)
    start_s: int = key(
        30, "The longest it may take to start and to say what it offers.", low=1, high=3600
    )
    tools: int = key(128, "Its tools; what it offers beyond is left out.", low=1, high=4096)
    frame_bytes: int = key(
        MIB,
        "One message of its; a server that sends a longer one is started anew.",
        low=4 * KIB,
        high=64 * MIB,
        is_bytes=True,
    )
    log_bytes: int = key(
        64 * KIB,
        "What is kept of its stderr, the newest, for `aiosctl tool servers --logs`.",
        low=0,
        high=64 * MIB,
        is_bytes=True,
    )


def parse(values: Mapping[str, Any], where: str) -> McpConfig:
    """A server by its keys.  ConfigError says what is wrong; where comes before a key's name."""
    return complete(McpConfig(**checked(McpConfig, values, where)), where)


def complete(config: McpConfig, where: str) -> McpConfig:
    """The same, if its keys go together; else ConfigError."""
    if bool(config.command) == bool(config.url):
        has = "both a command and a url" if config.url else "neither a command nor a url"
        raise ConfigError(f"{where.rstrip('.') or 'the server'} has {has}, expected one of them")
    for name, value in config.headers.items():
        if not value.isprintable() or not value.isascii():
            raise ConfigError(f"{where}headers.{name} holds what no header may")
    return config
