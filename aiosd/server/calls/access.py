"""`access.*`: rights, groups, grants, approvals, the audit."""

from __future__ import annotations

from re import fullmatch
from typing import TYPE_CHECKING, Any, Literal

from aios_sdk.errors import Denied, InvalidParams, NotFound
from aios_sdk.syscalls import TABLE
from aiosd.access_config import AGENT_PATTERN
from aiosd.kernel.model import AgentId
from aiosd.server import tooling
from aiosd.server.calls.base import Result
from aiosd.server.calls.ipc import mailbox_of
from aiosd.server.generate import now_ms
from aiosd.services import access, audit
from aiosd.services.access import Act, Grant, Group, Remembered, Target, Verdict
from aiosd.services.audit import Entry, Link
from aiosd.services.database import Transaction
from aiosd.services.privileges import Also, new_id
from aiosd.services.saved_access import SetRight

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

NOBODY = ""  # the owner's name of what is a uid's, no agent's

_ACT_OF: dict[str, Act] = {
    **dict.fromkeys(("info", "list", "stats", "status", "describe"), "see"),
    **dict.fromkeys(("read", "get", "search", "stat", "history", "fork", "attach"), "read"),
    **dict.fromkeys(("rename", "rollback", "rewind"), "replace"),
    **dict.fromkeys(("cancel", "pause", "resume", "priority", "kill"), "steer"),
    **dict.fromkeys(("snapshot", "prefetch"), "steer"),
    **dict.fromkeys(("load", "unload", "limits"), "admin"),
    **dict.fromkeys(("delete", "clear"), "delete"),
    **dict.fromkeys(("receive", "ack"), "read"),
    **dict.fromkeys(("call", "call_all"), "use"),
    "send": "send",
}
"""What a syscall does to its target; write, if it isn't here."""
_ON_SERVERS = ("tool.load", "tool.unload", "admin")  # they name where tools come from


