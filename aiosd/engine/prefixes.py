"""What several contexts of a uid began with, kept in RAM for the next one that does.

Contexts come and go, and their cells and snapshots with them; a system prompt that was shared once
will be shared again.  So what a lane has taken over from another context is kept at once, when the
slot holds exactly that, under a budget of its own: least recently used goes first.

A list and not a radix tree: prefixes are few (64 MB hold a dozen of 250 tokens), and looking at one
token of each settles nearly all (sharing.best_snapshot).
"""

from __future__ import annotations

from array import array

from aiosd.engine.base import Model
from aiosd.engine.sequence import Sequence, common_prefix
from aiosd.engine.sharing import MIN_SHARED_TOKENS, best_snapshot
from aiosd.engine.snapshots import SnapshotStore
from aiosd.kernel.model import ContextId, SlotId

LEAST_TOKENS = 64
"""Shorter ones are read in less time than it is worth to keep them."""


class Prefixes:
    """Everything in it runs on the engine thread."""

    def __init__(self, ram_bytes: int, model: Model) -> None:
        self._model = model
        self._store = SnapshotStore(ram_bytes)
        self._n_kept = 0

    @property
    def n_bytes(self) -> int:
        """Memory held now: never more than the budget."""
        return self._store.buffer_bytes

    def keep(self, uid: int, tokens: array[int], slot: SlotId) -> None:
        """The slot holds these tokens, that two contexts began with."""
        if len(tokens) < LEAST_TOKENS or not self._store.ram_bytes:
            return
        for _, known in self._store.tokens_of(uid):
            if common_prefix(known, tokens) > len(tokens) - MIN_SHARED_TOKENS:
                return
        self._n_kept += 1
        name = ContextId(f"prefix {self._n_kept}")
        self._store.save(name, uid, tokens, self._model, slot)

    def best(self, sequence: Sequence, n_known: int) -> ContextId | None:
        """The one that holds most of the sequence's tokens; None: not enough more than n_known."""
        found = best_snapshot(sequence, self._store.tokens_of(sequence.spec.uid), n_known)
        return None if found is None else found[0]

    def restore(self, name: ContextId, slot: SlotId) -> array[int]:
        """Fill the empty slot; the tokens it then holds, none if the model refuses them."""
        tokens = self._store.restore(name, self._model, slot, is_owner=False)
        return array("i") if tokens is None else tokens
