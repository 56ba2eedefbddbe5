"""What a killed daemon left half-done is finished or undone, before anybody is served.

A temporary file that the current version of a file waits for becomes that file; a committed
deletion or move is done to the visible files; all other temporary files, and blobs without a
version, go.  Doing it twice is doing it once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from aios_sdk.errors import SyscallError
from aiosd.services.storage import changes, rows
from aiosd.services.storage.confined import remove_tree
from aiosd.services.storage.files import Files
from aiosd.services.storage.visible import split

_IN_USE_BATCH = 500


@dataclass(slots=True)
class Mended:
    """How much there was to do."""

    finished: int = 0
    temporary: int = 0
    orphans: int = 0
    failed: int = 0

    @property
    def is_anything(self) -> bool:
        return bool(self.finished or self.temporary or self.orphans or self.failed)


def recover(files: Files) -> Mended:
    """Mend it all.  Blocking; the database's writer must run."""
    mended = Mended()
    records = files.records
    for root in records.read(rows.roots):
        owner = root.owner
        if root.pending:
            try:
                files.visible.finish_pending(owner, root.pending)
                records.write(lambda t, owner=owner: changes.clear_pending(t, owner))  # type: ignore[misc]
                mended.finished += 1
            except (SyscallError, OSError):
                mended.failed += 1  # what is there now will be a version of its own
        for path in files.visible.missing_directories(
            owner,
            records.read(lambda t, root=root: rows.directories(t, root)),  # type: ignore[misc]
        ):
            records.write(
                lambda t, owner=owner, path=path: changes.forget_directories(t, owner, path)  # type: ignore[misc]
            )
    _temporary_files(files, mended)
    _orphans(files, mended)
    return mended


def _temporary_files(files: Files, mended: Mended) -> None:
    tmp = files.blobs.tmp
    with os.scandir(tmp) as found:
        names = [one.name for one in found]
    for name in names:
        token, _, kind = name.partition(".")
        wanted = None
        if kind == "new":
            wanted = files.records.read(lambda t, token=token: rows.by_token(t, token))  # type: ignore[misc]
        if wanted is not None:
            try:
                owner, file = wanted
                files.visible.install(owner, split(file.path), name)
                mended.finished += 1
                continue
            except (SyscallError, OSError):
                mended.failed += 1
        remove_tree(tmp, name)
        mended.temporary += 1


def _orphans(files: Files, mended: Mended) -> None:
    known = files.records.read(rows.all_hashes)
    by_uid: dict[int, set[str]] = {}
    for uid, sha256 in files.blobs.all():
        if (uid, sha256) not in known:
            by_uid.setdefault(uid, set()).add(sha256)
    for uid, hashes in by_uid.items():
        batch = sorted(hashes)
        for at in range(0, len(batch), _IN_USE_BATCH):
            files.drop_all(uid, set(batch[at : at + _IN_USE_BATCH]))
        mended.orphans += len(batch)
