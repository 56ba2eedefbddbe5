"""The audit: a chain that shows what was done to it, and counts that a flood can't blow up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiosd.kernel.model import AgentId
from aiosd.services import audit
from aiosd.services.audit import Entry, Link
from aiosd.services.audit_log import HOLD_MS, KINDS_PER_UID, AuditLog, Tally, Verified
from tests.services.opened import opened

ADA, BOB = AgentId(1000, "ada"), AgentId(1000, "bob")
KEEP = 100


def entry(n: int, name: str = "") -> Entry:
    return Entry(n, "denied", BOB, "read", "memory", ADA, name or f"m{n}", "owner")


def with_log(path: Path, do: Callable[[AuditLog], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened(path) as db:
            await do(AuditLog(db, KEEP, lambda: 10**12))

    asyncio.run(main())


async def fill(log: AuditLog, n: int) -> None:
    for i in range(1, n + 1):
        await log._database.write(lambda t, i=i: log.append(t, entry(i)))  # type: ignore[misc]


def verified(path: Path, noted: Link | None = None) -> Verified:
    found: list[Verified] = []

    async def do(log: AuditLog) -> None:
        found.append(await log.verify(noted))

    with_log(path, do)
    return found[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database whose audit has twelve entries."""
    path = tmp_path / "db"
    with_log(path, lambda log: fill(log, 12))
    return path


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_chain_that_nobody_touched_is_whole(path: Path) -> None:
    found = verified(path)
    assert (found.first, found.last, found.head.seq, found.problem) == (1, 12, 12, None)


@pytest.mark.parametrize(
    "column",
    [
        "time_ms = 1000000", "last_ms = 1000000", "n = 7", "event = 'approved'", "uid = 0",
        "agent = 'x'", "act = 'see'", "kind = 'tool'", "owner_uid = NULL", "owner = 'x'",
        "name = 'x'", "decided_by = 'x'", "hash = zeroblob(32)",
    ],
)  # fmt: skip
def test_a_changed_row_shows_whatever_was_changed(path: Path, column: str) -> None:
    tamper(path, f"UPDATE audit SET {column} WHERE seq = 5")  # noqa: S608 - a test's own text
    assert "entry 5 is not as it was written" in str(verified(path).problem)


def test_a_removed_row_shows(path: Path) -> None:
    tamper(path, "DELETE FROM audit WHERE seq = 5")
    assert verified(path).problem == "entry 5 is missing"


def test_rows_that_changed_places_show(path: Path) -> None:
    tamper(
        path,
        "UPDATE audit SET seq = 99 WHERE seq = 5",
        "UPDATE audit SET seq = 5 WHERE seq = 6",
        "UPDATE audit SET seq = 6 WHERE seq = 99",
    )
    assert "entry 5 is not as it was written" in str(verified(path).problem)


def test_a_first_row_that_was_removed_shows(path: Path) -> None:
    tamper(path, "DELETE FROM audit WHERE seq = 1")
    assert verified(path).problem == "entry 1 is missing"


def test_a_cut_tail_shows_by_the_head_that_was_kept(path: Path) -> None:
    tamper(path, "DELETE FROM audit WHERE seq > 9")
    assert verified(path).problem == "entry 10 is missing: the end was cut off"


def test_a_tail_that_was_cut_with_its_head_shows_by_a_head_that_was_noted(path: Path) -> None:
    head = verified(path).head
    tamper(
        path,
        "UPDATE audit_chain SET head_seq = 9, head_hash = (SELECT hash FROM audit WHERE seq = 9)",
        "DELETE FROM audit WHERE seq > 9",
    )
    assert verified(path).problem is None  # whoever writes the file can write both
    assert verified(path, head).problem == "entry 12 is not the one that was noted"


def test_rows_beyond_the_head_show(path: Path) -> None:
    tamper(
        path,
        "INSERT INTO audit SELECT 13, time_ms, last_ms, n, event, uid, agent, act, kind,"
        " owner_uid, owner, name, decided_by, hash FROM audit WHERE seq = 12",
    )
    assert verified(path).problem == "entry 13 is beyond the head that was kept, 12"


