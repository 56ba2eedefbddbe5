"""Who may do what to which thing: one pure function over frozen values.

Rule 1: an agent owns what it makes; another agent of its uid needs its group, a grant, or to be an
operator; what belongs to another uid does not exist, whatever the names say.
Rule 2: rights and existence come before asking: nobody is asked about what may not be anyway.
Rule 3: `admin` steers the daemon and sees everyone's figures.  It opens no words: neither another
uid's, nor another agent's contexts, notes and files (who runs the daemon holds it: all its agents).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from aiosd.kernel.model import AgentId

Act = Literal["see", "read", "write", "delete", "replace", "use", "send", "steer", "admin"]
"""see: know that it is there, and its figures · steer: cancel, pause, kill · use: a tool ·
send: put something into a mailbox · admin: change limits and rights."""
ACTS: Final = ("see", "read", "write", "delete", "replace", "use", "send", "steer", "admin")
ASKABLE: Final = ("read", "write", "delete", "replace", "use", "send", "admin")
"""What a person can be asked about: the others are answered at once."""

Mode = Literal["none", "read", "write"]
_ALLOWED_BY: Final[Mapping[Mode, tuple[Act, ...]]] = {
    "none": (),
    "read": ("see", "read", "send"),
    "write": ("see", "read", "write", "delete", "replace", "send", "steer"),
}

RIGHTS: Final = ("llm", "context", "memory", "storage", "tool", "ipc", "spawn", "admin")
"""All there are; `admin` includes the others."""
EVERYONE: Final = ("llm", "context", "memory", "storage", "tool", "ipc")
"""What an agent holds that nothing else is said about."""

KINDS: Final = (
    "context", "memory", "storage", "tool", "mailbox", "job", "agent", "access", "model", "daemon",
)  # fmt: skip
_RIGHT_OF: Final = {
    "context": "context",
    "memory": "memory",
    "storage": "storage",
    "tool": "tool",
    "mailbox": "ipc",
}
_SHOWN: Final = ("context", "job", "agent")  # a uid's agents see each other's, without the words
_STEERED: Final = ("job", "agent")  # and may stop each other's: names in a uid are self-declared
GRANTED: Final = ("context", "memory", "storage")  # what a grant may be about
_SHARED: Final = (*GRANTED, "mailbox", "job", "agent")  # what groups are about; agent: all it has
_MAILED: Final = ("see", "send")  # what groups let their members do to each other's mailboxes


@dataclass(frozen=True, slots=True)
class Subject:
    """Who acts.

    groups       the names of its groups
    is_operator  a person at the shell
    is_spawned   a process that the daemon runs: its name is its own in truth
    """

    agent: AgentId
    rights: frozenset[str]
    groups: frozenset[str] = frozenset()
    is_operator: bool = False
    is_spawned: bool = False

    @property
    def is_admin(self) -> bool:
        return "admin" in self.rights


@dataclass(frozen=True, slots=True)
class Target:
    """What it acts on.

    owner            None for what is nobody's: a tool, a model, the daemon
    name             its id; a path for storage, relative to the owner's root; "" for all of a kind
    is_irreversible  a tool that says so
    is_kin           the owner has spawned who acts, or was spawned by it, and runs
    """

    kind: str
    owner: AgentId | None
    name: str = ""
    is_irreversible: bool = False
    is_kin: bool = False

    def __str__(self) -> str:
        owner = f" of agent {self.owner.name}" if self.owner else ""
        return f"{self.kind}{' ' + repr(self.name) if self.name else ''}{owner}"


@dataclass(frozen=True, slots=True)
class Group:
    """Agents of one uid that reach each other's memory, contexts and files as mode says."""

    uid: int
    name: str
    mode: Mode
    members: frozenset[str]
    rights: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Grant:
    """What an owner lets another agent of its uid, or "@group", do until it expires.

    holder  an agent of the owner's uid, or "@group"
    name    "" is all of that kind; a path covers what is below it
    """

    id: str
    owner: AgentId
    holder: str
    kind: str
    name: str
    mode: Mode
    expires_ms: int | None = None

    def covers(self, subject: Subject, act: Act, target: Target, now_ms: int) -> bool:
        return (
            (self.expires_ms is None or now_ms < self.expires_ms)
            and self.owner == target.owner
            and self.owner.uid == subject.agent.uid
            and self.kind == target.kind
            and act in _ALLOWED_BY[self.mode]
            and (
                self.holder[1:] in subject.groups
                if self.holder.startswith("@")
                else self.holder == subject.agent.name
            )
            and _is_within(target.name, self.name)
        )


def _is_within(name: str, root: str) -> bool:
    return root in ("", name) or name.startswith(root + "/")


