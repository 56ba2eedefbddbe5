"""`agent.*` of agents that the daemon runs: spawn, wait, signal, logs, and what there is to see."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from aios_sdk.errors import NotFound
from aiosd.confine import describe
from aiosd.kernel.model import AgentId
from aiosd.server import spawning
from aiosd.server.calls.base import Result
from aiosd.server.life import AgentProcess, confinement, other_uid
from aiosd.services.access import Target
from aiosd.services.processes.model import State, Why
from aiosd.services.processes.output import Line

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

SIGNALS = {
    "stop": signal.SIGSTOP,
    "cont": signal.SIGCONT,
    "term": signal.SIGTERM,
    "kill": signal.SIGKILL,
}
LINES_AT_ONCE = 256
MAX_LINES = 10_000  # in one answer, after one that is named


class AgentProcesses:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    async def agent_spawn(self, call: Call) -> Result:
        session, subject = call.session, call.subject
        spawner = self._d.processes.behind(session)
        config = self._d.config.spawn
        name = spawning.name_below(spawner, call.params["name"])
        spec = await self._d.in_worker(
            lambda: spawning.checked(call.params, config, subject, spawner), session.uid
        )
        agent = AgentId(session.uid, name)
        it = await self._d.processes.spawn(agent, spec, session)
        self._d.access.note("spawned", call.agent, "spawn", Target("agent", agent, name), "right")
        call.facts = {"process": it.id}
        return {"agent": name, "process": it.id, "pid": it.pid}

    async def agent_wait(self, call: Call) -> Result:
        it = self._process(call)
        timeout_ms = call.params.get("timeout_ms")
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                await it.has_ended.wait()
        except TimeoutError:
            pass  # then it says how it stands
        if it.state is State.ENDED and it.asker is call.session:
            it.asker = None
        return _describe(it)

    def agent_signal(self, call: Call) -> Result:
        it = self._process(call)
        self._d.access.check(call, "steer", Target("agent", it.agent, it.agent.name))
        name = call.params["signal"]
        if it.state is State.ENDED:
            raise NotFound(f"agent {it.agent.name!r} has ended", agent=it.agent.name)
        if name in ("term", "kill") and it.process is None:
            it.ask_end(Why.SIGNAL, 0)
        elif name in ("term", "kill"):
            it.why = it.why or Why.SIGNAL  # whenever it ends now, it isn't started again
            it.send(SIGNALS[name])
        elif it.process is not None and it.state in (State.RUNNING, State.STOPPED):
            it.state = State.STOPPED if name == "stop" else State.RUNNING
            it.send(SIGNALS[name])
        return {}

    async def agent_logs(self, call: Call) -> Result:
        it, p = self._heard(call), call.params
        output, session = it.output, call.session
        next_ = p.get("after", max(0, output.n_lines - p["lines"]))
        n_missed = 0
        if not p["stream"]:
            lines = output.after(next_, MAX_LINES)
            n_missed = lines[0].seq - 1 - next_ if lines else 0
            return self._logged(it, lines, lines[-1].seq if lines else next_, n_missed)
        try:
            while True:
                changed, is_over = output.changed, it.has_ended.is_set()
                if session is it.spawner:  # as a terminal, or a pipe: it is to have all
                    output.read(call, next_)
                while lines := output.after(next_, LINES_AT_ONCE):
                    n_missed += lines[0].seq - 1 - next_
                    next_ = lines[-1].seq
                    call.emit({"lines": [_line(line) for line in lines]})
                    await session.drained.wait()
                    if session is it.spawner:
                        output.read(call, next_)
                if is_over:
                    return self._logged(it, [], next_, n_missed)
                await changed.wait()
        finally:
            output.read(call, None)

    async def agent_processes(self, call: Call) -> Result:
        wants_all = call.params["all"]
        return {
            "processes": [
                _describe(it)
                for it in self._d.processes.all(with_ended=call.params["ended"])
                if (wants_all or it.agent.uid == call.agent.uid)
                and self._d.access.sees(call, it.agent)
            ]
        }

    async def agent_inspect(self, call: Call) -> Result:
        it = self._heard(call)
        spec, held = it.spec, confinement(self._d, it.agent, it.spec, None)
        described = await self._d.in_worker(lambda: describe(held, other_uid(it.agent.uid)))
        return {
            **_describe(it),
            "children": [child.agent.name for child in self._d.processes.children(it)],
            "command": [spec.program, *spec.argv[1:]],
            "env": sorted(spec.env),
            **({} if spec.cwd is None else {"cwd": spec.cwd}),
            "rights": list(spec.rights),
            "grants": {
                "read": list(spec.read),
                "write": list(spec.write),
                "network": spec.is_networked,
            },
            "limits": {k: v for k, v in asdict(spec.limits).items() if v is not None},
            "confinement": described.as_data(),
        }

    # ------------------------------------------------------------ inside

    def _process(self, call: Call) -> AgentProcess:
        """The process so named: of one's own uid first, for an admin also of another."""
        name, id_ = call.params["agent"], call.params.get("process")
        own = AgentId(call.agent.uid, name)
        if self._d.access.sees(call, own):
            try:
                return self._d.processes.last(own, id_)
            except NotFound:
                if not call.is_admin:
                    raise
        if call.is_admin:
            for it in self._d.processes.all(with_ended=True):
                if it.agent.name == name and id_ in (None, it.id):
                    self._d.access.note_admin_sees(call)
                    return it
        raise NotFound(f"agent {name!r} has no process", agent=name)

    def _heard(self, call: Call) -> AgentProcess:
        """The same, for what it was told and what it writes: words, which its spawner may read."""
        it = self._process(call)
        if it.spawned_by != call.agent:
            self._d.access.check(call, "read", Target("agent", it.agent, it.agent.name))
        return it

    def _logged(self, it: AgentProcess, lines: Iterable[Line], next_: int, missed: int) -> Result:
        return {
            "lines": [_line(line) for line in lines],
            "next": next_,
            "dropped": missed,
            "state": it.state.value,
        }


def _line(line: Line) -> Result:
    return {"seq": line.seq, "at_ms": line.at_ms, "source": line.source, "text": line.text}


def _describe(it: AgentProcess) -> Result:
    status, session = it.status, it.session
    known = {
        "parent": None if it.spawned_by is None else it.spawned_by.name,
        "pid": it.pid if it.process is not None else None,
        "ended_ms": it.ended_ms,
        "exit_code": None if status is None else status.code,
        "signal": None
        if status is None or status.signal is None
        else signal.Signals(status.signal).name,
        "ended_by": it.why.value if it.why is not None and it.state is State.ENDED else None,
        "reason": it.error or (None if status is None else status.reason),
    }
    return {
        "process": it.id,
        "agent": it.agent.name,
        "uid": it.agent.uid,
        "state": it.state.value,
        "connected": session is not None and session.agent is not None,
        "restart": it.spec.restart,
        "restarts": it.attempts.n_restarts,
        "detached": it.spec.is_kept,
        "started_ms": it.started_ms,
        "tokens": it.n_tokens,
        **{name: value for name, value in known.items() if value is not None},
    }
