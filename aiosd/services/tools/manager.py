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
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import structlog

from aios_sdk.errors import Busy, Internal, InvalidParams, NotFound, SyscallError
from aios_sdk.errors import ToolFailed as Failed
from aiosd.kernel.model import AgentId
from aiosd.services.tools import outcome
from aiosd.services.tools.arguments import BadSchema, Checker
from aiosd.services.tools.gate import Gate, LineFull
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult, ToolSource
from aiosd.tools_config import Tools

log = structlog.get_logger()
T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
PROGRESS_EVERY_S: Final = 0.05  # reports that come faster are dropped
EWMA_WEIGHT: Final = 0.2  # of the newest call in how long a tool usually takes
LONG_CHECK: Final = 64 * 1024  # in_worker's size of work that may take long: one of a uid at a time

Admit = Callable[[Tool, Mapping[str, Any]], Awaitable[None]]
OnProgress = Callable[[Progress], None]
OnEnd = Callable[[int, ToolResult | SyscallError, int], None]


class Doorkeeper(Protocol):
    """Who may use which tool."""

    def may_use(self, agent: AgentId, tool: Tool) -> bool:
        """Whether the tool is there for the agent; leaves no trace."""
        ...

    def check(self, agent: AgentId, tool: Tool) -> None:
        """Nothing if the agent may use it, maybe once a person has said so; NotFound or Denied."""
        ...


class Observer(Protocol):
    """Who is told what happens."""

    def tool_ended(self, tool: Tool, caller: AgentId, outcome: str, duration_s: float) -> None: ...


class InWorker(Protocol):
    """Runs CPU work off the event loop; see Daemon.in_worker."""

    def __call__(self, work: Callable[[], T], uid: int = 0, size: int = 0) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One of a list of calls."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class _Running:
    """A call under way; ended says why it must end before its time."""

    source: ToolSource
    scope: asyncio.Timeout
    ended: str | None = None

    def end(self, reason: str) -> None:
        if self.ended is None and not self.scope.expired():
            self.ended = reason
            self.scope.reschedule(asyncio.get_running_loop().time())