@dataclass(frozen=True, slots=True)
class Confirm:
    """Acts that a person must confirm.  Names are shell patterns, whose * matches a / too.

    agent            a name, or "@group"
    own              the agent's own things as well
    is_irreversible  only tools that say they are
    """

    agent: str = "*"
    uid: int | None = None
    kinds: frozenset[str] = frozenset(KINDS)
    acts: frozenset[str] = frozenset(("delete", "replace", "use", "admin"))
    name: str = "*"
    own: bool = False
    is_irreversible: bool = False

    def asks(self, subject: Subject, act: Act, target: Target) -> bool:
        return (
            act in self.acts
            and target.kind in self.kinds
            and (self.own or target.owner != subject.agent)
            and (target.is_irreversible or not self.is_irreversible)
            and (self.uid is None or self.uid == subject.agent.uid)
            and _is_held_by(subject, self.agent)
            and self._names(target)
        )

    def _names(self, target: Target) -> bool:
        """The target, or (of a directory) what is below it as far as the pattern's text shows."""
        pattern = self.name.removeprefix("/")
        if fnmatchcase(target.name, pattern):
            return True
        plain = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        is_above = target.name == "" or plain.startswith(target.name + "/")
        return target.kind == "storage" and is_above


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a person has approved for good: this agent, this act, this thing (name "*": any)."""

    id: str
    agent: AgentId
    act: str
    kind: str
    owner: AgentId | None
    name: str

    def covers(self, subject: Subject, act: Act, target: Target) -> bool:
        return (
            self.agent == subject.agent
            and self.act == act
            and self.kind == target.kind
            and self.owner == target.owner
            and self.name in ("*", target.name)
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a decision depends on besides who and what.

    same_uid  what agents of a uid may do to each other's things without group or grant
    grants    by owner; remembered: by agent
    users     who may use a tool, by its name or a pattern: names, patterns, "@group"; the entry of
              its name counts, else the first that fits, else everybody may
    """

    same_uid: Mode = "none"
    groups: Mapping[tuple[int, str], Group] = field(default_factory=dict)
    grants: Mapping[AgentId, tuple[Grant, ...]] = field(default_factory=dict)
    confirms: tuple[Confirm, ...] = ()
    remembered: Mapping[AgentId, tuple[Remembered, ...]] = field(default_factory=dict)
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Verdict(enum.Enum):
    ALLOWED = "allowed"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Decision:
    """reason: in words, for the caller; by: what decided it, one word, for the audit."""

    verdict: Verdict
    by: str
    reason: str
    right: str | None = None  # the one that is missing


def decide(subject: Subject, act: Act, target: Target, rules: Rules, now_ms: int) -> Decision:
    """Whether the subject may do that to the target, which exists."""
    needed = "admin" if act == "admin" else _RIGHT_OF.get(target.kind)
    if needed is not None and needed not in subject.rights:
        words = f"agent {subject.agent.name} needs the right {needed!r} for this"
        return Decision(Verdict.DENIED, "right", words, needed)
    by = _reach(subject, act, target, rules, now_ms)
    if by is None:
        if target.owner is None or target.owner.uid != subject.agent.uid:
            return Decision(Verdict.NOT_FOUND, "uid", f"no {target.kind} {target.name!r}")
        by_what = "a common group" if target.kind == "mailbox" else "a common group or a grant"
        words = f"{target} is not agent {subject.agent.name}'s to {act}: it takes {by_what}"
        return Decision(Verdict.DENIED, "owner", words)
    if any(confirm.asks(subject, act, target) for confirm in rules.confirms):
        remembered = rules.remembered.get(subject.agent, ())
        if not any(rule.covers(subject, act, target) for rule in remembered):
            return Decision(Verdict.ASK, "confirm", f"a person must confirm: {act} {target}")
        by = "remembered"
    return Decision(Verdict.ALLOWED, by, f"allowed: {by}")


def _reach(subject: Subject, act: Act, target: Target, rules: Rules, now_ms: int) -> str | None:
    """What lets the subject do that, if anything does, in one word."""
    owner, kind = target.owner, target.kind
    if act == "admin":
        return "admin"
    if owner is None:
        return "right" if kind != "tool" or _is_user(subject, target.name, rules) else None
    if owner == subject.agent:
        return "own"
    if owner.uid != subject.agent.uid:
        is_steered = kind in _STEERED and act in ("see", "steer")
        return "admin" if subject.is_admin and is_steered else None
    is_common = (act == "see" and kind in _SHOWN) or (act == "steer" and kind in _STEERED)
    if is_common and may_see(owner, subject):
        return "uid"
    if kind == "mailbox" and act == "read":
        return None  # a message is for whom it was sent to, and nobody else
    if subject.is_operator:
        return "operator"
    if kind not in _SHARED or (kind == "mailbox" and act not in _MAILED):
        return None
    if kind == "mailbox" and target.is_kin:
        return "kin"
    if act in _ALLOWED_BY[rules.same_uid]:
        return "uid"
    for name in subject.groups:
        group = rules.groups.get((owner.uid, name))
        if group and owner.name in group.members and act in _ALLOWED_BY[group.mode]:
            return "group"
    if any(g.covers(subject, act, target, now_ms) for g in rules.grants.get(owner, ())):
        return "grant"
    return None


def _is_user(subject: Subject, tool: str, rules: Rules) -> bool:
    """Whether the tool is there for the subject."""
    fitting = (holders for name, holders in rules.users.items() if fnmatchcase(tool, name))
    holders = rules.users.get(tool) or next(fitting, ("*",))
    return any(_is_held_by(subject, holder) for holder in holders)


def _is_held_by(subject: Subject, holder: str) -> bool:
    """holder: a name, a pattern, or "@group"."""
    if holder.startswith("@"):
        return holder[1:] in subject.groups
    return fnmatchcase(subject.agent.name, holder)


def may_see(owner: AgentId, viewer: Subject) -> bool:
    """Whether the viewer may know that the owner's jobs and agents exist, and their figures.

    A spawned agent knows of itself and of those below it, which are named so.
    """
    if viewer.is_admin:
        return True
    if owner.uid != viewer.agent.uid:
        return False
    return not viewer.is_spawned or f"{owner.name}.".startswith(f"{viewer.agent.name}.")
