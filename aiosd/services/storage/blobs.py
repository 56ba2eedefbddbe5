"""Contents by their SHA-256: written once, never changed, shared by all versions of a uid.

Rule 1: a blob has its name when all of it is written, and flush() comes before a version refers to
it; one that a crash leaves half on the disk is nobody's, and goes.  So one turn of the file
system's journal serves the blob and the file that people see.
Rule 2: blobs are per uid: that a content is there already must not show to another uid, not even
by how long a write takes.
Rule 3: a blob is pinned from put() until its version is committed; drop() removes only what is
neither pinned nor in the database, and looks at both under one lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aios_sdk.errors import Unavailable

COPY_BYTES = 1024 * 1024
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Content:
    """What a version holds."""

    sha256: str
    size: int


class Part:
    """A content on its way: appended to in turn, then sealed.  Its file goes if it isn't kept."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory = directory
        self.name = name
        self.size = 0
        self._hash = hashlib.sha256()
        self.descriptor = os.open(
            name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory
        )

    def append(self, data: bytes | memoryview) -> None:
        with memoryview(data) as left:
            at = 0
            while at < len(left):
                at += os.write(self.descriptor, left[at:])
        self._hash.update(data)
        self.size += len(data)

    def append_from(self, descriptor: int, limit_bytes: int) -> None:
        """All of another file, at most limit_bytes and one more, which tells that it is longer."""
        left = limit_bytes + 1
        while left and (data := os.read(descriptor, min(COPY_BYTES, left))):
            self.append(data)
            left -= len(data)

    def append_all_of(self, other: Part) -> None:
        at = 0
        while data := os.pread(other.descriptor, COPY_BYTES, at):
            self.append(data)
            at += len(data)

    def seal(self) -> Content:
        """It is whole."""
        return Content(self._hash.hexdigest(), self.size)

    def close(self) -> None:
        os.close(self.descriptor)
        with contextlib.suppress(FileNotFoundError):  # it has become a blob
            os.unlink(self.name, dir_fd=self._directory)


class Blobs:
    """The blobs of all uids, and the temporary files beside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "blobs"
        self.directory.mkdir(mode=0o700, exist_ok=True)
        temporary = directory / "tmp"
        temporary.mkdir(mode=0o700, exist_ok=True)
        self.tmp = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._pins: Counter[tuple[int, str]] = Counter()

    def close(self) -> None:
        os.close(self.tmp)

    @contextlib.contextmanager
    def part(self) -> Iterator[Part]:
        """A new content, gone at the end of the block unless put() kept it."""
        part = self.new_part()
        try:
            yield part
        finally:
            part.close()

    def new_part(self) -> Part:
        return Part(self.tmp, f"{secrets.token_hex(8)}.part")

    @contextlib.contextmanager
    def put(self, uid: int, part: Part) -> Iterator[Content]:
        """Keep the content and pin it for the block, in which it is flushed and a version of it
        committed."""
        content = part.seal()
        with self.pinned(uid, content.sha256):
            place = self._place(uid, content.sha256)
            made = place.parent
            if not made.is_dir():
                made.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(made.parent)
                sync_directory(self.directory)
            if not place.exists():
                os.rename(part.name, place, src_dir_fd=self.tmp)
            yield content

    def flush(self, uid: int, sha256: str) -> None:
        """The blob is on the disk, whoever wrote it."""
        place = self._place(uid, sha256)
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(place.parent)

    @contextlib.contextmanager
    def pinned(self, uid: int, sha256: str) -> Iterator[None]:
        with self._lock:
            self._pins[uid, sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._pins[uid, sha256] -= 1
                if not self._pins[uid, sha256]:
                    del self._pins[uid, sha256]

    @contextlib.contextmanager
    def opened(self, uid: int, sha256: str) -> Iterator[int]:
        """The blob's file.  Unavailable if it is not there, which only a person can have done."""
        try:
            descriptor = os.open(self._place(uid, sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Unavailable(
                f"the content {sha256[:16]} is missing from the daemon's storage: was it removed, "
                "or the database put back without the directory 'storage' beside it?"
            ) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def drop(
        self, uid: int, hashes: Iterable[str], in_use: Callable[[list[str]], set[str]]
    ) -> None:
        """Remove those of the blobs that nobody needs; in_use asks the database."""
        with self._lock:
            free = [h for h in set(hashes) if not self._pins[uid, h]]
            used = in_use(free) if free else set()
            for sha256 in free:
                if sha256 not in used:
                    self._place(uid, sha256).unlink(missing_ok=True)

    def all(self) -> Iterator[tuple[int, str]]:
        """(uid, hash) of every blob there is."""
        for place in self.directory.glob("*/??/*"):
            if place.parts[-3].isdecimal():
                yield int(place.parts[-3]), place.name

    def _place(self, uid: int, sha256: str) -> Path:
        return self.directory / str(uid) / sha256[:2] / sha256


def copy(source: int, target: int) -> None:
    """All of a file into an empty one: shared extents where the file system can, else bytes."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
        at = 0
        while n_copied := os.sendfile(target, source, at, COPY_BYTES):
            at += n_copied


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
