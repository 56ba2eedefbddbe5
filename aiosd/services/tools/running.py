"""Calls under way: each under its tool's deadline, its result bounded, its time measured."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aios_sdk.errors import Internal, SyscallError
from aios_sdk.errors import ToolFailed as Failed
from aiosd.kernel.model import AgentId
from aiosd.services.tools import outcome
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult, ToolSource
from aiosd.services.tools.surroundings import LONG_WORK, InWorker, Observer

log = structlog.get_logger()

PROGRESS_EVERY_S: Final = 0.05  # reports that come faster are dropped
EWMA_WEIGHT: Final = 0.2  # of the newest call in how long a tool usually takes

OnProgress = Callable[[Progress], None]


@dataclass(slots=True, eq=False)
class Running:
    """A call under way; ended says why it must end before its time."""

    source: ToolSource
    scope: asyncio.Timeout
    ended: str | None = None

    def end(self, reason: str) -> None:
        if self.ended is None and not self.scope.expired():
            self.ended = reason
            self.scope.reschedule(asyncio.get_running_loop().time())


class Calls:
    """All that run, and how long each tool's took lately."""

    def __init__(
        self, in_worker: InWorker, observer: Observer, max_bytes: Callable[[], int]
    ) -> None:
        self._in_worker = in_worker
        self._observer = observer
        self._max_bytes = max_bytes
        self._running: set[Running] = set()
        self._usual_s: dict[str, float] = {}

    def usual_s(self, name: str) -> float | None:
        """How long the tool's calls have taken lately; None if there was none yet."""
        return self._usual_s.get(name)

    def end_all_of(self, source: ToolSource, reason: str) -> None:
        """They fail with this reason."""
        for running in [one for one in self._running if one.source is source]:
            running.end(reason)

    def keep(self, names: Collection[str]) -> None:
        """Forget how long other tools took."""
        self._usual_s = {name: s for name, s in self._usual_s.items() if name in names}

    async def run(
        self,
        tool: Tool,
        source: ToolSource,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: OnProgress,
    ) -> ToolResult:
        """The result, bounded.  Raises a SyscallError, whatever the source does."""
        began_ns, ended = time.monotonic_ns(), "cancelled"
        running = Running(source, asyncio.timeout(tool.timeout_s))
        self._running.add(running)
        try:
            async with running.scope:
                result = await source.call(tool, arguments, caller, _thinned(on_progress))
            ended = "error" if result.is_error else "ok"
        except TimeoutError:
            ended = "failed"
            words, bound = "it timed out", {}
            if running.scope.expired():
                late = f"took longer than its {tool.timeout_s:g} s and was ended"
                words = running.ended or late
                bound = {} if running.ended else {"bound": "its time is used up"}
            raise Failed(f"{tool.name}: {words}", tool=tool.name, **bound) from None
        except ToolFailed as error:
            ended = "failed"
            bound = {"bound": error.bound} if error.bound else {}
            raise Failed(f"{tool.name}: {error}", tool=tool.name, **bound) from None
        except SyscallError:
            ended = "failed"
            raise
        except Exception:  # a source's bug ends its call and no other
            ended, bug = "failed", secrets.token_hex(4)
            log.exception("bug", id=bug, name=f"tool source {source.name}")
            raise Internal(
                f"a bug of aiosd; its log has the details under id {bug}", id=bug
            ) from None
        finally:
            self._running.discard(running)
            seconds = (time.monotonic_ns() - began_ns) / 1e9
            if ended in ("ok", "error"):
                before = self._usual_s.get(tool.name, seconds)
                self._usual_s[tool.name] = before + EWMA_WEIGHT * (seconds - before)
            self._observer.tool_ended(tool, caller, ended, seconds)
        max_bytes = self._max_bytes()
        if len(result.content) < LONG_WORK and result.structured is None:
            return outcome.bounded(result, max_bytes)
        return await self._in_worker(lambda: outcome.bounded(result, max_bytes), caller.uid)


def _thinned(on_progress: OnProgress) -> OnProgress:
    """Tells on_progress at most so often, and no more than so much."""
    last_s = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= PROGRESS_EVERY_S:
            last_s = now_s
            on_progress(outcome.short(progress))

    return tell
