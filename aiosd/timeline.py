"""The recent past of the slots, with whose work it was: what sys.trace and its pictures show.

Rule: bounded by number; the oldest spans go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiosd.engine.spans import Activity, Span
from aiosd.kernel.model import AgentId, ContextId, SlotId


@dataclass(frozen=True, slots=True)
class OwnedSpan:
    """A span and the agent that it was done for; None: that isn't known any more."""

    span: Span
    agent: AgentId | None


class Timeline:
    """agents says whose a context is; a slot that is given up was its last user's."""

    def __init__(self, max_spans: int, agents: Mapping[ContextId, AgentId]) -> None:
        self._spans: deque[OwnedSpan] = deque(maxlen=max_spans)
        self._agents = agents
        self._last_agents: dict[SlotId, AgentId] = {}
        self.n_forgotten = 0

    def add(self, spans: Iterable[Span]) -> None:
        for span in spans:
            agent = None if span.context is None else self._agents.get(span.context)
            agent = agent or self._last_agents.get(span.slot)
            if span.activity is Activity.CLEAR:
                self._last_agents.pop(span.slot, None)
            elif agent is not None:
                self._last_agents[span.slot] = agent
            self.n_forgotten += len(self._spans) == self._spans.maxlen
            self._spans.append(OwnedSpan(span, agent))

    def since(self, began_ns: int) -> list[OwnedSpan]:
        """What ended at that time or later, in the order in which it ended."""
        return [owned for owned in self._spans if owned.span.ended_ns >= began_ns]
