"""KV bytes outside the model: one snapshot per context in RAM under a byte budget, one in a file.

Rule 1: a snapshot may be lost at any time; that costs time, never an answer.  Each carries the
tokens it holds, so whoever restores it can tell how much of it is still of use.
Rule 2: the budget counts every buffer, in use or waiting for re-use, but for one that exists only
while a file is written or read.  Buffers are kept because saving into memory that was touched
before is many times faster than into new memory.
Rule 3: least recently used goes first, but before all others the snapshots of contexts that were
restored since: their cells are in a slot, and the snapshot is only an old prefix of them.
Rule 4: what has to leave RAM goes to a file, if there are files and the disk is quick enough.
Most were written before, when nobody waited (write_behind.py).
"""

from __future__ import annotations

import contextlib
import mmap
import time
from array import array
from collections import OrderedDict
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from aiosd.engine.base import EngineError, Model
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.kernel.model import ContextId, SlotId

MIN_BUFFER_BYTES = 64 * 1024
MAX_EVICTION_S = 0.25  # half a step that reads 256 tokens; a disk that takes longer loses snapshots


@dataclass(slots=True)
class _Snapshot:
    uid: int
    tokens: array[int]
    buffer: mmap.mmap
    n_bytes: int
    is_spare: bool = False  # restored since: the context's cells are in a slot

    @property
    def data(self) -> memoryview:
        return memoryview(self.buffer)[: self.n_bytes]


Residence = Literal["ram", "file"]
Writing = Generator[None, None, bool]
"""A piece at each next(); the result is whether the file is there now."""


