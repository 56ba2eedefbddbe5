"""Which contexts to let go, so that what is kept stays within its limits.  Pure."""

from __future__ import annotations

from collections import Counter
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
    total_bytes  of all contexts' logs together
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
    n_bytes = sum(held.n_bytes for _, held in oldest_first)
    dropped: list[ContextId] = []
    for used, held in oldest_first:
        is_idle = limits.idle_ms is not None and now_ms - used > limits.idle_ms
        is_over = limits.per_agent is not None and n_by_agent[held.agent] > limits.per_agent
        is_too_much = limits.total_bytes is not None and n_bytes > limits.total_bytes
        if held.id in busy or not (is_idle or is_over or is_too_much):
            continue
        dropped.append(held.id)
        n_by_agent[held.agent] -= 1
        n_bytes -= held.n_bytes
    return dropped
