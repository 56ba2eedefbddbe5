"""KV bytes outside the model: one snapshot per context, in RAM, under a byte budget.

Rule 1: a snapshot may be lost at any time; that costs time, never an answer.  Each carries the
tokens it holds, so whoever restores it can tell how much of it is still of use.
Rule 2: the budget counts every buffer, in use or waiting for re-use.  Buffers are kept because
saving into memory that was touched before is many times faster than into new memory.
Rule 3: least recently used goes first, but before all others the snapshots of contexts that were
restored since: their cells are in a slot, and the snapshot is only an old prefix of them.
"""

from __future__ import annotations

import mmap
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from aiosd.engine.base import EngineError, Model
from aiosd.kernel.model import ContextId, SlotId

MIN_BUFFER_BYTES = 64 * 1024


@dataclass(slots=True)
class _Snapshot:
    uid: int
    tokens: array[int]
    buffer: mmap.mmap
    n_bytes: int
    is_spare: bool = False  # restored since: the context's cells are in a slot


class SnapshotStore:
    """Snapshots by context.  Everything in it runs on the engine thread.

    buffer_bytes  memory held now: never more than ram_bytes
    n_lost        snapshots that a context had (or should have got) and no longer has
    """

    def __init__(self, ram_bytes: int) -> None:
        self.ram_bytes = ram_bytes
        self.buffer_bytes = 0
        self.n_lost = 0
        self._held: OrderedDict[ContextId, _Snapshot] = OrderedDict()  # the first goes first
        self._free: dict[int, list[mmap.mmap]] = {}  # by size

    def save(
        self, context: ContextId, uid: int, tokens: array[int], model: Model, slot: SlotId
    ) -> bool:
        """Keep the slot's cells, which hold ``tokens``.  False: no room, nothing is kept."""
        held = self._held.get(context)
        if held is not None and held.tokens == tokens:
            held.is_spare = False
            self._held.move_to_end(context)
            return True
        buffer = self._buffer_for(context, _rounded(model.snapshot_bytes(slot)))
        if buffer is None:
            self.n_lost += 1
            return False
        try:
            n_bytes = model.save(slot, memoryview(buffer))
        except EngineError:
            self._put_back(buffer)
            self.n_lost += 1
            return False
        self._held[context] = _Snapshot(uid, tokens[:], buffer, n_bytes)
        return True

    def restore(
        self, context: ContextId, model: Model, slot: SlotId, *, is_owner: bool = True
    ) -> array[int] | None:
        """Fill the slot; the tokens it then holds.  None: there is nothing, the slot is empty.

        is_owner: the slot is the context's own, so the snapshot is a spare from now on.
        """
        held = self._held.get(context)
        if held is None:
            return None
        data = memoryview(held.buffer)[: held.n_bytes]
        if not model.restore(slot, data) or model.n_cells(slot) != len(held.tokens):
            model.truncate(slot, 0)
            self.forget(context)
            self.n_lost += 1
            return None
        if is_owner:
            held.is_spare = True
        self._held.move_to_end(context, last=not held.is_spare)
        return held.tokens[:]

    def tokens_of(self, uid: int) -> Iterator[tuple[ContextId, array[int]]]:
        """What the uid's snapshots hold."""
        return ((c, held.tokens) for c, held in self._held.items() if held.uid == uid)

    def forget(self, context: ContextId) -> None:
        held = self._held.pop(context, None)
        if held is not None:
            self._put_back(held.buffer)

    def uid_of(self, context: ContextId) -> int | None:
        """Whose snapshot it is; None if there is none."""
        held = self._held.get(context)
        return None if held is None else held.uid

    def n_bytes(self, context: ContextId) -> int:
        """The size of the context's snapshot, 0 if it has none."""
        held = self._held.get(context)
        return 0 if held is None else held.n_bytes

    # ---------------------------------------------------------------- buffers

    def _buffer_for(self, context: ContextId, size: int) -> mmap.mmap | None:
        """A buffer of that size, the context's own old one if it fits; None past the budget."""
        self.forget(context)  # what it had is older than what is to be saved
        if size > self.ram_bytes:
            return None
        while True:
            free = self._free.get(size)
            if free:
                return free.pop()
            if self.buffer_bytes + size <= self.ram_bytes:
                self.buffer_bytes += size
                return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._make_room()

    def _make_room(self) -> None:
        """Give memory back: a waiting buffer, or else the snapshot that goes first."""
        for size in sorted(self._free, reverse=True):
            if self._free[size]:
                self._free[size].pop()
                self.buffer_bytes -= size
                return
        context, held = next(iter(self._held.items()))
        self.n_lost += not held.is_spare
        self.forget(context)

    def _put_back(self, buffer: mmap.mmap) -> None:
        self._free.setdefault(len(buffer), []).append(buffer)


def _rounded(n_bytes: int) -> int:
    """Up to one of four sizes per power of two: little is unused, and sizes meet again."""
    n_bytes = max(n_bytes, MIN_BUFFER_BYTES)
    step = 1 << ((n_bytes - 1).bit_length() - 3)
    return -(-n_bytes // step) * step
