"""Which context is in which slot, and the copies it takes to change that.

Rule 1: a context stays in its slot until someone needs the slot.
Rule 2: what a slot held is saved before it is cleared, unless nobody can want it again.
Rule 3: nothing here knows a job's state; the kernel says how much a context is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from aiosd.kernel.events import Action, Clear, Load, Move, Save
from aiosd.kernel.model import ContextId, JobId, SlotId
from aiosd.kernel.placement import FREE, LANE, Claim, Plan, Seat, place


@dataclass(slots=True)
class Context:
    """A context as the kernel sees it."""

    id: ContextId
    job: JobId | None = None  # the one it serves
    slot: SlotId | None = None
    was_resident: bool = False  # there may be a snapshot of it
    n_tokens: int = 0  # read or sampled in its jobs: roughly what there is to copy
    last_run: int = 0  # number of the last Run it was a lane of
    awaited_until_ns: int = 0  # when its next job is expected, at the latest


class Residency:
    """The contexts that were ever used and not dropped, and the slots."""

    def __init__(self, n_slots: int) -> None:
        self._slots: list[ContextId | None] = [None] * n_slots
        self._contexts: dict[ContextId, Context] = {}

    @property
    def slots(self) -> tuple[ContextId | None, ...]:
        return tuple(self._slots)

    @property
    def contexts(self) -> Mapping[ContextId, Context]:
        return MappingProxyType(self._contexts)

    def occupy(self, context: ContextId, job: JobId) -> None:
        """The context serves this job now.  ValueError if it serves another."""
        known = self._contexts.setdefault(context, Context(context))
        if known.job is not None:
            raise ValueError(f"context {context} serves job {known.job}, it can't serve {job} too")
        known.job, known.awaited_until_ns = job, 0

    def note_awaited(self, context: ContextId, until_ns: int) -> None:
        """The context, if it ever had a job, is expected to have another by then."""
        known = self._contexts.get(context)
        if known is not None:
            known.awaited_until_ns = until_ns

    def release(self, context: ContextId) -> None:
        self._contexts[context].job = None

    def drop(self, context: ContextId) -> list[Action]:
        """Forget the context; ValueError if it serves a job."""
        known = self._contexts.get(context)
        if known is None:
            return []  # it never had a job
        if known.job is not None:
            raise ValueError(f"context {context} was dropped while it serves job {known.job}")
        actions = self.vacate(context)
        del self._contexts[context]
        return actions

    def vacate(self, context: ContextId) -> list[Action]:
        """Empty the context's slot, if it has one, and don't keep what was in it."""
        slot = self._contexts[context].slot
        if slot is None:
            return []
        self._slots[slot], self._contexts[context].slot = None, None
        return [Clear(slot)]

    def seat(
        self,
        lanes: Sequence[ContextId],
        claim: Callable[[Context], Claim],
        n_steps: int | None,
        run: int,
    ) -> tuple[Plan, list[Action], list[Context]]:
        """Bring the contexts into slots, neighbours if that pays: each one's slot, what to do for
        it, and who lost its slot.

        claim says how much a context that isn't a lane is wanted; n_steps: see place(); run is
        the number of the Run they are wanted for.
        """
        chosen = [self._contexts[context] for context in lanes]
        wanted = set(lanes)
        claims = [
            FREE if held is None else LANE if held in wanted else claim(self._contexts[held])
            for held in self._slots
        ]
        plan = place([Seat(ctx.slot, ctx.n_tokens) for ctx in chosen], claims, n_steps)
        changes = [(ctx, slot) for ctx, slot in zip(chosen, plan, strict=True) if slot != ctx.slot]
        actions: list[Action] = []
        evicted = self._evict(sorted(slot for _, slot in changes), actions)
        for ctx, slot in changes:
            if ctx.slot is not None:
                actions.append(Move(ctx.id, ctx.slot, slot))
                self._slots[ctx.slot] = None
            elif ctx.was_resident:
                actions.append(Load(ctx.id, slot))
            self._slots[slot], ctx.slot, ctx.was_resident = ctx.id, slot, True
        for ctx in chosen:
            ctx.last_run = run
        return plan, actions, evicted

    def _evict(self, slots: Sequence[SlotId], actions: list[Action]) -> list[Context]:
        evicted: list[Context] = []
        for slot in slots:
            held = self._slots[slot]
            if held is not None:
                actions += [Save(held, slot), Clear(slot)]
                self._slots[slot], self._contexts[held].slot = None, None
                evicted.append(self._contexts[held])
        return evicted

    def check(self) -> None:
        """Raises AssertionError unless slots and contexts agree."""
        for index, held in enumerate(self._slots):
            if held is not None and self._contexts[held].slot != index:
                raise AssertionError(f"slot {index} holds {held}, which is elsewhere")
        for ctx in self._contexts.values():
            if ctx.slot is not None and self._slots[ctx.slot] != ctx.id:
                raise AssertionError(f"context {ctx.id} isn't in its slot {ctx.slot}")
            if ctx.slot is not None and not ctx.was_resident:
                raise AssertionError(f"context {ctx.id} is in slot {ctx.slot}, yet never was")
