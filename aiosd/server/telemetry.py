"""Where what happens is told: to the log, to the figures, to those who listen to sys.events.

Rule: nothing said here is text, tokens, a note or a file's content, nor derived from them; a test
sends marked secrets through every syscall and looks for them in the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from aios_sdk.errors import SyscallError
from aiosd.driver import JobRecord, JobResult
from aiosd.kernel.model import AgentId, JobId, Outcome
from aiosd.server.figures import Figures, known_call
from aiosd.server.happenings import Happenings
from aiosd.services.tools.model import Tool

if TYPE_CHECKING:
    from aiosd.server.session import Session

log = structlog.get_logger()

QUIET = ("sys.ping", "sys.status")  # calls that watchers make all the time: debug, when they are ok
REFUSALS = ("busy", "quota_exceeded", "denied")  # what listeners hear of; other errors are mistakes


class Telemetry:
    """All of the above.  As the driver's observer it is told of jobs."""

    def __init__(
        self, now_ms: Callable[[], int], max_waiting: int, max_listeners_per_uid: int
    ) -> None:
        self._now_ms = now_ms
        self.figures = Figures()
        self.happenings = Happenings(max_waiting, max_listeners_per_uid)

    # ------------------------------------------------------------ calls and connections

    def call_ended(
        self, session: Session, name: str, since_ns: int, outcome: str, facts: dict[str, Any]
    ) -> None:
        """The one canonical line of a syscall."""
        name = known_call(name)
        agent = session.agent.name if session.agent else None
        self.figures.call_ended(name, outcome)
        write = log.debug if name in QUIET and outcome == "ok" else log.info
        write(
            "syscall",
            name=name,
            agent=agent,
            uid=session.uid,
            session=session.id,
            outcome=outcome,
            ms=round((time.monotonic_ns() - since_ns) / 1e6, 1),
            **facts,
        )
        if outcome in REFUSALS:
            self._tell("refused", session.uid, agent=agent, name=name, code=outcome)

    def connection_refused(self, session: Session, error: SyscallError) -> None:
        log.info(
            "refused", session=session.id, uid=session.uid, code=error.code, reason=error.message
        )
        self.figures.connection_refused(error.code)
        agent = session.agent.name if session.agent else None
        self._tell("refused", session.uid, agent=agent, code=error.code)

    def agent_killed(self, agent: AgentId) -> None:
        log.info("agent_killed", agent=agent.name, uid=agent.uid)
        self._tell("killed", agent.uid, agent=agent.name)

    # ------------------------------------------------------------ agents' processes

    def process_changed(self, event: str, agent: AgentId, process: str, **facts: Any) -> None:
        """spawned, restarts, exited.  Numbers and codes, never what it was asked or wrote."""
        log.info(f"process_{event}", process=process, agent=agent.name, uid=agent.uid, **facts)
        self._tell(event, agent.uid, agent=agent.name, process=process, **facts)

    # ------------------------------------------------------------ the daemon

    def daemon_changed(self, event: str, *, is_warning: bool = False, **facts: Any) -> None:
        """What concerns everybody: reloaded, policy, stopping.  The facts are for everybody too."""
        (log.warning if is_warning else log.info)(event, **facts)
        self._tell(event, None, **facts)

    # ------------------------------------------------------------ jobs: driver.Observer

    def job_changed(self, record: JobRecord, state: str, *, is_parked: bool) -> None:
        event = {"running": "started", "paused": "parked" if is_parked else "paused"}
        if state != "queued":
            self._tell(event.get(state, state), record.agent.uid, **_names(record))

    def tokens_came(self, n_tokens: int, since_ns: int) -> None:
        self.figures.tokens_came(n_tokens, since_ns)

    def job_ended(self, record: JobRecord, result: JobResult) -> None:
        self.figures.job_ended(result.cost)
        self._tell(
            "ended",
            record.agent.uid,
            **_names(record),
            outcome=result.outcome.value,
            **facts_of(result),
        )

    def detached_ended(self, job: JobId, agent: AgentId, result: JobResult) -> None:
        """The line of a job whose call may have ended long before it."""
        log.info(
            "job",
            job=job,
            agent=agent.name,
            uid=agent.uid,
            outcome=result.outcome.value,
            **facts_of(result),
        )

    # ------------------------------------------------------------ tools: manager.Observer

    def tool_ended(self, tool: Tool, caller: AgentId, outcome: str, duration_s: float) -> None:
        self.figures.tool_ended(tool.source, outcome, duration_s)
        facts = {"agent": caller.name, "name": tool.name, "outcome": outcome}
        log.info("tool", uid=caller.uid, ms=round(duration_s * 1000, 1), **facts)
        self._tell("tool", caller.uid, total_ms=round(duration_s * 1000), **facts)

    def _tell(self, event: str, uid: int | None, **facts: Any) -> None:
        self.happenings.tell(event, uid, self._now_ms(), **facts)


def facts_of(result: JobResult) -> dict[str, Any]:
    """What a job cost, for its line: numbers, and how it finished."""
    cost, ending = result.cost, result.ending
    is_done = result.outcome is Outcome.DONE and ending is not None
    return {
        "finish": ending.finish if is_done and ending is not None else None,
        "read_tokens": cost.n_prompt,
        "cached_tokens": result.n_cached,
        "tokens": len(result.tokens),
        "queue_ms": cost.queue_ns // 10**6,
        "ttft_ms": None if cost.ttft_ns is None else cost.ttft_ns // 10**6,
        "total_ms": cost.total_ns // 10**6,
        "slices": cost.slices,
        "parks": cost.parks,
    }


def _names(record: JobRecord) -> dict[str, Any]:
    return {
        "job": record.spec.job,
        "agent": record.agent.name,
        "context": record.spec.context,
        "priority": record.priority.name.lower(),
    }
