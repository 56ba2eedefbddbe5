"""Bytes that the params of calls in flight may hold, per uid: connections are many, memory is not.

Rule: a uid's only call is let in whatever its size; the frame's own limit bounds it.
"""

from __future__ import annotations

from aios_sdk.errors import Busy

RETRY_MS = 100


class ParamsBudget:
    """What each uid's calls in flight brought along."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[int, int] = {}

    def held(self, uid: int) -> int:
        return self._held.get(uid, 0)

    def check(self, uid: int, n_bytes: int) -> None:
        """Busy if there is no room for so many more now."""
        held = self.held(uid)
        if held and held + n_bytes > self._limit_bytes:
            raise Busy(
                f"the calls in flight of uid {uid} hold {held} bytes of params and this one has "
                f"{n_bytes}, limit is {self._limit_bytes} together; try again in {RETRY_MS} ms",
                retry_after_ms=RETRY_MS,
                limit=self._limit_bytes,
                used=held,
            )

    def take(self, uid: int, n_bytes: int) -> None:
        """Count them until give_back()."""
        self._held[uid] = self.held(uid) + n_bytes

    def give_back(self, uid: int, n_bytes: int) -> None:
        self._held[uid] -= n_bytes
        if not self._held[uid]:
            del self._held[uid]