class SnapshotStore:
    """Snapshots by context.  Everything in it runs on the engine thread, but for n_bytes and
    residence_of.

    files         where snapshots go that RAM has no room for; None: nowhere
    buffer_bytes  memory held now: never more than ram_bytes
    n_lost        snapshots that a context had (or should have got) and no longer has
    """

    def __init__(self, ram_bytes: int, files: SnapshotFiles | None = None) -> None:
        self.ram_bytes = ram_bytes
        self.files = files
        self.buffer_bytes = 0
        self.n_lost = 0
        self._held: OrderedDict[ContextId, _Snapshot] = OrderedDict()  # the first goes first
        self._free: dict[int, list[mmap.mmap]] = {}  # by size
        self.writing: tuple[ContextId, Writing] | None = None  # under way, in write_behind.py

    def save(
        self, context: ContextId, uid: int, tokens: array[int], model: Model, slot: SlotId
    ) -> bool:
        """Keep the slot's cells, which hold ``tokens``.  False: no room, nothing is kept."""
        is_kept = self.save_to_ram(context, uid, tokens, model, slot) or (
            self._is_quick(model.snapshot_bytes(slot))
            and self.save_to_file(context, uid, tokens, model, slot)
        )
        self.n_lost += not is_kept
        return is_kept

    def save_to_ram(
        self, context: ContextId, uid: int, tokens: array[int], model: Model, slot: SlotId
    ) -> bool:
        """As save, but nowhere else."""
        held = self._held.get(context)
        if held is not None and held.tokens == tokens:
            held.is_spare = False
            self._held.move_to_end(context)
            return True
        buffer = self._buffer_for(context, _rounded(model.snapshot_bytes(slot)))
        if buffer is None:
            return False
        try:
            n_bytes = model.save(slot, memoryview(buffer))
        except EngineError:
            self._put_back(buffer)
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
            return self._restore_from_file(context, model, slot)
        if not model.restore(slot, held.data) or model.n_cells(slot) != len(held.tokens):
            model.truncate(slot, 0)
            self._drop(context)
            self.n_lost += 1
            return self._restore_from_file(context, model, slot)
        if is_owner:
            held.is_spare = True
        self._held.move_to_end(context, last=not held.is_spare)
        return held.tokens[:]

    def _restore_from_file(
        self, context: ContextId, model: Model, slot: SlotId
    ) -> array[int] | None:
        entry = None if self.files is None else self.files.get(context)
        if self.files is None or entry is None:
            return None
        with self._borrowed(entry.payload_bytes) as data:
            if self.files.read(context, data):
                if model.restore(slot, data) and model.n_cells(slot) == len(entry.tokens):
                    return entry.tokens[:]
                model.truncate(slot, 0)
                self.files.reject(context, "the model refuses it")
        self.n_lost += 1
        return None

    def forget(self, context: ContextId) -> None:
        """The context is gone: so is everything of it."""
        self._drop(context)
        if self.files is not None:
            self.stop_writing(context)
            self.files.forget(context)

    # ---------------------------------------------------------------- what there is

    def tokens_of(self, uid: int) -> Iterator[tuple[ContextId, array[int]]]:
        """What the uid's snapshots in RAM hold."""
        return ((c, held.tokens) for c, held in self._held.items() if held.uid == uid)

    def tokens_in_files(self, uid: int) -> Iterator[tuple[ContextId, array[int]]]:
        """What the uid's other snapshots hold."""
        entries = () if self.files is None else self.files.entries_of(uid)
        return ((c, entry.tokens) for c, entry in entries if c not in self._held)

    def uid_of(self, context: ContextId) -> int | None:
        """Whose snapshot it is; None if there is none."""
        held = self._held.get(context)
        if held is not None:
            return held.uid
        entry = None if self.files is None else self.files.get(context)
        return None if entry is None else entry.uid

    def n_bytes(self, context: ContextId) -> int:
        """The size of the context's snapshot in RAM, 0 if it has none.  Safe on any thread."""
        held = self._held.get(context)
        return 0 if held is None else held.n_bytes

    def residence_of(self, context: ContextId) -> Residence | None:
        """Where the context's snapshot is.  Safe on any thread."""
        if context in self._held:
            return "ram"
        is_in_file = self.files is not None and self.files.get(context) is not None
        return "file" if is_in_file else None

    # ---------------------------------------------------------------- to files, and back

    def save_to_file(
        self, context: ContextId, uid: int, tokens: array[int], model: Model, slot: SlotId
    ) -> bool:
        """As save, but into the context's file."""
        self.stop_writing(context)
        writing = self.save_in_pieces(context, uid, tokens, model, slot)
        if not finished(writing):
            return False
        held = self._held.get(context)
        if held is not None and held.tokens != tokens:  # older than the file
            self._drop(context)
        return True

    def save_in_pieces(
        self,
        context: ContextId,
        uid: int,
        tokens: array[int],
        model: Model,
        slot: SlotId,
        *,
        keep: Collection[ContextId] = (),
    ) -> Writing:
        """The slot's cells as they are at the first next(), into a file."""
        if self.files is None:
            return False
        if self.files.holds(context, tokens):
            self.files.touch(context)
            return True
        size = model.snapshot_bytes(slot)
        if not self.files.can_take(context, len(tokens), size):
            return False
        with self._borrowed(size) as buffer:
            try:
                n_bytes = model.save(slot, buffer)
            except EngineError:
                return False
            return (yield from self.files.write(context, uid, tokens, buffer[:n_bytes], keep))

    def write_to_file(
        self,
        context: ContextId,
        keep: Collection[ContextId] = (),
        until_ns: int | None = None,
    ) -> bool:
        """Have the context's snapshot in RAM in a file too, as it is now."""
        held = self._held.get(context)
        if self.files is None or held is None:
            return False
        if self.files.holds(context, held.tokens):
            return True
        if self.writing is not None and self.writing[0] == context:
            (_, writing), self.writing = self.writing, None
            if finished(writing, until_ns) and self.files.holds(context, held.tokens):
                return True
        return finished(self.write_in_pieces(context, keep), until_ns)

    def bring(self, context: ContextId, to: Residence) -> bool:
        """Have the context's snapshot there; from RAM to a file it is moved, so that others get the
        room that whoever asked gave up."""
        if to == "ram":
            return self._bring_to_ram(context)
        if context in self._held:
            if not self.write_to_file(context):
                return False
            self._drop(context)
            return True
        return self.files is not None and self.files.get(context) is not None

    def _bring_to_ram(self, context: ContextId) -> bool:
        if context in self._held:
            return True
        entry = None if self.files is None else self.files.get(context)
        if self.files is None or entry is None:
            return False
        buffer = self._buffer_for(context, _rounded(entry.payload_bytes))
        if buffer is None:
            return False
        held = _Snapshot(entry.uid, entry.tokens, buffer, entry.payload_bytes)
        # Making room may have cost the file its place.
        if self.files.get(context) is not entry or not self.files.read(context, held.data):
            self._put_back(buffer)
            return False
        self._held[context] = held
        return True

    def newest_first(self) -> list[tuple[ContextId, array[int]]]:
        """The snapshots in RAM that are no spares."""
        return [(c, held.tokens) for c, held in reversed(self._held.items()) if not held.is_spare]

    def in_ram(self) -> set[ContextId]:
        """The contexts with a snapshot in RAM, spares too."""
        return set(self._held)

    def write_in_pieces(self, context: ContextId, keep: Collection[ContextId]) -> Writing:
        """The context's snapshot in RAM into its file.  Given up if the snapshot has to go."""
        held = self._held[context]
        if self.files is None:
            return False
        return (yield from self.files.write(context, held.uid, held.tokens, held.data, keep))

    def stop_writing(self, context: ContextId) -> None:
        """Give up the writing under way if it is the context's."""
        if self.writing is not None and self.writing[0] == context:
            self.writing[1].close()
            self.writing = None

    def _is_quick(self, n_bytes: int) -> bool:
        return self.files is not None and self.files.seconds_for(n_bytes) <= MAX_EVICTION_S

    # ---------------------------------------------------------------- buffers

    def _drop(self, context: ContextId) -> None:
        """Free the RAM that the context's snapshot takes."""
        held = self._held.pop(context, None)
        if held is not None:
            self.stop_writing(context)
            self._put_back(held.buffer)

    def _buffer_for(self, context: ContextId, size: int) -> mmap.mmap | None:
        """A buffer of that size, the context's own old one if it fits; None past the budget."""
        self._drop(context)  # what it had is older than what is to be saved
        if size > self.ram_bytes:
            return None
        while True:
            free = self._free.get(size)
            if free:
                return free.pop()
            if self.buffer_bytes + size <= self.ram_bytes:
                self.buffer_bytes += size
                return _memory(size)
            self._make_room()

    def _make_room(self) -> None:
        """Give memory back: a waiting buffer, or else the snapshot that goes first."""
        for size in sorted(self._free, reverse=True):
            if self._free[size]:
                self._free[size].pop()
                self.buffer_bytes -= size
                return
        context, held = next(iter(self._held.items()))
        if not held.is_spare:
            is_kept = self._is_quick(held.n_bytes) and self.write_to_file(context)
            self.n_lost += not is_kept
        self._drop(context)

    def _put_back(self, buffer: mmap.mmap) -> None:
        self._free.setdefault(len(buffer), []).append(buffer)

    @contextlib.contextmanager
    def _borrowed(self, n_bytes: int) -> Iterator[memoryview]:
        """Memory for a moment: a waiting buffer if one fits, kept afterwards if there is room."""
        size = _rounded(n_bytes)
        free = self._free.get(size)
        if free:
            buffer = free.pop()
            self.buffer_bytes -= size
        else:
            buffer = _memory(size)
        try:
            yield memoryview(buffer)[:n_bytes]
        finally:
            if self.buffer_bytes + size <= self.ram_bytes:
                self.buffer_bytes += size
                self._put_back(buffer)


def _memory(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def finished(writing: Writing, until_ns: int | None = None) -> bool:
    """Run it to its end, or give it up when the time has come."""
    try:
        while until_ns is None or time.monotonic_ns() < until_ns:
            next(writing)
    except StopIteration as end:
        return bool(end.value)
    writing.close()
    return False


def _rounded(n_bytes: int) -> int:
    """Up to one of four sizes per power of two: little is unused, and sizes meet again."""
    n_bytes = max(n_bytes, MIN_BUFFER_BYTES)
    step = 1 << ((n_bytes - 1).bit_length() - 3)
    return -(-n_bytes // step) * step
