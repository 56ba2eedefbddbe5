"""What a person did to an agent's files with a shell: it becomes a version of its own.  Blocking.

Rule: what a person put there is refused for what it is, not for a quota: it is there, and counted.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import replace

from aios_sdk.errors import Busy, InvalidParams, NotFound, TooLarge
from aiosd.kernel.model import AgentId
from aiosd.services.storage import changes, confined, rows
from aiosd.services.storage.blobs import Blobs, Part
from aiosd.services.storage.errors import in_words
from aiosd.services.storage.ledger import Ledger
from aiosd.services.storage.paths import Parts
from aiosd.services.storage.reading import Reader
from aiosd.services.storage.rows import File
from aiosd.services.storage.visible import Visible, split, stamp_of

OUTSIDE = "outside"  # the op of versions that a person made
_N_TRIES = 3  # for files that change while they are read


class Outside:
    """Of all roots."""

    def __init__(self, ledger: Ledger, blobs: Blobs, visible: Visible, reader: Reader) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._visible = visible
        self._reader = reader

    def settle(self, owner: AgentId, parts: Parts) -> File | None:
        """The file as it is now, what a person changed adopted; None if there is none.

        InvalidParams if it is a directory, Denied if it is no plain file.
        """
        path = "/".join(parts)
        file = self._ledger.records.read(lambda t: rows.find(t, owner, path))
        live = file if file and file.is_live else None
        with (
            contextlib.suppress(NotFound, FileNotFoundError),
            self._visible.parent(owner, parts) as (parent, name),
        ):
            found = confined.look(parent, name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise InvalidParams(f"{path!r} is a directory", field="path")
            if found is not None and live and stamp_of(found) == live.stamp:
                return live
            if found is not None:
                return self._adopt(owner, path, live, parent, name)
        if live:
            self._ledger.record(owner, [self._ledger.change(path, None, OUTSIDE, owner)])
        return None

    def settle_below(self, owner: AgentId, parts: Parts) -> None:
        """Adopt what a person changed below a directory."""
        found, has_more = self._reader.entries(
            owner, parts, recursive=True, after="", n_most=self._ledger.limits_of(owner).n_files
        )
        if has_more:
            raise TooLarge(f"{'/'.join(parts)!r} holds more files than an agent may have")
        for entry in found:
            if not entry.is_dir and entry.version is None:
                self.settle(owner, split(entry.path))

    # ------------------------------------------------------------ inside

    def _adopt(
        self, owner: AgentId, path: str, live: File | None, parent: int, name: str
    ) -> File | None:
        """What a person put there is a version, unless it is what we had there."""
        limits = self._ledger.limits_of(owner)
        for _ in range(_N_TRIES):
            with in_words(), self._blobs.part() as part:
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
            with self._blobs.put(owner.uid, part) as content:
                self._blobs.flush(owner.uid, content.sha256)
                if live and live.sha256 == content.sha256:
                    self._ledger.records.write(lambda t: changes.set_stamp(t, live, stamp))
                    return replace(live, stamp=stamp)
                freed = {content.sha256}
                change = self._ledger.change(path, content, OUTSIDE, owner)
                # A person's files aren't refused: what is there is there, and counted.
                (file,), freed = self._ledger.record(
                    owner, [replace(change, stamp=stamp)], is_forced=True
                )
                return file
        finally:
            self._ledger.drop(owner, freed)
