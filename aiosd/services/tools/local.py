"""Local tools: Python functions in files, in installed packages, and those that come along.

Rule 1: nobody else's code is imported in the daemon: what a file offers is asked of a confined
process.
Rule 2: a file that can't be described is left out, with a line in the log, and harms no other.
"""

from __future__ import annotations

import asyncio
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import structlog

from aios_sdk.toolbox import Spec
from aiosd.confine import Bounds, Confinement, Grant, Process
from aiosd.kernel.model import AgentId
from aiosd.services.tools import processes
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult
from aiosd.services.tools.processes import Place, python_path
from aiosd.tools_config import Tools

log = structlog.get_logger()

GROUP: Final = "aiosd.tools"  # of entry points
MAX_PLACES: Final = 256
MAX_TOOLS: Final = 1024
DESCRIBE_S: Final = 30.0  # for all places together
AT_ONCE: Final = 4
SPARE_S: Final = 600.0  # without a call, after which no process waits for the next one


@dataclass(frozen=True, slots=True)
class LocalTool:
    """A tool, where it is, and the paths and the network that it asks for.

    env    what it is told of the configuration
    is_on  whether it is of any use under it
    """

    tool: Tool
    place: Place
    grant: Grant
    env: Callable[[Tools], Mapping[str, str]] = lambda _: {}
    is_on: Callable[[Tools], bool] = lambda _: True


class LocalTools:
    """A ToolSource.  hidden: what no tool may reach, whatever is granted."""

    def __init__(
        self,
        name: str,
        config: Callable[[], Tools],
        hidden: tuple[str, ...],
        known: Iterable[LocalTool] = (),
    ) -> None:
        self._name = name
        self._config = config
        self._hidden = hidden
        self._tools = {one.tool.name: one for one in known}
        self._spares: dict[str, tuple[Confinement, Process]] = {}
        self._used: OrderedDict[str, None] = OrderedDict()  # by last use
        self._wanted = asyncio.Event()
        self._is_closed = False

    @property
    def name(self) -> str:
        return self._name

    def tools(self) -> Sequence[Tool]:
        config = self._config()
        return [one.tool for one in self._tools.values() if one.is_on(config)]

    # ------------------------------------------------------------ what there is

    async def load(self, places: Sequence[Place]) -> None:
        """Offer what is in these places now, instead of what was offered before."""
        if len(places) > MAX_PLACES:
            log.warning("tools_left_out", places=len(places), limit=MAX_PLACES)
        found: list[list[LocalTool]] = [[] for _ in places[:MAX_PLACES]]
        room = asyncio.Semaphore(AT_ONCE)

        async def describe(i: int, place: Place) -> None:
            async with room:
                try:
                    specs = await processes.describe(place, self._confinement(place))
                    found[i] = [self._local(place, spec) for spec in specs]
                except ToolFailed as error:
                    log.warning("tools_refused", place=str(place), reason=str(error))

        try:
            async with asyncio.timeout(DESCRIBE_S), asyncio.TaskGroup() as group:
                for i, place in enumerate(places[:MAX_PLACES]):
                    group.create_task(describe(i, place))
        except TimeoutError:
            slow = [str(p) for p, tools in zip(places, found, strict=False) if not tools]
            log.warning("tools_refused", place=" ".join(slow[:8]), reason=f"not in {DESCRIBE_S} s")
        tools: dict[str, LocalTool] = {}
        for one in (one for part in found for one in part):
            if one.tool.name in tools or len(tools) >= MAX_TOOLS:
                log.warning("tool_left_out", name=one.tool.name, place=str(one.place))
            else:
                tools[one.tool.name] = one
        self._tools = tools
        await self._end_spares()

    def _local(self, place: Place, said: Mapping[str, Any]) -> LocalTool:
        spec = _spec(said)
        return local(self._name, place, spec)

    # ------------------------------------------------------------ calls

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,  # noqa: ARG002 - a process is nobody's
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        one = self._tools.get(tool.name)
        if one is None:
            raise ToolFailed("it is not there any more")
        confinement = self.confinement(tool)
        process = await self._spare(tool.name, confinement)
        if process is None:
            process = await processes.start("call", one.place, confinement)
        self._used.pop(tool.name, None)
        self._used[tool.name] = None
        self._wanted.set()
        max_bytes = self._config().result_bytes
        return await processes.call(process, tool.name, arguments, max_bytes, on_progress)

    def confinement(self, tool: Tool) -> Confinement:
        """What holds for a call of it: what it asks for, and what the configuration says."""
        one, config = self._tools[tool.name], self._config()
        rule = config.rule(tool.name)
        grant = Grant(
            read=(*one.grant.read, *rule.read),
            write=(*one.grant.write, *rule.write),
            is_networked=one.grant.is_networked
            if rule.network == "declared"
            else rule.network == "yes",
        )
        return self._confinement(one.place, grant, one.env(config), rule.memory_bytes)

    def _confinement(
        self,
        place: Place,
        grant: Grant = Grant(),  # noqa: B008 - it is frozen
        env: Mapping[str, str] | None = None,
        memory_bytes: int = 0,
    ) -> Confinement:
        config, path = self._config(), python_path()
        code = (str(Path(place.target).parent),) if place.kind == "file" else ()
        bounds = Bounds(
            memory_bytes=memory_bytes or config.memory_bytes,
            n_processes=config.processes,
            file_bytes=config.file_bytes,
            disk_bytes=config.disk_bytes,
        )
        return Confinement(
            Grant((*code, *grant.read), grant.write, grant.is_networked),
            bounds,
            {
                "PYTHONDONTWRITEBYTECODE": "1",
                **({"PYTHONPATH": ":".join(path)} if path else {}),
                **(env or {}),
            },
            self._hidden,
        )

    # ------------------------------------------------------------ processes started ahead

    async def keep_spares(self) -> None:
        """Start a process for the next call of tools that were used lately, again and again."""
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), SPARE_S)
            except TimeoutError:
                self._used.clear()
                await self._end_spares()
                continue
            self._wanted.clear()
            limit = self._config().spares
            while len(self._used) > limit:
                await self._drop(self._used.popitem(last=False)[0])
            for name in reversed(list(self._used)):
                one = self._tools.get(name)
                if one is None or name in self._spares:
                    continue
                confinement = self.confinement(one.tool)
                try:
                    process = await processes.start("call", one.place, confinement)
                except ToolFailed as error:
                    log.warning("tool_not_started", name=name, reason=str(error))
                    continue
                if name in self._spares or self._is_closed or self._tools.get(name) is not one:
                    await process.end(0)
                else:
                    self._spares[name] = confinement, process

    async def _spare(self, name: str, confinement: Confinement) -> Process | None:
        """The one started ahead, if it lives and would be started just so now."""
        if name not in self._spares:
            return None
        made, process = self._spares.pop(name)
        if process.status is None and made == confinement:
            return process
        await process.end(0)
        return None

    async def _drop(self, name: str) -> None:
        if name in self._spares:
            await self._spares.pop(name)[1].end(0)

    async def _end_spares(self) -> None:
        for name in list(self._spares):
            await self._drop(name)

    async def close(self) -> None:
        self._is_closed = True
        await self._end_spares()


