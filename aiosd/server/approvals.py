"""What waits for a person: calls whose act must be confirmed, and rights that agents ask for.

Rule 1: no answer is a no: a request ends when it is answered, when its time is over, when its
caller leaves or takes it back, and with the daemon.
Rule 2: an agent doesn't answer its own request, unless it is a person at the shell (an operator).
Rule 3: a yes, what it changes and its entry in the audit are one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from aios_sdk.errors import Denied, NotFound, QuotaExceeded, SyscallError
from aiosd.kernel.model import AgentId
from aiosd.server.generate import now_ms
from aiosd.services import saved_access
from aiosd.services.access import Act, Grant, Mode, Remembered, Subject, Target
from aiosd.services.audit import Entry
from aiosd.services.database import Transaction
from aiosd.services.privileges import new_id
from aiosd.services.saved_access import SetRight, Waiting

if TYPE_CHECKING:
    from aiosd.server.access import AccessManager
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

log = structlog.get_logger()

_NAMED_BY_ID = ("context", "memory", "job")  # a new one has another: a rule is for all of its owner


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question to a person.

    act     what is to be done, or for a right that is asked for: "hold", "read" or "write"
    reason  the asking agent's words; of a tool's call, its arguments
    answer  True for yes
    """

    id: str
    agent: AgentId
    act: str
    target: Target
    method: str
    reason: str
    created_ms: int
    expires_ms: int
    answer: asyncio.Future[bool]
    right: str | None = None  # asked for by access.request
    mode: Mode | None = None  # likewise, on target

    @property
    def is_act(self) -> bool:
        """A call waits to do it; otherwise it is a right that is asked for."""
        return self.right is None and self.mode is None

    def describe(self) -> dict[str, Any]:
        owner = {} if self.target.owner is None else {"owner": self.target.owner.name}
        return {
            "request": self.id,
            "agent": self.agent.name,
            "uid": self.agent.uid,
            "act": self.act,
            "kind": self.target.kind,
            **owner,
            "name": self.target.name,
            "method": self.method,
            "reason": self.reason,
            "created_ms": self.created_ms,
            "expires_ms": self.expires_ms,
        }


