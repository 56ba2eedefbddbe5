"""What MCP servers say, made ours: the tools they offer, and what their calls bring.

Rule 1: nothing of a server is taken on trust: what can't be used is left out, with its reason.
Rule 2: what a server says of a tool can make it stricter (irreversible), never more harmless.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Container, Sequence

import mcp_types as types

from aiosd.mcp_config import McpConfig
from aiosd.services.tools.model import Progress, Tool, ToolResult

TOOL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
MAX_DESCRIPTION_CHARS = 4096  # it becomes part of prompts
MAX_SCHEMA_BYTES = 65536
MAX_REASONS = 16


def offered(
    listed: Sequence[types.Tool], server: str, config: McpConfig
) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools that can be used, and why others can't.  CPU work for a worker."""
    tools: dict[str, Tool] = {}
    left_out: list[str] = []
    for one in listed:
        problem = _problem(one, tools, config)
        if problem is None:
            tools[one.name] = _tool(one, server, config)
        elif len(left_out) < MAX_REASONS:
            left_out.append(f"{one.name[:64]!r}: {problem}")
    return tuple(tools.values()), tuple(left_out)


def _problem(one: types.Tool, known: Container[str], config: McpConfig) -> str | None:
    """Why it can't be a tool of ours.  What its schema means is for who checks arguments by it."""
    if not TOOL_NAME.fullmatch(one.name):
        return f"its name is not like {TOOL_NAME.pattern}"
    if one.name in known:
        return "there are two of that name"
    if isinstance(known, dict) and len(known) >= config.tools:
        return f"the server may have {config.tools} tools"
    try:
        n_bytes = len(json.dumps(one.input_schema, allow_nan=False))
    except (ValueError, RecursionError):
        return "its schema is nothing that JSON can say"
    if n_bytes > MAX_SCHEMA_BYTES:
        return f"its schema has {n_bytes} bytes, limit is {MAX_SCHEMA_BYTES}"
    return None


def _tool(one: types.Tool, server: str, config: McpConfig) -> Tool:
    says_destructive = one.annotations is not None and one.annotations.destructive_hint is True
    return Tool(
        name=f"{server}.{one.name}",
        description=_plain(one.description or one.title or "", MAX_DESCRIPTION_CHARS),
        parameters=one.input_schema,
        source=server,
        is_irreversible=says_destructive
        or any(fnmatch.fnmatchcase(one.name, pattern) for pattern in config.irreversible),
        max_parallel=config.max_parallel,
        timeout_s=float(config.timeout_s),
    )


def result_of(answer: types.CallToolResult) -> ToolResult:
    """What a call brought: text as it is, what isn't text in words."""
    said = [_words(item) for item in answer.content]
    structured = answer.structured_content
    if not isinstance(structured, dict):
        structured = None
    if not said and structured is not None:
        said = [json.dumps(structured, ensure_ascii=False)]
    return ToolResult("\n".join(said), structured, bool(answer.is_error))


def _words(item: types.ContentBlock) -> str:
    match item:
        case types.TextContent():
            return item.text
        case types.ImageContent() | types.AudioContent():
            return f"[{item.type}: {_short(item.mime_type)}, {_n_bytes(item.data)} bytes]"
        case types.ResourceLink():
            about = f", {_short(item.description)}" if item.description else ""
            return f"[resource {_short(item.name)} at {_short(item.uri)}{about}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return f"[resource {_short(resource.uri)}]\n{resource.text}"
        case types.EmbeddedResource(resource=types.BlobResourceContents() as resource):
            kind = _short(resource.mime_type or "data")
            return f"[resource {_short(resource.uri)}: {kind}, {_n_bytes(resource.blob)} bytes]"
    return f"[{_short(item.type)}]"


def progress_of(progress: float, total: float | None, message: str | None) -> Progress | None:
    """A report, if its numbers are any."""
    if not math.isfinite(progress):
        return None
    if total is not None and not math.isfinite(total):
        total = None
    return Progress(progress, total, None if message is None else _plain(message, 500))


def _n_bytes(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")


def _short(text: object) -> str:
    return _plain(str(text), 200).replace("\n", " ")


def _plain(text: str, max_chars: int) -> str:
    """Without control characters, and not longer than that."""
    cut = text if len(text) <= max_chars else text[: max_chars - 1] + "…"
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in cut)