def local(source: str, place: Place, spec: Spec, **more: Any) -> LocalTool:
    """A function's spec as a tool of that source."""
    tool = Tool(
        name=spec.name,
        description=spec.description,
        parameters=spec.parameters,
        source=source,
        is_irreversible=spec.irreversible,
        is_ordered=spec.ordered,
        max_parallel=spec.max_parallel,
        timeout_s=spec.timeout_s,
    )
    return LocalTool(tool, place, Grant(spec.read, spec.write, spec.network), **more)


def places(directory: str) -> list[Place]:
    """Where tools may be: the directory's files, and entry points of what is installed.  Blocks."""
    found = [Place("module", point.value) for point in sorted(entry_points(group=GROUP))]
    if not directory:
        return found
    top = Path(directory).expanduser().absolute()
    try:
        mode = top.stat().st_mode
        files = sorted(top.glob("*.py"))
    except OSError as error:
        log.warning("tools_refused", place=directory, reason=str(error.strerror))
        return found
    if mode & stat.S_IWOTH:
        reason = "everybody may write there: chmod o-w it"
        log.warning("tools_refused", place=directory, reason=reason)
        return found
    for file in files:
        if file.name.startswith(("_", ".")):
            continue
        if _may_all_write(file):
            log.warning("tools_refused", place=str(file), reason="everybody may write it, or gone")
            continue
        found.append(Place("file", str(file)))
    return found


def _may_all_write(file: Path) -> bool:
    """Also of one that isn't there any more: what will be then is unknown."""
    try:
        return bool(file.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True


def _spec(said: Mapping[str, Any]) -> Spec:
    """A spec that a tool's process has said.  ToolFailed if it makes no sense."""
    match said:
        case {
            "name": str(name),
            "description": str(description),
            "parameters": dict(parameters),
            "irreversible": bool(irreversible),
            "ordered": bool(ordered),
            "max_parallel": int(max_parallel),
            "timeout_s": int() | float() as timeout_s,
            "read": [*read],
            "write": [*write],
            "network": bool(network),
        } if all(isinstance(path, str) for path in (*read, *write)):
            if not (1 <= max_parallel <= 1024 and 0 < timeout_s <= 86400):
                raise ToolFailed(f"{name[:64]}: max_parallel or timeout_s are out of bounds")
            return Spec(
                name,
                description,
                parameters,
                irreversible,
                ordered,
                max_parallel,
                float(timeout_s),
                tuple(read),
                tuple(write),
                network,
            )
    raise ToolFailed("what it said of its tools makes no sense")
