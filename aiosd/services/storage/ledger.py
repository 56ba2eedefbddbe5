"""What an act writes down: new versions, and what becomes of contents nobody needs.  Blocking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from aios_sdk.errors import SyscallError
from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.storage import changes, rows
from aiosd.services.storage.blobs import Blobs, Content
from aiosd.services.storage.rows import Change, File, Limits

T = TypeVar("T")


class Records(Protocol):
    """The database, for blocking callers."""

    def read(self, work: Callable[[Transaction], T]) -> T: ...
    def write(self, work: Callable[[Transaction], T]) -> T: ...


class Ledger:
    """Of all roots.  limits_of: what a root may hold."""

    def __init__(
        self,
        records: Records,
        blobs: Blobs,
        limits_of: Callable[[AgentId], Limits],
        now_ms: Callable[[], int],
    ) -> None:
        self.records = records
        self.limits_of = limits_of
        self.now_ms = now_ms
        self._blobs = blobs

    def change(
        self, path: str, content: Content | None, op: str, owner: AgentId, by: str | None = None
    ) -> Change:
        """A new version, made now; by the owner unless it says by whom."""
        return Change(path, content, op, by if by is not None else owner.name, self.now_ms())

    def record(
        self, owner: AgentId, made: list[Change], *, is_forced: bool = False
    ) -> tuple[list[File], set[str]]:
        """Commit versions; (the files, the contents that pruning set free).  is_forced: what is
        there already, whatever the quota."""
        limits = self.limits_of(owner)
        if is_forced:
            most = 2**62
            limits = replace(limits, n_bytes=most, n_files=most, bytes_per_uid=most)
        return self.records.write(lambda t: changes.record(t, owner, made, limits))

    def drop(self, owner: AgentId, hashes: set[str]) -> None:
        """Let go those that no version has any more."""
        if not hashes:
            return
        # The act has been done: a content that stays until the next start is no reason to say no.
        with contextlib.suppress(SyscallError, OSError):
            self._blobs.drop(
                owner.uid,
                hashes,
                lambda asked: self.records.read(lambda t: rows.in_use(t, owner.uid, asked)),
            )
