"""What access decides by: rights, groups, grants and approvals, as file and database have them.

Rule 1: what memory says is in the database first.
Rule 2: a change and its entry in the audit are one write.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from aios_sdk.errors import Denied, NotFound, QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services import access, saved_access
from aiosd.services.access import Confirm, Grant, Group, Mode, Remembered, Rules, Subject
from aiosd.services.database import Database, Transaction
from aiosd.services.saved_access import SetRight

MAX_CACHED = 4096  # subjects; past it they are worked out anew
FOREVER_MS = 2**62

Also = Callable[[Transaction], object]
"""More for the same write: the entry in the audit."""


@dataclass(frozen=True, slots=True)
class AgentRule:
    """Rights from the file, for agents like a pattern: NAME or UID:NAME."""

    pattern: str
    rights: frozenset[str]
    without: frozenset[str]

    def matches(self, agent: AgentId) -> bool:
        uid, has_uid, name = self.pattern.rpartition(":")
        return fnmatchcase(agent.name, name) and (not has_uid or int(uid) == agent.uid)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says."""

    everyone: frozenset[str] = frozenset(access.EVERYONE)
    admins: tuple[str, ...] = ("*",)
    operators: frozenset[str] = frozenset({"aiosctl"})
    same_uid: Mode = "none"
    agents: tuple[AgentRule, ...] = ()
    groups: Mapping[tuple[int, str], Group] = field(default_factory=dict)
    confirms: tuple[Confirm, ...] = ()
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of tools
    groups_per_uid: int = 256
    members_per_group: int = 1024
    grants_per_agent: int = 1024
    grants_per_uid: int = 16384
    rules_per_uid: int = 1024