def test_the_oldest_go_and_the_rest_is_still_a_chain(path: Path) -> None:
    head = verified(path).head
    with_log(path, lambda log: fill(log, KEEP))
    found = verified(path, head)
    assert (found.first, found.last, found.problem) == (13, 112, None)
    tamper(path, "DELETE FROM audit WHERE seq = 13")
    assert verified(path).problem == "entry 13 is missing"


def test_entries_are_read_newest_last_and_by_what_they_say(path: Path) -> None:
    async def do(log: AuditLog) -> None:
        database = log._database
        log.note(Entry(50, "hidden", ADA, "read", "context", BOB, "c1", "uid"))
        await log.flush()
        newest = await database.read(lambda t: audit.read(t, limit=3))
        assert [(seq, e.name) for seq, e in newest] == [(11, "m11"), (12, "m12"), (13, "c1")]
        seen = await database.read(lambda t: audit.read(t, limit=2, is_hidden_shown=False))
        assert [e.name for _, e in seen] == ["m11", "m12"]
        of_ada = await database.read(lambda t: audit.read(t, limit=9, agent="ada", uid=1000))
        assert [e.event for _, e in of_ada] == ["hidden"]
        before = await database.read(lambda t: audit.read(t, limit=2, since_ms=2, before=4))
        assert [seq for seq, _ in before] == [2, 3]

    with_log(path, do)


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    async def do(log: AuditLog) -> None:
        log.note(entry(1, "x" * 5000))
        await log.flush()
        ((_, found),) = await log._database.read(lambda t: audit.read(t, limit=9))
        assert len(found.name) == audit.MAX_NAME

    with_log(tmp_path / "db", do)


# ------------------------------------------------------------------ counting


def test_the_first_of_a_kind_is_written_at_once_and_the_others_once_an_hour() -> None:
    tally = Tally()
    assert tally.note(entry(1, "a"))
    assert [e.n for e in tally.take(1)] == [1]
    for at in range(2, 1002):
        assert not tally.note(entry(at, "a"))
    assert tally.take(2000) == []
    (counted,) = tally.take(1 + HOLD_MS)
    assert (counted.n, counted.time_ms, counted.last_ms) == (1000, 2, 1001)
    assert tally.take(1 + 2 * HOLD_MS) == []
    assert len(tally) == 0  # forgotten: the next is a first one again


def test_a_flood_of_different_kinds_becomes_one_count() -> None:
    tally = Tally()
    for i in range(10_000):
        tally.note(entry(i))
    entries = tally.take(10_000)
    assert len(entries) == KINDS_PER_UID + 1
    assert sum(e.n for e in entries) == 10_000
    (many,) = [e for e in entries if e.agent.name == "*"]
    assert (many.agent.uid, many.n, many.name) == (1000, 10_000 - KINDS_PER_UID, "")
    other = Entry(1, "denied", AgentId(2000, "x"), "read", "memory", None, "m", "owner")
    assert tally.note(other)  # another uid's are told apart all the same


def test_what_is_held_is_written_at_the_end() -> None:
    tally = Tally()
    tally.note(entry(1, "a"))
    tally.take(1)
    tally.note(entry(2, "a"))
    assert tally.take(3) == []
    assert [e.n for e in tally.take(3, is_last=True)] == [1]


def test_what_the_disk_refuses_is_written_later(tmp_path: Path) -> None:
    async def do(log: AuditLog) -> None:
        log.note(entry(1, "a"))
        database, log._database = log._database, Refusing()  # type: ignore[assignment]
        await log.flush()
        log._database = database
        await log.flush()
        assert [e.name for _, e in await database.read(lambda t: audit.read(t, limit=9))] == ["a"]

    with_log(tmp_path / "db", do)


class Refusing:
    """A database on a full disk."""

    async def write(self, _work: object) -> None:
        from aiosd.services.database import WriteRefused

        raise WriteRefused("the disk is full")
