"""The daemon's SQLite file: one writer with group commit, reads beside it, migrations, backups.

Rule 1: a transaction is one function call on the writer's thread.  No await is inside one, so none
can be interleaved with another or cut in half by a cancelled caller.
Rule 2: when write() returns, its commit is on the disk (WAL, synchronous=FULL).
Rule 3: reads have a connection of their own and see only what is committed; searches, which may
take long, have another.
Rule 4: what the disk refuses is Unavailable to that caller; reads go on, and later writes work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiosqlite
import structlog

from aios_sdk.errors import Busy, DeadlineExceeded, Unavailable

log = structlog.get_logger()
T = TypeVar("T")

APPLICATION_ID = 0x61696F73  # "aios": tells our file from any other SQLite database
SEARCH_S = 2.0  # of one search: 100,000 notes with the commonest words take less than half
BUSY_S = 5.0  # how long to wait for a lock that another process holds (someone's sqlite3 shell)
MAX_QUEUED = 32_768  # writes waiting: above the limit on jobs, so that no finished turn is refused
MAX_BATCH = 256  # writes in one commit: bounds what a retry repeats and how long a neighbour waits
WAL_BYTES = 16 * 1024**2  # the log file is cut back to this after a checkpoint
_SHORT_OF_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM)


class DatabaseError(Exception):
    """A file that can't be served; str() says which, why, and what to do."""


class NewerSchema(DatabaseError):  # noqa: N818 - says what is found, like the protocol's errors
    """The file was written by a newer aiosd."""


class Damaged(DatabaseError):  # noqa: N818 - likewise
    """The file is not a database, not ours, or broken."""


class WriteRefused(Unavailable):
    """The disk did not take a write: full, read-only, failing, or locked by another process.
    Nothing of that write is kept; all that was committed before is."""


