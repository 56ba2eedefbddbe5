"""A process that commits turns as fast as it can and says so, to be killed at any moment.

Usage: writer.py DATABASE N_CONTEXTS.  A line "CONTEXT N_TURNS" on stdout is an acknowledgement:
written after the commit, in one write to the pipe.
"""

from __future__ import annotations

import asyncio
import os
import sys
from array import array
from pathlib import Path

from aiosd.kernel.model import ContextId
from aiosd.services import saved_contexts
from aiosd.services.database import Database, Transaction
from aiosd.services.entries import Entry, entry
from aiosd.services.saved_contexts import SavedContext
from aiosd.services.schema import MIGRATIONS
from tests.services.opened import new_context


def made_turn(before: list[Entry], context: str, index: int) -> tuple[Entry, array[int]]:
    """What turn number index of the context holds: 300 tokens, or a page and more of them."""
    n_tokens = 300 if index % 3 else 3000
    first = index * 10_000 + int(context[1:])
    made = entry(
        before,
        n_tokens,
        [{"role": "user", "content": f"{context} asks {index}"}],
        is_open=True,
        wants_reply=False,
        reply=f"{context} hears {index}",
        n_reply_tokens=100,
    )
    return made, array("i", range(first, first + n_tokens))


async def talk(db: Database, context: SavedContext) -> None:
    """Turns without end.  After every tenth the context begins anew, in the same write."""
    while True:
        n_turns = len(context.log)
        before = [] if n_turns == 10 else context.log
        made, tokens = made_turn(before, context.id, len(before))

        def work(
            transaction: Transaction,
            n_turns: int = n_turns,
            before: list[Entry] = before,
            made: Entry = made,
            tokens: array[int] = tokens,
        ) -> None:
            if n_turns and not before:
                saved_contexts.rewind(transaction, context.id, n_turns, (0, None), used_ms=6)
            saved_contexts.append(transaction, context.id, len(before), made, tokens, used_ms=6)

        await db.write(work)
        context.log = [*before, made]
        os.write(1, f"{context.id} {len(context.log)}\n".encode())


async def main(path: Path, n_contexts: int) -> None:
    db = await Database.open(path, MIGRATIONS)
    found = {c.id: c for c in await db.read(lambda t: list(saved_contexts.load_all(t)))}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(db.run())
        for number in range(n_contexts):
            id_ = ContextId(f"c{number}")
            if id_ not in found:
                found[id_] = new_context(id_)
                await db.write(lambda t, new=found[id_]: saved_contexts.create(t, new))  # type: ignore[misc]
            tasks.create_task(talk(db, found[id_]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
