"""The access manager: decides for calls, by the pure decision, and lets them wait for a person."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from aios_sdk.errors import Denied, InvalidParams, NotFound
from aiosd.kernel.model import AgentId
from aiosd.server.generate import now_ms
from aiosd.services import access
from aiosd.services.access import Act, Decision, Grant, Mode, Rules, Subject, Target, Verdict

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class AccessManager:
    """Who holds what, and the decisions that follow."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self.rules = Rules()

    # ------------------------------------------------------------ deciding

    def subject(self, agent: AgentId) -> Subject:
        """The agent with all that it holds now."""
        rights = frozenset(access.EVERYONE)
        if agent.uid in (0, os.getuid()):
            rights = frozenset(access.RIGHTS)
        return Subject(agent, rights, is_operator=agent.name == "aiosctl")

    def decide(self, subject: Subject, act: Act, target: Target) -> Decision:
        return access.decide(subject, act, target, self.rules, now_ms())

    def check_right(self, agent: AgentId, right: str, method: str) -> None:
        """Denied unless the agent holds the right that the table asks for."""
        if right not in self.subject(agent).rights:
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
        if decision.verdict is Verdict.ALLOWED:
            return
        if decision.verdict is Verdict.ASK and is_confirmed:
            return
        raise _refusal(decision, target)

    async def admit(self, call: Call, act: Act, target: Target) -> None:
        """As check(), but where a person must confirm, the call waits until one does.

        The caller is told with a chunk (if it streams); its deadline and its cancel hold.
        """
        self.check(call, act, target)

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
        grant = Grant("g" + secrets.token_hex(8), owner, holder, kind, name, mode, expires_ms)
        grants = dict(self.rules.grants)
        grants[owner] = (*grants.get(owner, ()), grant)
        self.rules = replace(self.rules, grants=grants)
        return grant

    async def revoke(self, owner: AgentId, grant: str) -> None:
        """End one of the owner's grants.  NotFound if it isn't there."""
        kept = tuple(g for g in self.rules.grants.get(owner, ()) if g.id != grant)
        if len(kept) == len(self.rules.grants.get(owner, ())):
            raise NotFound(f"no grant {grant!r}", grant=grant)
        self.rules = replace(self.rules, grants={**self.rules.grants, owner: kept})

    def grants_of(self, agent: AgentId) -> tuple[list[Grant], list[Grant]]:
        """What the agent has granted, and what it was granted, as far as it hasn't expired."""
        now, groups = now_ms(), self.subject(agent).groups
        live = [
            g
            for grants in self.rules.grants.values()
            for g in grants
            if g.owner.uid == agent.uid and (g.expires_ms is None or now < g.expires_ms)
        ]
        given = [g for g in live if g.owner == agent]
        held = [
            g
            for g in live
            if g.owner != agent
            and (g.holder == agent.name or (g.holder[:1] == "@" and g.holder[1:] in groups))
        ]
        return given, held


def _refusal(decision: Decision, target: Target) -> Denied | NotFound:
    if decision.verdict is Verdict.NOT_FOUND:
        return NotFound(decision.reason, **{target.kind: target.name})
    if decision.right is not None:
        return Denied(decision.reason, right=decision.right)
    return Denied(decision.reason)
