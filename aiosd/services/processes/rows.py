"""Processes that are started again when the daemon is: a row each, until they have ended."""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.processes.model import Spec


@dataclass(frozen=True, slots=True)
class Kept:
    """One such process."""

    id: str
    agent: AgentId
    spec: Spec


def save(transaction: Transaction, kept: Kept, now_ms: int) -> None:
    """Keep it, instead of what went by its name before and could not be forgotten."""
    transaction.execute("DELETE FROM processes WHERE (uid, agent) = (?, ?)", (*kept.agent,))
    transaction.execute(
        "INSERT INTO processes (id, uid, agent, spec, created_ms) VALUES (?, ?, ?, ?, ?)",
        (kept.id, *kept.agent, kept.spec.to_json(), now_ms),
    )


def forget(transaction: Transaction, id_: str) -> None:
    transaction.execute("DELETE FROM processes WHERE id = ?", (id_,))


def load(transaction: Transaction) -> tuple[list[Kept], list[str]]:
    """All of them, in the order they were spawned; and the ids of those that can't be read, which
    another version wrote."""
    rows = transaction.execute(
        "SELECT id, uid, agent, spec FROM processes ORDER BY created_ms, rowid"
    )
    found, unread = [], []
    for id_, uid, name, spec in rows:
        try:
            found.append(Kept(id_, AgentId(uid, name), Spec.from_json(spec)))
        except (ValueError, TypeError, KeyError):
            unread.append(id_)
    return found, unread
