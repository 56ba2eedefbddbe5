"""The SQLite file: what is acknowledged is kept, and one caller's trouble stays its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from aios_sdk.errors import Busy, DeadlineExceeded, Unavailable
from aiosd.services import database
from aiosd.services.database import (
    Damaged,
    Database,
    DatabaseError,
    NewerSchema,
    Transaction,
    WriteRefused,
)
from tests.services.opened import opened, queued


def v1(transaction: Transaction) -> None:
    transaction.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, data BLOB)")


def v2(transaction: Transaction) -> None:
    transaction.execute("ALTER TABLE numbers ADD COLUMN word TEXT NOT NULL DEFAULT 'none'")


def insert(n: int, data: bytes = b"") -> Callable[[Transaction], int]:
    def work(transaction: Transaction) -> int:
        transaction.execute("INSERT INTO numbers (n, data) VALUES (?, ?)", (n, data))
        return n

    return work


def numbers(transaction: Transaction) -> list[int]:
    return [n for (n,) in transaction.execute("SELECT n FROM numbers ORDER BY n")]


def numbers_in(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return numbers(Transaction(connection))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def journal_mode_of(path: Path) -> str:
    """Source: sqlite.org/fileformat2.html, byte 18 is 2 for a file that needs a write-ahead log."""
    return {1: "delete", 2: "wal"}[path.read_bytes()[18]]


class Held:
    """A write that stays in its transaction until it is let go."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._has_begun = threading.Event()
        self._may_end = threading.Event()

    def __call__(self, transaction: Transaction) -> int:
        insert(self._n)(transaction)
        self._has_begun.set()
        assert self._may_end.wait(20)
        return self._n

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._has_begun.wait, 20)

    def let_go(self) -> None:
        self._may_end.set()


def run(main: Coroutine[None, None, None]) -> None:
    asyncio.run(main)


# ---------------------------------------------------------------- writing and reading


def test_what_was_written_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            assert await db.write(insert(1)) == 1
            assert await db.read(numbers) == [1]
        async with opened(tmp_path / "db", [v1]) as db:
            assert await db.read(numbers) == [1]

    run(main())


def test_commits_are_synced_and_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            await db.write(insert(1))
            assert modes(tmp_path) == {
                "db": 0o600,
                "db-wal": 0o600,
                "db-shm": 0o600,
            }

            def settings(transaction: Transaction) -> list[object]:
                return [
                    transaction.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("synchronous", "journal_mode", "foreign_keys")
                ]

            assert await db.write(settings) == [2, "wal", 1]  # 2 is FULL

    run(main())


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]):
            assert modes(tmp_path)["db"] == 0o600

    (tmp_path / "db").touch(0o644)
    run(main())


def test_writes_that_wait_share_one_commit(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            statements: list[str] = []
            await db._writer.run(lambda c: c.set_trace_callback(statements.append))
            held = Held(0)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                for n in range(1, 201):
                    tasks.create_task(db.write(insert(n)))
                await queued(db, 200)
                held.let_go()
            assert db.stats.writes == 201
            assert db.stats.commits == 2
            assert statements.count("COMMIT") == 2
            assert await db.read(numbers) == list(range(201))

    run(main())


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1], max_batch=50) as db:
            held = Held(0)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                for n in range(1, 201):
                    tasks.create_task(db.write(insert(n)))
                await queued(db, 200)
                held.let_go()
            assert db.stats.commits == 5

    run(main())


def test_a_failing_write_is_undone_and_does_not_hurt_its_neighbours(tmp_path: Path) -> None:
    def fails_half_way(transaction: Transaction) -> None:
        insert(5)(transaction)
        raise KeyError("words of its own")

    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            held = Held(0)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                asked = [db.write(insert(1)), db.write(fails_half_way), db.write(insert(1))]
                asked.append(db.write(insert(2)))
                answers = asyncio.gather(*asked, return_exceptions=True)
                await queued(db, 4)
                held.let_go()
                first, own_error, duplicate, last = await answers
            assert (first, last) == (1, 2)
            assert isinstance(own_error, KeyError)
            assert isinstance(duplicate, sqlite3.IntegrityError)
            assert db.stats.commits == 2
            assert (db.stats.writes, db.stats.failed) == (3, 2)
            assert await db.read(numbers) == [0, 1, 2]

    run(main())


