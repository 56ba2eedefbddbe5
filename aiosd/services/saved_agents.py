"""Agents' figures in the database: kept while the agent has a context or a detached job."""

from __future__ import annotations

from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction


def add(transaction: Transaction, agent: AgentId, since_ms: int, n_tokens: int) -> None:
    """The agent used so many tokens more; since_ms is noted the first time."""
    transaction.execute(
        "INSERT INTO agents (uid, name, since_ms, n_tokens) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET n_tokens = n_tokens + excluded.n_tokens",
        (*agent, since_ms, n_tokens),
    )


def load_all(transaction: Transaction) -> dict[AgentId, tuple[int, int]]:
    """(since_ms, n_tokens) of each."""
    rows = transaction.execute("SELECT uid, name, since_ms, n_tokens FROM agents")
    return {AgentId(uid, name): (since_ms, n_tokens) for uid, name, since_ms, n_tokens in rows}


def forget_unused(transaction: Transaction) -> int:
    """Drop agents with neither a context nor a job: names can't pile up.  How many they were."""
    return transaction.execute(
        "DELETE FROM agents WHERE (uid, name) NOT IN (SELECT uid, agent FROM contexts)"
        " AND (uid, name) NOT IN (SELECT uid, agent FROM jobs)"
    ).rowcount
