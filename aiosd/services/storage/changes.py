"""Storage's changes in the database: versions, directories, moves, and what is pruned.

Rule 1: every function is part of a transaction; nothing here touches a file.
Rule 2: a root's figures are kept with every change, never counted anew.
Rule 3: history goes oldest first, until it is within each limit; a current file never goes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aios_sdk.errors import QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.storage.blobs import Content
from aiosd.services.storage.rows import Change, File, Limits, Root, below, find, root, span

ROW_BYTES = 512  # what a version counts for in history besides its content: rows aren't free
_BATCH = 64


def record(
    transaction: Transaction,
    owner: AgentId,
    changes: Sequence[Change],
    limits: Limits,
    pending: dict[str, str] | None = None,
) -> tuple[list[File], set[str]]:
    """Add versions; (the files as they are now, the hashes that pruning set free).

    QuotaExceeded, with both numbers, if the root or the uid would hold more than it may; a change
    that makes nothing larger is never refused.
    """
    before = _opened_root(transaction, owner)
    found, files = before, []
    for change in changes:
        file, found = _add(transaction, found, change)
        files.append(file)
    if changes and changes[0].content is not None:
        found = _with_dirs(transaction, found, changes[0].path.rpartition("/")[0])
    check_quota(transaction, before, found, limits)
    freed: set[str] = set()
    for file in files:
        oldest = file.version - limits.versions_per_file
        found = _prune(transaction, found, freed, "file = ? AND version <= ?", (file.key, oldest))
    while found.n_history_bytes > limits.history_bytes:
        again = _prune(
            transaction,
            found,
            freed,
            "root = ?",
            (found.key,),
            n_most=_BATCH,
            down_to_bytes=limits.history_bytes,
        )
        if again == found:
            break
        found = again
    _save_root(transaction, found, pending)
    return files, freed


def make_directory(transaction: Transaction, owner: AgentId, path: str, limits: Limits) -> None:
    """The directory and those above it."""
    before = _opened_root(transaction, owner)
    found = _with_dirs(transaction, before, path)
    check_quota(transaction, before, found, limits)
    _save_root(transaction, found, None)


def forget_directories(
    transaction: Transaction, owner: AgentId, path: str, pending: dict[str, str] | None = None
) -> None:
    """A directory and those below it are no more."""
    found = _opened_root(transaction, owner)
    low, high = span(path)
    gone = transaction.execute(
        "DELETE FROM storage_dirs WHERE root = ? AND (path = ? OR (path >= ? AND path < ?))",
        (found.key, path, low, high),
    ).rowcount
    _save_root(transaction, replace(found, n_files=found.n_files - gone), pending)


def move(
    transaction: Transaction,
    owner: AgentId,
    source: str,
    target: str,
    *,
    change: Change,
    limits: Limits,
    pending: dict[str, str],
) -> set[str]:
    """The file or directory at source is at target now; the hashes that pruning set free.

    A file keeps its history.  Where the target has one of its own (it is replaced, or was there
    once), that goes on with this content, and the source's stays where it was, ended.
    change gives op, by and now_ms.
    """
    found = _opened_root(transaction, owner)
    file = find(transaction, owner, source)
    files = [file] if file and file.is_live else below(transaction, owner, source)
    merged: list[Change] = []
    for one in files:
        path = target + one.path[len(source) :]
        there = find(transaction, owner, path)
        if there is None:
            transaction.execute("UPDATE storage_files SET path = ? WHERE key = ?", (path, one.key))
            continue
        assert one.sha256 is not None  # live ones only
        content = Content(one.sha256, one.size)
        merged.append(replace(change, path=path, content=content, stamp=one.stamp))
        merged.append(replace(change, path=one.path, content=None))
    if file and file.is_live:
        found = _with_dirs(transaction, found, target.rpartition("/")[0])
    else:
        low, high = span(source)
        moved = transaction.execute(
            "DELETE FROM storage_dirs WHERE root = ? AND (path = ? OR (path >= ? AND path < ?)) "
            "RETURNING path",
            (found.key, source, low, high),
        ).fetchall()
        found = replace(found, n_files=found.n_files - len(moved))
        for (path,) in [*moved, (source,)]:
            found = _with_dirs(transaction, found, target + path[len(source) :])
    _save_root(transaction, found, pending)
    _files, freed = record(transaction, owner, merged, limits, pending)
    return freed


def has_older(transaction: Transaction, before_ms: int) -> bool:
    """Whether there is history that is older."""
    row = transaction.execute(
        "SELECT 1 FROM storage_roots r WHERE EXISTS (SELECT 1 FROM storage_versions "
        "WHERE root = r.key AND is_old AND created_ms < ?)",
        (before_ms,),
    ).fetchone()
    return row is not None


def prune_older(transaction: Transaction, before_ms: int, n_most: int) -> set[tuple[int, str]]:
    """Let history go that is older; at most so many versions.  What that set free."""
    rows = transaction.execute(
        "SELECT key FROM storage_roots r WHERE EXISTS (SELECT 1 FROM storage_versions "
        "WHERE root = r.key AND is_old AND created_ms < ?) LIMIT ?",
        (before_ms, n_most),
    ).fetchall()
    freed: set[tuple[int, str]] = set()
    for (key,) in rows:
        uid, name = transaction.execute(
            "SELECT uid, agent FROM storage_roots WHERE key = ?", (key,)
        ).fetchone()
        found = _opened_root(transaction, AgentId(uid, name))
        hashes: set[str] = set()
        where = "root = ? AND created_ms < ?"
        found = _prune(transaction, found, hashes, where, (key, before_ms), n_most=n_most)
        _save_root(transaction, found, found.pending)
        freed |= {(uid, sha256) for sha256 in hashes}
    return freed


def clear_pending(transaction: Transaction, owner: AgentId) -> None:
    """What was to be done to the visible files is done."""
    transaction.execute(
        "UPDATE storage_roots SET pending = NULL WHERE uid = ? AND agent = ?",
        (owner.uid, owner.name),
    )


def set_stamp(transaction: Transaction, file: File, stamp: str) -> None:
    """The visible file has the same content, but looks otherwise."""
    transaction.execute("UPDATE storage_files SET stamp = ? WHERE key = ?", (stamp, file.key))


def check_quota(transaction: Transaction, before: Root, after: Root, limits: Limits) -> None:
    """QuotaExceeded if after is more than before and more than allowed."""
    name = f"agent {after.owner.name}"
    if after.n_bytes > max(limits.n_bytes, before.n_bytes):
        raise QuotaExceeded(
            f"{name} would store {after.n_bytes} bytes, limit is {limits.n_bytes}; it stores "
            f"{before.n_bytes} now: delete files, or ask for a larger limit",
            limit=limits.n_bytes,
            used=before.n_bytes,
        )
    if after.n_files > max(limits.n_files, before.n_files):
        raise QuotaExceeded(
            f"{name} would have {after.n_files} files and directories, limit is {limits.n_files}; "
            "delete some",
            limit=limits.n_files,
            used=before.n_files,
        )
    if after.n_bytes <= before.n_bytes:
        return
    (used,) = transaction.execute(
        "SELECT total(n_bytes + n_history_bytes) FROM storage_roots WHERE uid = ?",
        (after.owner.uid,),
    ).fetchone()
    grows = after.n_bytes - before.n_bytes
    if used + grows > limits.bytes_per_uid:
        raise QuotaExceeded(
            f"the agents of uid {after.owner.uid} store {int(used)} bytes with their history, "
            f"limit is {limits.bytes_per_uid}; {grows} more don't fit: delete files",
            limit=limits.bytes_per_uid,
            used=int(used),
        )


# ---------------------------------------------------------------- inside


def _opened_root(transaction: Transaction, owner: AgentId) -> Root:
    transaction.execute(
        "INSERT OR IGNORE INTO storage_roots (uid, agent) VALUES (?, ?)", (owner.uid, owner.name)
    )
    found = root(transaction, owner)
    assert found is not None  # just made
    return found


def _save_root(transaction: Transaction, found: Root, pending: dict[str, str] | None) -> None:
    transaction.execute(
        "UPDATE storage_roots SET n_files = ?, n_bytes = ?, n_history_bytes = ?, pending = ? "
        "WHERE key = ?",
        (
            found.n_files,
            found.n_bytes,
            found.n_history_bytes,
            json.dumps(pending) if pending else None,
            found.key,
        ),
    )


def _with_dirs(transaction: Transaction, found: Root, path: str) -> Root:
    n_made = 0
    parts = path.split("/") if path else []
    for depth in range(1, len(parts) + 1):
        n_made += transaction.execute(
            "INSERT OR IGNORE INTO storage_dirs (root, path) VALUES (?, ?)",
            (found.key, "/".join(parts[:depth])),
        ).rowcount
    return replace(found, n_files=found.n_files + n_made)


def _add(transaction: Transaction, found: Root, change: Change) -> tuple[File, Root]:
    old = find(transaction, found.owner, change.path)
    sha256 = change.content.sha256 if change.content else None
    size = change.content.size if change.content else 0
    values = (sha256, size, change.stamp, change.token, change.now_ms)
    if old is None:
        key = transaction.execute(
            "INSERT INTO storage_files (sha256, size, stamp, token, modified_ms, created_ms, "
            "root, path, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)",
            (*values, change.now_ms, found.key, change.path),
        ).lastrowid
        version = 1
    else:
        key, version = old.key, old.version + 1
        transaction.execute(
            "UPDATE storage_files SET sha256 = ?, size = ?, stamp = ?, token = ?, modified_ms = ?, "
            "version = ? WHERE key = ?",
            (*values, version, key),
        )
        transaction.execute(
            "UPDATE storage_versions SET is_old = 1 WHERE file = ? AND version = ?",
            (key, old.version),
        )
    transaction.execute(
        "INSERT INTO storage_versions (root, file, version, sha256, size, created_ms, op, by, "
        "is_old) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (found.key, key, version, sha256, size, change.now_ms, change.op, change.by, not sha256),
    )
    was_live = old is not None and old.is_live
    old_size = old.size if old else 0
    more_history = (old_size + ROW_BYTES if was_live else 0) + (0 if sha256 else ROW_BYTES)
    after = replace(
        found,
        n_files=found.n_files + (sha256 is not None) - was_live,
        n_bytes=found.n_bytes + size - (old_size if was_live else 0),
        n_history_bytes=found.n_history_bytes + more_history,
    )
    file = find(transaction, found.owner, change.path)
    assert file is not None  # just written
    return file, after


def _prune(
    transaction: Transaction,
    found: Root,
    freed: set[str],
    where: str,
    values: tuple[Any, ...],
    *,
    n_most: int = 1_000_000,
    down_to_bytes: int = -1,
) -> Root:
    """Let old versions go, oldest first, until no more than that is kept; a file of which nothing
    is left goes with them."""
    victims = transaction.execute(
        "SELECT file, version, sha256, size FROM storage_versions "  # noqa: S608 - of constants
        f"WHERE is_old AND {where} ORDER BY created_ms, version LIMIT ?",
        (*values, n_most),
    ).fetchall()
    gone = 0
    files: set[int] = set()
    for file, version, sha256, size in victims:
        if found.n_history_bytes - gone <= down_to_bytes:
            break
        files.add(file)
        transaction.execute(
            "DELETE FROM storage_versions WHERE file = ? AND version = ?", (file, version)
        )
        if sha256:
            freed.add(sha256)
        gone += size + ROW_BYTES
    for file in files:
        transaction.execute(
            "DELETE FROM storage_files WHERE key = ? AND NOT EXISTS "
            "(SELECT 1 FROM storage_versions WHERE file = key)",
            (file,),
        )
    return replace(found, n_history_bytes=found.n_history_bytes - gone)
