"""Which contexts to let go, so that what is kept stays within its limits.  Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiosd.kernel.model import AgentId, ContextId


@dataclass(frozen=True, slots=True)
class Held:
    """A context as retention sees it."""

    id: ContextId
    agent: AgentId
    used_ms: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept.  None: no limit of that kind.

    per_agent    contexts of one agent
    idle_ms      time since a context was last used
    total_bytes  of all contexts' logs together; the uid that has most gives first
    """

    per_agent: int | None = None
    idle_ms: int | None = None
    total_bytes: int | None = None


def to_drop(
    contexts: Iterable[Held],
    limits: Retention,
    now_ms: int,
    busy: frozenset[ContextId] = frozenset(),
    used_ms: Mapping[ContextId, int] | None = None,
) -> list[ContextId]:
    """The fewest, oldest use first, that bring what is kept within the limits.

    Busy ones count and are never chosen, so that a limit can stay exceeded while they are.
    used_ms: later uses than the contexts know of, as memory has them.
    """
    later = used_ms or {}
    oldest_first = sorted(
        ((max(held.used_ms, later.get(held.id, 0)), held) for held in contexts),
        key=lambda pair: (pair[0], pair[1].id),
    )
    n_by_agent = Counter(held.agent for _, held in oldest_first)
    dropped: list[ContextId] = []
    kept: list[Held] = []
    for used, held in oldest_first:
        is_idle = limits.idle_ms is not None and now_ms - used > limits.idle_ms
        is_over = limits.per_agent is not None and n_by_agent[held.agent] > limits.per_agent
        if held.id not in busy and (is_idle or is_over):
            dropped.append(held.id)
            n_by_agent[held.agent] -= 1
        else:
            kept.append(held)
    if limits.total_bytes is not None:
        dropped += _over_bytes(kept, limits.total_bytes, busy)
    return dropped


def _over_bytes(
    oldest_first: list[Held], total_bytes: int, busy: frozenset[ContextId]
) -> list[ContextId]:
    """Whoever has most gives first: one uid's hoard doesn't cost another its contexts."""
    n_by_uid: Counter[int] = Counter()
    idle: dict[int, deque[Held]] = {}
    for held in oldest_first:
        n_by_uid[held.agent.uid] += held.n_bytes
        if held.id not in busy:
            idle.setdefault(held.agent.uid, deque()).append(held)
    dropped: list[ContextId] = []
    while idle and n_by_uid.total() > total_bytes:
        uid = max(idle, key=lambda uid: n_by_uid[uid])
        held = idle[uid].popleft()
        if not idle[uid]:
            del idle[uid]
        dropped.append(held.id)
        n_by_uid[uid] -= held.n_bytes
    return dropped
