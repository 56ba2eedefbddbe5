"""Agents that the daemon runs: `client.spawn(...)`, blocking and asyncio.

    with Client(agent="boss") as client:
        worker = client.spawn("worker", "python", "worker.py", read=["/srv/worker.py"])
        print(worker.wait()["exit_code"], [line["text"] for line in worker.logs()])

The program has a connection of its own under its name: Client() and Agent() find it.  It ends with
the client that spawned it, unless detached.

Rule: both say the same; only the waiting differs.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from aios_sdk.results import OutputLine, ProcessInfo, field

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient
    from aios_sdk.client import Client

Signal = Literal["stop", "cont", "term", "kill"]
WAIT_S = 20.0  # of one call of wait(); it makes another


class SpawnLimits(TypedDict, total=False):
    """At most what the daemon's configuration says, which is what holds without them."""

    tokens: int
    jobs: int
    wall_s: int
    memory_bytes: int
    cpu_s: int
    cpu_percent: int
    n_processes: int
    disk_bytes: int


class SpawnOptions(TypedDict, total=False):
    """
    env      its environment; nothing is inherited
    cwd      where it starts; absent: its private directory, which goes when it ends
    limits   tokens of its jobs, jobs at once, seconds, memory, …
    read     paths it may read, and run, beside what every program needs
    write    paths it may write to
    network  whether it may reach the network
    rights   at most these; absent: the spawner's, but admin
    restart  whether it is started again when it has ended
    detach   it outlives the client; with restart="always" the daemon too
    """

    env: Mapping[str, str]
    cwd: str
    limits: SpawnLimits
    read: Sequence[str]
    write: Sequence[str]
    network: bool
    rights: Sequence[str]
    restart: Literal["no", "on_failure", "always"]
    detach: bool


class Process:
    """One agent's process, from its start over its restarts to its end.

    agent    its name: of what a spawned agent spawns, below the spawner's own
    process  its id
    """

    def __init__(self, client: Client, agent: str, process: str) -> None:
        self._client = client
        self.agent = agent
        self.process = process

    @staticmethod
    def spawn(
        client: Client, name: str, command: str, args: Sequence[str], options: SpawnOptions
    ) -> Process:
        made = client.call("agent.spawn", **_asked(name, command, args, options))
        return Process(client, *_named(made))

    def wait(self, timeout_s: float | None = None) -> ProcessInfo:
        """How it ended, when it has for good; how it stands if it hasn't within timeout_s."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            info = self._client.call("agent.wait", timeout_ms=_wait_ms(until), **self._which)
            if _is_over(info, until):
                return cast(ProcessInfo, info)

    def info(self) -> ProcessInfo:
        """How it stands."""
        return self.wait(0)

    def signal(self, signal: Signal) -> None:
        """stop it, let it cont(inue), ask it to end (term), or kill it."""
        self._client.call("agent.signal", signal=signal, **self._which)

    def logs(self, lines: int = 1000) -> list[OutputLine]:
        """The last lines of what it wrote, as far as they are kept."""
        result = self._client.call("agent.logs", lines=lines, **self._which)
        return cast(list[OutputLine], field(result, "lines", list))

    def follow(self, lines: int = 1000) -> Iterator[OutputLine]:
        """What it wrote and writes, until it has ended for good."""
        for chunk in self._client.stream("agent.logs", lines=lines, **self._which):
            yield from cast(list[OutputLine], chunk["lines"])

    @property
    def _which(self) -> dict[str, str]:
        return {"agent": self.agent, "process": self.process}


class AsyncProcess:
    """As Process, with await."""

    def __init__(self, client: AsyncClient, agent: str, process: str) -> None:
        self._client = client
        self.agent = agent
        self.process = process

    @staticmethod
    async def spawn(
        client: AsyncClient, name: str, command: str, args: Sequence[str], options: SpawnOptions
    ) -> AsyncProcess:
        made = await client.call("agent.spawn", **_asked(name, command, args, options))
        return AsyncProcess(client, *_named(made))

    async def wait(self, timeout_s: float | None = None) -> ProcessInfo:
        """How it ended, when it has for good; how it stands if it hasn't within timeout_s."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            info = await self._client.call("agent.wait", timeout_ms=_wait_ms(until), **self._which)
            if _is_over(info, until):
                return cast(ProcessInfo, info)

    async def info(self) -> ProcessInfo:
        """How it stands."""
        return await self.wait(0)

    async def signal(self, signal: Signal) -> None:
        """stop it, let it cont(inue), ask it to end (term), or kill it."""
        await self._client.call("agent.signal", signal=signal, **self._which)

    async def logs(self, lines: int = 1000) -> list[OutputLine]:
        """The last lines of what it wrote, as far as they are kept."""
        result = await self._client.call("agent.logs", lines=lines, **self._which)
        return cast(list[OutputLine], field(result, "lines", list))

    async def follow(self, lines: int = 1000) -> AsyncIterator[OutputLine]:
        """What it wrote and writes, until it has ended for good."""
        async with self._client.stream("agent.logs", lines=lines, **self._which) as stream:
            async for chunk in stream:
                for line in cast(list[OutputLine], chunk["lines"]):
                    yield line

    @property
    def _which(self) -> dict[str, str]:
        return {"agent": self.agent, "process": self.process}


def _asked(
    name: str, command: str, args: Sequence[str], options: SpawnOptions
) -> dict[str, object]:
    """The params of agent.spawn."""
    rights, env = options.get("rights"), options.get("env")
    grants: dict[str, object] = {
        name: list(paths)
        for name, paths in (("read", options.get("read")), ("write", options.get("write")))
        if paths
    }
    if options.get("network"):
        grants["network"] = True
    return {
        "name": name,
        "command": command,
        "args": list(args) or None,
        "env": None if env is None else dict(env),
        "cwd": options.get("cwd"),
        "limits": options.get("limits"),
        "grants": grants or None,
        "rights": None if rights is None else list(rights),
        "restart": options.get("restart"),
        "detach": options.get("detach"),
    }


def _named(made: dict[str, object]) -> tuple[str, str]:
    return cast(str, field(made, "agent", str)), cast(str, field(made, "process", str))


def _wait_ms(until: float | None) -> int:
    left_s = WAIT_S if until is None else min(WAIT_S, until - time.monotonic())
    return max(0, int(left_s * 1000))


def _is_over(info: dict[str, object], until: float | None) -> bool:
    return info.get("state") == "ended" or (until is not None and time.monotonic() >= until)
