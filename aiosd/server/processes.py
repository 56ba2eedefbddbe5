"""Agents that the daemon runs: who they are, how many there may be, and what ends with what.

Rule 1: a name that a process goes by is its own while it runs: nobody else gets in under it, and
what a spawned agent spawns is named below itself, so that none can take another's place.
Rule 2: a process ends with the connection that spawned it, and so with its parent, unless it was
detached; all end with the daemon.  Detached ones with restart `always` are started again by the
next daemon, from their rows.
Rule 3: a spawned agent holds at most what its spawner held, and never `admin`; what it may use is
no more than its spawner has left, and counts there too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import structlog

from aios_sdk.errors import (
    Denied,
    Exists,
    InvalidParams,
    NotFound,
    QuotaExceeded,
    SyscallError,
    Unavailable,
)
from aiosd.kernel.model import AgentId, Outcome
from aiosd.server.generate import now_ms
from aiosd.server.life import AgentProcess, Share, live
from aiosd.server.spawning import check_program
from aiosd.services.privileges import new_id
from aiosd.services.processes import rows
from aiosd.services.processes.model import Spec, Why
from aiosd.services.processes.output import Output
from aiosd.services.processes.rows import Kept

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Session

log = structlog.get_logger()

UNTOLD = 4
"""So many times as many ended ones are kept, where their spawners may still ask for their ends."""

MAX_LAST_GRACE_S = 10  # at the daemon's end, which the service manager waits for a minute


class Processes:
    """Those that run, by agent; and, per uid, the last that have ended."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self.share = Share()  # of the loop, for what they write
        self._running: dict[AgentId, AgentProcess] = {}
        self._ended: dict[int, deque[AgentProcess]] = {}

    # ------------------------------------------------------------ looking

    def __len__(self) -> int:
        """How many run."""
        return len(self._running)

    def running(self, agent: AgentId) -> AgentProcess | None:
        """The process that goes by that name now."""
        return self._running.get(agent)

    def behind(self, session: Session) -> AgentProcess | None:
        """The process at the other end, if it is one of ours.  Unavailable: it has just ended."""
        if session.identity is None:
            return None
        it = self._running.get(session.identity.agent)
        if it is None or it.session is not session:
            raise Unavailable(f"agent {session.identity.agent.name} has ended")
        return it

    def last(self, agent: AgentId, id_: str | None = None) -> AgentProcess:
        """The agent's process, or the last it had, or exactly that one.  NotFound."""
        ended = reversed(self._ended.get(agent.uid, ()))
        for it in (self._running.get(agent), *ended):
            if it is not None and it.agent == agent and id_ in (None, it.id):
                return it
        which = "" if id_ is None else f" {id_!r}"
        raise NotFound(f"agent {agent.name!r} has no process{which}", agent=agent.name)

    def all(self, *, with_ended: bool) -> Iterator[AgentProcess]:
        """Parents before their children, which follow them at once."""
        found = [*self._running.values()]
        if with_ended:
            found += [it for of_uid in self._ended.values() for it in of_uid]
        children: dict[AgentProcess | None, list[AgentProcess]] = {}
        for it in found:
            parent = it.parent if it.parent in found else None
            children.setdefault(parent, []).append(it)

        def below(parent: AgentProcess | None) -> Iterator[AgentProcess]:
            for it in children.get(parent, ()):
                yield it
                yield from below(it)

        return below(None)

    def children(self, parent: AgentProcess) -> list[AgentProcess]:
        return [it for it in self._running.values() if it.parent is parent]

    def are_kin(self, one: AgentId, other: AgentId) -> bool:
        """Whether one of the two is a process that the other has spawned."""
        pairs = ((self._running.get(one), other), (self._running.get(other), one))
        return any(child is not None and child.spawned_by == parent for child, parent in pairs)

    def check_free(self, agent: AgentId) -> None:
        """Denied, to a connection of its own that would go by the name of a process."""
        if agent in self._running:
            raise Denied(
                f"agent {agent.name} is a process that aiosd runs, and has its connection: end it "
                "first, or go by another name",
                agent=agent.name,
            )

    # ------------------------------------------------------------ beginning

    async def spawn(self, agent: AgentId, spec: Spec, spawner: Session) -> AgentProcess:
        """Start it, and wait until that has worked or not.

        InvalidParams: it hasn't, and why.  Exists, Denied, QuotaExceeded: it may not be.
        """
        self._check_room(agent)
        parent = self.behind(spawner)
        it = AgentProcess(
            new_id("p"),
            agent,
            spec,
            Output(self._d.config.spawn.log_bytes),
            spawned_by=spawner.agent,
            parent=parent,
            spawner=None if spec.is_kept else spawner,
            asker=spawner,
        )
        self._enter(it)
        try:
            if _lasts(spec):
                kept = Kept(it.id, agent, spec)
                await self._d.database.write(lambda t: rows.save(t, kept, it.started_ms))
        except BaseException:
            it.close(Why.START)
            self._leave(it)
            raise
        self._d.tasks.create_task(self._drive(it))
        try:
            await it.started.wait()
        except asyncio.CancelledError:  # its spawner doesn't want to wait: nobody would know it
            it.ask_end(Why.PARENT, 0)
            raise
        if it.process is None and it.error is not None:
            it.ask_end(Why.START, 0)
            await it.has_ended.wait()
            raise InvalidParams(f"agent {agent.name} was not started: {it.error}", field="command")
        if not spec.is_kept and spawner.gone.is_set():
            it.ask_end(Why.PARENT, self._d.config.spawn.grace_s)
        return it

    async def resume(self) -> None:
        """After a restart: start what is kept once more."""
        found, unread = await self._d.database.read(rows.load)
        for id_ in unread:
            log.warning("process_not_resumed", process=id_, reason="another version wrote it")
        for kept in found:
            try:
                check_program(kept.spec.program, self._d.config.spawn)
            except Denied as error:  # by the configuration as it is now
                log.warning("process_not_resumed", process=kept.id, reason=error.message)
                continue
            it = AgentProcess(
                kept.id, kept.agent, kept.spec, Output(self._d.config.spawn.log_bytes)
            )
            self._enter(it)
            self._d.tasks.create_task(self._drive(it))

    async def _drive(self, it: AgentProcess) -> None:
        try:
            await live(self._d, it)
        except Exception:  # a bug: the daemon lives, and the process has ended
            log.exception("bug", name="process", process=it.id)
        finally:
            self._leave(it)
        if _lasts(it.spec) and it.why is not Why.DAEMON:
            try:
                await self._d.database.write(lambda t: rows.forget(t, it.id))
            except SyscallError as error:  # a full disk: the next daemon starts it once more
                log.warning("process_not_forgotten", process=it.id, reason=error.message)

    def _check_room(self, agent: AgentId) -> None:
        config = self._d.config.spawn
        if self._d.is_stopping:
            raise Unavailable("the daemon is shutting down")
        is_here = any(s.agent == agent for s in self._d.sessions_of(agent.uid))
        if agent in self._running or is_here:
            raise Exists(f"somebody goes by the name {agent.name} already", agent=agent.name)
        if agent.name in self._d.config.access.operators:
            raise Denied(f"{agent.name} is the name of a person at the shell", agent=agent.name)
        n_own = sum(it.agent.uid == agent.uid for it in self._running.values())
        for whose, n, limit in (
            (f"uid {agent.uid}", n_own, config.processes_per_uid),
            ("the daemon", len(self._running), config.processes),
        ):
            if n >= limit:
                raise QuotaExceeded(
                    f"{whose} runs {n} agents, limit is {limit}", limit=limit, used=n
                )

    def _enter(self, it: AgentProcess) -> None:
        self._running[it.agent] = it
        self._d.access.bind(it.agent, frozenset(it.spec.rights))
        self._d.agents.enter(it.agent, it.started_ms).n_processes += 1
        self._d.put_in_force(it.agent)

    def _leave(self, it: AgentProcess) -> None:
        """It has ended: its name is free."""
        del self._running[it.agent]
        self._d.access.unbind(it.agent)
        self._d.agents.enter(it.agent, now_ms()).n_processes -= 1
        self._d.agents.leave(it.agent)
        self._d.put_in_force(it.agent)
        ended = self._ended.setdefault(it.agent.uid, deque())
        ended.append(it)
        self._let_go(ended)
        it.parent = it.spawner = None
        for child in self._running.values():
            if child.parent is it:
                child.parent = None

    def _let_go(self, ended: deque[AgentProcess]) -> None:
        """Forget the oldest of too many; last those whose spawner hasn't been told of their end."""
        limit = self._d.config.spawn.ended_per_uid
        n_over = len(ended) - limit
        for it in list(ended) if n_over > 0 else ():
            if n_over > 0 and not it.is_to_be_told:
                ended.remove(it)
                n_over -= 1
        while len(ended) > UNTOLD * limit:
            ended.popleft()

    # ------------------------------------------------------------ ending

    def session_left(self, session: Session) -> None:
        """A connection has ended, and with it what it spawned."""
        for it in list(self._running.values()):
            if it.spawner is session:
                it.ask_end(Why.PARENT, self._d.config.spawn.grace_s)
        for it in self._ended.get(session.uid, ()):
            if it.asker is session:
                it.asker = None

    def kill(self, agent: AgentId) -> None:
        """End the agent's process, if it is one."""
        it = self._running.get(agent)
        if it is not None:
            it.ask_end(Why.KILL, self._d.config.spawn.grace_s)

    async def close(self) -> None:
        """End them all; none is left when this returns."""
        ending = list(self._running.values())
        for it in ending:
            it.ask_end(Why.DAEMON, min(self._d.config.spawn.grace_s, MAX_LAST_GRACE_S))
        for it in ending:
            await it.has_ended.wait()

    # ------------------------------------------------------------ tokens and jobs

    def max_jobs(self, agent: AgentId) -> int | None:
        """How many jobs at once the agent was given, if it is a process with such a limit."""
        it = self._running.get(agent)
        return None if it is None else it.spec.limits.jobs

    def meter(self, agent: AgentId) -> Callable[[int], None] | None:
        """What counts the tokens of a job that is about to begin, if anybody does.

        QuotaExceeded if they are used up already.
        """
        it = self._running.get(agent)
        if it is None:
            return None
        for at in _line(it):
            error = self._used_up(at)
            if error is not None:
                raise error
        return partial(self._count, it)

    def _count(self, it: AgentProcess, n_tokens: int) -> None:
        for at in _line(it):
            was_used_up = self._used_up(at)
            if at is it:
                at.n_tokens += n_tokens
            else:
                at.n_tokens_below += n_tokens
            if was_used_up is None and self._used_up(at) is not None:
                self._d.loop.call_soon(self._end_jobs, at)  # not in the middle of a step's words

    def _end_jobs(self, it: AgentProcess) -> None:
        error = self._used_up(it)
        if error is None:
            return
        agents = {below.agent for below in self._running.values() if it in _line(below)}
        for session in list(self._d.sessions_of(it.agent.uid)):
            if session.agent in agents:
                for call in list(session.calls.values()):
                    if call.job is not None:
                        call.end(error)
        for job, record in list(self._d.driver.jobs.items()):  # detached ones
            if record.agent in agents:
                self._d.driver.cancel(job, Outcome.CANCELLED)

    def _used_up(self, it: AgentProcess) -> QuotaExceeded | None:
        of_all = it.n_tokens + it.n_tokens_below
        for used, limit in (
            (it.n_tokens, self._d.config.spawn.tokens),
            (of_all, it.spec.limits.tokens),
        ):
            if limit and used >= limit:
                words = f"agent {it.agent.name} has used {used} tokens, limit is {limit}"
                return QuotaExceeded(words, limit=limit, used=used)
        return None


def _line(it: AgentProcess) -> Iterator[AgentProcess]:
    """It, and those that it was spawned by: what it uses is of what they were given."""
    at: AgentProcess | None = it
    while at is not None:
        yield at
        at = at.parent


def _lasts(spec: Spec) -> bool:
    """Whether the next daemon starts it again."""
    return spec.is_kept and spec.restart == "always"
