"""The stream of what happens (sys.events): jobs that start, park and end, refusals, reloads.

Rule 1: a listener gets what concerns its own uid, or everybody; an admin gets all, an agent that
the daemon runs what concerns itself and those below it.
Rule 2: nobody who is slow to read holds up anybody: past the buffer's limit what happens is lost
to that listener, which is told how much, where in the stream, when it reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aios_sdk.errors import QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services.access import Subject, may_see

Happening = dict[str, Any]


@dataclass(slots=True, eq=False)
class Listener:
    """One reader's buffer.  changed is set while there is something in it."""

    viewer: Subject
    limit: int
    n_lost: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: deque[Happening] = field(default_factory=deque)

    @property
    def uid(self) -> int:
        return self.viewer.agent.uid

    def hears(self, uid: int, agent: str | None) -> bool:
        """Whether what happens to that agent (None: at large) of the uid is for it."""
        return may_see(AgentId(uid, agent or ""), self.viewer)

    def offer(self, happening: Happening) -> None:
        if len(self._waiting) >= self.limit:
            self.n_lost += 1
        else:
            self._note_loss(happening["at_ms"])
            self._waiting.append(happening)
        self.changed.set()

    def take(self, now_ms: int) -> Happening | None:
        """The oldest one; None when there is none left."""
        if not self._waiting:
            self._note_loss(now_ms)
        if self._waiting:
            return self._waiting.popleft()
        self.changed.clear()
        return None

    def _note_loss(self, at_ms: int) -> None:
        if self.n_lost:
            self._waiting.append({"event": "lost", "at_ms": at_ms, "lost": self.n_lost})
            self.n_lost = 0


class Happenings:
    """Who listens, and the way to tell them."""

    def __init__(self, max_waiting: int, max_per_uid: int) -> None:
        self._max_waiting = max_waiting
        self._max_per_uid = max_per_uid
        self._listeners: set[Listener] = set()

    def __len__(self) -> int:
        return len(self._listeners)

    def tell(self, event: str, uid: int | None, at_ms: int, **facts: Any) -> None:
        """uid: whom it concerns; None: everybody.  Facts that are None are left out."""
        if not self._listeners:
            return
        known = {key: value for key, value in facts.items() if value is not None}
        if uid is not None:
            known["uid"] = uid
        happening = {"event": event, "at_ms": at_ms, **known}
        for listener in self._listeners:
            if uid is None or listener.hears(uid, facts.get("agent")):
                listener.offer(happening)

    @contextlib.contextmanager
    def listening(self, viewer: Subject) -> Iterator[Listener]:
        """A listener, as long as the block lasts.  QuotaExceeded if its uid has enough."""
        uid = viewer.agent.uid
        n_own = sum(listener.uid == uid for listener in self._listeners)
        if n_own >= self._max_per_uid:
            raise QuotaExceeded(
                f"uid {uid} has {n_own} streams of events open, limit is {self._max_per_uid}",
                limit=self._max_per_uid,
                used=n_own,
            )
        listener = Listener(viewer, self._max_waiting)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