class Accesses:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    # ------------------------------------------------------------ what would be

    async def access_check(self, call: Call) -> Result:
        action, text, subject = call.params["action"], call.params["target"], call.subject
        noun, _, verb = action.partition(".")
        if verb:
            if action not in TABLE:
                raise InvalidParams(
                    f"action is {action!r}, no syscall has that name", field="action"
                )
            right = TABLE[action].right
            if right is not None and right not in subject.rights:
                return _answer(f"{action} needs the right {right!r}")
            if not text:
                return _answer("allowed: right", is_allowed=True)
        elif action in access.RIGHTS and not (text and action in access.ACTS):
            is_held = action in subject.rights
            return _answer("allowed: right" if is_held else "denied: right", is_allowed=is_held)
        elif action not in access.ACTS:
            words = f"action is {action!r}, no syscall, right, or one of {', '.join(access.ACTS)}"
            raise InvalidParams(words, field="action")
        elif not text:
            raise InvalidParams("target is empty; say on what", field="target")
        act: Act = _ACT_OF.get(verb, "write") if verb else action
        try:
            target = await self._target(call, text, noun if verb else "")
        except NotFound as error:
            return _answer(error.message)
        decision = self._d.access.decide(subject, act, target)
        is_allowed, asks = (decision.verdict is v for v in (Verdict.ALLOWED, Verdict.ASK))
        return _answer(decision.reason, is_allowed=is_allowed, asks=asks)

    async def _target(self, call: Call, text: str, kind: str) -> Target:
        """What a text names.  NotFound if there is no such thing."""
        prefix, colon, rest = text.partition(":")
        if colon and prefix in access.KINDS:
            kind, text = prefix, rest
        if not kind and fullmatch(AGENT_PATTERN, text):
            kind = "agent"
        match kind:
            case "context" | "llm":
                return Target("context", self._d.contexts.get(text).agent, text)
            case "job":
                record = self._d.driver.jobs.get(text)  # type: ignore[call-overload]  # any text
                if record is None:
                    raise NotFound(f"no job {text!r}", job=text)
                return Target(kind, record.agent, text)
            case "agent":
                return Target(kind, AgentId(call.agent.uid, text), text)
            case "memory":
                return await self._memory_target(call, text)
            case "storage":
                owner, colon, path = text.partition(":")
                whose = AgentId(call.agent.uid, owner) if colon else call.agent
                return Target(kind, whose, (path if colon else text).strip("/"))
            case "mailbox" | "ipc":
                owner_id = AgentId(call.agent.uid, text)
                is_kin = self._d.processes.are_kin(call.agent, owner_id)
                return mailbox_of(owner_id, is_kin=is_kin)
            case "tool" if call.params.get("action") not in _ON_SERVERS:
                return tooling.target_of(self._d.tools.look_up(text))
            case "tool" | "model" | "access" | "daemon":
                return Target(kind, None, text)
        words = f"target is {text!r}, expected KIND:ID with a kind of {', '.join(access.KINDS)}"
        raise InvalidParams(words, field="target")

    async def _memory_target(self, call: Call, text: str) -> Target:
        """A note by its id, or all of an agent's by its name."""
        try:
            owner = await self._d.memory.agent_of(text, call.agent)
        except NotFound:
            return Target("memory", AgentId(call.agent.uid, text or call.agent.name))
        if owner.uid != call.agent.uid:  # as if it were a name
            return Target("memory", AgentId(call.agent.uid, text))
        return Target("memory", owner, text)

    # ------------------------------------------------------------ asking and answering

    async def access_request(self, call: Call) -> Result:
        right, subject = call.params["right"], call.subject
        is_waiting = call.params["wait"]
        if "target" not in call.params:
            if right not in access.RIGHTS:
                raise InvalidParams(f"right is {right!r}; on what? give a target", field="target")
            if right in subject.rights:
                return {"request": new_id("q"), "state": "approved"}
            target = Target("access", None, right)
            asked = self._d.access.approvals.request(
                call, target, right=right, mode=None, is_waiting=is_waiting
            )
        else:
            mode: Literal["read", "write"] = "write" if right == "write" else "read"
            target = await self._target(call, call.params["target"], right)
            if target.kind not in access.GRANTED:
                raise InvalidParams(f"nothing of {target.kind} can be granted", field="target")
            decision = self._d.access.decide(subject, mode, target)
            if decision.verdict is Verdict.ALLOWED:
                return {"request": new_id("q"), "state": "approved"}
            if decision.right is not None or decision.by == "uid":  # existence and rights first
                self._d.access.check(call, mode, target)
            asked = self._d.access.approvals.request(
                call, target, right=None, mode=mode, is_waiting=is_waiting
            )
        request, state = await asked
        return {"request": request, "state": state}

    async def access_pending(self, call: Call) -> Result:
        approvals = self._d.access.approvals
        if call.params["stream"]:
            await approvals.watch(call)
        return {"requests": approvals.seen_by(call)}

    async def access_approve(self, call: Call) -> Result:
        p = call.params
        await self._d.access.approvals.approve(call, p["request"], is_remembered=p["remember"])
        return {}

    async def access_deny(self, call: Call) -> Result:
        await self._d.access.approvals.deny(call, call.params["request"])
        return {}

    # ------------------------------------------------------------ groups and rights

    def access_groups(self, call: Call) -> Result:
        groups = self._d.access.privileges.groups(call.agent.uid)
        return {"groups": [_describe_group(g, is_fixed=fixed) for g, fixed in groups]}

    async def access_group(self, call: Call) -> Result:
        p = call.params
        uid = p.get("uid", call.agent.uid)
        target = await self._admit_steward(call, uid, p["name"])
        if "rights" in p:  # the daemon's to give, not a uid's own
            await self._d.access.admit(call, "admin", Target("access", None, p["name"]))
        group = await self._d.access.privileges.change_group(
            uid,
            p["name"],
            add=p.get("add", ()),
            remove=p.get("remove", ()),
            mode=p.get("mode"),
            rights=p.get("rights"),
            also=self._changed(call, "group", target, _said(p)),
        )
        return _describe_group(group, is_fixed=False)

    async def _admit_steward(self, call: Call, uid: int, name: str) -> Target:
        """What agents of a uid share is for its operators to arrange, and for admins."""
        target = Target("access", AgentId(uid, NOBODY), name)
        is_operator = call.subject.is_operator and uid == call.agent.uid
        await self._d.access.admit(call, "write" if is_operator else "admin", target)
        return target

    async def access_rights(self, call: Call) -> Result:
        p = call.params
        agent = AgentId(p.get("uid", call.agent.uid), p["agent"])
        target = Target("access", agent, agent.name)
        privileges = self._d.access.privileges
        also = self._changed(call, "rights", target, _said(p))
        if {"add", "remove", "reset"} & p.keys():
            await self._d.access.admit(call, "admin", target)
            if p.get("reset"):
                await privileges.unset_rights(agent, p["reset"], also)
            expires_s = p.get("expires_s")
            expires_ms = None if expires_s is None else now_ms() + expires_s * 1000
            changes = [
                SetRight(agent, right, is_held=name == "add", expires_ms=expires_ms)
                for name in ("add", "remove")
                for right in p.get(name, ())
            ]
            await privileges.set_rights(changes, also)
        elif not self._d.access.sees(call, agent):
            raise NotFound(f"no agent {agent.name!r}", agent=agent.name)
        subject = privileges.subject(agent)
        return {
            "agent": agent.name,
            "uid": agent.uid,
            "rights": [right for right in access.RIGHTS if right in subject.rights],
            "groups": sorted(subject.groups),
            "changes": [
                {"right": r.right, "is_held": r.is_held, **_expiry(r.expires_ms)}
                for r in privileges.set_rights_of(agent)
            ],
        }

    def _changed(self, call: Call, act: str, target: Target, what: str = "") -> Also:
        """A change's entry in the audit: of what, and what about it."""
        name = f"{target.name} {what}".strip()

        def also(t: Transaction) -> None:
            by = f"{call.agent.uid}:{call.agent.name}"
            entry = Entry(now_ms(), "changed", call.agent, act, target.kind, target.owner, name, by)
            self._d.access.audit.append(t, entry)

        return also

    # ------------------------------------------------------------ grants and rules

    async def access_grant(self, call: Call) -> Result:
        p = call.params
        kind, name = p["kind"], p["name"]
        if kind == "storage":
            name = name.strip("/")
        self._d.access.check_right(call.agent, kind, call.method)
        if kind == "context" and name:
            found = self._d.contexts.get(name)
            if found.agent != call.agent:  # only its owner's to grant
                self._d.access.check(call, "see", Target(kind, found.agent, name))
                raise Denied(f"context {name!r} is agent {found.agent.name}'s to grant")
        grant = await self._d.access.grant(
            call.agent, p["with"], kind, name, mode=p["mode"], expires_s=p.get("expires_s")
        )
        return {"grant": grant.id}

    def access_grants(self, call: Call) -> Result:
        given, held = self._d.access.grants_of(call.agent)
        return {"given": [_describe_grant(g) for g in given], "held": [*map(_describe_grant, held)]}

    async def access_revoke(self, call: Call) -> Result:
        await self._d.access.revoke(call.agent, call.params["grant"])
        return {}

    def access_rules(self, call: Call) -> Result:
        return {"rules": [_describe_rule(r) for r in self._rules(call)]}

    async def access_forget(self, call: Call) -> Result:
        rule = call.params["rule"]
        found = [r for r in self._rules(call) if r.id == rule]
        if not found:
            raise NotFound(f"no rule {rule!r}", rule=rule)
        target = await self._admit_steward(call, call.agent.uid, rule)
        also = self._changed(call, "forget", target)
        await self._d.access.privileges.forget(found[0], also)
        return {}

    def _rules(self, call: Call) -> list[Remembered]:
        rules = self._d.access.privileges.remembered(call.agent.uid)
        if call.is_admin or call.subject.is_operator:
            return rules
        return [rule for rule in rules if rule.agent == call.agent]

    # ------------------------------------------------------------ the audit

    async def access_audit(self, call: Call) -> Result:
        p, subject = call.params, call.subject
        filters: dict[str, Any] = {key: p[key] for key in ("agent", "uid", "event") if key in p}
        if not subject.is_admin:
            for key in ("before", "verify"):
                if p.get(key):
                    raise Denied(f"{key} needs the right 'admin'", right="admin")
            if filters.get("uid", call.agent.uid) != call.agent.uid:
                return {"entries": []}
            filters["uid"] = call.agent.uid
            if not subject.is_operator:
                if filters.get("agent", call.agent.name) != call.agent.name:
                    return {"entries": []}
                filters["agent"] = call.agent.name
        else:
            self._d.access.note_admin_sees(call)
        await self._d.access.audit.flush()

        def told(t: Transaction) -> list[Result]:  # thousands: not on the loop
            rows = audit.read(
                t,
                limit=p["limit"],
                since_ms=p["since_ms"],
                before=p.get("before"),
                is_hidden_shown=subject.is_admin,
                **filters,
            )
            # Numbers would tell how much others were denied in between.
            return [
                {**({"seq": n} if subject.is_admin else {}), **_describe_entry(entry)}
                for n, entry in rows
            ]

        entries = await self._d.database.read(told)
        if not p["verify"]:
            return {"entries": entries}
        seq, _, digest = p.get("head", "").partition(":")
        noted = Link(int(seq), bytes.fromhex(digest)) if digest else None
        found = await self._d.access.audit.verify(noted)
        chain = {
            "is_whole": found.problem is None,
            "first": found.first,
            "last": found.last,
            "head": found.head.seq,
            "hash": found.head.hash.hex(),
            **({} if found.problem is None else {"problem": found.problem}),
        }
        return {"entries": entries, "chain": chain}


