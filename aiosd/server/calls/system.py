"""`sys.*`: what the daemon tells about itself, and how it is steered."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    Cancelled,
    Denied,
    Exists,
    InvalidParams,
    ProtocolError,
    TooLarge,
    Unavailable,
)
from aios_sdk.syscalls import PROTOCOL_VERSION, describe
from aiosd import __version__, journal
from aiosd.kernel import events as ev
from aiosd.kernel.model import AgentId, JobState
from aiosd.server import generate, metrics, trace
from aiosd.server.calls.base import Result
from aiosd.server.turns import in_turns
from aiosd.server.workers import LONG_TEXT
from aiosd.services import access
from aiosd.services.access import Target
from aiosd.services.database import DatabaseError

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call, Session


EVENTS_AT_ONCE = 64


class System:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def sys_hello(self, call: Call) -> Result | Awaitable[Result]:
        session = call.session
        if session.agent is not None and session.identity is None:
            raise ProtocolError(f"hello was said already, as agent {session.agent.name}")
        agent = _named(session, call.params["agent"])
        if session.agent is not None:
            return self._taken_over(call)
        session.agent = agent
        self._d.session_entered(session)
        return self._hello(call)

    async def _taken_over(self, call: Call) -> Result:
        """A process that we run has handed its connection on, as a shell does to what it starts:
        what its last holder left under way ends first, so that its ids are free."""
        others = [other for other in call.session.calls.values() if other is not call]
        for other in others:
            other.end(Cancelled("another process of the agent has taken the connection over"))
        tasks = [other.task for other in others if other.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        return self._hello(call)

    def _hello(self, call: Call) -> Result:
        session = call.session
        assert session.agent is not None
        limits = self._d.config.limits
        return {
            "protocol": PROTOCOL_VERSION,
            "server": {"name": "aiosd", "version": __version__},
            "uid": session.uid,
            "agent": session.agent.name,
            "session": session.id,
            "limits": {
                "frame_bytes": limits.frame_bytes,
                "calls_per_connection": limits.calls_per_connection,
                "max_tokens": limits.max_tokens,
                "context_tokens": self._d.model.info.slot_tokens,
                "contexts_per_agent": limits.contexts_per_agent,
                "jobs_per_uid": limits.jobs_per_uid,
            },
            "rights": [r for r in access.RIGHTS if r in call.subject.rights],
            "models": [self._d.model.info.name],
        }

    def sys_ping(self, call: Call) -> Result:
        return {}

    def sys_describe(self, call: Call) -> Result:
        return _description()

    async def sys_status(self, call: Call) -> Result:
        d = self._d
        async with d.listings[call.session.uid]:
            contexts = in_turns(list(d.contexts.all()))
            seen = [c async for c in contexts if d.access.sees(call, c.agent)]
            agents = in_turns(list(d.agents.all()))
            n_agents = len([a async for a in agents if d.access.sees(call, a.id)])
        kernel, stats, info = d.driver.kernel, d.engine.stats, d.model.info
        n_by_state = kernel.counts
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": (time.monotonic_ns() - d.started_ns) // 10**9,
            "state": "stopping" if d.is_stopping else "serving",
            "agents": n_agents,
            "contexts": {
                "n": len(seen),
                "bytes": sum(c.n_bytes for c in seen),
                "limit_bytes": d.config.limits.contexts_bytes,
            },
            "cores": [
                {
                    "model": info.name,
                    **self._policy(),
                    "n_slots": info.n_slots,
                    "slot_tokens": info.slot_tokens,
                    "slots_used": sum(held is not None for held in kernel.slots),
                    "slots": self._slots(call),
                    "kv": d.config.kv,
                    "exact": info.is_exact,
                    "jobs": {
                        "ready": n_by_state[JobState.READY],
                        "running": n_by_state[JobState.RUNNING] + n_by_state[JobState.CANCELLING],
                        "stalled": n_by_state[JobState.STALLED],
                        "paused": n_by_state[JobState.PAUSED],
                        "delayed": n_by_state[JobState.DELAYED],
                    },
                    "steps": stats.steps,
                    "tokens": {
                        "prompt": stats.prompt_tokens,
                        "cached": stats.cached_tokens,
                        "reread": stats.reread_tokens,
                        "output": stats.output_tokens,
                    },
                    "snapshots": {
                        "ram_bytes": stats.snapshot_ram_bytes,
                        "ram_limit_bytes": d.config.snapshot_ram,
                        "prefix_bytes": stats.prefix_ram_bytes,
                        "prefix_limit_bytes": d.config.prefix_ram,
                        "file_bytes": stats.snapshot_file_bytes,
                        "file_limit_bytes": d.config.snapshot_files,
                        "lost": stats.snapshots_lost,
                    },
                    "switches": {
                        "saves": kernel.counters.saves,
                        "loads": kernel.counters.loads,
                        "moves": kernel.counters.moves,
                        "runs": kernel.counters.runs,
                    },
                    "threads": stats.n_threads,
                    "busy_ms": stats.busy_ns // 10**6,
                }
            ],
            "rss_bytes": _rss_bytes(),
            "disk_free_bytes": _free_bytes(d.config.state_dir),
            **({} if d.confinement is None else {"confinement": asdict(d.confinement)}),
        }

    async def sys_metrics(self, call: Call) -> Result:
        return {"text": await metrics.exposition(self._d)}

    async def sys_events(self, call: Call) -> Result:
        """Until its caller has enough; see happenings.py for what a slow one gets."""
        if not call.params["stream"]:
            raise InvalidParams("sys.events only streams: give stream: true", field="stream")
        d, session = self._d, call.session
        happenings = d.telemetry.happenings
        d.access.note_admin_sees(call)
        with happenings.listening(call.subject) as listener:
            call.emit({"event": "listening", "at_ms": generate.now_ms()})
            while True:
                await listener.changed.wait()
                await session.drained.wait()
                for _ in range(EVENTS_AT_ONCE):
                    if session.is_stalled or not (happening := listener.take(generate.now_ms())):
                        break
                    call.emit(happening)
                await asyncio.sleep(0)  # others first, if there is much to tell

    def _slots(self, call: Call) -> list[Result]:
        """Which of the caller's contexts are in slots."""
        driver = self._d.driver
        jobs = {lane.context: lane.job for lane in driver.kernel.lanes}
        return [
            {
                "slot": slot,
                "context": context,
                "uid": agent.uid,
                "agent": agent.name,
                "running": context in jobs,
                **({"job": jobs[context]} if context in jobs else {}),
            }
            for slot, context in enumerate(driver.kernel.slots)
            if context is not None
            and (agent := driver.agent_of(context)) is not None
            and access.may_see(agent, call.subject)
        ]

    async def sys_trace(self, call: Call) -> Result:
        now_ns = time.monotonic_ns()
        began_ns = now_ns - int(call.params["seconds"] * 1e9)
        timeline = self._d.driver.timeline.since(began_ns)
        subject = call.subject
        self._d.access.note_admin_sees(call)

        def made() -> Result:  # thousands of events: not on the loop
            return trace.chrome_trace(
                timeline,
                lambda owner: access.may_see(owner, subject),
                n_slots=self._d.model.info.n_slots,
                began_ns=began_ns,
                ended_ns=now_ns,
            )

        return await self._d.in_worker(made, call.session.uid, LONG_TEXT)

    async def sys_journal(self, call: Call) -> Result:
        try:
            with self._d.driver.journal.held() as (base, entries):
                data = await self._d.in_worker(lambda: journal.save(__version__, base, entries))
        except journal.HeldError as error:
            raise Unavailable("the journal is being saved already; try again") from error
        limit = self._d.config.limits.frame_bytes - 1024  # the frame has more than it
        if len(data) > limit:
            raise TooLarge(
                f"the journal has {len(data)} bytes, limit is {limit}: set limits.journal_events "
                "lower, or limits.frame_bytes higher"
            )
        return {"journal": data, "events": len(entries)}

    async def sys_backup(self, call: Call) -> Result:
        path = Path(call.params["path"])
        state_dir, target = await self._d.in_worker(
            lambda: (Path(self._d.config.state_dir).resolve(), path.resolve())
        )
        if state_dir in target.parents:
            raise InvalidParams(
                f"{path} is in the daemon's own state directory {state_dir}; choose another place",
                field="path",
            )
        if await self._d.in_worker(lambda: os.path.lexists(path)):
            raise Exists(f"{path} is there already; remove it or choose another", path=str(path))
        try:
            await self._d.database.backup(path)
        except DatabaseError as error:
            raise Unavailable(str(error)) from error
        n_bytes = await self._d.in_worker(lambda: path.stat().st_size)
        return {"path": str(path), "bytes": n_bytes}

    async def sys_policy(self, call: Call) -> Result:
        asked = {
            k: call.params[k] for k in ("policy", "quantum_tokens", "lanes") if k in call.params
        }
        if asked:
            await self._d.access.admit(call, "admin", Target("daemon", None, "policy"))
            n_slots = self._d.model.info.n_slots
            if asked.get("lanes", 1) > n_slots:
                raise InvalidParams(
                    f"lanes is {asked['lanes']}, limit is the number of slots, {n_slots}",
                    field="lanes",
                    limit=n_slots,
                )
            self._d.driver.post(
                ev.PolicyChanged(
                    asked.get("policy"), asked.get("quantum_tokens"), asked.get("lanes")
                )
            )
            self._d.telemetry.daemon_changed("policy", **self._policy())
        return self._policy()

    def _policy(self) -> Result:
        kernel = self._d.driver.kernel
        return {
            "policy": kernel.policy,
            "quantum_tokens": kernel.quantum_tokens,
            "lanes": kernel.n_lanes,
        }


@cache
def _description() -> Result:
    return describe()


def _free_bytes(directory: str) -> int:
    """What may still be written there.  One quick system call: a file system that can keep the
    database is a local one."""
    return shutil.disk_usage(directory).free


def _rss_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _named(session: Session, name: str) -> AgentId:
    """Who the peer is: what it says, of its uid; on a connection of ours, who it was made for."""
    identity = session.identity
    if identity is not None and name != identity.agent.name:
        raise Denied(
            f"this connection is agent {identity.agent.name}'s, which aiosd started: it can't go "
            f"by the name {name}",
            agent=identity.agent.name,
        )
    agent = AgentId(session.uid, name)
    if identity is None:
        session.daemon.processes.check_free(agent)
    return agent
