"""Storage as the database has it: roots, files, their versions, directories.

Rule 1: every function is part of a transaction; nothing here touches a file.  Changes are in
changes.py.
Rule 2: a file's current version is its newest; a deleted file's is a tombstone, so that what it was
can be had back.  Old versions and tombstones are history, which limits prune, oldest first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.storage.blobs import Content


@dataclass(frozen=True, slots=True)
class Limits:
    """What a root may hold, and how much history is kept of it."""

    n_bytes: int
    n_files: int
    versions_per_file: int
    history_bytes: int
    bytes_per_uid: int


@dataclass(frozen=True, slots=True)
class Root:
    """An agent's root.  n_files counts directories too; n_bytes the current files."""

    key: int
    owner: AgentId
    n_files: int
    n_bytes: int
    n_history_bytes: int
    pending: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A path that has, or had, a file.  sha256 is None for a deleted one.

    stamp  how the visible file looks as we left it: "inode:size:mtime"
    token  names the temporary file that becomes the visible one
    """

    key: int
    root: int
    path: str
    version: int
    sha256: str | None
    size: int
    stamp: str
    token: str
    modified_ms: int
    created_ms: int

    @property
    def is_live(self) -> bool:
        return self.sha256 is not None


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a file.  by: the agent that made it."""

    version: int
    sha256: str | None
    size: int
    created_ms: int
    op: str
    by: str


@dataclass(frozen=True, slots=True)
class Change:
    """A new version: content None deletes.  dirs: those above it, which it makes if need be."""

    path: str
    content: Content | None
    op: str
    by: str
    now_ms: int
    stamp: str = ""
    token: str = ""


_FILE = "key, root, path, version, sha256, size, stamp, token, modified_ms, created_ms"


def root(transaction: Transaction, owner: AgentId) -> Root | None:
    row = transaction.execute(
        "SELECT key, n_files, n_bytes, n_history_bytes, pending FROM storage_roots "
        "WHERE uid = ? AND agent = ?",
        (owner.uid, owner.name),
    ).fetchone()
    if row is None:
        return None
    return Root(row[0], owner, row[1], row[2], row[3], json.loads(row[4]) if row[4] else None)


def roots(transaction: Transaction) -> list[Root]:
    """Every root there is."""
    found = transaction.execute("SELECT uid, agent FROM storage_roots").fetchall()
    return [r for uid, name in found if (r := root(transaction, AgentId(uid, name)))]


def find(transaction: Transaction, owner: AgentId, path: str) -> File | None:
    """The file at that path, deleted ones too."""
    row = transaction.execute(
        f"SELECT {_FILE} FROM storage_files WHERE path = ? AND root = "  # noqa: S608 - a constant
        "(SELECT key FROM storage_roots WHERE uid = ? AND agent = ?)",
        (path, owner.uid, owner.name),
    ).fetchone()
    return File(*row) if row else None


def below(transaction: Transaction, owner: AgentId, path: str, *, live: bool = True) -> list[File]:
    """The files below a directory ("" is the root), in the order of their paths."""
    found = root(transaction, owner)
    if found is None:
        return []
    low, high = span(path)
    rows = transaction.execute(
        f"SELECT {_FILE} FROM storage_files WHERE root = ? AND path >= ? AND path < ? "  # noqa: S608
        f"{'AND sha256 IS NOT NULL' if live else ''} ORDER BY path",
        (found.key, low, high),
    )
    return [File(*row) for row in rows]


def by_token(transaction: Transaction, token: str) -> tuple[AgentId, File] | None:
    """The live file whose current version that temporary file was made for."""
    row = transaction.execute(
        f"SELECT {_FILE} FROM storage_files WHERE token = ? AND sha256 IS NOT NULL",  # noqa: S608
        (token,),
    ).fetchone()
    if row is None:
        return None
    file = File(*row)
    uid, name = transaction.execute(
        "SELECT uid, agent FROM storage_roots WHERE key = ?", (file.root,)
    ).fetchone()
    return AgentId(uid, name), file


def history(transaction: Transaction, file: File) -> list[Version]:
    """The versions that are kept, newest first."""
    rows = transaction.execute(
        "SELECT version, sha256, size, created_ms, op, by FROM storage_versions "
        "WHERE file = ? ORDER BY version DESC",
        (file.key,),
    )
    return [Version(*row) for row in rows]


def in_use(transaction: Transaction, uid: int, hashes: Sequence[str]) -> set[str]:
    """Those that some version of the uid has."""
    marks = ", ".join("?" * len(hashes))
    rows = transaction.execute(
        "SELECT DISTINCT v.sha256 FROM storage_versions v JOIN storage_roots r "  # noqa: S608
        f"ON r.key = v.root WHERE r.uid = ? AND v.sha256 IN ({marks})",  # marks are question marks
        (uid, *hashes),
    )
    return {sha256 for (sha256,) in rows}


def all_hashes(transaction: Transaction) -> set[tuple[int, str]]:
    """(uid, hash) of every content that a version has."""
    rows = transaction.execute(
        "SELECT DISTINCT r.uid, v.sha256 FROM storage_versions v "
        "JOIN storage_roots r ON r.key = v.root WHERE v.sha256 IS NOT NULL"
    )
    return set(rows)


def directories(transaction: Transaction, found: Root) -> list[str]:
    rows = transaction.execute("SELECT path FROM storage_dirs WHERE root = ?", (found.key,))
    return [path for (path,) in rows]


def span(path: str) -> tuple[str, str]:
    """Paths p below a directory: low <= p < high.  A control character is in none of them."""
    return (path + "/", path + "0") if path else ("\x01", "\U0010ffff\U0010ffff")