def _answer(reason: str, *, is_allowed: bool = False, asks: bool = False) -> Result:
    return {"allowed": is_allowed, "reason": reason, "asks": asks}


def _said(params: dict[str, Any]) -> str:
    """A change of a group or of rights in a line: +added -removed =reset."""
    signs = {"add": "+", "remove": "-", "reset": "="}
    words = [sign + one for key, sign in signs.items() for one in params.get(key, ())]
    words += [f"mode={params['mode']}"] if "mode" in params else []
    words += [f"rights={','.join(params['rights'])}"] if "rights" in params else []
    return " ".join(words)


def _describe_group(group: Group, *, is_fixed: bool) -> Result:
    return {
        "name": group.name,
        "uid": group.uid,
        "mode": group.mode,
        "members": sorted(group.members),
        "rights": sorted(group.rights),
        "is_fixed": is_fixed,
    }


def _describe_grant(grant: Grant) -> Result:
    """A grant as access.grants gives it."""
    return {
        "grant": grant.id,
        "owner": grant.owner.name,
        "holder": grant.holder,
        "kind": grant.kind,
        "name": grant.name,
        "mode": grant.mode,
        **_expiry(grant.expires_ms),
    }


def _describe_rule(rule: Remembered) -> Result:
    return {
        "rule": rule.id,
        "agent": rule.agent.name,
        "uid": rule.agent.uid,
        "act": rule.act,
        "kind": rule.kind,
        **({} if rule.owner is None else {"owner": rule.owner.name}),
        "name": rule.name,
    }


def _describe_entry(entry: Entry) -> Result:
    owner = entry.owner
    return {
        "time_ms": entry.time_ms,
        "last_ms": entry.last_ms,
        "n": entry.n,
        "event": entry.event,
        "agent": entry.agent.name,
        "uid": entry.agent.uid,
        "act": entry.act,
        "kind": entry.kind,
        **({} if owner is None else {"owner": owner.name, "owner_uid": owner.uid}),
        "name": entry.name,
        "by": entry.by,
    }


def _expiry(expires_ms: int | None) -> Result:
    return {} if expires_ms is None else {"expires_ms": expires_ms}