@dataclass(slots=True)
class _State:
    """What is remembered of a tool between calls."""

    gate: Gate
    parameters: Mapping[str, Any] | None = None  # what checker was made of
    checker: Checker | BadSchema | None = None
    usual_s: float | None = None
    running: set[_Running] = field(default_factory=set)

    @property
    def is_idle(self) -> bool:
        return not (self.gate.n_running or self.gate.n_waiting or self.running)


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
        self._in_worker = in_worker
        self._observer = observer
        self._sources: dict[str, ToolSource] = {}
        self._states: dict[str, _State] = {}
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
        gone = f"its source {name} was removed"
        for state in self._states.values():
            for running in [r for r in state.running if r.source is source]:
                running.end(gone)
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
            if tool.name in self._states:
                self._states[tool.name].gate.resize(tool.max_parallel)
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
        state = self._states.get(name)
        return None if state is None else state.usual_s

    def n_running(self, name: str) -> int:
        state = self._states.get(name)
        return 0 if state is None else state.gate.n_running

    def n_waiting(self, name: str) -> int:
        state = self._states.get(name)
        return 0 if state is None else state.gate.n_waiting

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
        await self._check(tool, arguments, caller)
        await admit(tool, arguments)
        state, config = self._state(tool), self._config()
        try:
            async with (
                state.gate.place(
                    caller, limit=config.waiting, limit_per_uid=config.waiting_per_uid
                ),
                self._room.place(caller, limit=2**31, limit_per_uid=2**31),
            ):
                now, source = self.get(name, caller)
                if now != tool or source is not asked_of:  # minutes may have gone by
                    raise Failed(f"{name} has changed while the call waited: try again", tool=name)
                return await self._run(tool, source, arguments, caller, on_progress)
        except LineFull as full:
            usual_s = state.usual_s or 1.0
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

    def _state(self, tool: Tool) -> _State:
        state = self._states.get(tool.name)
        if state is None:
            self._tidy()
            state = self._states[tool.name] = _State(Gate(tool.max_parallel))
        elif state.gate.n_places != tool.max_parallel:
            state.gate.resize(tool.max_parallel)
        return state

    def _tidy(self) -> None:
        """Forget tools that are no more, if nothing of them is under way."""
        known = {tool.name for source in self._sources.values() for tool in source.tools()}
        for name in [n for n, s in self._states.items() if n not in known and s.is_idle]:
            del self._states[name]

    async def _check(self, tool: Tool, arguments: Mapping[str, Any], caller: AgentId) -> None:
        state, max_bytes = self._state(tool), self._config().argument_bytes

        def made() -> Checker | BadSchema:
            try:
                return Checker(tool.parameters)
            except BadSchema as error:
                return error

        if state.checker is None or state.parameters != tool.parameters:
            state.checker = await self._in_worker(made)
            state.parameters = tool.parameters
        checker = state.checker
        if isinstance(checker, BadSchema):
            raise Failed(f"{tool.name} can't be called: its schema: {checker}", tool=tool.name)
        size = LONG_CHECK if checker.takes_long or _is_long(arguments) else 0
        try:
            await self._in_worker(lambda: checker.check(arguments, max_bytes), caller.uid, size)
        except InvalidParams as error:
            raise InvalidParams(f"{tool.name}: {error.message}", **error.data) from None

    async def _run(
        self,
        tool: Tool,
        source: ToolSource,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: OnProgress,
    ) -> ToolResult:
        state, began_ns, ended = self._state(tool), time.monotonic_ns(), "cancelled"
        running = _Running(source, asyncio.timeout(tool.timeout_s))
        state.running.add(running)
        try:
            async with running.scope:
                result = await source.call(tool, arguments, caller, _thinned(on_progress))
            ended = "error" if result.is_error else "ok"
        except TimeoutError:
            ended = "failed"
            words = "it timed out"
            if running.scope.expired():
                late = f"took longer than its {tool.timeout_s:g} s and was ended"
                words = running.ended or late
            raise Failed(f"{tool.name}: {words}", tool=tool.name) from None
        except ToolFailed as error:
            ended = "failed"
            raise Failed(f"{tool.name}: {error}", tool=tool.name) from None
        except SyscallError:
            ended = "failed"
            raise
        except Exception:  # a source's bug ends its call and no other
            ended, bug = "failed", secrets.token_hex(4)
            log.exception("bug", id=bug, name=f"tool source {source.name}")
            raise Internal(
                f"a bug of aiosd; its log has the details under id {bug}", id=bug
            ) from None
        finally:
            state.running.discard(running)
            seconds = (time.monotonic_ns() - began_ns) / 1e9
            if ended in ("ok", "error"):
                before = seconds if state.usual_s is None else state.usual_s
                state.usual_s = before + EWMA_WEIGHT * (seconds - before)
            self._observer.tool_ended(tool, caller, ended, seconds)
        max_bytes = self._config().result_bytes
        if len(result.content) < LONG_CHECK and result.structured is None:
            return outcome.bounded(result, max_bytes)
        return await self._in_worker(lambda: outcome.bounded(result, max_bytes), caller.uid)


def _is_long(arguments: Mapping[str, Any]) -> bool:
    """Whether checking them may take more than some milliseconds."""
    n_left, waiting = 1000, [*arguments.values()]
    while waiting and n_left > 0:
        match waiting.pop():
            case list() as items:
                waiting += items[:n_left]
            case dict() as items:
                waiting += list(items.values())[:n_left]
            case str() as text:
                n_left -= len(text) // 100
        n_left -= 1
    return n_left <= 0


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


def _thinned(on_progress: OnProgress) -> OnProgress:
    """Tells on_progress at most so often, and no more than so much."""
    last_s = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= PROGRESS_EVERY_S:
            last_s = now_s
            on_progress(outcome.short(progress))

    return tell
