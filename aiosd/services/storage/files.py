"""The acts on an agent's files, each in the one order that no crash can break.  Blocking.

A write: (1) the content becomes a blob, (2) the file that will be seen is written beside, and both
are flushed, (3) the version is committed to the database, (4) the file is renamed into place.
Killed before (3) nothing has happened; after it, the temporary file is named after the version's
token, and recovery does (4).
A deletion or a move is committed first too, with a note of what is to be done to the visible files.

Rule 1: the database says what the versions are; blobs say what they hold; visible files are for
people, and are copies: who edits one in place harms no version.
Rule 2: before an act uses a file it looks whether it is as we left it; if not, what is there now is
a version of its own (op "outside").
Rule 3: acts on one root come one after another (the caller's part); reads beside them are safe.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aios_sdk.errors import Exists, InvalidParams, NotFound, Unavailable
from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.storage import changes, confined, rows
from aiosd.services.storage.blobs import Blobs, Content, Part
from aiosd.services.storage.errors import in_words
from aiosd.services.storage.ledger import Ledger, Records
from aiosd.services.storage.outside import Outside
from aiosd.services.storage.paths import Parts
from aiosd.services.storage.reading import Reader, no_version
from aiosd.services.storage.rows import File, Limits, Version
from aiosd.services.storage.visible import Visible, is_served, no_file


class Files:
    """All roots.  limits_of says what a root may hold; at is told where an act is (for tests)."""

    def __init__(
        self,
        directory: Path,
        records: Records,
        limits_of: Callable[[AgentId], Limits],
        now_ms: Callable[[], int],
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.blobs = Blobs(directory)
        self.visible = Visible(directory, self.blobs.tmp, at)
        self.records = records
        self.ledger = Ledger(records, self.blobs, limits_of, now_ms)
        self.reader = Reader(records, self.blobs, self.visible)
        self.outside = Outside(self.ledger, self.blobs, self.visible, self.reader)
        self._at = at

    def close(self) -> None:
        self.visible.close()
        self.blobs.close()

    # ------------------------------------------------------------ changing

    def write(self, owner: AgentId, parts: Parts, source: bytes | Part, mode: str, by: str) -> File:
        """A new version.  mode: "replace", "create" (Exists if it is there), "append"."""
        path = "/".join(parts)
        self._check_place(owner, parts)
        old = self.outside.settle(owner, parts)
        if old and mode == "create":
            raise Exists(f"{path!r} is there already, at version {old.version}", path=path)
        n_bytes = len(source) if isinstance(source, bytes) else source.size
        is_append = mode == "append" and old is not None
        if is_append and old:
            n_bytes += old.size
        self._check_room(owner, old, n_bytes)
        with in_words():
            if isinstance(source, Part) and not is_append:
                return self._keep(owner, parts, source, mode, by)
            with self.blobs.part() as part:
                if is_append and old and old.sha256:
                    with self.blobs.opened(owner.uid, old.sha256) as blob:
                        part.append_from(blob, old.size)
                if isinstance(source, bytes):
                    part.append(source)
                else:
                    part.append_all_of(source)
                return self._keep(owner, parts, part, mode, by)

    def make_directory(self, owner: AgentId, parts: Parts) -> None:
        """With those above it.  Exists if there is something already."""
        path = "/".join(parts)
        self._check_place(owner, parts)
        with contextlib.suppress(NotFound), self.visible.parent(owner, parts) as (parent, name):
            if confined.look(parent, name) is not None:
                raise Exists(f"{path!r} is there already", path=path)
        limits = self.ledger.limits_of(owner)
        self.records.write(lambda t: changes.make_directory(t, owner, path, limits))
        try:
            with in_words(), self.visible.directory(owner, parts, make=True):
                pass
        except BaseException:
            if self.visible.missing_directories(owner, [path]):
                self.records.write(lambda t: changes.forget_directories(t, owner, path))
            raise

    def delete(self, owner: AgentId, parts: Parts, by: str, *, recursive: bool) -> None:
        """The file or directory; its files' history stays.  A full directory needs recursive."""
        path = "/".join(parts)
        with self.visible.parent(owner, parts) as (parent, name):
            found = confined.look(parent, name)
            if found is None:
                self.outside.settle(owner, parts)  # a person was first: take note
                raise no_file(path)
            if stat.S_ISDIR(found.st_mode):
                entries, _ = self.reader.entries(owner, parts, recursive=False, after="", n_most=1)
                if entries and not recursive:
                    raise InvalidParams(
                        f"directory {path!r} is not empty; give recursive to delete all in it",
                        field="recursive",
                    )
                self.outside.settle_below(owner, parts)
                files = self.records.read(lambda t: rows.below(t, owner, path))
            else:
                settled = self.outside.settle(owner, parts)
                files = [settled] if settled else []
            made = [self.ledger.change(f.path, None, "delete", owner, by) for f in files]
            pending = {"op": "delete", "from": path, "inode": str(found.st_ino)}
            limits = self.ledger.limits_of(owner)

            def work(t: Transaction) -> set[str]:
                _files, freed = changes.record(t, owner, made, limits, pending)
                changes.forget_directories(t, owner, path, pending)
                return freed

            freed = self.records.write(work)
            self._at("committed")
            self.visible.discard(parent, name)
        self._done(owner, freed)

    def rename(self, owner: AgentId, source: Parts, target: Parts, by: str, *, over: bool) -> None:
        """Move a file or a directory.  A file that is there is replaced if over, else Exists."""
        path, to = "/".join(source), "/".join(target)
        if target[: len(source)] == source:
            raise InvalidParams(f"{to!r} is {path!r} itself or below it", field="to")
        self._check_place(owner, target)
        with self.visible.parent(owner, source) as (parent, name):
            found = confined.look(parent, name)
            if found is None or not is_served(found):
                self.outside.settle(owner, source)
                raise no_file(path)
            if stat.S_ISDIR(found.st_mode):
                self.outside.settle_below(owner, source)
            else:
                self.outside.settle(owner, source)
            self._check_target(owner, target, is_dir=stat.S_ISDIR(found.st_mode), over=over)
            change = self.ledger.change(to, None, "rename", owner, by)
            limits = self.ledger.limits_of(owner)
            pending = {"op": "rename", "from": path, "to": to, "inode": str(found.st_ino)}
            freed = self.records.write(
                lambda t: changes.move(
                    t, owner, path, to, change=change, limits=limits, pending=pending
                )
            )
            self._at("committed")
            self.visible.move(owner, parent, name, target)
        self._done(owner, freed)

    def rollback(
        self, owner: AgentId, parts: Parts, version: int | None, steps: int, by: str
    ) -> File:
        """The content of an earlier version as a new one; brings back a deleted file too."""
        path = "/".join(parts)
        self._check_place(owner, parts)
        self.outside.settle(owner, parts)
        file = self.records.read(lambda t: rows.find(t, owner, path))
        if file is None:
            raise no_file(path)
        kept = self.records.read(lambda t: rows.history(t, file))
        wanted = _chosen(file, kept, version, steps)
        assert wanted.sha256 is not None  # _chosen refuses deletions
        self._check_room(owner, file if file.is_live else None, wanted.size)
        content = Content(wanted.sha256, wanted.size)
        with (
            in_words(),
            self.blobs.pinned(owner.uid, content.sha256),
            self.blobs.opened(owner.uid, content.sha256) as blob,
        ):
            new, freed = self._commit(owner, parts, blob, content, op="rollback", by=by)
        self.ledger.drop(owner, freed)
        return new

    def check_room(self, owner: AgentId, n_bytes: int, n_files: int = 0) -> None:
        """QuotaExceeded unless there is room for so much more."""
        limits = self.ledger.limits_of(owner)

        def work(t: Transaction) -> None:
            now = rows.root(t, owner) or rows.Root(0, owner, 0, 0, 0)
            after = replace(now, n_bytes=now.n_bytes + n_bytes, n_files=now.n_files + n_files)
            changes.check_quota(t, now, after, limits)

        self.records.read(work)

    def prune(self, before_ms: int, n_most: int) -> int:
        """Let history go that is older; the number of contents it set free."""
        if not self.records.read(lambda t: changes.has_older(t, before_ms)):
            return 0
        freed = self.records.write(lambda t: changes.prune_older(t, before_ms, n_most))
        for uid in {uid for uid, _ in freed}:
            self.ledger.drop(AgentId(uid, ""), {sha256 for owner, sha256 in freed if owner == uid})
        return len(freed)

    # ------------------------------------------------------------ the steps of a write

    def _keep(self, owner: AgentId, parts: Parts, part: Part, op: str, by: str) -> File:
        """Steps (2) to (4); after a refusal the content is gone again."""
        freed: set[str] = set()
        self._at("written")
        try:
            with self.blobs.put(owner.uid, part) as content:
                freed.add(content.sha256)
                file, pruned = self._commit(owner, parts, part.descriptor, content, op=op, by=by)
                freed = pruned
        finally:
            self.ledger.drop(owner, freed)
        return file

    def _commit(
        self, owner: AgentId, parts: Parts, source: int, content: Content, *, op: str, by: str
    ) -> tuple[File, set[str]]:
        token = secrets.token_hex(8)
        name = f"{token}.new"
        try:
            stamp = self.visible.stage(name, source, self.ledger.now_ms())
            self.blobs.flush(owner.uid, content.sha256)
            os.fsync(self.blobs.tmp)
            self._at("staged")
            change = self.ledger.change("/".join(parts), content, op, owner, by)
            change = replace(change, stamp=stamp, token=token)
            (file,), freed = self.ledger.record(owner, [change])
            self._at("committed")
            self.visible.install(owner, parts, name)
            self._at("installed")
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.blobs.tmp)
            raise
        return file, freed

    # ------------------------------------------------------------ for recovery

    def drop_all(self, uid: int, hashes: set[str]) -> None:
        """Those blobs that no version has."""
        self.ledger.drop(AgentId(uid, ""), hashes)

    # ------------------------------------------------------------ inside

    def _check_place(self, owner: AgentId, parts: Parts) -> None:
        """Nothing on the way to it is a file."""
        for depth in range(1, len(parts)):
            above = parts[:depth]
            try:
                with self.visible.directory(owner, above):
                    pass
            except FileNotFoundError:
                return
            except NotADirectoryError as error:
                raise InvalidParams(
                    f"{'/'.join(above)!r} is a file, not a directory", field="path"
                ) from error

    def _check_target(self, owner: AgentId, parts: Parts, *, is_dir: bool, over: bool) -> None:
        path = "/".join(parts)
        try:
            with self.visible.parent(owner, parts) as (parent, name):
                found = confined.look(parent, name)
        except NotFound:
            found = None
        if found is None:
            self.outside.settle(owner, parts)
            return
        if not over:
            raise Exists(f"{path!r} is there already; give replace to put it in its place")
        if is_dir or stat.S_ISDIR(found.st_mode):
            raise Exists(f"{path!r} is there already, and directories aren't replaced")
        self.outside.settle(owner, parts)

    def _check_room(self, owner: AgentId, old: File | None, n_bytes: int) -> None:
        """Before anything is written; the commit checks again."""
        self.check_room(owner, n_bytes - (old.size if old else 0), n_files=int(old is None))

    def _done(self, owner: AgentId, freed: set[str]) -> None:
        """The visible files are as the database says: nothing is pending."""
        with contextlib.suppress(Unavailable):  # a full disk; the next act's commit clears it too
            self.records.write(lambda t: changes.clear_pending(t, owner))
        self.ledger.drop(owner, freed)


def _chosen(file: File, kept: list[Version], number: int | None, steps: int) -> Version:
    """The version to go back to: by its number, or so many steps before the current one."""
    if number is None:
        number = file.version - steps
    for version in kept:
        if version.version == number:
            if version.sha256 is None:
                raise InvalidParams(
                    f"version {number} of {file.path!r} is its deletion; delete it instead",
                    field="version",
                )
            return version
    raise no_version(file, kept, number)
