"""Processes of local tools: started confined, used for one call, thrown away.

Rule 1: whatever a process says or does, its call ends in a ToolResult or ToolFailed, and nothing
of it is left.
Rule 2: one that was started ahead is used only if it would be started just so now.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aios_sdk
import aiosd
from aiosd import confine
from aiosd.confine import Confinement, Process
from aiosd.services.tools import frames
from aiosd.services.tools.model import Progress, ToolFailed, ToolResult

MAX_FRAMES: Final = 10_000  # of one call: more is noise, and costs the daemon time
SLACK_BYTES: Final = 64 * 1024  # of a result's frame beside its text and its data
DESCRIPTION_BYTES: Final = 4 * 1024 * 1024
WORDS_CHARS: Final = 2000
ENDING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where tools are: a file by path, or a module by name (`package.module:function` for one)."""

    kind: str
    target: str

    def __str__(self) -> str:
        return self.target


def python_path() -> tuple[str, ...]:
    """Where our packages are, if not in the environment that the interpreter knows."""
    places = (Path(str(package.__file__)).parent.parent for package in (aiosd, aios_sdk))
    prefix = Path(sys.prefix)
    return tuple(dict.fromkeys(str(place) for place in places if prefix not in place.parents))


async def start(mode: str, place: Place, confinement: Confinement) -> Process:
    """A worker for one call, or for one description.  ToolFailed says why there is none."""
    module = "aiosd.services.tools.worker"
    argv = [sys.executable, "-P", "-s", "-m", module, mode, place.kind, place.target]
    try:
        return await confine.spawn(argv, confinement, stdin=confine.PIPE, stdout=confine.PIPE)
    except (confine.ConfineError, OSError) as error:  # OSError: out of descriptors, for one
        raise ToolFailed(f"no process could be started: {error}") from None


async def describe(place: Place, confinement: Confinement) -> list[Mapping[str, Any]]:
    """The specs of its tools, as it says them.  ToolFailed."""
    async with await start("describe", place, confinement) as process:
        match await _heard(process, DESCRIPTION_BYTES):
            case {"tools": [*specs]} if all(isinstance(spec, dict) for spec in specs):
                return specs
            case {"failed": str(words)}:
                raise ToolFailed(words[:WORDS_CHARS])
        raise ToolFailed("what it said of itself makes no sense")


async def call(
    process: Process,
    name: str,
    arguments: Mapping[str, Any],
    max_bytes: int,
    on_progress: Callable[[Progress], None],
) -> ToolResult:
    """Carry out the one call of a process, which has ended when this returns.  ToolFailed."""
    try:
        request = {"name": name, "arguments": arguments, "max_bytes": max_bytes}
        await _say(process, frames.encoded(request))
        for _ in range(MAX_FRAMES):
            match await _heard(process, 2 * max_bytes + SLACK_BYTES):
                case {"ready": True}:
                    pass
                case {"progress": [int() | float() as progress, total, message]}:
                    on_progress(_progress(progress, total, message))
                    await asyncio.sleep(0)  # others first: thousands may be there already
                case {"result": {"content": str(content)} as result}:
                    return _result(content, result)
                case {"failed": str(words)}:
                    raise ToolFailed(words[:WORDS_CHARS])
                case _:
                    raise ToolFailed("it said what makes no sense")
        raise ToolFailed(f"it said more than {MAX_FRAMES} things and was ended")
    finally:
        await process.end(0)


def _result(content: str, said: Mapping[str, Any]) -> ToolResult:
    structured = said.get("structured")
    return ToolResult(
        content,
        structured if isinstance(structured, dict) else None,
        is_error=said.get("is_error") is True,
        is_cut=said.get("is_cut") is True,
    )


def _progress(progress: float, total: object, message: object) -> Progress:
    return Progress(
        float(progress),
        float(total) if isinstance(total, (int, float)) else None,
        message if isinstance(message, str) else None,
    )


async def _say(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(data)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has ended; what it said before that is still to be heard


async def _heard(process: Process, max_bytes: int) -> dict[str, Any]:
    """The next thing it says.  ToolFailed if it says nothing more, or no frame."""
    assert process.stdout is not None
    try:
        message = await _received(process.stdout, max_bytes)
    except frames.BadFrame as error:
        raise ToolFailed(f"it said {error}") from None
    if message is None:
        with contextlib.suppress(TimeoutError):  # it is ending by itself, as a rule
            await asyncio.wait_for(process.wait(), ENDING_S)
        status = await process.end(0)
        raise ToolFailed(f"it ended without an answer ({status})", status.reason)
    return message


async def _received(stream: asyncio.StreamReader, max_bytes: int) -> dict[str, Any] | None:
    """The next frame; None at the end.  BadFrame."""
    try:
        n_bytes = int.from_bytes(await stream.readexactly(frames.HEADER_BYTES), "big")
        if n_bytes > max_bytes:
            raise frames.BadFrame(f"a frame of {n_bytes} bytes, limit is {max_bytes}")
        return frames.decoded(await stream.readexactly(n_bytes))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise frames.BadFrame("half a frame") from None
        return None
    except (BrokenPipeError, ConnectionResetError):
        return None
