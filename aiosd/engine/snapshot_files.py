"""Snapshots in files: one per context, in a directory of ours, under a byte budget.

Rule 1: a file may be lost at any time; that costs time, never an answer.  What was damaged,
cut short, swapped or written for another model is recognised before a byte of it is used.
Rule 2: no call raises because of the disk.  What can't be written or read is counted, told once
(on_event) and gone.
Rule 3: files are not synced: after a power loss the checksum finds those that didn't make it, and
waiting for the disk would stop everybody's steps.
Rule 4: the least recently used goes first; the order outlives a restart in the files' mtimes.

A file is _HEAD, the tokens (int32), zeros up to a multiple of 64 bytes, and the model's bytes.  All
numbers are little-endian.  CRC-32 because it runs at 3 GB/s where blake2b runs at 0.85: it guards
against accidents, the directory's mode against people.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import sys
import time
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from aiosd.kernel.model import ContextId

CHUNK_BYTES = 4 * 2**20  # written or read at once: some milliseconds
MAX_FILES = 4096  # their tokens are in memory, 4 bytes for each that takes kilobytes on the disk
MAX_TOKENS = 2**24  # a header that says more is damaged
KEEP_FREE_BYTES = 256 * 2**20  # left on the disk for the database, whatever the budget
RETRY_S = 60.0  # nothing is written for so long after the disk refused

_MAGIC = b"AIOSDKV\0"
_VERSION = 1
# magic, version, tokens, fingerprint, uid, payload bytes and their CRC, context, CRC of all before
_HEAD = struct.Struct("<8sII16sqQI64sI")
_CONTEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIX, _TEMPORARY = ".kv", ".part"
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC

OnEvent = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What is known of one file without reading its payload."""

    uid: int
    tokens: array[int]
    payload_bytes: int
    payload_crc: int

    @property
    def file_bytes(self) -> int:
        return _payload_start(len(self.tokens)) + self.payload_bytes


class _BadFileError(Exception):
    """What is wrong with a file."""


class _StaleFileError(Exception):
    """A file of another model or version: nothing is wrong with it."""