class Approvals:
    """All that waits.  In memory; the database knows of it so that a restart can say no."""

    def __init__(self, daemon: Daemon, manager: AccessManager) -> None:
        self._d = daemon
        self._access = manager
        self._waiting: dict[str, Request] = {}
        self._changed = asyncio.Event()  # set, and made anew, when there is more or less to answer
        self._n_watchers: dict[int, int] = {}

    # ------------------------------------------------------------ asking

    async def confirm(self, call: Call, act: Act, target: Target, about: str = "") -> None:
        """Wait until a person says yes to the call's act; Denied otherwise."""
        request = await self._ask(call, act, target, about=about)
        await self._wait(call, request)

    async def request(
        self, call: Call, target: Target, *, right: str | None, mode: Mode | None, is_waiting: bool
    ) -> tuple[str, str]:
        """Ask for a right, or for a mode on what is another's: the request's id and its state."""
        request = await self._ask(call, mode or "hold", target, right=right, mode=mode)
        if not is_waiting:
            return request.id, "pending"
        await self._wait(call, request)
        return request.id, "approved"

    async def _ask(
        self,
        call: Call,
        act: str,
        target: Target,
        *,
        right: str | None = None,
        mode: Mode | None = None,
        about: str = "",
    ) -> Request:
        config, agent, now = self._d.config.access, call.agent, now_ms()
        n_own = sum(r.agent.uid == agent.uid for r in self._waiting.values())
        if n_own >= config.pending_per_uid:
            raise QuotaExceeded(
                f"uid {agent.uid} has {n_own} requests waiting for a person, limit is "
                f"{config.pending_per_uid}",
                limit=config.pending_per_uid,
                used=n_own,
            )
        request = Request(
            new_id("q"),
            agent,
            act,
            target,
            call.method,
            about or call.params.get("reason", ""),
            now,
            now + config.approval_s * 1000,
            self._d.loop.create_future(),
            right,
            mode,
        )
        self._waiting[request.id] = request
        self._access.note("asked", agent, act, target, "confirm" if request.is_act else "request")
        waiting = Waiting(request.id, agent, act, target.kind, target.owner, target.name)
        try:
            await self._d.database.write(lambda t: saved_access.ask(t, waiting))
        except BaseException:
            self._drop(request, "withdrawn", "caller")
            raise
        timer = self._d.loop.call_later(config.approval_s, self._expire, request)
        request.answer.add_done_callback(lambda _: timer.cancel())
        self._tell()
        log.info("approval_asked", request=request.id, agent=agent.name, uid=agent.uid, act=act,
                 kind=target.kind)  # fmt: skip
        return request

    async def _wait(self, call: Call, request: Request) -> None:
        call.emit({"state": "waiting_approval", "request": request.id})
        try:
            is_approved = await asyncio.shield(request.answer)
        finally:
            self._drop(request, "withdrawn", "caller")
        if not is_approved:
            words = f"nobody approved request {request.id} ({request.act} {request.target})"
            raise Denied(words, request=request.id)

    def _expire(self, request: Request) -> None:
        self._drop(request, "refused", "timeout")

    def _drop(self, request: Request, event: str, by: str) -> None:
        """The request ends without a person's answer, if it is still there."""
        if self._waiting.pop(request.id, None) is None:
            return
        if not request.answer.done():
            request.answer.set_result(False)
        self._tell()
        if not self._d.is_stopping:  # then the next start finds it, and refuses it
            self._access.note(event, request.agent, request.act, request.target, by)
            self._d.tasks.create_task(self._forget(request.id))

    async def _forget(self, request: str) -> None:
        try:
            await self._d.database.write(lambda t: saved_access.settle(t, request))
        except SyscallError as error:
            log.warning("request_not_forgotten", request=request, reason=error.message)

    # ------------------------------------------------------------ answering

    async def approve(self, call: Call, id_: str, *, is_remembered: bool) -> None:
        """Yes: this once (a right: for a while), or from now on."""
        request = self._answerable(call, id_)
        self._waiting.pop(id_)  # nobody else answers it, nor does time
        entry = self._entry("approved", request, call.agent)

        def also(t: Transaction) -> None:
            saved_access.settle(t, id_)
            self._access.audit.append(t, entry)

        privileges = self._access.privileges
        lent_ms = now_ms() + self._d.config.access.lent_s * 1000
        expires_ms = None if is_remembered else lent_ms
        try:
            if request.right is not None:
                given = SetRight(request.agent, request.right, is_held=True, expires_ms=expires_ms)
                await privileges.set_rights([given], also)
            elif request.mode is not None:
                await privileges.add_grant(_grant(request, request.mode, expires_ms), also)
            elif is_remembered:
                await privileges.remember(_rule(request), also)
            else:
                await self._d.database.write(also)
        except BaseException:
            if not request.answer.done():
                self._waiting[id_] = request
                if now_ms() >= request.expires_ms:
                    self._expire(request)
            raise
        self._end(request, is_approved=True)

    async def deny(self, call: Call, id_: str) -> None:
        """No; of one's own request: it is taken back."""
        request = self._visible(call, id_)
        if request.agent != call.agent:
            self._answerable(call, id_)
        self._waiting.pop(id_)
        entry = self._entry("refused", request, call.agent)

        def work(t: Transaction) -> None:
            saved_access.settle(t, id_)
            self._access.audit.append(t, entry)

        self._end(request, is_approved=False)  # whatever the disk says: a no is a no
        await self._d.database.write(work)

    def _end(self, request: Request, *, is_approved: bool) -> None:
        if not request.answer.done():
            request.answer.set_result(is_approved)
        self._tell()
        log.info("approval_answered", request=request.id, is_approved=is_approved)

    def _entry(self, event: str, request: Request, by: AgentId) -> Entry:
        target = request.target
        return Entry(
            now_ms(), event, request.agent, request.act, target.kind, target.owner, target.name,
            f"{by.uid}:{by.name}",
        )  # fmt: skip

    def _visible(self, call: Call, id_: str) -> Request:
        request = self._waiting.get(id_)
        if request is None or not self._may_see(request, call.subject):
            raise NotFound(f"no request {id_!r}; it may have been answered", request=id_)
        return request

    def _answerable(self, call: Call, id_: str) -> Request:
        request, subject = self._visible(call, id_), call.subject
        if request.agent == call.agent and not subject.is_operator:
            raise Denied(
                f"agent {call.agent.name} can't answer its own request; a person does: "
                f"aiosctl approvals approve {id_}"
            )
        if not self._may_answer(request, subject):
            raise Denied(f"request {id_} is for an admin to answer", right="admin")
        return request

    @staticmethod
    def _may_see(request: Request, subject: Subject) -> bool:
        of_its_uid = request.agent.uid == subject.agent.uid
        concerns = subject.agent in (request.agent, request.target.owner)
        return subject.is_admin or (of_its_uid and (subject.is_operator or concerns))

    @staticmethod
    def _may_answer(request: Request, subject: Subject) -> bool:
        """A right is the daemon's to give; what is a uid's own, its operators' and its owner's."""
        if subject.is_admin:
            return True
        if request.right is not None or request.agent.uid != subject.agent.uid:
            return False
        return subject.is_operator or request.target.owner == subject.agent

    # ------------------------------------------------------------ looking

    def seen_by(self, call: Call) -> list[dict[str, Any]]:
        """What waits, oldest first, as far as the caller may know."""
        subject = call.subject
        return [r.describe() for r in self._waiting.values() if self._may_see(r, subject)]

    async def watch(self, call: Call) -> None:
        """Tell the caller what waits, whenever that changes, until it has heard enough."""
        uid, limit = call.agent.uid, self._d.config.access.pending_watchers
        if self._n_watchers.get(uid, 0) >= limit:
            raise QuotaExceeded(
                f"uid {uid} has {limit} streams of access.pending, which is the limit",
                limit=limit,
                used=limit,
            )
        self._n_watchers[uid] = self._n_watchers.get(uid, 0) + 1
        try:
            told: Iterable[Any] | None = None
            while True:
                changed = self._changed
                await call.session.drained.wait()
                requests = self.seen_by(call)
                if requests != told:
                    call.emit({"requests": requests})
                    told = requests
                await changed.wait()
        finally:
            self._n_watchers[uid] -= 1
            if not self._n_watchers[uid]:
                del self._n_watchers[uid]

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _grant(request: Request, mode: Mode, expires_ms: int | None) -> Grant:
    target = request.target
    assert target.owner is not None  # access.request has looked
    return Grant(
        new_id("g"), target.owner, request.agent.name, target.kind, target.name, mode, expires_ms
    )


def _rule(request: Request) -> Remembered:
    target = request.target
    name = "*" if target.kind in _NAMED_BY_ID else target.name
    return Remembered(new_id("r"), request.agent, request.act, target.kind, target.owner, name)
