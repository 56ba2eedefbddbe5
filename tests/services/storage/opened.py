"""Files on a real directory and a real database, without an event loop."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.schema import MIGRATIONS
from aiosd.services.storage import recovery
from aiosd.services.storage.files import Files
from aiosd.services.storage.rows import Limits
from aiosd.services.storage.store import BlockingDatabase

T = TypeVar("T")

ALICE = AgentId(1000, "alice")
BOB = AgentId(1000, "bob")
LIMITS = Limits(
    n_bytes=100_000,
    n_files=20,
    versions_per_file=10,
    history_bytes=50_000,
    bytes_per_uid=1_000_000,
)

__all__ = ["ALICE", "BOB", "LIMITS", "BlockingDatabase", "Plain", "opened", "seen", "tree"]


class Plain:
    """SQLite in the calling thread: a read and a write are each a transaction."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA synchronous = OFF")
        self.n_writes = 0

    def read(self, work: Callable[[Transaction], T]) -> T:
        return work(Transaction(self.connection))

    def write(self, work: Callable[[Transaction], T]) -> T:
        self.n_writes += 1
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            value = work(Transaction(self.connection))
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return value


@contextlib.contextmanager
def opened(
    directory: Path,
    limits: Limits = LIMITS,
    at: Callable[[str], None] = lambda _: None,
    *,
    now_ms: Callable[[], int] | None = None,
    recovers: bool = True,
) -> Iterator[Files]:
    directory.mkdir(exist_ok=True)
    is_new = not (directory / "db").exists()
    records = Plain(directory / "db")
    if is_new:
        for migration in MIGRATIONS:
            records.write(migration)
    ticks = itertools.count(1_700_000_000_000)
    files = Files(
        directory / "storage", records, lambda _: limits, now_ms or (lambda: next(ticks)), at
    )
    try:
        if recovers:
            recovery.recover(files)
        yield files
    finally:
        files.close()
        records.connection.close()


def seen(directory: Path, owner: AgentId = ALICE) -> Path:
    """Where a person finds an agent's files."""
    return directory / "storage" / "agents" / str(owner.uid) / owner.name


def tree(path: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {
        os.path.relpath(Path(at) / name, path): (Path(at) / name).read_bytes()
        for at, _dirs, names in os.walk(path)
        for name in names
    }
