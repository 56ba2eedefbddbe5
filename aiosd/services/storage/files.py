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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from aios_sdk.errors import Busy, Exists, InvalidParams, NotFound, TooLarge, Unavailable
from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.storage import confined, rows
from aiosd.services.storage.blobs import Blobs, Content, Part
from aiosd.services.storage.errors import refusal
from aiosd.services.storage.paths import Parts
from aiosd.services.storage.rows import Change, File, Limits, Version
from aiosd.services.storage.visible import Visible, is_served, no_file, scan, split, stamp_of

T = TypeVar("T")

OUTSIDE = "outside"  # the op of versions that a person made with a shell
_N_TRIES = 3  # for files that change while they are read


class Records(Protocol):
    """The database, for blocking callers."""

    def read(self, work: Callable[[Transaction], T]) -> T: ...
    def write(self, work: Callable[[Transaction], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing.  version is absent for what a person put there a moment ago."""

    path: str
    is_dir: bool
    size: int
    modified_ms: int
    version: int | None = None
    sha256: str | None = None


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
        self._limits_of = limits_of
        self._now_ms = now_ms
        self._at = at

    def close(self) -> None:
        self.visible.close()
        self.blobs.close()

    # ------------------------------------------------------------ reading

    def current(self, owner: AgentId, parts: Parts) -> File | None:
        """The live file if it is as we left it; None means settle() must look closer."""
        file = self.records.read(lambda t: rows.find(t, owner, "/".join(parts)))
        return file if file and self._is_as_left(owner, parts, file) else None

    def settle(self, owner: AgentId, parts: Parts) -> File | None:
        """The file as it is now, what a person changed adopted; None if there is none.

        InvalidParams if it is a directory, Denied if it is no plain file.
        """
        path = "/".join(parts)
        file = self.records.read(lambda t: rows.find(t, owner, path))
        live = file if file and file.is_live else None
        with (
            contextlib.suppress(NotFound, FileNotFoundError),
            self.visible.parent(owner, parts) as (parent, name),
        ):
            found = confined.look(parent, name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise InvalidParams(f"{path!r} is a directory", field="path")
            if found is not None and live and stamp_of(found) == live.stamp:
                return live
            if found is not None:
                return self._adopt(owner, path, live, parent, name)
        if live:
            self._record(owner, [self._change(path, None, OUTSIDE, owner)])
        return None

    def read(
        self,
        owner: AgentId,
        file: File,
        version: int | None,
        *,
        offset: int,
        n_bytes: int | None,
        n_most: int,
    ) -> tuple[bytes, Version]:
        """Bytes of a version (None: the current one).  NotFound if it isn't kept."""
        wanted = self._version(file, version)
        if wanted.sha256 is None:
            raise NotFound(f"version {wanted.version} of {file.path!r} is its deletion")
        left = max(0, wanted.size - offset)
        n_wanted = left if n_bytes is None else min(n_bytes, left)
        if n_wanted > n_most:
            raise TooLarge(
                f"{file.path!r} has {left} bytes from {offset} on, one answer holds {n_most}: "
                "read it by parts, with offset and length",
                limit=n_most,
            )
        try:
            with self.blobs.opened(owner.uid, wanted.sha256) as blob:
                return _pread(blob, n_wanted, offset), wanted
        except Unavailable:
            self._version(file, wanted.version, is_sure=False)  # NotFound if pruned meanwhile
            raise

    def read_current(
        self,
        owner: AgentId,
        parts: Parts,
        file: File,
        *,
        offset: int,
        n_bytes: int | None,
        n_most: int,
    ) -> tuple[bytes, Version] | None:
        """As read(), if the file is still as this row says; None means settle() must look."""
        if not self._is_as_left(owner, parts, file):
            return None
        return self.read(owner, file, None, offset=offset, n_bytes=n_bytes, n_most=n_most)

    def content(self, uid: int, sha256: str) -> bytes:
        """All of a blob.  Unavailable if it is gone."""
        with self.blobs.opened(uid, sha256) as blob:
            return _pread(blob, os.fstat(blob).st_size, 0)

    def history(self, owner: AgentId, parts: Parts) -> list[Version]:
        """Newest first, of deleted files too.  NotFound if there never was one."""
        path = "/".join(parts)
        file = self.records.read(lambda t: rows.find(t, owner, path))
        if file is None:
            raise no_file(path)
        return self.records.read(lambda t: rows.history(t, file))

    def entry(self, owner: AgentId, parts: Parts) -> Entry:
        """The file or directory at a path.  NotFound if there is none."""
        path = "/".join(parts)
        if not parts:
            with self.visible.directory(owner, ()) as here:
                return _entry("", os.fstat(here), None)
        with self.visible.parent(owner, parts) as (parent, name):
            found = confined.look(parent, name)
        if found is None or not is_served(found):
            raise no_file(path)
        file = self.records.read(lambda t: rows.find(t, owner, path))
        return _entry(path, found, file)

    def entries(
        self, owner: AgentId, parts: Parts, *, recursive: bool, after: str, n_most: int
    ) -> tuple[list[Entry], bool]:
        """What is below a directory, by path, and whether there is more.  What is really there,
        links and the like left out."""
        path = "/".join(parts)
        try:
            with self.visible.directory(owner, parts) as here:
                seen, has_more = scan(here, parts, split(after), n_most, recursive=recursive)
        except FileNotFoundError:
            if not parts:
                return [], False  # a root is made by its first file
            raise no_file(path) from None
        except NotADirectoryError:
            return [self.entry(owner, parts)], False
        names = list(seen)
        known = self.records.read(
            lambda t: {name: file for name in names if (file := rows.find(t, owner, name))}
        )
        return [_entry(name, found, known.get(name)) for name, found in seen.items()], has_more

    # ------------------------------------------------------------ changing

    def write(self, owner: AgentId, parts: Parts, source: bytes | Part, mode: str, by: str) -> File:
        """A new version.  mode: "replace", "create" (Exists if it is there), "append"."""
        path = "/".join(parts)
        self._check_place(owner, parts)
        old = self.settle(owner, parts)
        if old and mode == "create":
            raise Exists(f"{path!r} is there already, at version {old.version}", path=path)
        n_bytes = len(source) if isinstance(source, bytes) else source.size
        is_append = mode == "append" and old is not None
        if is_append and old:
            n_bytes += old.size
        self._check_room(owner, old, n_bytes)
        with _in_words():
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
        limits = self._limits_of(owner)
        self.records.write(lambda t: rows.make_directory(t, owner, path, limits))
        try:
            with _in_words(), self.visible.directory(owner, parts, make=True):
                pass
        except BaseException:
            if self.visible.missing_directories(owner, [path]):
                self.records.write(lambda t: rows.forget_directories(t, owner, path))
            raise

    def delete(self, owner: AgentId, parts: Parts, by: str, *, recursive: bool) -> None:
        """The file or directory; its files' history stays.  A full directory needs recursive."""
        path = "/".join(parts)
        with self.visible.parent(owner, parts) as (parent, name):
            found = confined.look(parent, name)
            if found is None:
                self.settle(owner, parts)  # a person was first: take note
                raise no_file(path)
            if stat.S_ISDIR(found.st_mode):
                entries, _ = self.entries(owner, parts, recursive=False, after="", n_most=1)
                if entries and not recursive:
                    raise InvalidParams(
                        f"directory {path!r} is not empty; give recursive to delete all in it",
                        field="recursive",
                    )
                self._settle_below(owner, parts)
                files = self.records.read(lambda t: rows.below(t, owner, path))
            else:
                settled = self.settle(owner, parts)
                files = [settled] if settled else []
            changes = [self._change(f.path, None, "delete", owner, by) for f in files]
            pending = {"op": "delete", "from": path, "inode": str(found.st_ino)}
            limits = self._limits_of(owner)

            def work(t: Transaction) -> set[str]:
                _files, freed = rows.record(t, owner, changes, limits, pending)
                rows.forget_directories(t, owner, path, pending)
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
                self.settle(owner, source)
                raise no_file(path)
            if stat.S_ISDIR(found.st_mode):
                self._settle_below(owner, source)
            else:
                self.settle(owner, source)
            self._check_target(owner, target, is_dir=stat.S_ISDIR(found.st_mode), over=over)
            change = self._change(to, None, "rename", owner, by)
            limits = self._limits_of(owner)
            pending = {"op": "rename", "from": path, "to": to, "inode": str(found.st_ino)}
            freed = self.records.write(
                lambda t: rows.move(
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
        self.settle(owner, parts)
        file = self.records.read(lambda t: rows.find(t, owner, path))
        if file is None:
            raise no_file(path)
        kept = self.records.read(lambda t: rows.history(t, file))
        wanted = _chosen(file, kept, version, steps)
        assert wanted.sha256 is not None  # _chosen refuses deletions
        self._check_room(owner, file if file.is_live else None, wanted.size)
        content = Content(wanted.sha256, wanted.size)
        with (
            _in_words(),
            self.blobs.pinned(owner.uid, content.sha256),
            self.blobs.opened(owner.uid, content.sha256) as blob,
        ):
            new, freed = self._commit(owner, parts, blob, content, op="rollback", by=by)
        self._drop(owner, freed)
        return new

    def check_room(self, owner: AgentId, n_bytes: int, n_files: int = 0) -> None:
        """QuotaExceeded unless there is room for so much more."""
        limits = self._limits_of(owner)

        def work(t: Transaction) -> None:
            now = rows.root(t, owner) or rows.Root(0, owner, 0, 0, 0)
            after = replace(now, n_bytes=now.n_bytes + n_bytes, n_files=now.n_files + n_files)
            rows.check_quota(t, now, after, limits)

        self.records.read(work)

    def prune(self, before_ms: int, n_most: int) -> int:
        """Let history go that is older; the number of contents it set free."""
        if not self.records.read(lambda t: rows.has_older(t, before_ms)):
            return 0
        freed = self.records.write(lambda t: rows.prune_older(t, before_ms, n_most))
        for uid in {uid for uid, _ in freed}:
            self._drop(AgentId(uid, ""), {sha256 for owner, sha256 in freed if owner == uid})
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
            self._drop(owner, freed)
        return file

    def _commit(
        self, owner: AgentId, parts: Parts, source: int, content: Content, *, op: str, by: str
    ) -> tuple[File, set[str]]:
        token = secrets.token_hex(8)
        name = f"{token}.new"
        try:
            stamp = self.visible.stage(name, source, self._now_ms())
            self.blobs.flush(owner.uid, content.sha256)
            os.fsync(self.blobs.tmp)
            self._at("staged")
            change = self._change("/".join(parts), content, op, owner, by)
            change = replace(change, stamp=stamp, token=token)
            (file,), freed = self._record(owner, [change])
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
        self._drop(AgentId(uid, ""), hashes)

    # ------------------------------------------------------------ inside

    def _is_as_left(self, owner: AgentId, parts: Parts, file: File) -> bool:
        if not file.is_live:
            return False
        with contextlib.suppress(NotFound), self.visible.parent(owner, parts) as (parent, name):
            found = confined.look(parent, name)
            return found is not None and stamp_of(found) == file.stamp
        return False

    def _adopt(
        self, owner: AgentId, path: str, live: File | None, parent: int, name: str
    ) -> File | None:
        """What a person put there is a version, unless it is what we had there."""
        limits = self._limits_of(owner)
        for _ in range(_N_TRIES):
            with _in_words(), self.blobs.part() as part:
                with confined.plain_file(parent, name) as seen:
                    before = os.fstat(seen)
                    part.append_from(seen, limits.n_bytes)
                    if part.size > limits.n_bytes:
                        raise TooLarge(
                            f"{path!r}, changed outside, has {before.st_size} bytes; "
                            f"the agent may store {limits.n_bytes}",
                            limit=limits.n_bytes,
                        )
                    if stamp_of(os.fstat(seen)) != stamp_of(before):
                        continue
                return self._adopted(owner, path, live, part, stamp_of(before))
        raise Busy(f"{path!r} is being changed outside", retry_after_ms=500, queue_depth=0)

    def _adopted(
        self, owner: AgentId, path: str, live: File | None, part: Part, stamp: str
    ) -> File:
        freed: set[str] = set()
        try:
            with self.blobs.put(owner.uid, part) as content:
                self.blobs.flush(owner.uid, content.sha256)
                if live and live.sha256 == content.sha256:
                    self.records.write(lambda t: rows.set_stamp(t, live, stamp))
                    return replace(live, stamp=stamp)
                freed = {content.sha256}
                change = self._change(path, content, OUTSIDE, owner)
                # A person's files aren't refused: what is there is there, and counted.
                (file,), freed = self._record(owner, [replace(change, stamp=stamp)], is_forced=True)
                return file
        finally:
            self._drop(owner, freed)

    def _record(
        self, owner: AgentId, changes: list[Change], *, is_forced: bool = False
    ) -> tuple[list[File], set[str]]:
        limits = self._limits_of(owner)
        if is_forced:
            most = 2**62
            limits = replace(limits, n_bytes=most, n_files=most, bytes_per_uid=most)
        return self.records.write(lambda t: rows.record(t, owner, changes, limits))

    def _change(
        self, path: str, content: Content | None, op: str, owner: AgentId, by: str | None = None
    ) -> Change:
        return Change(path, content, op, by if by is not None else owner.name, self._now_ms())

    def _settle_below(self, owner: AgentId, parts: Parts) -> None:
        """Adopt what a person changed below a directory."""
        found, has_more = self.entries(
            owner, parts, recursive=True, after="", n_most=self._limits_of(owner).n_files
        )
        if has_more:
            raise TooLarge(f"{'/'.join(parts)!r} holds more files than an agent may have")
        for entry in found:
            if not entry.is_dir and entry.version is None:
                self.settle(owner, split(entry.path))

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
            self.settle(owner, parts)
            return
        if not over:
            raise Exists(f"{path!r} is there already; give replace to put it in its place")
        if is_dir or stat.S_ISDIR(found.st_mode):
            raise Exists(f"{path!r} is there already, and directories aren't replaced")
        self.settle(owner, parts)

    def _check_room(self, owner: AgentId, old: File | None, n_bytes: int) -> None:
        """Before anything is written; the commit checks again."""
        self.check_room(owner, n_bytes - (old.size if old else 0), n_files=int(old is None))

    def _version(self, file: File, number: int | None, *, is_sure: bool = True) -> Version:
        if is_sure and number in (None, file.version):
            return Version(file.version, file.sha256, file.size, file.modified_ms, "", "")
        kept = self.records.read(lambda t: rows.history(t, file))
        for version in kept:
            if version.version == number:
                return version
        raise _no_version(file, kept, number or 0)

    def _done(self, owner: AgentId, freed: set[str]) -> None:
        """The visible files are as the database says: nothing is pending."""
        with contextlib.suppress(Unavailable):  # a full disk; the next act's commit clears it too
            self.records.write(lambda t: rows.clear_pending(t, owner))
        self._drop(owner, freed)

    def _drop(self, owner: AgentId, hashes: set[str]) -> None:
        if hashes:
            self.blobs.drop(
                owner.uid,
                hashes,
                lambda asked: self.records.read(lambda t: rows.in_use(t, owner.uid, asked)),
            )


def _no_version(file: File, kept: list[Version], number: int) -> NotFound:
    there = f"{kept[-1].version} to {kept[0].version}" if kept else "none"
    return NotFound(f"no version {number} of {file.path!r}; there are {there}", path=file.path)


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
    raise _no_version(file, kept, number)


def _entry(path: str, found: os.stat_result, file: File | None) -> Entry:
    is_dir = stat.S_ISDIR(found.st_mode)
    is_known = file is not None and file.is_live and file.stamp == stamp_of(found)
    return Entry(
        path,
        is_dir,
        0 if is_dir else found.st_size,
        found.st_mtime_ns // 1_000_000,
        file.version if file and is_known else None,
        file.sha256 if file and is_known else None,
    )


def _pread(descriptor: int, n_bytes: int, offset: int) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        part = os.pread(descriptor, n_bytes - len(data), offset + len(data))
        if not part:
            break
        data += part
    return bytes(data)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What the disk refuses, as an error with a code."""
    try:
        yield
    except OSError as error:
        raise refusal(error) from error