class SnapshotFiles:
    """The files of one directory, which nobody else may use.  All on one thread, but for get().

    fingerprint  of the model; files with another are unlinked
    on_event     told, in the caller's thread, of what the log should hold
    n_bytes      of all files: never more than budget_bytes, those being written included
    n_bad        files that were damaged, unreadable or refused
    n_failed     files that couldn't be written
    """

    def __init__(
        self,
        directory: Path,
        budget_bytes: int,
        fingerprint: str,
        on_event: OnEvent = lambda _name, _values: None,
        keep_free_bytes: int = KEEP_FREE_BYTES,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.n_bytes = 0
        self.n_bad = 0
        self.n_failed = 0
        self._directory = directory
        self._fingerprint = blake2b(fingerprint.encode(), digest_size=16).digest()
        self._tell = on_event
        self._keep_free_bytes = keep_free_bytes
        self._entries: OrderedDict[ContextId, FileEntry] = OrderedDict()  # the first goes first
        self._paused_until_ns = 0
        self._used_ns = 0  # mtime of the file used last
        self._seconds_per_byte = 0.0  # of the last writes
        try:
            self._open_directory()
            self._scan()
        except OSError as error:
            self.budget_bytes = 0
            self._tell("snapshot_files_off", {"directory": str(directory), "why": str(error)})

    # ---------------------------------------------------------------- what there is

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, context: ContextId) -> FileEntry | None:
        """Safe on any thread."""
        return self._entries.get(context)

    def contexts(self) -> list[ContextId]:
        return list(self._entries)

    def entries_of(self, uid: int) -> Iterator[tuple[ContextId, FileEntry]]:
        return ((c, entry) for c, entry in self._entries.items() if entry.uid == uid)

    def holds(self, context: ContextId, tokens: array[int]) -> bool:
        """There is a file of the context with exactly these tokens."""
        entry = self._entries.get(context)
        return entry is not None and entry.tokens == tokens

    # ---------------------------------------------------------------- writing

    def can_take(self, context: ContextId, n_tokens: int, payload_bytes: int) -> bool:
        """A file of that size is possible at all, and the disk hasn't refused one just now."""
        return (
            _payload_start(n_tokens) + payload_bytes <= self.budget_bytes
            and min(n_tokens, payload_bytes) > 0
            and _CONTEXT.fullmatch(context) is not None
            and not self.is_paused()
        )

    def is_paused(self) -> bool:
        return time.monotonic_ns() < self._paused_until_ns

    def seconds_for(self, payload_bytes: int) -> float:
        """How long writing that much took lately."""
        return payload_bytes * self._seconds_per_byte

    def write(
        self,
        context: ContextId,
        uid: int,
        tokens: array[int],
        payload: memoryview,
        keep: Collection[ContextId] = (),
    ) -> Generator[None, None, bool]:
        """Write a file, a chunk at each next(); the result is whether it is there now.

        The payload stays as it is until then.  close() gives up and leaves what was there before.
        keep: contexts whose files don't make room for this one.
        """
        entry = FileEntry(uid, tokens[:], payload.nbytes, 0)
        if not self.can_take(context, len(tokens), payload.nbytes):
            return False
        if not self._make_room(context, entry.file_bytes, keep):
            return False
        temporary = self._path(context, _TEMPORARY)
        self.n_bytes += entry.file_bytes
        is_there = False
        try:
            entry = yield from self._write_file(temporary, context, entry, payload)
            temporary.replace(self._path(context))
            is_there = True
        except OSError as error:
            self.n_failed += 1
            self._paused_until_ns = time.monotonic_ns() + int(RETRY_S * 1e9)
            why = {"context": context, "bytes": entry.file_bytes, "why": str(error)}
            self._tell("snapshot_file_not_written", why)
        finally:
            if not is_there:
                self.n_bytes -= entry.file_bytes
                with contextlib.suppress(OSError):  # unlinked at the next start, then
                    temporary.unlink(missing_ok=True)
        if is_there:
            old = self._entries.pop(context, None)
            self.n_bytes -= 0 if old is None else old.file_bytes
            self._entries[context] = entry
            self.touch(context)
        return is_there

    def _write_file(
        self, path: Path, context: ContextId, entry: FileEntry, payload: memoryview
    ) -> Generator[None, None, FileEntry]:
        self._check_free(entry.file_bytes)
        crc, spent_ns = 0, 0
        file = os.open(path, _WRITE_FLAGS, 0o600)
        try:
            place = _payload_start(len(entry.tokens))
            for start in range(0, payload.nbytes, CHUNK_BYTES):
                if start:
                    yield
                began_ns = time.perf_counter_ns()
                chunk = payload[start : start + CHUNK_BYTES]
                crc = zlib.crc32(chunk, crc)
                place += _write_all(file, chunk, place)
                spent_ns += time.perf_counter_ns() - began_ns
            entry = replace(entry, payload_crc=crc)
            _write_all(file, memoryview(self._head_of(context, entry)), 0)
        finally:
            os.close(file)
        self._seconds_per_byte = (self._seconds_per_byte + spent_ns / 1e9 / payload.nbytes) / 2
        return entry

    def _check_free(self, n_bytes: int) -> None:
        disk = os.statvfs(self._directory)
        n_free = disk.f_bavail * disk.f_frsize - n_bytes
        if n_free < self._keep_free_bytes:
            raise OSError(
                f"{n_free} bytes would be left on the disk, limit is {self._keep_free_bytes}"
            )

    def _make_room(self, context: ContextId, n_bytes: int, keep: Collection[ContextId]) -> bool:
        """Unlink what goes first until the file fits; False: nothing is unlinked, it can't."""
        n_over = self.n_bytes + n_bytes - self.budget_bytes
        n_too_many = len(self._entries) + (context not in self._entries) - MAX_FILES
        going: list[ContextId] = []
        own = [context] if context in self._entries and n_over > 0 else []
        for other in (*own, *(c for c in self._entries if c not in keep and c != context)):
            if n_over <= 0 and n_too_many <= 0:
                break
            going.append(other)
            n_over -= self._entries[other].file_bytes
            n_too_many -= other != context
        if n_over > 0 or n_too_many > 0:
            return False
        for other in going:
            self.forget(other)
        return True

    # ---------------------------------------------------------------- reading

    def read(self, context: ContextId, buffer: memoryview) -> bool:
        """Fill the buffer, of the payload's size, and check it.  False: the file is gone."""
        entry = self._entries[context]
        path = self._path(context)
        try:
            file = os.open(path, _READ_FLAGS)
            try:
                if self._read_head(file, context) != entry:
                    raise _BadFileError("another snapshot than it was at start")
                place, crc = _payload_start(len(entry.tokens)), 0
                for start in range(0, entry.payload_bytes, CHUNK_BYTES):
                    chunk = buffer[start : min(start + CHUNK_BYTES, entry.payload_bytes)]
                    _read_all(file, chunk, place + start)
                    crc = zlib.crc32(chunk, crc)
            finally:
                os.close(file)
            if crc != entry.payload_crc:
                raise _BadFileError(f"payload's checksum is {crc:08x}, not {entry.payload_crc:08x}")
        except (OSError, _BadFileError, _StaleFileError) as error:
            self.reject(context, str(error))
            return False
        self.touch(context)
        return True

    def touch(self, context: ContextId, at_ns: int | None = None) -> None:
        """It was used now: others go before it.  at_ns: the time to note, for after a restart."""
        self._entries.move_to_end(context)
        if at_ns is None:  # by a clock that survives a restart, and no two alike
            at_ns = self._used_ns = max(time.time_ns(), self._used_ns + 1)
        with contextlib.suppress(OSError):  # the order after a restart is a little worse, then
            os.utime(self._path(context), ns=(at_ns, at_ns))

    def reject(self, context: ContextId, why: str) -> None:
        """The file is of no use: unlink, count and tell."""
        self.n_bad += 1
        self._tell("snapshot_file_bad", {"context": context, "why": why})
        self.forget(context)

    def forget(self, context: ContextId) -> None:
        """Unlink the context's file, if there is one."""
        entry = self._entries.pop(context, None)
        if entry is not None:
            self.n_bytes -= entry.file_bytes
            self._unlink(self._path(context))

    # ---------------------------------------------------------------- the directory

    def _path(self, context: ContextId, suffix: str = _SUFFIX) -> Path:
        if not _CONTEXT.fullmatch(context):
            raise ValueError(f"context {context!r} can't be a file's name")
        return self._directory / (context + suffix)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._tell("snapshot_file_left", {"path": str(path), "why": str(error)})

    def _open_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{self._directory} is not a directory of uid {os.geteuid()}")
        if stat.S_IMODE(found.st_mode) != 0o700:
            self._directory.chmod(0o700)

    def _scan(self) -> None:
        """Learn what there is from the headers; unlink what is of no use."""
        found: list[tuple[int, ContextId, FileEntry]] = []
        n_stale = 0
        with os.scandir(self._directory) as listing:
            names = sorted(item.name for item in islice(listing, 4 * MAX_FILES))
        for name in names:
            path = self._directory / name
            if path.suffix == _TEMPORARY:
                self._unlink(path)
            if path.suffix != _SUFFIX:
                continue
            context = ContextId(path.stem)
            try:
                found.append(self._learn(path, context))
            except _StaleFileError:
                n_stale += 1
                self._unlink(path)
            except (OSError, _BadFileError) as error:
                self.n_bad += 1
                self._tell("snapshot_file_bad", {"context": context, "why": str(error)})
                self._unlink(path)
        for _, context, entry in sorted(found, key=lambda each: each[:2]):
            self._entries[context] = entry
            self.n_bytes += entry.file_bytes
        if n_stale:
            self._tell("snapshot_files_stale", {"files": n_stale})
        while self.n_bytes > self.budget_bytes or len(self._entries) > MAX_FILES:
            self.forget(next(iter(self._entries)))

    def _learn(self, path: Path, context: ContextId) -> tuple[int, ContextId, FileEntry]:
        if not _CONTEXT.fullmatch(context):
            raise _BadFileError("no context has this name")
        file = os.open(path, _READ_FLAGS)
        try:
            return os.fstat(file).st_mtime_ns, context, self._read_head(file, context)
        finally:
            os.close(file)

    # ---------------------------------------------------------------- the header

    def _head_of(self, context: ContextId, entry: FileEntry) -> bytes:
        tokens = _little_endian(entry.tokens)
        values = (
            _MAGIC,
            _VERSION,
            len(entry.tokens),
            self._fingerprint,
            entry.uid,
            entry.payload_bytes,
            entry.payload_crc,
            context.encode(),
        )
        head = _HEAD.pack(*values, 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(tokens, zlib.crc32(head))) + tokens

    def _read_head(self, file: int, context: ContextId) -> FileEntry:
        """Read and check everything before the payload, and the file's size."""
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise _BadFileError("not a regular file")
        head = os.pread(file, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            raise _BadFileError(f"{len(head)} bytes, a header has {_HEAD.size}")
        values = _HEAD.unpack(head)
        magic, version, n_tokens, fingerprint, uid, payload_bytes, payload_crc, name, crc = values
        if magic != _MAGIC:
            raise _BadFileError("not a snapshot")
        if version != _VERSION:
            raise _StaleFileError
        n_bytes = _payload_start(n_tokens) + payload_bytes
        if n_tokens > MAX_TOKENS or found.st_size != n_bytes:
            raise _BadFileError(f"{found.st_size} bytes, its header says {n_bytes}")
        tokens = os.pread(file, 4 * n_tokens, _HEAD.size)
        if zlib.crc32(tokens, zlib.crc32(head[:-4])) != crc:
            raise _BadFileError("the header's checksum is wrong")
        if fingerprint != self._fingerprint:
            raise _StaleFileError
        if name.rstrip(b"\0") != context.encode():
            raise _BadFileError("the snapshot of another context")
        return FileEntry(uid, _from_little_endian(tokens), payload_bytes, payload_crc)


def _payload_start(n_tokens: int) -> int:
    return -(-(_HEAD.size + 4 * n_tokens) // 64) * 64


def _little_endian(tokens: array[int]) -> bytes:
    if sys.byteorder == "little":
        return tokens.tobytes()
    swapped = tokens[:]
    swapped.byteswap()
    return swapped.tobytes()


def _from_little_endian(data: bytes) -> array[int]:
    tokens = array("i")
    tokens.frombytes(data)
    if sys.byteorder != "little":
        tokens.byteswap()
    return tokens


def _write_all(file: int, data: memoryview, place: int) -> int:
    n_written = 0
    while n_written < data.nbytes:
        n_written += os.pwrite(file, data[n_written:], place + n_written)
    return n_written


def _read_all(file: int, buffer: memoryview, place: int) -> None:
    n_read = 0
    while n_read < buffer.nbytes:
        n_now = os.preadv(file, [buffer[n_read:]], place + n_read)
        if n_now == 0:
            raise _BadFileError(f"ends {buffer.nbytes - n_read} bytes too early")
        n_read += n_now