class Privileges:
    """The state of access, and every way to change it."""

    def __init__(self, database: Database, settings: Settings, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._settings = settings
        self._set_rights: dict[AgentId, dict[str, SetRight]] = {}
        self._groups: dict[tuple[int, str], Group] = {}  # made by access.group
        self._groups_of: dict[AgentId, list[Group]] = {}
        self._subjects: dict[AgentId, tuple[Subject, int]] = {}
        self._changing = asyncio.Lock()  # what is written was worked out from what is in force
        self.rules = Rules()
        self.configure(settings)

    async def load(self) -> None:
        """Bring in what an earlier daemon left."""
        saved = await self._database.read(saved_access.load)
        self._groups = {(g.uid, g.name): g for g in saved.groups}
        for right in saved.rights:
            self._set_rights.setdefault(right.agent, {})[right.right] = right
        grants: dict[AgentId, tuple[Grant, ...]] = {}
        for grant in saved.grants:
            grants[grant.owner] = (*grants.get(grant.owner, ()), grant)
        remembered: dict[AgentId, tuple[Remembered, ...]] = {}
        for rule in saved.remembered:
            remembered[rule.agent] = (*remembered.get(rule.agent, ()), rule)
        self.rules = replace(self.rules, grants=grants, remembered=remembered)
        self._changed()

    def configure(self, settings: Settings) -> None:
        """Put what the file says into force."""
        self._settings = settings
        self.rules = replace(
            self.rules,
            same_uid=settings.same_uid,
            confirms=settings.confirms,
            users=settings.users,
        )
        self._changed()

    # ------------------------------------------------------------ looking

    def subject(self, agent: AgentId) -> Subject:
        """The agent with all that it holds now."""
        now = self._now_ms()
        found = self._subjects.get(agent)
        if found is not None and now < found[1]:
            return found[0]
        subject, until_ms = self._work_out(agent, now)
        if len(self._subjects) >= MAX_CACHED:
            self._subjects.clear()
        self._subjects[agent] = subject, until_ms
        return subject

    def _work_out(self, agent: AgentId, now: int) -> tuple[Subject, int]:
        """The subject, and until when that holds."""
        held = set(self._settings.everyone)
        taken: set[str] = set()
        if agent.uid in (0, os.getuid()) and any(
            fnmatchcase(agent.name, pattern) for pattern in self._settings.admins
        ):
            held.add("admin")
        for rule in self._settings.agents:
            if rule.matches(agent):
                held |= rule.rights
                taken |= rule.without
        groups = self._groups_of.get(agent, [])
        for group in groups:
            held |= group.rights
        until_ms = FOREVER_MS
        for right in self._set_rights.get(agent, {}).values():
            if right.expires_ms is not None:
                if right.expires_ms <= now:
                    continue
                until_ms = min(until_ms, right.expires_ms)
            (held if right.is_held else taken).add(right.right)
        if "admin" in held - taken:
            held = set(access.RIGHTS)
        names = frozenset(group.name for group in groups)
        is_operator = agent.name in self._settings.operators
        return Subject(agent, frozenset(held - taken), names, is_operator), until_ms

    def groups(self, uid: int) -> list[tuple[Group, bool]]:
        """The groups of a uid, and whether the file fixes them."""
        return [
            (group, key in self._settings.groups)
            for key, group in sorted(self.rules.groups.items())
            if key[0] == uid
        ]

    def set_rights_of(self, agent: AgentId) -> list[SetRight]:
        """What access.rights has said about the agent, and still holds."""
        now = self._now_ms()
        rights = self._set_rights.get(agent, {}).values()
        return [r for r in rights if r.expires_ms is None or now < r.expires_ms]

    def grants_of(self, agent: AgentId) -> tuple[list[Grant], list[Grant]]:
        """What the agent has granted, and what it was granted, as far as it hasn't expired."""
        now, groups = self._now_ms(), self.subject(agent).groups
        live = [
            grant
            for owner, grants in self.rules.grants.items()
            if owner.uid == agent.uid
            for grant in grants
            if grant.expires_ms is None or now < grant.expires_ms
        ]
        given = [g for g in live if g.owner == agent]
        names = {agent.name, *(f"@{group}" for group in groups)}
        return given, [g for g in live if g.owner != agent and g.holder in names]

    def remembered(self, uid: int) -> list[Remembered]:
        """What was approved for good, of a uid's agents."""
        return [r for agent, rules in self.rules.remembered.items() if agent.uid == uid
                for r in rules]  # fmt: skip

    # ------------------------------------------------------------ changing

    async def change_group(
        self,
        uid: int,
        name: str,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        mode: Mode | None = None,
        rights: Iterable[str] | None = None,
        also: Also,
    ) -> Group:
        """Make a group, or change it; without members it is gone."""
        async with self._changing:
            if (uid, name) in self._settings.groups:
                raise Denied(f"group {name!r} is in the configuration file; change it there")
            old = self._groups.get((uid, name)) or Group(uid, name, "read", frozenset())
            group = replace(
                old,
                mode=mode or old.mode,
                members=(old.members | set(add)) - set(remove),
                rights=old.rights if rights is None else frozenset(rights),
            )
            if old.members == group.members == frozenset():
                raise NotFound(f"no group {name!r}; add members to make it", group=name)
            limit = self._settings.members_per_group
            _check_room(f"group {name}", "members", len(group.members), limit)
            if not old.members:
                n_groups = sum(key[0] == uid for key in self._groups) + 1
                _check_room(f"uid {uid}", "groups", n_groups, self._settings.groups_per_uid)

            def work(t: Transaction) -> None:
                saved_access.put_group(t, group)
                also(t)

            def on_commit(_: None) -> None:
                if group.members:
                    self._groups[uid, name] = group
                else:
                    self._groups.pop((uid, name), None)
                self._changed()

            await self._database.write(work, on_commit)
            return group

    async def set_rights(self, rights: list[SetRight], also: Also) -> None:
        """Give rights to an agent, or take them; all in the list are of one agent."""
        if not rights:
            return
        async with self._changing:
            agent = rights[0].agent
            new = {**self._set_rights.get(agent, {}), **{r.right: r for r in rights}}
            n_more = len(new) - len(self._set_rights.get(agent, {}))
            self._check_rules(agent.uid, n_more)

            def work(t: Transaction) -> None:
                saved_access.set_rights(t, rights)
                also(t)

            def on_commit(_: None) -> None:
                self._set_rights[agent] = new
                self._changed()

            await self._database.write(work, on_commit)

    async def unset_rights(self, agent: AgentId, rights: Iterable[str], also: Also) -> None:
        """Forget what was said about these rights of the agent: the file decides again."""
        async with self._changing:
            gone = set(rights)
            new = {k: v for k, v in self._set_rights.get(agent, {}).items() if k not in gone}

            def work(t: Transaction) -> None:
                saved_access.unset_rights(t, agent, gone)
                also(t)

            def on_commit(_: None) -> None:
                self._set_rights[agent] = new
                if not new:
                    del self._set_rights[agent]
                self._changed()

            await self._database.write(work, on_commit)

    async def add_grant(self, grant: Grant, also: Also) -> None:
        async with self._changing:
            grants = self._live(grant.owner)
            limit = self._settings.grants_per_agent
            _check_room(f"agent {grant.owner.name}", "grants", len(grants) + 1, limit)
            uid = grant.owner.uid  # its agents may have as many names as they like
            of_uid = sum(len(g) for owner, g in self.rules.grants.items() if owner.uid == uid)
            limit = self._settings.grants_per_uid
            _check_room(f"uid {uid}", "grants", of_uid + 1, limit)

            def work(t: Transaction) -> None:
                saved_access.add_grant(t, grant)
                also(t)

            new = (*grants, grant)
            await self._database.write(work, lambda _: self._set_grants(grant.owner, new))

    async def drop_grants(self, owner: AgentId, gone: list[Grant], also: Also) -> None:
        """End some of the owner's grants."""
        async with self._changing:
            ids = {g.id for g in gone}

            def work(t: Transaction) -> None:
                saved_access.drop_grants(t, ids)
                also(t)

            kept = tuple(g for g in self.rules.grants.get(owner, ()) if g.id not in ids)
            await self._database.write(work, lambda _: self._set_grants(owner, kept))

    async def remember(self, rule: Remembered, also: Also) -> None:
        """This needs no asking any more."""
        async with self._changing:
            rules = self.rules.remembered.get(rule.agent, ())
            self._check_rules(rule.agent.uid, 1)

            def work(t: Transaction) -> None:
                saved_access.remember(t, rule)
                also(t)

            new = (*rules, rule)
            await self._database.write(work, lambda _: self._set_remembered(rule.agent, new))

    async def forget(self, rule: Remembered, also: Also) -> None:
        """It is to be asked again."""
        async with self._changing:

            def work(t: Transaction) -> None:
                saved_access.forget(t, rule.id)
                also(t)

            kept = tuple(r for r in self.rules.remembered.get(rule.agent, ()) if r != rule)
            await self._database.write(work, lambda _: self._set_remembered(rule.agent, kept))

    async def expire(self) -> None:
        """Let go what has run out."""
        async with self._changing:
            now = self._now_ms()
            owners = list(self.rules.grants)
            has_old = any(len(self._live(o)) < len(self.rules.grants[o]) for o in owners)
            rights = [r for of in self._set_rights.values() for r in of.values()]
            has_old |= any(r.expires_ms is not None and r.expires_ms <= now for r in rights)
            if not has_old:
                return

            def on_commit(_: None) -> None:
                for owner in owners:
                    self._set_grants(owner, self._live(owner))
                kept = [r for r in rights if r.expires_ms is None or now < r.expires_ms]
                self._set_rights = {}
                for right in kept:
                    self._set_rights.setdefault(right.agent, {})[right.right] = right
                self._changed()

            await self._database.write(lambda t: saved_access.expire(t, now), on_commit)

    # ------------------------------------------------------------ inside

    def _live(self, owner: AgentId) -> tuple[Grant, ...]:
        now = self._now_ms()
        grants = self.rules.grants.get(owner, ())
        return tuple(g for g in grants if g.expires_ms is None or now < g.expires_ms)

    def _set_grants(self, owner: AgentId, grants: tuple[Grant, ...]) -> None:
        new = {**self.rules.grants, owner: grants}
        if not grants:
            del new[owner]
        self.rules = replace(self.rules, grants=new)

    def _set_remembered(self, agent: AgentId, rules: tuple[Remembered, ...]) -> None:
        new = {**self.rules.remembered, agent: rules}
        if not rules:
            del new[agent]
        self.rules = replace(self.rules, remembered=new)

    def _check_rules(self, uid: int, n_more: int) -> None:
        n_rights = sum(len(of) for agent, of in self._set_rights.items() if agent.uid == uid)
        n_rules = n_rights + len(self.remembered(uid)) + n_more
        _check_room(f"uid {uid}", "rights and rules", n_rules, self._settings.rules_per_uid)

    def _changed(self) -> None:
        """What is worked out from the rest."""
        groups = {**self._groups, **self._settings.groups}
        self.rules = replace(self.rules, groups=groups)
        self._groups_of = {}
        for group in groups.values():
            for member in group.members:
                self._groups_of.setdefault(AgentId(group.uid, member), []).append(group)
        self._subjects.clear()


def _check_room(who: str, what: str, n: int, limit: int) -> None:
    if n > limit:
        raise QuotaExceeded(
            f"{who} would have {n} {what}, limit is {limit}", limit=limit, used=n - 1
        )


def new_id(letter: str) -> str:
    """Unguessable, so that an id is no hint of how many others have."""
    return letter + secrets.token_hex(8)