def test_reads_do_not_wait_for_a_write_and_see_only_what_is_committed(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            held = Held(7)
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(db.write(held))
                await held.begun()
                assert await db.read(numbers) == []
                held.let_go()
                await writing
                assert await db.read(numbers) == [7]

    run(main())


def test_a_read_can_not_write(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await db.read(insert(1))
            assert await db.read(numbers) == []

    run(main())


def test_past_its_limit_the_queue_is_busy(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1], max_queued=2) as db:
            held = Held(0)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                tasks.create_task(db.write(insert(1)))
                tasks.create_task(db.write(insert(2)))
                await queued(db, 2)
                with pytest.raises(Busy, match="2 writes wait for the disk, limit is 2"):
                    await db.write(insert(3))
                held.let_go()
            assert await db.read(numbers) == [0, 1, 2]

    run(main())


# ---------------------------------------------------------------- cancelling and closing


def test_a_caller_cancelled_while_it_waits_leaves_no_trace(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            held = Held(0)
            seen: list[int] = []
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                cancelled = tasks.create_task(db.write(insert(1), seen.append))
                tasks.create_task(db.write(insert(2), seen.append))
                await queued(db, 2)
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
                held.let_go()
            assert await db.read(numbers) == [0, 2]
            assert seen == [2]

    run(main())


def test_a_caller_cancelled_while_its_write_runs_hears_of_it_when_that_has_ended(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            held = Held(1)
            seen: list[int] = []
            async with asyncio.TaskGroup() as tasks:
                cancelled = tasks.create_task(db.write(held, seen.append))
                await held.begun()
                cancelled.cancel()
                neighbour = tasks.create_task(db.write(insert(2)))
                await queued(db, 1)
                cancelled.cancel()  # twice makes no difference
                assert not cancelled.done()
                held.let_go()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
                assert seen == [1]  # memory was told, though its caller had gone
                assert await neighbour == 2
            assert await db.read(numbers) == [1, 2]

    run(main())


def test_closing_finishes_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            held = Held(0)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                waiting = tasks.create_task(db.write(insert(1)))
                await queued(db, 1)
                closing = tasks.create_task(db.close())
                await asyncio.sleep(0)
                with pytest.raises(Unavailable, match="the database is closed"):
                    await db.write(insert(2))
                held.let_go()
                await closing
                assert await waiting == 1
            with pytest.raises(Unavailable, match="the database is closed"):
                await db.read(numbers)

    run(main())
    assert numbers_in(tmp_path / "db") == [0, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["db"]  # the log is folded into the file


def test_when_the_writer_is_cancelled_nobody_waits_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        db = await Database.open(tmp_path / "db", [v1])
        held = Held(0)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(db.run())
            running = tasks.create_task(db.write(held))
            await held.begun()
            waiting = asyncio.gather(db.write(insert(1)), return_exceptions=True)
            await queued(db, 1)
            writer.cancel()
            (refused,) = await waiting
            assert isinstance(refused, Unavailable)
            held.let_go()
            assert await running == 0
        await db.close()

    run(main())
    assert numbers_in(tmp_path / "db") == [0]


def test_a_process_that_fails_to_close_its_database_ends_all_the_same(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from aiosd.services.database import Database\n"
        "asyncio.run(Database.open(pathlib.Path(sys.argv[1]), []))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "db")]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0


def test_a_bug_in_on_commit_is_its_callers_alone(tmp_path: Path) -> None:
    def breaks(n: int) -> None:
        raise RuntimeError(f"bug at {n}")

    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            with pytest.raises(RuntimeError, match="bug at 1"):
                await db.write(insert(1), breaks)
            assert await db.write(insert(2)) == 2
            assert await db.read(numbers) == [1, 2]

    run(main())


def test_a_write_that_ends_the_transaction_is_a_bug_that_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            with pytest.raises(RuntimeError, match="a write ended its batch's transaction"):
                await db.write(lambda transaction: transaction.execute("COMMIT") and None)
            assert await db.write(insert(2)) == 2

    run(main())


# ---------------------------------------------------------------- backups


def test_a_backup_while_writes_go_on_is_one_whole_view(tmp_path: Path) -> None:
    def pair(n: int) -> Callable[[Transaction], None]:
        def work(transaction: Transaction) -> None:
            insert(2 * n, b"x" * 2000)(transaction)
            insert(2 * n + 1, b"x" * 2000)(transaction)

        return work

    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            acknowledged: list[int] = []

            async def write_all() -> None:
                for n in range(300):
                    await db.write(pair(n))
                    acknowledged.append(n)

            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(write_all())
                for copy in range(4):
                    n_before = len(acknowledged)
                    await db.backup(tmp_path / f"copy{copy}")
                    found = numbers_in(tmp_path / f"copy{copy}")
                    assert len(found) >= 2 * n_before
                    assert found == list(range(len(found)))
                    assert len(found) % 2 == 0
                await writing
            await db.backup(tmp_path / "copy0")  # replaces the old one
            assert len(numbers_in(tmp_path / "copy0")) == 600
        names = ("db", "copy0", "copy1", "copy2", "copy3")  # no logs, nothing half-done
        assert modes(tmp_path) == dict.fromkeys(names, 0o600)
        assert journal_mode_of(tmp_path / "copy0") == "delete"
        async with opened(tmp_path / "copy0", [v1]) as db:
            assert await db.write(insert(600)) == 600

    run(main())


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent/copy", "No such file or directory"), ("db", "is the database itself")],
)
def test_a_backup_that_can_not_be_made_says_why(tmp_path: Path, name: str, words: str) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            await db.write(insert(1))
            with pytest.raises(DatabaseError, match=words):
                await db.backup(tmp_path / name)
            assert await db.read(numbers) == [1]

    run(main())


# ---------------------------------------------------------------- schemas


def test_an_old_schema_is_upgraded_and_a_copy_of_it_kept(tmp_path: Path) -> None:
    def words(transaction: Transaction) -> list[tuple[int, str]]:
        return transaction.execute("SELECT n, word FROM numbers").fetchall()

    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            await db.write(insert(1))
        async with opened(tmp_path / "db", [v1, v2]) as db:
            assert await db.read(words) == [(1, "none")]
        async with opened(tmp_path / "db.v1", [v1]) as old:  # the older daemon can go back to it
            assert await old.read(numbers) == [1]

    run(main())


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1, v2]) as db:
            await db.write(insert(1))
        with pytest.raises(
            NewerSchema, match=r"db has schema version 2, this aiosd knows up to 1: .*db\.v1"
        ):
            await Database.open(tmp_path / "db", [v1])
        async with opened(tmp_path / "db", [v1, v2]) as db:
            assert await db.read(numbers) == [1]

    run(main())


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    def breaks(transaction: Transaction) -> None:
        v2(transaction)
        transaction.execute("INSERT INTO nowhere VALUES (1)")

    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            await db.write(insert(1))
        with pytest.raises(DatabaseError, match="no such table: nowhere"):
            await Database.open(tmp_path / "db", [v1, breaks])
        async with opened(tmp_path / "db", [v1, v2]) as db:
            assert await db.read(numbers) == [1]

    run(main())


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"The quick brown fox. " * 500)

    async def main() -> None:
        with pytest.raises(Damaged, match=r"file is not a database.*move it away together"):
            await Database.open(path, [v1])

    run(main())
    assert path.read_bytes() == b"The quick brown fox. " * 500
    assert [p.name for p in tmp_path.iterdir()] == ["db"]


def test_damage_inside_the_file_is_found_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "db"

    async def main() -> None:
        async with opened(path, [v1]) as db:
            for n in range(50):
                await db.write(insert(n, bytes(1500)))
        with path.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(os.urandom(4096 * 3))
        with pytest.raises(Damaged, match="put a backup in its place"):
            await Database.open(path, [v1])

    run(main())


def test_another_programs_database_is_not_taken_for_ours(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")

    async def main() -> None:
        with pytest.raises(Damaged, match="a database of another program; move it away"):
            await Database.open(tmp_path / "db", [v1])

    run(main())


# ---------------------------------------------------------------- what the disk refuses


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no mounting here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk_refuses_writes_with_words_and_keeps_everything_else(small_disk: Path) -> None:
    async def main() -> None:
        ballast = small_disk / "ballast"
        async with opened(small_disk / "db", [v1]) as db:
            kept = [await db.write(insert(n, bytes(5000))) for n in range(40)]
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            refused: WriteRefused | None = None
            for n in range(40, 1000):
                try:
                    kept.append(await db.write(insert(n, os.urandom(5000))))
                except WriteRefused as error:
                    refused = error
                    break
            assert refused is not None
            assert refused.code == "unavailable"
            assert str(refused) == (
                "the daemon can't write its database: the disk is full; free some space"
            )
            assert db.stats.refusal is not None
            assert await db.read(numbers) == kept
            with pytest.raises(WriteRefused):
                await db.write(insert(1000, os.urandom(50_000)))
            ballast.unlink()
            assert await db.write(insert(1000)) == 1000
            assert db.stats.refusal is None
            assert await db.read(numbers) == [*kept, 1000]
        async with opened(small_disk / "db", [v1]) as db:
            assert await db.read(numbers) == [*kept, 1000]

    run(main())


def test_a_write_too_big_for_the_disk_does_not_take_its_batch_along(small_disk: Path) -> None:
    async def main() -> None:
        async with opened(small_disk / "db", [v1]) as db:
            held = Held(0)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(db.write(held))
                await held.begun()
                asked = [db.write(insert(1)), db.write(insert(2, os.urandom(8_000_000)))]
                answers = asyncio.gather(*asked, db.write(insert(3)), return_exceptions=True)
                await queued(db, 3)
                held.let_go()
                first, too_big, last = await answers
            assert (first, last) == (1, 3)
            assert isinstance(too_big, WriteRefused)
            assert await db.read(numbers) == [0, 1, 3]

    run(main())


def test_a_backup_to_a_full_disk_leaves_nothing_there(tmp_path: Path, small_disk: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            await db.write(insert(1, os.urandom(4_000_000)))
            with pytest.raises(DatabaseError, match=r"no backup at .*copy: the disk is full"):
                await db.backup(small_disk / "copy")
            assert modes(small_disk) == {}
            assert await db.read(numbers) == [1]

    run(main())


def test_a_read_only_disk_is_refused_with_words(small_disk: Path) -> None:
    async def main() -> None:
        with pytest.raises(DatabaseError, match=r"can't open the database .*Read-only file system"):
            await Database.open(small_disk / "db", [v1])

    (small_disk / "db").touch()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run(main())


def test_a_lock_of_another_process_refuses_writes_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)

    async def main() -> None:
        async with opened(tmp_path / "db", [v1]) as db:
            with contextlib.closing(sqlite3.connect(tmp_path / "db")) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(WriteRefused, match="another process has locked it"):
                    await db.write(insert(1))
                other.rollback()
            assert await db.write(insert(1)) == 1

    run(main())


def test_a_search_that_takes_too_long_ends_and_short_reads_dont_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    monkeypatch.setattr(database, "SEARCH_S", 1.0)

    async def main() -> None:
        async with opened(tmp_path / "db") as db, asyncio.TaskGroup() as tasks:

            async def search() -> None:
                with pytest.raises(DeadlineExceeded, match="longer than 1 s"):
                    await db.search(lambda t: t.execute(endless).fetchone())

            searching = tasks.create_task(search())
            await asyncio.sleep(0)
            assert await db.read(lambda t: t.execute("SELECT 1").fetchone()) == (1,)
            assert not searching.done()
            await searching
            assert await db.search(lambda t: t.execute("SELECT 2").fetchone()) == (2,)

    asyncio.run(main())
