"""The [access] table: who holds what, which groups there are, which acts a person must confirm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from aiosd.services import access
from aiosd.services.privileges import AgentRule, Settings
from aiosd.settings import key

AGENT_PATTERN = r"[A-Za-z0-9._-]{1,64}"
_ANY_AGENT = r"([0-9]{1,10}:)?[A-Za-z0-9._*?-]{1,64}"
_HOLDER = r"@?[A-Za-z0-9._*?-]{1,64}"
MAX_UID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class AgentRights:
    """What agents hold beyond, or short of, everyone's rights."""

    rights: tuple[str, ...] = key((), "Rights they hold too.", choices=access.RIGHTS)
    without: tuple[str, ...] = key(
        (), "Rights they don't hold, whatever else says so.", choices=access.RIGHTS
    )


@dataclass(frozen=True, slots=True)
class FixedGroup:
    """A privilege group that only this file changes."""

    uid: int = key(
        -1,
        "Whose agents they are; -1: the daemon's own user's.",
        low=-1,
        high=MAX_UID,
    )
    members: tuple[str, ...] = key((), "Names of agents.", pattern=AGENT_PATTERN)
    mode: str = key(
        "read",
        "What members may do to each other's memory, contexts and files; with `read` or "
        "`write` they may also send each other messages.",
        choices=("none", "read", "write"),
    )
    rights: tuple[str, ...] = key((), "Rights that members hold too.", choices=access.RIGHTS)


@dataclass(frozen=True, slots=True)
class ConfirmRule:
    """Acts that wait for a person."""

    agent: str = key("*", "Whose acts: a name, a pattern, or `@group`.", pattern=_HOLDER)
    uid: int = key(-1, "Of this user's agents only; -1: of all.", low=-1, high=MAX_UID)
    kinds: tuple[str, ...] = key(access.KINDS, "On what.", choices=access.KINDS)
    acts: tuple[str, ...] = key(
        ("delete", "replace", "use", "admin"), "Which acts.", choices=access.ASKABLE
    )
    name: str = key(
        "*", "A tool's name, a path in the owner's root, an id; `*` and `?` match, also a slash."
    )
    own: bool = key(False, "The agent's own things too.")
    irreversible: bool = key(False, "Of tools, only those that say they are irreversible.")

    def rule(self) -> access.Confirm:
        return access.Confirm(
            self.agent,
            None if self.uid < 0 else self.uid,
            frozenset(self.kinds),
            frozenset(self.acts),
            self.name,
            self.own,
            self.irreversible,
        )


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what, beside what `access.*` has set."""

    rights: tuple[str, ...] = key(
        access.EVERYONE,
        "What every agent holds.",
        choices=access.RIGHTS,
        reloads=True,
    )
    admins: tuple[str, ...] = key(
        ("*",),
        "Names of root's and of the daemon's own user's agents that hold `admin`, and so all "
        "rights there are; `*` and `?` match.",
        reloads=True,
        pattern=r"[A-Za-z0-9._*?-]{1,64}",
    )
    operators: tuple[str, ...] = key(
        ("aiosctl",),
        "Names of agents that are a person at the shell: they reach all that is their own uid's, "
        "and approve what its agents ask.",
        pattern=AGENT_PATTERN,
        reloads=True,
    )
    same_uid: str = key(
        "none",
        "What agents of one uid may do to each other's memory, contexts and files without a group "
        "or a grant; with `read` or `write` they may also send each other messages.",
        choices=("none", "read", "write"),
        reloads=True,
    )
    approval_s: int = key(
        300, "Time a person has to approve; then it is a no.", low=1, high=7 * 86400, reloads=True
    )
    lent_s: int = key(
        3600,
        "How long a right that was asked for lasts when it is approved without --remember.",
        low=1,
        high=10**9,
        reloads=True,
    )
    pending_per_uid: int = key(
        64, "Requests of one uid that wait for a person; past it `quota_exceeded`.", low=1,
        high=65536, reloads=True,
    )  # fmt: skip
    pending_watchers: int = key(
        16, "Streams of access.pending of one uid; past it `quota_exceeded`.", low=1, high=65536,
        reloads=True,
    )  # fmt: skip
    groups_per_uid: int = key(
        256, "Groups of one uid; past it `quota_exceeded`.", low=0, high=65536, reloads=True
    )
    members_per_group: int = key(
        1024, "Members of one group; past it `quota_exceeded`.", low=1, high=65536, reloads=True
    )
    grants_per_agent: int = key(
        1024,
        "Grants one agent may give; past it `quota_exceeded`.",
        low=0,
        high=10**6,
        reloads=True,
    )
    grants_per_uid: int = key(
        16384,
        "Grants of all agents of one uid; past it `quota_exceeded`.",
        low=0,
        high=10**7,
        reloads=True,
    )
    rules_per_uid: int = key(
        1024,
        "Rights set and approvals remembered for one uid's agents; past it `quota_exceeded`.",
        low=0,
        high=10**6,
        reloads=True,
    )
    audit_entries: int = key(
        100_000,
        "Entries of the audit that are kept; past it the oldest go.",
        low=100,
        high=10**8,
        reloads=True,
    )
    agents: Mapping[str, AgentRights] = key(
        {},
        "Rights by agent: `NAME`, `UID:NAME`, or with patterns. Names are self-declared, so what "
        "is more than everyone's is best given to a `UID:NAME`.",
        table=AgentRights,
        name_pattern=_ANY_AGENT,
        reloads=True,
    )
    groups: Mapping[str, FixedGroup] = key(
        {},
        "Privilege groups. `aiosctl access group` makes others.",
        table=FixedGroup,
        name_pattern=AGENT_PATTERN,
        reloads=True,
    )
    confirm: tuple[ConfirmRule, ...] = key(
        (),
        "Acts that wait until a person has said yes (`aiosctl approvals`). One that any of these "
        "names asks; what is the agent's own only where `own` says so.",
        table=ConfirmRule,
        reloads=True,
    )

    def settings(self) -> Settings:
        """What the access manager works with."""
        return Settings(
            everyone=frozenset(self.rights),
            admins=self.admins,
            operators=frozenset(self.operators),
            same_uid=_mode(self.same_uid),
            agents=tuple(
                AgentRule(name, frozenset(rule.rights), frozenset(rule.without))
                for name, rule in self.agents.items()
            ),
            groups={(g.uid, g.name): g for g in map(_group, self.groups, self.groups.values())},
            confirms=tuple(rule.rule() for rule in self.confirm),
            groups_per_uid=self.groups_per_uid,
            members_per_group=self.members_per_group,
            grants_per_agent=self.grants_per_agent,
            grants_per_uid=self.grants_per_uid,
            rules_per_uid=self.rules_per_uid,
        )


def _group(name: str, group: FixedGroup) -> access.Group:
    uid = os.getuid() if group.uid < 0 else group.uid
    members, rights = frozenset(group.members), frozenset(group.rights)
    return access.Group(uid, name, _mode(group.mode), members, rights)


def _mode(text: str) -> access.Mode:
    assert text in ("none", "read", "write")  # the key's choices
    return text  # type: ignore[return-value]  # mypy doesn't narrow a str by "in"
