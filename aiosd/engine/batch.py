"""What one step decodes: lanes in, the pieces of each decode call out.  Pure.

Rule 1: talkers (lanes with one token left to read) are in every step.  A long prompt can't delay
them by more than its share of the step.
Rule 2: prefill gets prefill_tokens a step, the first reader as much as it can use, then the next.
Rule 3: within a call pieces are sorted by slot: llama.cpp splits unsorted ones into more batches.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from aiosd.engine.base import Piece
from aiosd.kernel.model import SlotId

_slot_of = attrgetter("slot")


@dataclass(frozen=True, slots=True)
class Reader:
    """A lane with something to read: ``tokens`` from ``start`` on, at least one.

    is_alone  its pieces share a decode call with nobody (it was in a call that failed)
    """

    slot: SlotId
    start: int
    tokens: array[int]
    is_alone: bool = False


def plan(
    readers: Sequence[Reader],
    *,
    prefill_tokens: int,
    max_batch_tokens: int,
    is_joint: bool = False,
) -> list[list[Piece]]:
    """The decode calls of one step, talkers first.

    readers   in the order in which they get the prefill budget
    is_joint  put talkers and prefill into one call where it holds them all
    """
    talking: list[Piece] = []
    prefilling: list[Piece] = []
    alone: list[list[Piece]] = []
    budget = min(prefill_tokens, max_batch_tokens)
    for reader in readers:
        n_unread = len(reader.tokens) - reader.start
        is_talker = n_unread == 1
        n_read = n_unread if is_talker else min(n_unread, budget)
        if n_read == 0:
            continue
        end = reader.start + n_read
        piece = Piece(
            reader.slot, reader.start, reader.tokens[reader.start : end], n_read == n_unread
        )
        if not is_talker:
            budget -= n_read
        if reader.is_alone:
            alone.append([piece])
        else:
            (talking if is_talker else prefilling).append(piece)
    n_prefilling = sum(len(piece.tokens) for piece in prefilling)
    if is_joint and talking and len(talking) + n_prefilling <= max_batch_tokens:
        return [sorted(talking + prefilling, key=_slot_of), *alone]
    talking.sort(key=_slot_of)
    prefilling.sort(key=_slot_of)
    calls = [
        talking[first : first + max_batch_tokens]
        for first in range(0, len(talking), max_batch_tokens)
    ]
    if prefilling:
        calls.append(prefilling)
    return calls + alone
