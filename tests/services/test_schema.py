"""The tables that were released stay what they were."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from aiosd.services import saved_contexts
from aiosd.services.schema import MIGRATIONS
from tests.services.opened import in_memory, opened, save_turns

RELEASED = {
    1: "ff1991acde0c14b74553785e4eabaa73234883df0b185f08e8bca957fce830a8",
    2: "c594e614d5e9b651b69c836da16ed646937a4aa5d5bddc8b850104444e134aa3",
    3: "a46a8fbca9d3f330143a19f74bdaff6015517a49e8b6db7d10dc42bcfaf1c3ce",
    4: "e4e3551a0a70729983fe2043b02927035028bdadc8a27b3d1f5ff37bc87f7f6d",
    5: "fb7fea70b755ab8c81d9872ed9f0b0306ab11575639681d867678a6c6e678805",
    6: "473e207d643fd3a58a980a5a71aa6248e23bc89b96d9adfacf3b1ec9da907269",
    7: "fae6a165b6ac479f482b627167710b6fe33ce537fa749f73ce706f030ad544c7",
    8: "9b30720add5dd9d37b0e1e9516bd49ba96ee73bb467096a191d8c161cb2a7572",
    9: "8627ed1b80827ef442674edcb23be2c9ec725c1db153df50e4339968e4eaec37",
}
"""Of each version, the SHA-256 of its tables; a change to one is a migration of its own."""


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_a_released_version_makes_the_same_tables_for_ever(version: int) -> None:
    with in_memory(MIGRATIONS[:version]) as transaction:
        rows = transaction.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    text = "\n".join(" ".join(sql.split()) for (sql,) in sorted(rows))
    assert hashlib.sha256(text.encode()).hexdigest() == RELEASED[version]


def test_what_the_oldest_version_wrote_is_read_after_all_migrations(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", MIGRATIONS[:1]) as db:
            context = await db.write(lambda transaction: save_turns(transaction, "c1", 3))
        async with opened(tmp_path / "db") as db:
            (found,) = await db.read(lambda t: list(saved_contexts.load_all(t)))
            assert (found.log, found.tokens) == (context.log, context.tokens)

    asyncio.run(main())
