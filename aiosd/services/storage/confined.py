"""Reaching files below a directory without ever leaving it, whatever someone with a shell plants.

Rule 1: directories are reached by openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), or, where the
kernel has none, by a walk of descriptors with O_NOFOLLOW; no path is ever resolved twice.
Rule 2: the last name is only used relative to such a descriptor, and never followed.
Rule 3: only directories and plain files with one name are served: a hard link may lead elsewhere,
a pipe or a device may block.
Source: openat2(2); its number is 437 on every architecture but alpha.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from aios_sdk.errors import Denied

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_N_TRIES = 16  # openat2 says EAGAIN when something was renamed meanwhile
_ABSENT = (errno.ENOSYS, errno.EPERM)  # an old kernel; a seccomp filter that doesn't know it


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_HOW = _OpenHow(_DIRECTORY, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)


class Confined:
    """A directory that is open, and what can be reached below it."""

    def __init__(self, descriptor: int, *, has_openat2: bool = True) -> None:
        self._top = descriptor
        self._has_openat2 = has_openat2

    @contextlib.contextmanager
    def directory(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory.  make: with those above it, each on the disk.

        FileNotFoundError, NotADirectoryError; Denied for a symbolic link on the way.
        """
        try:
            descriptor = self.open(parts)
        except FileNotFoundError:
            if not make:
                raise
            descriptor = self._walk(parts, make=True)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open(self, parts: Sequence[str]) -> int:
        """As directory(), a descriptor for the caller to close."""
        if self._has_openat2:
            for _ in range(_N_TRIES):
                descriptor = _openat2(self._top, os.fsencode("/".join(parts) or "."))
                if descriptor >= 0:
                    return descriptor
                code = ctypes.get_errno()
                if code == errno.EAGAIN:
                    continue
                if code in _ABSENT:
                    self._has_openat2 = False
                    break
                raise _in_words(code, parts)
        return self._walk(parts, make=False)

    def _walk(self, parts: Sequence[str], *, make: bool) -> int:
        here = os.open(".", _DIRECTORY, dir_fd=self._top)
        try:
            for part in parts:
                try:
                    below = _step(here, part, make=make)
                except OSError as error:
                    raise _in_words(error.errno or 0, parts) from error
                os.close(here)
                here = below
        except BaseException:
            os.close(here)
            raise
        return here


def _openat2(top: int, path: bytes) -> int:
    return int(
        _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(top),
            ctypes.c_char_p(path),
            ctypes.byref(_HOW),
            ctypes.c_size_t(ctypes.sizeof(_HOW)),
        )
    )


def _step(here: int, part: str, *, make: bool) -> int:
    flags = _DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(part, flags, dir_fd=here)
    except FileNotFoundError:
        if not make:
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=here)
            os.fsync(here)
        return os.open(part, flags, dir_fd=here)
    except NotADirectoryError as error:
        # With O_DIRECTORY a symbolic link is ENOTDIR, not ELOOP.
        is_link = stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode)
        raise (OSError(errno.ELOOP, "symbolic link") if is_link else error) from error


def _in_words(code: int, parts: Sequence[str]) -> OSError | Denied:
    if code in (errno.ELOOP, errno.EXDEV):
        return Denied(f"{'/'.join(parts)!r} leads through a symbolic link, which storage refuses")
    return OSError(code, os.strerror(code), "/".join(parts))


# ---------------------------------------------------------------- the last name


def look(parent: int, name: str) -> os.stat_result | None:
    """What is there under the name itself, or None."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_plain(found: os.stat_result) -> bool:
    """A file with no other name."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


@contextlib.contextmanager
def plain_file(parent: int, name: str) -> Iterator[int]:
    """The open file.  Denied if it is none: a link, a pipe, a device."""
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise not_plain(name) from error
        raise
    try:
        if not is_plain(os.fstat(descriptor)):
            raise not_plain(name)
        yield descriptor
    finally:
        os.close(descriptor)


def not_plain(name: str) -> Denied:
    return Denied(
        f"{name!r} is not a plain file (a link, a pipe, a device?), which storage refuses; "
        "someone with a shell put it there"
    )


def remove_tree(parent: int, name: str) -> None:
    """The file or the directory with all in it; links are removed, never followed."""
    found = look(parent, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        with os.scandir(below) as entries:
            names = [entry.name for entry in entries]
        for one in names:
            remove_tree(below, one)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=parent)
