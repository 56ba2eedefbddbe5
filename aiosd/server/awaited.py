"""Keep or park: how soon a context that called tools is expected back, as it was measured.

Rule 1: what counts is the way from an answer's end to the next call on its context: the tool, its
line, a person who had to be asked, the agent's own work.  So tools that the daemon doesn't run
count like those that it does.
Rule 2: a guess changes which slot is taken first, and nothing else.

A context whose answer is expected within MAX_WAIT_S keeps its slot before those nobody waits for,
for SLACK times as long as it usually takes; then it is idle like any other (kernel.Use.AWAITED).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from aiosd.kernel.model import ContextId

USUAL_S: Final = 1.0  # of a tool that nothing is known of
MAX_WAIT_S: Final = 15.0  # what takes longer gives its slot to whoever needs it
SLACK: Final = 2.0
WEIGHT: Final = 0.3  # of the newest time in the average
MAX_TOOLS: Final = 4096  # remembered, those used longest ago go
MAX_CONTEXTS: Final = 4096  # that wait at once, likewise
LONGEST_S: Final = 60.0  # what counts at most of one time: a person may have gone for lunch


class Awaited:
    """Who waits for tools, and how long each tool of a uid has taken lately.

    tell   is told of a context and the seconds within which it is expected
    usual  what the tool manager knows of a tool, for one that has no times of its own yet
    """

    def __init__(
        self,
        tell: Callable[[ContextId, float], None],
        usual: Callable[[str], float | None],
        clock_ns: Callable[[], int],
    ) -> None:
        self._tell = tell
        self._usual = usual
        self._clock_ns = clock_ns
        self._usual_s: OrderedDict[tuple[int, str], float] = OrderedDict()
        self._waiting: OrderedDict[ContextId, tuple[int, int, tuple[str, ...]]] = OrderedDict()

    def expected_s(self, uid: int, names: Iterable[str]) -> float:
        """How long calls of these tools, made at once, take together."""
        return max((self._expected_s(uid, name) for name in names), default=USUAL_S)

    def called(self, context: ContextId, uid: int, names: Iterable[str]) -> None:
        """The context's answer calls these tools so far; it may not have ended yet."""
        tools = tuple(dict.fromkeys(names))
        self._waiting[context] = (self._clock_ns(), uid, tools)
        if len(self._waiting) > MAX_CONTEXTS:
            self._waiting.popitem(last=False)
        expected_s = self.expected_s(uid, tools)
        if expected_s <= MAX_WAIT_S:
            self._tell(context, SLACK * expected_s)

    def came_back(self, context: ContextId) -> None:
        """Somebody goes on with the context; most calls come to one that didn't wait."""
        waited = self._waiting.pop(context, None)
        if waited is None:
            return
        since_ns, uid, tools = waited
        seconds = min((self._clock_ns() - since_ns) / 1e9, LONGEST_S)
        for name in tools:
            before = self._usual_s.pop((uid, name), seconds)
            self._usual_s[uid, name] = before + WEIGHT * (seconds - before)
        while len(self._usual_s) > MAX_TOOLS:
            self._usual_s.popitem(last=False)

    def _expected_s(self, uid: int, name: str) -> float:
        own = self._usual_s.get((uid, name))
        if own is not None:
            return own
        usual = self._usual(name)
        return USUAL_S if usual is None else usual
