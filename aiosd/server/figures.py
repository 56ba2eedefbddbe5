"""What the daemon counts as it happens: histograms and counters, in prometheus-client's own types.

Rule: labels have few values, known beforehand (a syscall's name, an outcome's code): no agent, no
uid, no job.  What is shown is the daemon's load and nobody's in particular.
"""

from __future__ import annotations

from collections import deque

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from aios_sdk.errors import ERRORS
from aios_sdk.syscalls import TABLE
from aiosd.kernel.model import Cost

LAG_EVERY_S = 0.5
MAX_SOURCES = 64  # of tools that are told apart
LAG_KEPT = 30  # measurements: the gauge is the worst of the last 15 seconds

_WAITS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Else each counter has a second series, the time of its start.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations


class Figures:
    """Observed on the event loop, but for steps, which the engine thread observes (the types are
    safe on any thread)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.lags_s: deque[float] = deque(maxlen=LAG_KEPT)
        self._queue = self._histogram("queue", "From a job's arrival to its first step.", _WAITS_S)
        self._ttft = self._histogram("ttft", "From a job's arrival to its first token.", _WAITS_S)
        self._gap = self._histogram("token_gap", "Between a job's tokens, as sent.", _STEPS_S)
        self._step = self._histogram("step", "One step of the engine.", _STEPS_S)
        self._calls = self._counter("syscalls", "Calls that have ended.", ("name", "outcome"))
        self._sources: set[str] = set()
        self._tools = Histogram(
            "aiosd_tool_seconds",
            "Calls of tools, by where the tools come from.",
            ("source", "outcome"),
            buckets=_WAITS_S,
            registry=self.registry,
        )
        self._refused = self._counter(
            "connections_refused", "Connections that the daemon ended, and why.", ("code",)
        )

    def call_ended(self, name: str, outcome: str) -> None:
        self._calls.labels(known_call(name), _known_outcome(outcome)).inc()

    def connection_refused(self, code: str) -> None:
        self._refused.labels(_known_outcome(code)).inc()

    def job_ended(self, cost: Cost) -> None:
        self._queue.observe(cost.queue_ns / 1e9)
        if cost.ttft_ns is not None:
            self._ttft.observe(cost.ttft_ns / 1e9)

    def tokens_came(self, n_tokens: int, since_ns: int) -> None:
        """So many tokens, such a time after the one before them."""
        for _ in range(n_tokens):
            self._gap.observe(since_ns / n_tokens / 1e9)

    def tool_ended(self, source: str, outcome: str, duration_s: float) -> None:
        if source not in self._sources and len(self._sources) >= MAX_SOURCES:
            source = "other"
        self._sources.add(source)
        self._tools.labels(source, outcome).observe(duration_s)

    def step_done(self, duration_ns: int) -> None:
        self._step.observe(duration_ns / 1e9)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"aiosd_{name}_seconds", words, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, words: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"aiosd_{name}", words, labels, registry=self.registry)


def known_call(name: str) -> str:
    """A syscall's name; what a peer made up is one word for all: labels and logs don't grow."""
    return name if name in TABLE else "unknown"


def _known_outcome(code: str) -> str:
    return code if code == "ok" or code in ERRORS else "other"
