"""The tool manager: which tools there are, and how a call of one comes to its end.

A call's way: found, allowed, arguments checked, confirmed by a person where policy says so, in
line, run by its source under a deadline, its result bounded.

Rule 1: nothing of a tool runs before its arguments are valid.
Rule 2: whatever a source does, a call ends: with a result, or with a SyscallError of its own.
Rule 3: a failure leaves nothing behind: the next call begins as the first did.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from aios_sdk.errors import Busy, NotFound, SyscallError
from aios_sdk.errors import ToolFailed as Failed
from aiosd.kernel.model import AgentId
from aiosd.services.tools.checking import Checking
from aiosd.services.tools.gate import Gate, LineFull
from aiosd.services.tools.model import Progress, Tool, ToolResult, ToolSource
from aiosd.services.tools.running import Calls, OnProgress
from aiosd.services.tools.surroundings import Doorkeeper, InWorker, Observer
from aiosd.tools_config import Tools

log = structlog.get_logger()

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")

Admit = Callable[[Tool, Mapping[str, Any]], Awaitable[None]]
OnEnd = Callable[[int, ToolResult | SyscallError, int], None]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One of a list of calls."""

    name: str
    arguments: Mapping[str, Any]


class ToolManager:
    """All tools, of all sources."""

    def __init__(
        self,
        config: Callable[[], Tools],
        doorkeeper: Doorkeeper,
        in_worker: InWorker,
        observer: Observer,
    ) -> None:
        self._config = config
        self._doorkeeper = doorkeeper
        self._checking = Checking(in_worker)
        self._calls = Calls(in_worker, observer, lambda: config().result_bytes)
        self._sources: dict[str, ToolSource] = {}
        self._gates: dict[str, Gate] = {}
        self._room = Gate(config().calls)

    # ------------------------------------------------------------ sources

    @property
    def sources(self) -> Mapping[str, ToolSource]:
        return self._sources

    def add(self, source: ToolSource) -> None:
        """Offer its tools from now on.  Of tools with one name the first source's counts."""
        if source.name in self._sources:
            raise ValueError(f"a source {source.name!r} is here already")
        self._sources[source.name] = source
        log.info("tools_added", source=source.name, tools=len(source.tools()))

    async def remove(self, name: str) -> None:
        """Offer them no longer, end their calls, and close the source."""
        source = self._sources.pop(name)
        self._calls.end_all_of(source, f"its source {name} was removed")
        await source.close()
        self._tidy()
        log.info("tools_removed", source=name)

    async def close(self) -> None:
        """Remove all sources."""
        for name in list(self._sources):
            await self.remove(name)

    def configure(self) -> None:
        """Put the [tools] table into force."""
        self._room.resize(self._config().calls)
        for tool, _ in self._all():
            if tool.name in self._gates:
                self._gates[tool.name].resize(tool.max_parallel)
        self._tidy()

    # ------------------------------------------------------------ what there is

    def list(self, agent: AgentId) -> list[Tool]:
        """The tools that the agent may use, as they are in force."""
        return [tool for tool, _ in self._all() if self._doorkeeper.may_use(agent, tool)]

    def get(self, name: str, agent: AgentId) -> tuple[Tool, ToolSource]:
        """One that the agent may use, and where it comes from.  NotFound, Denied."""
        tool, source = self._found(name)
        self._doorkeeper.check(agent, tool)
        return tool, source

    def look_up(self, name: str) -> Tool:
        """One that is there for somebody.  NotFound.  For who decides who may use it."""
        return self._found(name)[0]

    def usual_s(self, name: str) -> float | None:
        """How long the tool's calls have taken lately; None if there was none yet."""
        return self._calls.usual_s(name)

    def n_running(self, name: str) -> int:
        gate = self._gates.get(name)
        return 0 if gate is None else gate.n_running

    def n_waiting(self, name: str) -> int:
        gate = self._gates.get(name)
        return 0 if gate is None else gate.n_waiting

    # ------------------------------------------------------------ calls

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        caller: AgentId,
        *,
        admit: Admit,
        on_progress: OnProgress = lambda _: None,
    ) -> ToolResult:
        """Carry a call out.

        admit: waits for a person where one must confirm; raises Denied.  Raises NotFound, Denied,
        InvalidParams (its field is the path in the arguments), Busy, ToolFailed.  Cancelling it
        ends the call, in line or running, with all its processes.
        """
        tool, asked_of = self.get(name, caller)
        await self._checking.check(tool, arguments, caller, self._config().argument_bytes)
        await admit(tool, arguments)
        gate, config = self._gate(tool), self._config()
        try:
            async with (
                gate.place(caller, limit=config.waiting, limit_per_uid=config.waiting_per_uid),
                self._room.place(caller, limit=2**31, limit_per_uid=2**31),
            ):
                now, source = self.get(name, caller)
                if now != tool or source is not asked_of:  # minutes may have gone by
                    raise Failed(f"{name} has changed while the call waited: try again", tool=name)
                return await self._calls.run(tool, source, arguments, caller, on_progress)
        except Failed as failed:
            if "bound" in failed.data:
                self._doorkeeper.note_bounded(caller, tool, str(failed.data["bound"]))
            raise
        except LineFull as full:
            usual_s = self.usual_s(name) or 1.0
            wait_ms = round(usual_s * 1000 * full.n_waiting / tool.max_parallel)
            raise Busy(
                f"{name}: {full}",
                retry_after_ms=min(max(100, wait_ms), 60_000),
                queue_depth=full.n_waiting,
            ) from None

    async def call_all(
        self,
        calls: Sequence[ToolCall],
        caller: AgentId,
        *,
        admit: Admit,
        on_progress: Callable[[int, Progress], None] = lambda _, __: None,
        on_end: OnEnd = lambda _, __, ___: None,
    ) -> tuple[ToolResult | SyscallError, ...]:
        """Carry a list of calls out, each to its own result or error, in the list's order.

        on_end is told of each when it has ended, with how many milliseconds it took.

        Calls of ordered tools run one after another; beside them, and each other, those of tools
        for which order doesn't matter.
        """
        results: dict[int, ToolResult | SyscallError] = {}
        known = {tool.name: tool for tool in self.list(caller)}

        async def run(*places: int) -> None:
            for i in places:
                began_ns = time.monotonic_ns()
                try:
                    results[i] = await self.call(
                        calls[i].name,
                        calls[i].arguments,
                        caller,
                        admit=admit,
                        on_progress=partial(on_progress, i),
                    )
                except SyscallError as error:
                    results[i] = error
                on_end(i, results[i], (time.monotonic_ns() - began_ns) // 10**6)

        def is_ordered(call: ToolCall) -> bool:
            return call.name not in known or known[call.name].is_ordered

        async with asyncio.TaskGroup() as group:
            group.create_task(run(*(i for i, call in enumerate(calls) if is_ordered(call))))
            for i, call in enumerate(calls):
                if not is_ordered(call):
                    group.create_task(run(i))
        return tuple(results[i] for i in range(len(calls)))

    # ------------------------------------------------------------ inside

    def _all(self) -> Iterator[tuple[Tool, ToolSource]]:
        """Every tool that is on, as the configuration has it."""
        config, seen = self._config(), set()
        for source in self._sources.values():
            for tool in source.tools():
                if tool.name in seen or not NAME.fullmatch(tool.name):
                    continue
                seen.add(tool.name)
                if config.is_on(tool.name):
                    yield _in_force(tool, config), source

    def _found(self, name: str) -> tuple[Tool, ToolSource]:
        for tool, source in self._all():
            if tool.name == name:
                return tool, source
        raise NotFound(f"no tool {name[:128]!r}", tool=name[:128])

    def _gate(self, tool: Tool) -> Gate:
        gate = self._gates.get(tool.name)
        if gate is None:
            self._tidy()
            gate = self._gates[tool.name] = Gate(tool.max_parallel)
        elif gate.n_places != tool.max_parallel:
            gate.resize(tool.max_parallel)
        return gate

    def _tidy(self) -> None:
        """Forget tools that are no more, if nothing of them is under way."""
        known = {tool.name for source in self._sources.values() for tool in source.tools()}
        for name in [n for n, gate in self._gates.items() if n not in known and gate.is_idle]:
            del self._gates[name]
        self._checking.keep(known)
        self._calls.keep(known)


def _in_force(tool: Tool, config: Tools) -> Tool:
    """The tool with what the configuration says of it."""
    rule = config.rule(tool.name)
    return dataclasses.replace(
        tool,
        is_irreversible=_decided(rule.irreversible, tool.is_irreversible),
        is_ordered=_decided(rule.ordered, tool.is_ordered),
        max_parallel=max(1, rule.max_parallel or tool.max_parallel),
        timeout_s=rule.timeout_s or tool.timeout_s,
    )


def _decided(said: str, declared: bool) -> bool:
    return declared if said == "declared" else said == "yes"
