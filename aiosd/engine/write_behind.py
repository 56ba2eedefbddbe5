"""What is parked gets into files before it has to: when nobody waits, and before the daemon ends.

Rule 1: a command waits for one piece of a file at most (snapshot_files.CHUNK_BYTES), or for the
copy of one slot.
Rule 2: what is in RAM or in a slot is in no hurry: it doesn't push another such one out of the
files, or two that don't fit would be written in turns for ever.
Rule 3: before the end, the most recently used go first, and what has been written stays.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from aiosd.engine.base import Model
from aiosd.engine.snapshot_files import MAX_FILES, RETRY_S, SnapshotFiles
from aiosd.engine.snapshots import SnapshotStore, Writing, finished
from aiosd.kernel.model import ContextId, SlotId

AT_REST_S = 30.0
"""An agent between two turns is back by then.  Sooner, and every turn would write all its context
(23 kB a token) to the disk."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A context in a slot, and the tokens in its cells."""

    context: ContextId
    slot: SlotId
    uid: int
    tokens: array[int]


class WriteBehind:
    """The idle work of one store with files.  On the engine thread."""

    def __init__(self, store: SnapshotStore, files: SnapshotFiles, model: Model) -> None:
        self._store = store
        self._files = files
        self._model = model
        # For whom there was no room, with how many tokens, when so many bytes were in files.
        self._refused: dict[ContextId, tuple[int, int]] = {}
        self._n_tokens = 0  # of what is under way

    def tidy(self, idle_s: float, residents: Sequence[Resident]) -> float | None:
        """Write one piece, there having been no command for idle_s.  In how many seconds to call
        again; None: all that can be in files is."""
        if self._store.writing is None:
            if self._files.is_paused():
                return RETRY_S
            kept = self._store.in_ram().union(resident.context for resident in residents)
            self._begin(idle_s, residents, kept)
        if self._store.writing is not None:
            self._write_a_piece()
            return 0.0
        is_waiting = any(True for _ in self._unwritten(residents))
        return AT_REST_S - idle_s if is_waiting and idle_s < AT_REST_S else None

    def flush(self, residents: Sequence[Resident], deadline_s: float) -> int:
        """Write all that fits, the most recently used first, and stop when the time is up.  How
        many contexts are in files as they are now."""
        if self._store.writing is not None:
            self._store.stop_writing(self._store.writing[0])
        until_ns = time.monotonic_ns() + int(deadline_s * 1e9)
        done: list[ContextId] = []
        for resident in residents:
            if finished(self._of_slot(resident, done), until_ns):
                done.append(resident.context)
        for context, _ in self._store.newest_first():
            if context not in done and self._store.write_to_file(context, done, until_ns):
                done.append(context)
        now_ns = time.time_ns()
        for place, context in reversed(list(enumerate(done))):
            self._files.touch(context, now_ns - place)
        return len(done)

    def _begin(
        self, idle_s: float, residents: Sequence[Resident], kept: Collection[ContextId]
    ) -> None:
        for context, tokens in reversed(self._store.newest_first()):
            if self._is_missing(context, tokens):
                self._n_tokens = len(tokens)
                self._store.writing = (context, self._store.write_in_pieces(context, kept))
                return
        first = next(iter(self._unwritten(residents)), None)
        if first is not None and idle_s >= AT_REST_S:
            self._n_tokens = len(first.tokens)
            self._store.writing = (first.context, self._of_slot(first, kept))

    def _unwritten(self, residents: Iterable[Resident]) -> Iterable[Resident]:
        return (r for r in residents if self._is_missing(r.context, r.tokens))

    def _is_missing(self, context: ContextId, tokens: array[int]) -> bool:
        is_refused = self._refused.get(context) == (len(tokens), self._files.n_bytes)
        return not is_refused and not self._files.holds(context, tokens)

    def _of_slot(self, resident: Resident, keep: Collection[ContextId]) -> Writing:
        return self._store.save_in_pieces(
            resident.context, resident.uid, resident.tokens, self._model, resident.slot, keep=keep
        )

    def _write_a_piece(self) -> None:
        assert self._store.writing is not None
        context, writing = self._store.writing
        try:
            next(writing)
        except StopIteration as end:
            self._store.writing = None
            if len(self._refused) >= MAX_FILES:
                self._refused.clear()
            if not end.value and not self._files.is_paused():
                self._refused[context] = (self._n_tokens, self._files.n_bytes)
