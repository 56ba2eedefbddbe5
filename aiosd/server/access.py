"""The access manager: decides for calls, lets them wait for a person, keeps the audit.

Handlers ask before they act: check() where the answer must come at once, admit() where it may take
a person's time.  What is decided is services/access.decide's part alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from aios_sdk.errors import Denied, InvalidParams, NotFound, Unavailable
from aiosd.kernel.model import AgentId
from aiosd.server.approvals import Approvals
from aiosd.server.generate import now_ms
from aiosd.services import access, saved_access
from aiosd.services.access import Act, Decision, Grant, Mode, Subject, Target, Verdict
from aiosd.services.audit import Entry
from aiosd.services.audit_log import AuditLog
from aiosd.services.database import Transaction
from aiosd.services.privileges import Privileges, Settings, new_id

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

log = structlog.get_logger()


class AccessManager:
    """Who holds what, and the decisions that follow."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        config = daemon.config.access
        self.privileges = Privileges(daemon.database, self._settings(), now_ms)
        self.audit = AuditLog(daemon.database, config.audit_entries, now_ms)
        self.approvals = Approvals(daemon, self)
        self._bound: dict[AgentId, frozenset[str]] = {}  # spawned agents: the most they may hold
        self._seeing: Call | None = None  # the last one that was noted to see as admin

    async def begin(self) -> None:
        """What waited for a person when an earlier daemon ended is refused.

        A full disk doesn't keep a daemon from starting: nobody can answer those requests any more,
        and the next start takes them away.
        """
        if not await self._d.database.read(saved_access.is_any_waiting):
            return

        def work(t: Transaction) -> None:
            for w in saved_access.take_waiting(t):
                target = Target(w.kind, w.owner, w.name)
                self.audit.append(t, entry("refused", w.agent, w.act, target, "restart"))

        try:
            await self._d.database.write(work)
        except Unavailable as error:
            log.warning("requests_not_refused", reason=error.message)

    def configure(self) -> None:
        """Put the [access] table into force, and what [tools] says of who may use which."""
        self.privileges.configure(self._settings())
        self.audit.max_entries = self._d.config.access.audit_entries

    def _settings(self) -> Settings:
        config = self._d.config
        return replace(config.access.settings(), users=config.tools.users())

    async def tidy(self) -> None:
        """Let go what has run out, and write what the audit has counted."""
        await self.privileges.expire()
        await self.audit.flush()
        self.audit.tell_head()

    # ------------------------------------------------------------ deciding

    def subject(self, agent: AgentId) -> Subject:
        """The agent with all that it holds now."""
        subject = self.privileges.subject(agent)
        most = self._bound.get(agent)
        if most is None:
            return subject
        return replace(subject, rights=subject.rights & most, is_operator=False, is_spawned=True)

    def bind(self, agent: AgentId, most: frozenset[str]) -> None:
        """From now on it is a process that we run, and holds no more than these rights."""
        self._bound[agent] = most

    def unbind(self, agent: AgentId) -> None:
        self._bound.pop(agent, None)

    def decide(self, subject: Subject, act: Act, target: Target) -> Decision:
        """What would be decided; leaves no trace."""
        return access.decide(subject, act, target, self.privileges.rules, now_ms())

    def check_right(self, agent: AgentId, right: str, method: str) -> None:
        """Denied unless the agent holds the right that the table asks for."""
        is_held = right in self.subject(agent).rights
        if not is_held or right == "admin":
            event = "admin" if is_held else "denied"
            self.note(event, agent, "call", Target("syscall", None, method), "right")
        if not is_held:
            raise Denied(f"{method} needs the right {right!r}", right=right)

    def check(
        self, who: Call | Subject, act: Act, target: Target, *, is_confirmed: bool = False
    ) -> None:
        """Nothing if that is allowed; else NotFound or Denied.

        For what can't wait: an act that a person must confirm is Denied here, unless is_confirmed:
        admit() has been waited for.
        """
        subject = who if isinstance(who, Subject) else self.subject(who.agent)
        decision = self.decide(subject, act, target)
        if decision.verdict is Verdict.ASK and is_confirmed:
            return
        self._note_decision(subject.agent, act, target, decision)
        if decision.verdict is not Verdict.ALLOWED:
            raise _refusal(decision, target)

    async def admit(self, call: Call, act: Act, target: Target, *, about: str = "") -> None:
        """As check(), but where a person must confirm, the call waits until one does.

        The caller is told with a chunk; its deadline and its cancel hold.  about: what the person
        is told of the act besides.
        """
        decision = self.decide(self.subject(call.agent), act, target)
        if decision.verdict is not Verdict.ASK:
            self.check(call, act, target)
            return
        await self.approvals.confirm(call, act, target, about)
        self.check(call, act, target, is_confirmed=True)  # it may have been revoked meanwhile

    def sees(self, call: Call, owner: AgentId) -> bool:
        """Whether the caller may know that the owner's jobs and agents exist, and their figures."""
        if owner.uid == call.agent.uid and call.agent not in self._bound:
            return True  # nearly all of a long list
        self.note_admin_sees(call)
        return access.may_see(owner, call.subject)

    def note_admin_sees(self, call: Call) -> None:
        """An admin is shown what other uids do; once for a call, however much it is."""
        if call is not self._seeing and call.is_admin:
            self._seeing = call
            self.note("admin", call.agent, "see", Target("syscall", None, call.method), "admin")

    # ------------------------------------------------------------ grants

    async def grant(
        self,
        owner: AgentId,
        holder: str,
        kind: str,
        name: str,
        *,
        mode: Mode,
        expires_s: int | None = None,
    ) -> Grant:
        """The owner lets an agent of its uid, or "@group", at its things of that name and below."""
        if mode not in ("read", "write") or kind not in access.GRANTED:
            raise InvalidParams(f"nothing to grant: {mode} of {kind}", field="mode")
        expires_ms = None if expires_s is None else now_ms() + expires_s * 1000
        grant = Grant(new_id("g"), owner, holder, kind, name, mode, expires_ms)
        await self.privileges.add_grant(grant, lambda _: None)
        return grant

    async def revoke(self, owner: AgentId, grant: str) -> Grant:
        """End one of the owner's grants, and say which.  NotFound if it isn't there."""
        found = [g for g in self.grants_of(owner)[0] if g.id == grant]
        if not found:
            raise NotFound(f"no grant {grant!r}", grant=grant)
        await self.privileges.drop_grants(owner, found, lambda _: None)
        return found[0]

    async def forget_grants(self, owner: AgentId, kind: str, name: str) -> None:
        """End the owner's grants of that one thing: it is no more."""
        given = self.grants_of(owner)[0]
        gone = [g for g in given if (g.kind, g.name) == (kind, name)]
        if gone:
            await self.privileges.drop_grants(owner, gone, lambda _: None)

    def grants_of(self, agent: AgentId) -> tuple[list[Grant], list[Grant]]:
        """What the agent has granted, and what it was granted, as far as it hasn't expired."""
        return self.privileges.grants_of(agent)

    # ------------------------------------------------------------ the audit

    def note(self, event: str, agent: AgentId, act: str, target: Target, by: str) -> None:
        """Into the audit, counted with what is alike."""
        self.audit.note(entry(event, agent, act, target, by))

    def _note_decision(self, agent: AgentId, act: Act, target: Target, decision: Decision) -> None:
        match decision.verdict:
            case Verdict.DENIED | Verdict.ASK:
                self.note("denied", agent, act, target, decision.by)
            case Verdict.NOT_FOUND:
                self.note("hidden", agent, act, target, decision.by)
            case Verdict.ALLOWED if decision.by == "admin":
                self.note("admin", agent, act, target, decision.by)


def entry(event: str, agent: AgentId, act: str, target: Target, by: str) -> Entry:
    return Entry(now_ms(), event, agent, act, target.kind, target.owner, target.name, by)


def _refusal(decision: Decision, target: Target) -> Denied | NotFound:
    match decision.verdict:
        case Verdict.NOT_FOUND:
            return NotFound(decision.reason, **{target.kind: target.name})
        case Verdict.ASK:
            return Denied(f"{decision.reason}, which this call can't wait for")
        case _ if decision.right is not None:
            return Denied(decision.reason, right=decision.right)
    return Denied(decision.reason)
