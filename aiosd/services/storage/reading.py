"""What there is of an agent's files, and what is in them; nothing is changed here.  Blocking."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

from aios_sdk.errors import NotFound, TooLarge, Unavailable
from aiosd.kernel.model import AgentId
from aiosd.services.storage import confined, rows
from aiosd.services.storage.blobs import Blobs
from aiosd.services.storage.ledger import Records
from aiosd.services.storage.paths import Parts
from aiosd.services.storage.rows import File, Version
from aiosd.services.storage.visible import Visible, is_served, no_file, scan, split, stamp_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing.  version is absent for what a person put there a moment ago."""

    path: str
    is_dir: bool
    size: int
    modified_ms: int
    version: int | None = None
    sha256: str | None = None


class Reader:
    """Of all roots."""

    def __init__(self, records: Records, blobs: Blobs, visible: Visible) -> None:
        self._records = records
        self._blobs = blobs
        self._visible = visible

    def current(self, owner: AgentId, parts: Parts) -> File | None:
        """The live file if it is as we left it; None means settle() must look closer."""
        file = self._records.read(lambda t: rows.find(t, owner, "/".join(parts)))
        return file if file and self.is_as_left(owner, parts, file) else None

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
            with self._blobs.opened(owner.uid, wanted.sha256) as blob:
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
        if not self.is_as_left(owner, parts, file):
            return None
        return self.read(owner, file, None, offset=offset, n_bytes=n_bytes, n_most=n_most)

    def content(self, uid: int, sha256: str) -> bytes:
        """All of a blob.  Unavailable if it is gone."""
        with self._blobs.opened(uid, sha256) as blob:
            return _pread(blob, os.fstat(blob).st_size, 0)

    def history(self, owner: AgentId, parts: Parts) -> list[Version]:
        """Newest first, of deleted files too.  NotFound if there never was one."""
        path = "/".join(parts)
        file = self._records.read(lambda t: rows.find(t, owner, path))
        if file is None:
            raise no_file(path)
        return self._records.read(lambda t: rows.history(t, file))

    def entry(self, owner: AgentId, parts: Parts) -> Entry:
        """The file or directory at a path.  NotFound if there is none."""
        path = "/".join(parts)
        if not parts:
            with self._visible.directory(owner, ()) as here:
                return _entry("", os.fstat(here), None)
        with self._visible.parent(owner, parts) as (parent, name):
            found = confined.look(parent, name)
        if found is None or not is_served(found):
            raise no_file(path)
        file = self._records.read(lambda t: rows.find(t, owner, path))
        return _entry(path, found, file)

    def entries(
        self, owner: AgentId, parts: Parts, *, recursive: bool, after: str, n_most: int
    ) -> tuple[list[Entry], bool]:
        """What is below a directory, by path, and whether there is more.  What is really there,
        links and the like left out."""
        path = "/".join(parts)
        try:
            with self._visible.directory(owner, parts) as here:
                seen, has_more = scan(here, parts, split(after), n_most, recursive=recursive)
        except FileNotFoundError:
            if not parts:
                return [], False  # a root is made by its first file
            raise no_file(path) from None
        except NotADirectoryError:
            return [self.entry(owner, parts)], False
        names = list(seen)
        known = self._records.read(
            lambda t: {name: file for name in names if (file := rows.find(t, owner, name))}
        )
        return [_entry(name, found, known.get(name)) for name, found in seen.items()], has_more

    def is_as_left(self, owner: AgentId, parts: Parts, file: File) -> bool:
        """Whether the visible file is the row's."""
        if not file.is_live:
            return False
        with contextlib.suppress(NotFound), self._visible.parent(owner, parts) as (parent, name):
            found = confined.look(parent, name)
            return found is not None and stamp_of(found) == file.stamp
        return False

    def _version(self, file: File, number: int | None, *, is_sure: bool = True) -> Version:
        if is_sure and number in (None, file.version):
            return Version(file.version, file.sha256, file.size, file.modified_ms, "", "")
        kept = self._records.read(lambda t: rows.history(t, file))
        for version in kept:
            if version.version == number:
                return version
        raise no_version(file, kept, number or 0)


def no_version(file: File, kept: list[Version], number: int) -> NotFound:
    there = f"{kept[-1].version} to {kept[0].version}" if kept else "none"
    return NotFound(f"no version {number} of {file.path!r}; there are {there}", path=file.path)


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