class Transaction:
    """What a read or a write works on: statements, but no way to end the transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        return self._connection.executemany(sql, rows)


Migration = Callable[[Transaction], object]
"""From one schema version to the next; runs in a transaction, with foreign keys checked after."""


@dataclass(slots=True)
class Stats:
    """Since the file was opened.  refusal: why the disk took no write last time, None if it did."""

    writes: int = 0
    commits: int = 0
    failed: int = 0
    refusal: str | None = None


@dataclass(slots=True, eq=False)
class _Write(Generic[T]):
    work: Callable[[Transaction], T]
    on_commit: Callable[[T], object] | None
    done: asyncio.Future[T]


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


class _Connection(aiosqlite.Connection):
    """A connection with its own thread, on which whole functions run."""

    async def start(self) -> None:
        self._thread.daemon = True  # a process that failed to close() ends all the same
        try:
            await self
        except BaseException:
            # The thread has a last word for the loop, which must not be closed before it is said.
            await asyncio.to_thread(self._thread.join)
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # The only way to a function on aiosqlite's thread is the method all its public ones use.
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


class Database:
    """One open file.  Made by open(); run() is the writer, a task of the daemon's TaskGroup."""

    def __init__(
        self,
        path: Path,
        writer: _Connection,
        reader: _Connection,
        searcher: _Connection,
        *,
        max_queued: int,
        max_batch: int,
    ) -> None:
        self.path = path
        self.stats = Stats()
        self._writer = writer
        self._reader = reader
        self._searcher = searcher
        self._max_queued = max_queued
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Write[Any]] = deque()
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._is_running = False
        self._is_closed = False
        self._copying = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        path: Path,
        migrations: Sequence[Migration],
        *,
        max_queued: int = MAX_QUEUED,
        max_batch: int = MAX_BATCH,
    ) -> Database:
        """Open the file, made (mode 0600) if absent, checked, and brought to the newest schema.

        DatabaseError: damaged, not ours, of a newer schema, or the disk refuses it.  Before an
        upgrade a copy is kept beside it, named after the version: NAME.v1.  The directory must
        exist; keeping a second daemon away from it is the caller's part.
        """
        writer = _Connection(partial(_connect, path), iter_chunk_size=64)
        reader = _Connection(partial(_connect, path, is_reader=True), iter_chunk_size=64)
        searcher = _Connection(partial(_connect, path, is_reader=True), iter_chunk_size=64)
        try:
            await writer.start()
            await writer.run(partial(_prepare, path, migrations))
            await reader.start()
            await searcher.start()
        except BaseException as error:
            for connection in (searcher, reader, writer):
                await connection.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise _unusable(path, error) from error
            raise
        return cls(path, writer, reader, searcher, max_queued=max_queued, max_batch=max_batch)

    @property
    def n_queued(self) -> int:
        """Writes that wait for the next commit."""
        return len(self._queue)

    # ------------------------------------------------------------ writing

    async def write(
        self, work: Callable[[Transaction], T], on_commit: Callable[[T], object] | None = None
    ) -> T:
        """Run work as a unit and return its value once that is on the disk.

        Writes happen in the order of the calls; those that wait share one commit.  If work raises,
        only its own changes are undone, and the exception is this caller's.  work runs on another
        thread and may run twice (when a disk was too full for its batch), so it changes nothing
        but the transaction.  on_commit runs on the loop directly after the commit, whatever became
        of the caller: memory that mirrors the file is changed there.

        A caller cancelled before its batch begins leaves no trace; one cancelled later gets its
        CancelledError when the write has ended.  Raises Busy when too many writes wait,
        WriteRefused when the disk refuses, Unavailable once closed.
        """
        if self._is_closed:
            raise Unavailable("the database is closed")
        if len(self._queue) >= self._max_queued:
            raise Busy(
                f"{len(self._queue)} writes wait for the disk, limit is {self._max_queued}",
                retry_after_ms=100,
                queue_depth=len(self._queue),
            )
        write: _Write[T] = _Write(work, on_commit, self._loop.create_future())
        self._queue.append(write)
        self._wake.set()
        cancelled: asyncio.CancelledError | None = None
        while not write.done.done():
            try:
                await asyncio.wait([write.done])
            except asyncio.CancelledError as error:
                cancelled = error
                if write in self._queue:
                    self._queue.remove(write)
                    raise
        if cancelled is not None:
            write.done.exception()  # taken note of: the caller no longer asks
            raise cancelled
        return write.done.result()

    async def run(self) -> None:
        """The writer: commits what waits, until close().  If it is cancelled the batch under way
        still ends, and what waits is Unavailable."""
        assert not self._is_running, "one writer"
        self._is_running = True
        try:
            while not self._is_closed:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    n_writes = min(len(self._queue), self._max_batch)
                    batch = [self._queue.popleft() for _ in range(n_writes)]
                    await self._writer.run(partial(self._commit, batch))
        finally:
            self._is_closed = True
            for write in self._queue:
                write.done.set_exception(Unavailable("the database is closed"))
            self._queue.clear()
            self._stopped.set()

    def _commit(self, batch: list[_Write[Any]], connection: sqlite3.Connection) -> None:
        """On the writer's thread.  Tells the loop itself: run() may be cancelled meanwhile."""
        outcomes, n_commits = _commit_batch(connection, [write.work for write in batch])
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._deliver, batch, outcomes, n_commits)

    def _deliver(self, batch: list[_Write[Any]], outcomes: list[_Outcome], n_commits: int) -> None:
        self.stats.commits += n_commits
        for write, outcome in zip(batch, outcomes, strict=True):
            if outcome.error is not None:
                self.stats.failed += 1
                write.done.set_exception(self._in_words(outcome.error))
                continue
            self.stats.writes += 1
            if self.stats.refusal is not None:
                log.info("database_writable_again", path=str(self.path))
                self.stats.refusal = None
            try:
                if write.on_commit is not None:
                    write.on_commit(outcome.value)
            except Exception as error:  # a bug of that caller's; its neighbours are delivered
                write.done.set_exception(error)
            else:
                write.done.set_result(outcome.value)

    def _in_words(self, error: Exception) -> Exception:
        words = _refusal(error)
        if words is None:
            return error
        if words != self.stats.refusal:  # once, not for every write of a full disk
            log.error("database_refused_write", path=str(self.path), reason=words)
        self.stats.refusal = words
        refused = WriteRefused(f"the daemon can't write its database: {words}")
        refused.__cause__ = error
        return refused

    # ------------------------------------------------------------ reading, copying, closing

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on a consistent view of what is committed.  Reads happen one after another."""
        if self._is_closed:
            raise Unavailable("the database is closed")
        return await self._reader.run(partial(_read, work))

    async def search(self, work: Callable[[Transaction], T]) -> T:
        """As read(), for what may take long: on a connection of its own, so that short reads don't
        wait for it.  DeadlineExceeded: it took longer than SEARCH_S."""
        if self._is_closed:
            raise Unavailable("the database is closed")
        return await self._searcher.run(partial(_read_within, work, SEARCH_S))

    async def backup(self, path: Path) -> None:
        """A consistent copy, complete or not there, while reads and writes go on.

        Replaces a file at that path.  The copy is one file, mode 0600, on the disk when this
        returns, and can be put in the original's place.  DatabaseError if it can't be written.
        """
        async with self._copying:
            source = _Connection(partial(_connect, self.path), iter_chunk_size=64)
            try:
                await source.start()
                await source.run(partial(_copy, path=path))
            except (sqlite3.Error, OSError) as error:
                raise DatabaseError(f"no backup at {path}: {_words(error)}") from error
            finally:
                await source.close()

    async def close(self) -> None:
        """Finish what waits and close the file."""
        self._is_closed = True
        if self._is_running:
            self._wake.set()
            await self._stopped.wait()
        for write in self._queue:  # nobody ever ran the writer
            write.done.set_exception(Unavailable("the database is closed"))
        self._queue.clear()
        await self._searcher.close()
        await self._reader.close()
        await self._writer.close()  # the last one out folds the log into the file


# ---------------------------------------------------------------- on the connections' threads


def _commit_batch(
    connection: sqlite3.Connection, works: Sequence[Callable[[Transaction], Any]]
) -> tuple[list[_Outcome], int]:
    """All in one transaction; one by one if that needs more space than there is.  Never raises."""
    try:
        return _transaction(connection, works), 1
    except Exception as error:
        if len(works) == 1 or _code(error) not in _SHORT_OF_SPACE:
            return [_Outcome(error=error)] * len(works), 0
    outcomes: list[_Outcome] = []
    for work in works:
        try:
            outcomes += _transaction(connection, [work])
        except Exception as error:
            outcomes.append(_Outcome(error=error))
    return outcomes, sum(outcome.error is None for outcome in outcomes)


def _transaction(
    connection: sqlite3.Connection, works: Sequence[Callable[[Transaction], Any]]
) -> list[_Outcome]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_savepoint(connection, work) for work in works]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _savepoint(connection: sqlite3.Connection, work: Callable[[Transaction], Any]) -> _Outcome:
    connection.execute("SAVEPOINT one")
    try:
        value = work(Transaction(connection))
    except Exception as error:
        # SQLite undoes the whole transaction by itself when it runs out of space or memory.
        if not connection.in_transaction or _refusal(error) is not None:
            raise
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return _Outcome(error=error)
    if not connection.in_transaction:
        raise RuntimeError("a write ended its batch's transaction")
    connection.execute("RELEASE one")
    return _Outcome(value)


def _read(work: Callable[[Transaction], T], connection: sqlite3.Connection) -> T:
    connection.execute("BEGIN")
    try:
        return work(Transaction(connection))
    finally:
        connection.execute("ROLLBACK")


def _read_within(
    work: Callable[[Transaction], T], limit_s: float, connection: sqlite3.Connection
) -> T:
    until_s = time.monotonic() + limit_s
    connection.set_progress_handler(lambda: time.monotonic() > until_s, 10_000)
    try:
        return _read(work, connection)
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        raise DeadlineExceeded(
            f"the search took longer than {limit_s:g} s; ask for fewer or rarer words"
        ) from error
    finally:
        connection.set_progress_handler(None, 0)


def _connect(path: Path, *, is_reader: bool = False) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # before SQLite makes it
    path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if is_reader:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _prepare(path: Path, migrations: Sequence[Migration], connection: sqlite3.Connection) -> None:
    """Look before anything is changed; then WAL, then the migrations."""
    version, application_id = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("user_version", "application_id")
    )
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application_id != APPLICATION_ID and not is_empty:
        raise Damaged(f"{path} is a database of another program; move it away")
    if version > len(migrations):
        raise NewerSchema(
            f"{path} has schema version {version}, this aiosd knows up to {len(migrations)}: "
            f"start the newer aiosd that wrote it, or restore the copy made before the upgrade "
            f"({path.name}.v{len(migrations)}, if it is there)"
        )
    complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if complaint != "ok":
        raise Damaged(_damage_words(path, complaint))
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise DatabaseError(f"{path}: its file system can't keep a write-ahead log ({mode})")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    if 0 < version < len(migrations):
        _copy(connection, path.with_name(f"{path.name}.v{version}"))
        log.info("database_upgrade", path=str(path), version=version, to=len(migrations))
    connection.execute("PRAGMA foreign_keys = OFF")  # a migration may rebuild tables
    for number in range(version + 1, len(migrations) + 1):
        migrate = partial(_migrate, migrations[number - 1], number)
        (outcome,) = _transaction(connection, [migrate])
        if outcome.error is not None:
            raise outcome.error
    connection.execute("PRAGMA foreign_keys = ON")


def _migrate(migration: Migration, number: int, transaction: Transaction) -> None:
    migration(transaction)
    broken = transaction.execute("PRAGMA foreign_key_check").fetchone()
    if broken is not None:
        raise DatabaseError(f"schema version {number} leaves a dangling row in {broken[0]}")
    transaction.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    transaction.execute(f"PRAGMA user_version = {number}")


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    """Into a file beside it, then under its name: a half-written copy never has the name."""
    partial_path = path.with_name(path.name + ".partial")
    with contextlib.suppress(FileNotFoundError):
        if path.samefile(connection.execute("PRAGMA database_list").fetchone()[2]):
            raise OSError(f"{path} is the database itself")
    _unlink(partial_path)  # of a copy that was killed
    try:
        with contextlib.closing(_connect(partial_path)) as target:
            connection.backup(target)  # in one step, from one view; a write meanwhile isn't in it
            target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        _fsync(partial_path)
        partial_path.replace(path)
        _fsync(path.parent)
    except BaseException:
        _unlink(partial_path)
        raise


def _unlink(path: Path) -> None:
    """With its logs: SQLite would play one that is left into the next file of that name."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- errors in words


def _code(error: BaseException) -> int:
    """The primary result code.  Source: sqlite.org/rescode.html, extended codes are 8 bits up."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _refusal(error: BaseException) -> str | None:
    """Why the disk refused a statement, or None if the error is of another kind."""
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return "the disk is full; free some space"
        case sqlite3.SQLITE_READONLY:
            return "it is read-only"
        case sqlite3.SQLITE_IOERR:
            return f"the disk failed or is full ({error})"
        case sqlite3.SQLITE_NOMEM:
            return "out of memory"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another process has locked it for more than {BUSY_S:g} s"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"its files can't be opened ({error})"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"the file is damaged ({error}); restart aiosd to have it checked"
    return None


def _unusable(path: Path, error: Exception) -> DatabaseError:
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(_damage_words(path, str(error)))
    return DatabaseError(f"can't open the database {path}: {_words(error)}")


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _refusal(error) or str(error)


def _damage_words(path: Path, complaint: str) -> str:
    return (
        f"{path} is damaged ({complaint}): move it away together with {path.name}-wal and "
        f"{path.name}-shm, then put a backup in its place or start with an empty one"
    )
