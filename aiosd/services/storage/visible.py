"""The files that people see: one directory per uid and agent, reached without leaving it.

Rule 1: a file appears, changes and goes by a rename alone; what is half-written is in the temporary
directory beside the roots.
Rule 2: a rename is on the disk when an act returns.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from aios_sdk.errors import Denied, NotFound
from aiosd.kernel.model import AgentId
from aiosd.services.storage import confined
from aiosd.services.storage.blobs import copy
from aiosd.services.storage.confined import Confined
from aiosd.services.storage.paths import Parts, directory_name

_BELOW = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_Seen = dict[str, os.stat_result]


class Visible:
    """The roots of all agents.  tmp is the temporary directory's descriptor."""

    def __init__(self, directory: Path, tmp: int, at: Callable[[str], None]) -> None:
        agents = directory / "agents"
        agents.mkdir(mode=0o700, exist_ok=True)
        self._agents = os.open(agents, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._below = Confined(self._agents)
        self._tmp = tmp
        self._at = at

    def close(self) -> None:
        os.close(self._agents)

    @contextlib.contextmanager
    def directory(self, owner: AgentId, parts: Parts, *, make: bool = False) -> Iterator[int]:
        with self._below.directory(_place(owner, parts), make=make) as descriptor:
            yield descriptor

    @contextlib.contextmanager
    def parent(self, owner: AgentId, parts: Parts) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory above, and the last name.  NotFound without it."""
        try:
            descriptor = self._below.open(_place(owner, parts[:-1]))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise no_file("/".join(parts)) from error
        try:
            yield descriptor, parts[-1]
        finally:
            os.close(descriptor)

    def stage(self, name: str, source: int, now_ms: int) -> str:
        """The file that will be seen, all of it on the disk; its stamp."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._tmp)
        try:
            copy(source, descriptor)
            # Odd nanoseconds: no edit by a person gets the same time by chance.
            now_ns = now_ms * 1_000_000 + secrets.randbelow(1_000_000)
            os.utime(descriptor, ns=(now_ns, now_ns))
            os.fsync(descriptor)
            return stamp_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def install(self, owner: AgentId, parts: Parts, name: str) -> None:
        with self.directory(owner, parts[:-1], make=True) as parent:
            os.rename(name, parts[-1], src_dir_fd=self._tmp, dst_dir_fd=parent)
            os.fsync(parent)

    def discard(self, parent: int, name: str) -> None:
        """Out of sight in one step, then gone."""
        trash = f"{secrets.token_hex(8)}.trash"
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, trash, src_dir_fd=parent, dst_dir_fd=self._tmp)
            os.fsync(parent)
            self._at("moved")
            confined.remove_tree(self._tmp, trash)

    def move(self, owner: AgentId, parent: int, name: str, target: Parts) -> None:
        with self.directory(owner, target[:-1], make=True) as above:
            os.rename(name, target[-1], src_dir_fd=parent, dst_dir_fd=above)
            self._at("moved")
            os.fsync(above)
            os.fsync(parent)

    def finish_pending(self, owner: AgentId, pending: dict[str, str]) -> None:
        """Do what a committed deletion or move had to do, unless it is done: the inode tells."""
        source = split(pending["from"])
        with (
            contextlib.suppress(NotFound),
            self.parent(owner, source) as (parent, name),
        ):
            found = confined.look(parent, name)
            if found is None or str(found.st_ino) != pending["inode"]:
                return
            if pending["op"] == "delete":
                self.discard(parent, name)
            else:
                self.move(owner, parent, name, split(pending["to"]))

    def missing_directories(self, owner: AgentId, paths: list[str]) -> list[str]:
        """Those that aren't there."""
        missing = []
        for path in paths:
            try:
                with self.directory(owner, split(path)):
                    pass
            except (OSError, Denied):
                missing.append(path)
        return missing


def stamp_of(found: os.stat_result) -> str:
    """How a file looks: another one, or a changed one, looks otherwise."""
    return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def is_served(found: os.stat_result) -> bool:
    """A directory or a plain file."""
    return stat.S_ISDIR(found.st_mode) or confined.is_plain(found)


def split(path: str) -> Parts:
    return tuple(path.split("/")) if path else ()


def no_file(path: str) -> NotFound:
    return NotFound(f"no file {path!r}", path=path)


def scan(
    here: int, parts: Parts, after: Parts, n_most: int, *, recursive: bool
) -> tuple[_Seen, bool]:
    """What is in an open directory, by path, after that one; and whether there is more."""
    seen: _Seen = {}
    return seen, _scan(here, parts, after, n_most, seen, recursive=recursive)


def _scan(
    here: int, above: Parts, after: Parts, n_most: int, seen: _Seen, *, recursive: bool
) -> bool:
    """Collect what is there into seen, a directory before what is in it; whether there was more."""
    with os.scandir(here) as found:
        names = sorted(one.name for one in found)
    for name in names:
        parts = (*above, name)
        if parts < after[: len(parts)]:
            continue  # it, and all below it, came before
        status = confined.look(here, name)
        if status is None or not is_served(status) or not _is_text(name):
            continue
        if parts > after:
            if len(seen) >= n_most:
                return True
            seen["/".join(parts)] = status
        if recursive and stat.S_ISDIR(status.st_mode):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                below = os.open(name, _BELOW, dir_fd=here)
                try:
                    if _scan(below, parts, after, n_most, seen, recursive=recursive):
                        return True
                finally:
                    os.close(below)
    return False


def _is_text(name: str) -> bool:
    """A name that an agent could have given: others can't be said on the wire."""
    return not any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in name)


def _place(owner: AgentId, parts: Parts) -> Parts:
    return (str(owner.uid), directory_name(owner.name), *parts)
