"""Tokens per minute: a bucket per agent that has a limit.  Over it an agent waits, nothing fails.

A bucket holds one minute's tokens and fills steadily.  A turn may take more than there is (a piece
of prompt isn't cut in two): then the bucket is below empty, and the wait so much longer.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from aiosd.kernel.model import AgentId

MINUTE_NS = 60 * 10**9
SPARE_ENTRIES = 64  # stale ones of the heap: limits that change in a loop shall not make it grow


@dataclass(slots=True)
class _Bucket:
    """level is in tokens times MINUTE_NS, so that filling it is exact; due_ns: when an empty one
    goes on."""

    tokens_per_minute: int
    level: int
    filled_ns: int
    is_empty: bool = False
    due_ns: int = 0

    def fill(self, now_ns: int) -> None:
        gained = self.tokens_per_minute * (now_ns - self.filled_ns)
        self.level = min(self.level + gained, self.tokens_per_minute * MINUTE_NS)
        self.filled_ns = now_ns


class Rates:
    """The agents that have a limit, and those that wait for it."""

    def __init__(self) -> None:
        self._buckets: dict[AgentId, _Bucket] = {}
        self._due: list[tuple[int, AgentId]] = []  # when each empty one goes on; stale ones skipped

    def limit(self, agent: AgentId, tokens_per_minute: int | None, now_ns: int) -> None:
        """Set or lift the agent's limit; what it has used in the last minute still counts."""
        known = self._buckets.get(agent)
        if tokens_per_minute is None:
            self._buckets.pop(agent, None)
            return
        if known is None:
            level = tokens_per_minute * MINUTE_NS
            self._buckets[agent] = _Bucket(tokens_per_minute, level, now_ns)
            return
        known.fill(now_ns)
        used = known.tokens_per_minute * MINUTE_NS - known.level
        known.tokens_per_minute = tokens_per_minute
        known.level = tokens_per_minute * MINUTE_NS - used
        self._judge(agent, known)

    def charge(self, agent: AgentId, n_tokens: int, now_ns: int) -> None:
        bucket = self._buckets.get(agent)
        if bucket is not None:
            bucket.fill(now_ns)
            bucket.level -= n_tokens * MINUTE_NS
            self._judge(agent, bucket)

    def _judge(self, agent: AgentId, bucket: _Bucket) -> None:
        """Once empty it stays so until it holds a second's worth: a turn is to be worth it."""
        enough = max(1, bucket.tokens_per_minute // 60) * MINUTE_NS
        bucket.is_empty = bucket.level < (enough if bucket.is_empty else MINUTE_NS)
        if bucket.is_empty:
            wait_ns = -(-(enough - bucket.level) // bucket.tokens_per_minute)
            bucket.due_ns = bucket.filled_ns + wait_ns
            heapq.heappush(self._due, (bucket.due_ns, agent))
            if len(self._due) > 2 * len(self._buckets) + SPARE_ENTRIES:
                self._due = [(b.due_ns, who) for who, b in self._buckets.items() if b.is_empty]
                heapq.heapify(self._due)

    def is_empty(self, agent: AgentId) -> bool:
        bucket = self._buckets.get(agent)
        return bucket is not None and bucket.is_empty

    def room(self, agent: AgentId, now_ns: int) -> int | None:
        """Tokens the agent may take now, at least 1 if it may run at all; None: no limit."""
        bucket = self._buckets.get(agent)
        if bucket is None:
            return None
        bucket.fill(now_ns)
        return max(1, bucket.level // MINUTE_NS)

    def wake_ns(self) -> int | None:
        """When the next agent may go on; None if nobody waits."""
        return self._due[0][0] if self._due else None

    def due_ns(self, agent: AgentId) -> int | None:
        """When the agent may go on; None if it doesn't wait."""
        if not self.is_empty(agent):
            return None
        return self._buckets[agent].due_ns

    def refill(self, now_ns: int) -> list[AgentId]:
        """Who may go on now."""
        awake: list[AgentId] = []
        while self._due and self._due[0][0] <= now_ns:
            due_ns, agent = heapq.heappop(self._due)
            bucket = self._buckets.get(agent)
            if bucket is None or not bucket.is_empty or bucket.due_ns != due_ns:
                continue
            bucket.fill(now_ns)
            self._judge(agent, bucket)
            if not bucket.is_empty:
                awake.append(agent)
        return awake
