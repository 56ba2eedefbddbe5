"""A database with its writer at work, and turns whose tokens say where they belong."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from aiosd.kernel.model import AgentId, ContextId
from aiosd.services import saved_contexts
from aiosd.services.database import Database, Migration, Transaction
from aiosd.services.entries import Entry, entry
from aiosd.services.saved_contexts import SavedContext
from aiosd.services.schema import MIGRATIONS

ALICE = AgentId(1000, "alice")
BOB = AgentId(1000, "bob")


@contextlib.asynccontextmanager
async def opened(
    path: Path,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    max_queued: int = 10_000,
    max_batch: int = 1000,
) -> AsyncIterator[Database]:
    db = await Database.open(path, migrations, max_queued=max_queued, max_batch=max_batch)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(db.run())
        try:
            yield db
        finally:
            await db.close()


async def queued(db: Database, n_writes: int) -> None:
    """Let the tasks that were made go as far as their place in the queue."""
    while db.n_queued < n_writes:  # noqa: ASYNC110 - nothing tells when, and no time passes
        await asyncio.sleep(0)


@contextlib.contextmanager
def in_memory(migrations: Sequence[Migration] = MIGRATIONS) -> Iterator[Transaction]:
    """The tables without a file, for tests of single functions."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        transaction = Transaction(connection)
        for migration in migrations:
            migration(transaction)
        yield transaction


def new_context(id_: str, agent: AgentId = ALICE, used_ms: int = 5) -> SavedContext:
    return SavedContext(ContextId(id_), agent, "model", created_ms=5, used_ms=used_ms)


def turn(before: Sequence[Entry], index: int) -> tuple[Entry, array[int]]:
    """A question of 5 tokens, its answer of index % 50 more; the tokens count from 1000 * index."""
    n_tokens = 5 + index % 50
    made = entry(
        before,
        n_tokens,
        [{"role": "user", "content": f"question {index}"}],
        is_open=True,
        wants_reply=False,
        reply=f"answer {index}",
        n_reply_tokens=index % 50,
    )
    return made, array("i", range(1000 * index, 1000 * index + n_tokens))


def save_turns(transaction: Transaction, id_: str, n_turns: int) -> SavedContext:
    """A new context with so many turns, as it should be loaded."""
    context = new_context(id_)
    saved_contexts.create(transaction, context)
    for index in range(n_turns):
        made, tokens = turn(context.log, index)
        saved_contexts.append(transaction, context.id, index, made, tokens, used_ms=6)
        context.log.append(made)
        context.tokens.extend(tokens)
        context.used_ms = 6
    return context
