"""Access in the database: groups, rights, grants, what was approved for good, what waits.

Rule: each function is one statement of what has happened, to be run inside Database.write() or
read(); several in one write happen together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from aiosd.kernel.model import AgentId
from aiosd.services.access import Grant, Group, Remembered
from aiosd.services.database import Transaction


@dataclass(frozen=True, slots=True)
class SetRight:
    """A right that an agent was given, or (not is_held) that was taken from it."""

    agent: AgentId
    right: str
    is_held: bool
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits for a person."""

    id: str
    agent: AgentId
    act: str
    kind: str
    owner: AgentId | None
    name: str


@dataclass(frozen=True, slots=True)
class Saved:
    """All that the database holds of it."""

    groups: list[Group]
    rights: list[SetRight]
    grants: list[Grant]
    remembered: list[Remembered]


def load(t: Transaction) -> Saved:
    return Saved(
        [
            Group(uid, name, mode, frozenset(json.loads(members)), frozenset(json.loads(rights)))
            for uid, name, mode, rights, members in t.execute(
                "SELECT uid, name, mode, rights, members FROM access_groups"
            )
        ],
        [
            SetRight(AgentId(uid, agent), name, bool(is_held), expires_ms)
            for uid, agent, name, is_held, expires_ms in t.execute(
                "SELECT uid, agent, name, is_held, expires_ms FROM access_rights"
            )
        ],
        [
            Grant(id_, AgentId(uid, owner), holder, kind, name, mode, expires_ms)
            for id_, uid, owner, holder, kind, name, mode, expires_ms in t.execute(
                "SELECT id, uid, owner, holder, kind, name, mode, expires_ms FROM access_grants"
            )
        ],
        [
            Remembered(id_, AgentId(uid, agent), act, kind, _owner(owner_uid, owner), name)
            for id_, uid, agent, act, kind, owner_uid, owner, name in t.execute(
                "SELECT id, uid, agent, act, kind, owner_uid, owner, name FROM access_rules"
            )
        ],
    )


def put_group(t: Transaction, group: Group) -> None:
    """The group as it is now; one without members is gone."""
    if not group.members:
        t.execute("DELETE FROM access_groups WHERE uid = ? AND name = ?", (group.uid, group.name))
        return
    t.execute(
        "INSERT OR REPLACE INTO access_groups (uid, name, mode, rights, members)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            group.uid,
            group.name,
            group.mode,
            json.dumps(sorted(group.rights)),
            json.dumps(sorted(group.members)),
        ),
    )


def set_rights(t: Transaction, rights: Iterable[SetRight]) -> None:
    t.executemany(
        "INSERT OR REPLACE INTO access_rights (uid, agent, name, is_held, expires_ms)"
        " VALUES (?, ?, ?, ?, ?)",
        [(*r.agent, r.right, r.is_held, r.expires_ms) for r in rights],
    )


def unset_rights(t: Transaction, agent: AgentId, rights: Iterable[str]) -> None:
    """As if nothing had been said about them."""
    t.executemany(
        "DELETE FROM access_rights WHERE uid = ? AND agent = ? AND name = ?",
        [(*agent, right) for right in rights],
    )


def add_grant(t: Transaction, grant: Grant) -> None:
    t.execute(
        "INSERT INTO access_grants (id, uid, owner, holder, kind, name, mode, expires_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            grant.id,
            *grant.owner,
            grant.holder,
            grant.kind,
            grant.name,
            grant.mode,
            grant.expires_ms,
        ),
    )


def drop_grants(t: Transaction, ids: Iterable[str]) -> None:
    t.executemany("DELETE FROM access_grants WHERE id = ?", [(id_,) for id_ in ids])


def remember(t: Transaction, rule: Remembered) -> None:
    t.execute(
        "INSERT INTO access_rules (id, uid, agent, act, kind, owner_uid, owner, name)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (rule.id, *rule.agent, rule.act, rule.kind, *(rule.owner or (None, None)), rule.name),
    )


def forget(t: Transaction, rule: str) -> None:
    t.execute("DELETE FROM access_rules WHERE id = ?", (rule,))


def expire(t: Transaction, now_ms: int) -> None:
    """Let go what has run out."""
    t.execute("DELETE FROM access_grants WHERE expires_ms <= ?", (now_ms,))
    t.execute("DELETE FROM access_rights WHERE expires_ms <= ?", (now_ms,))


def ask(t: Transaction, request: Waiting) -> None:
    t.execute(
        "INSERT INTO access_requests (id, uid, agent, act, kind, owner_uid, owner, name)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.id,
            *request.agent,
            request.act,
            request.kind,
            *(request.owner or (None, None)),
            request.name,
        ),
    )


def settle(t: Transaction, request: str) -> None:
    t.execute("DELETE FROM access_requests WHERE id = ?", (request,))


def is_any_waiting(t: Transaction) -> bool:
    return t.execute("SELECT 1 FROM access_requests LIMIT 1").fetchone() is not None


def take_waiting(t: Transaction) -> list[Waiting]:
    """What waited when the daemon ended; it waits no longer."""
    rows = t.execute(
        "SELECT id, uid, agent, act, kind, owner_uid, owner, name FROM access_requests ORDER BY id"
    ).fetchall()
    t.execute("DELETE FROM access_requests")
    return [
        Waiting(id_, AgentId(uid, agent), act, kind, _owner(owner_uid, owner), name)
        for id_, uid, agent, act, kind, owner_uid, owner, name in rows
    ]


def _owner(uid: int | None, name: str | None) -> AgentId | None:
    return None if uid is None or name is None else AgentId(uid, name)
