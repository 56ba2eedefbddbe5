"""Who has read it already: the cells that begin with the same tokens as a job, wherever they are.

Rule 1: never across uids; a uid's cells, snapshots and jobs are the only ones looked at.
Rule 2: tokens are compared exactly (sequence.common_prefix), never by a hash alone.
Rule 3: sharing only saves reading: what a slot holds counts as far as its tokens equal the job's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from aiosd.engine.sequence import Leader, Sequence, common_prefix
from aiosd.kernel.model import ContextId, JobId, SlotId

MIN_SHARED_TOKENS = 16
"""Fewer are read in less time than it takes to copy a slot (FACTS: 128 tokens cost 2.3 ms to copy,
465 ms to read)."""
FILE_TOKENS_PER_SHARED = 32
"""A file is read as a whole, checked and copied: a token of it costs up to a thirtieth of what it
costs to read one (23 kB at 0.3 GB/s from a cold disk, against 2 to 4 ms)."""


@dataclass(slots=True)
class Cells:
    """What one slot holds: the tokens in its cells, whose they are, and the job whose tokens they
    are known to be a prefix of (None: compare first).  A slot that was cleared keeps its cells
    until someone else needs it: context is None then."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    uid: int | None = None
    context: ContextId | None = None
    job: JobId | None = None


def best_slot(
    sequence: Sequence, cells: Ordered[Cells], own: SlotId, n_kept: int
) -> tuple[SlotId, int] | None:
    """The slot that holds most of the sequence's first tokens, and how many; None: not enough more
    than the n_kept that are at hand."""
    best: tuple[SlotId, int] | None = None
    least = n_kept + MIN_SHARED_TOKENS
    for index, held in enumerate(cells):
        slot = SlotId(index)
        if slot == own or held.uid != sequence.spec.uid or len(held.tokens) < least:
            continue
        n_shared = min(common_prefix(held.tokens, sequence.tokens), len(sequence.tokens) - 1)
        if n_shared >= least:
            best, least = (slot, n_shared), n_shared + 1
    return best


def best_snapshot(
    sequence: Sequence,
    snapshots: Iterable[tuple[ContextId, array[int]]],
    n_kept: int,
    *,
    is_in_file: bool = False,
) -> tuple[ContextId, int] | None:
    """As best_slot, for the uid's snapshots."""
    best: tuple[ContextId, int] | None = None
    at_least = n_kept + MIN_SHARED_TOKENS
    for context, tokens in snapshots:
        least = at_least
        if is_in_file:
            least = max(least, n_kept + len(tokens) // FILE_TOKENS_PER_SHARED)
        # Most differ early on: a look at one token saves comparing all.
        if len(tokens) < least or len(sequence.tokens) <= least:
            continue
        if tokens[least - 1] != sequence.tokens[least - 1]:
            continue
        n_shared = min(common_prefix(tokens, sequence.tokens), len(sequence.tokens) - 1)
        if n_shared >= least:
            best, at_least = (context, n_shared), n_shared + 1
    return best


def leader_of(
    sequence: Sequence, before: Iterable[Sequence], n_read: Mapping[JobId, int], n_kept: int
) -> Leader | None:
    """Whom to wait for: of those that read before this one, a job of the uid, still reading its
    prompt, that shares most."""
    best: Leader | None = None
    least = n_kept + MIN_SHARED_TOKENS
    for other in before:
        job = other.spec.job
        if other.spec.uid != sequence.spec.uid or n_read[job] >= len(other.tokens) - 1:
            continue
        n_shared = min(common_prefix(other.tokens, sequence.tokens), len(sequence.tokens) - 1)
        n_shared = min(n_shared, len(other.tokens) - 1)
        if n_shared >= least and n_shared > n_read[job]:
            best, least = Leader(job, n_shared), n_shared + 1
    return best
