"""The process of a local tool: imports it, and describes it or carries out one call.

    python -m aiosd.services.tools.worker describe|call file|module TARGET

Rule 1: what it says to the daemon goes out in frames on what was its stdout; what the tool prints
goes to stderr, and so does what programs print that it runs.
Rule 2: one process, one call.  It is confined before it starts; nothing here protects anything.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Final

from aios_sdk import toolbox
from aiosd.services.tools import frames
from aiosd.services.tools.model import ToolResult
from aiosd.services.tools.outcome import bounded

WORDS_CHARS: Final = 2000  # of an exception

Function = Callable[..., Any]


class Refused(Exception):  # noqa: N818 - the tool's author reads it
    """What is there is no tool, or not one that can be described."""


def functions(kind: str, target: str) -> dict[str, Function]:
    """The tools of a file, or of a module (`package.module`, `package.module:function`)."""
    if kind == "file":
        return _tools_of(_imported(target))
    name, _, attribute = target.partition(":")
    module = importlib.import_module(name)
    thing = getattr(module, attribute) if attribute else module
    if isinstance(thing, ModuleType):
        return _tools_of(thing)
    return {toolbox.spec_of(thing).name: thing}


def _imported(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_" + Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise Refused(f"{path} is no Python file")
    sys.path.insert(0, str(Path(path).parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _tools_of(module: ModuleType) -> dict[str, Function]:
    """Its own functions that are marked as tools."""
    own = (
        thing
        for thing in vars(module).values()
        if toolbox.is_tool(thing) and inspect.unwrap(thing).__module__ == module.__name__
    )
    return {toolbox.spec_of(function).name: function for function in own}


def describe(kind: str, target: str) -> Iterator[dict[str, Any]]:
    found = functions(kind, target)
    if not found:
        raise Refused("it has no tools: mark functions with @tool, of aios_sdk.toolbox")
    yield {"tools": [asdict(toolbox.spec_of(function)) for function in found.values()]}


def call(
    kind: str, target: str, requests: BinaryIO, say: Callable[[dict[str, Any]], None]
) -> Iterator[dict[str, Any]]:
    known = functions(kind, target)
    yield {"ready": True}
    request = frames.read(requests)
    if request is None:
        return  # the daemon doesn't need us any more
    function = known.get(request["name"])
    if function is None:
        raise Refused(f"{target} has no tool {request['name']} any more")
    toolbox.reporting_to(lambda *report: say({"progress": report}))
    try:
        value = function(**toolbox.arguments_of(function, request["arguments"]))
        if inspect.iscoroutine(value):
            import asyncio  # noqa: PLC0415 - takes 30 ms that few tools need

            value = asyncio.run(value)
    except Exception as error:  # whatever the tool raises is its answer
        result = ToolResult(_words(error), is_error=True)
    else:
        said = toolbox.outcome_of(value)
        result = ToolResult(said.content, said.structured, is_error=said.is_error)
    yield {"result": asdict(bounded(result, request["max_bytes"]))}


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:WORDS_CHARS]


def main(mode: str, kind: str, target: str) -> None:
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        answers.write(frames.encoded(message))
        answers.flush()

    try:
        steps = describe(kind, target) if mode == "describe" else call(kind, target, requests, say)
        for message in steps:
            say(message)
    except SystemExit as asked:
        os._exit(asked.code if isinstance(asked.code, int) else 1)
    except Exception as error:
        say({"failed": _words(error)})
    answers.flush()
    os._exit(0)  # no thread that the tool has left behind holds it up


if __name__ == "__main__":
    main(*sys.argv[1:])
