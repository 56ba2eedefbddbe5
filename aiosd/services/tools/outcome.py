"""What a call brought, within its bounds: cut where it is too long, and said to be."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import msgpack

from aios_sdk.errors import InvalidParams
from aios_sdk.types import AnyMap
from aiosd.services.tools.model import Progress, ToolResult

MESSAGE_CHARS: Final = 500  # of one progress report
MARK_BYTES: Final = 256  # more than what marks take


def bounded(result: ToolResult, max_bytes: int) -> ToolResult:
    """The result as it may go out.

    Text past max_bytes is cut at a character, with a mark that says how much there was; data past
    it, or that the wire can't say, is dropped, and the text says so.
    """
    data, said = _data(result, max_bytes)
    text = result.content.encode("utf-8", "replace")
    # A local tool's process has cut its result already, and marked it.
    is_cut = len(text) > max_bytes + (MARK_BYTES if result.is_cut else 0)
    if is_cut:
        said.append(f"cut: {len(text)} bytes, limit is {max_bytes}")
        text = text[:max_bytes]
    content = text.decode("utf-8", "ignore") + "".join(f"\n[{words}]" for words in said)
    return dataclasses.replace(
        result,
        content=content,
        structured=data,
        is_cut=is_cut or result.is_cut or data is not result.structured,
    )


def short(progress: Progress) -> Progress:
    """A report of bounded length."""
    if progress.message is None or len(progress.message) <= MESSAGE_CHARS:
        return progress
    return dataclasses.replace(progress, message=progress.message[:MESSAGE_CHARS] + "…")


def _data(result: ToolResult, max_bytes: int) -> tuple[dict[str, Any] | None, list[str]]:
    if result.structured is None:
        return None, []
    data: Any = result.structured
    try:
        AnyMap().check(data, "structured")
        n_bytes = len(msgpack.packb(data))
    except (InvalidParams, ValueError, OverflowError, TypeError):
        return None, ["structured result dropped: it holds what the wire can't say"]
    if n_bytes > max_bytes:
        return None, [f"structured result dropped: {n_bytes} bytes, limit is {max_bytes}"]
    return data, []
