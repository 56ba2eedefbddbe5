"""The daemon's figures in Prometheus' text format: totals only, which say nothing of anyone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aiosd import logs

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon

COLLECT_S = 5.0  # longer than the loop ever takes to come to it


class DaemonCollector(Collector):
    """Reads the figures when they are asked for, on the event loop; keeps none of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def collect(self) -> Iterator[Metric]:
        yield from self._d.telemetry.figures.registry.collect()
        yield from self._scheduler()
        yield from self._engine()
        yield from self._server()

    def _scheduler(self) -> Iterator[Metric]:
        kernel = self._d.driver.kernel
        yield _gauges("jobs", "Jobs that have not ended.", "state",
                      {state.value: n for state, n in kernel.counts.items()})  # fmt: skip
        yield CounterMetricFamily(
            "aiosd_jobs_submitted",
            "Jobs that were queued; less those that ended it is the jobs there are.",
            value=self._d.driver.n_submitted,
        )
        yield _counters("jobs_ended", "Jobs that have ended.", "outcome",
                        {o.value: n for o, n in kernel.counters.finished.items()})  # fmt: skip
        kinds = ("runs", "slices", "parks", "saves", "loads", "moves")
        yield _counters("switches", "What switching contexts took.", "kind",
                        {kind: getattr(kernel.counters, kind) for kind in kinds})  # fmt: skip
        yield _gauge("slots", "Contexts the model has room for.", kernel.n_slots)
        n_used = sum(context is not None for context in kernel.slots)
        yield _gauge("slots_used", "Slots that hold a context.", n_used)
        yield _gauge("lanes", "Jobs that may step together.", kernel.n_lanes)
        yield _gauge("lanes_used", "Jobs that step now.", len(kernel.lanes))

    def _engine(self) -> Iterator[Metric]:
        stats = self._d.engine.stats
        kinds = ("prompt", "cached", "reread", "output")
        yield _counters("tokens", "Tokens by what was done.", "kind",
                        {kind: getattr(stats, f"{kind}_tokens") for kind in kinds})  # fmt: skip
        yield _gauges(
            "snapshot_bytes",
            "Parked contexts, by where they are.",
            "tier",
            {"ram": stats.snapshot_ram_bytes, "file": stats.snapshot_file_bytes},
        )
        yield _gauge("snapshot_files", "Files of parked contexts.", stats.snapshot_files)
        for name, words, value in (
            ("steps", "Steps of the engine.", stats.steps),
            ("engine_busy_seconds", "Time spent in steps.", stats.busy_ns / 1e9),
            ("snapshots_lost", "Snapshots there was no room for.", stats.snapshots_lost),
            ("snapshot_files_bad", "Snapshot files that were no use.", stats.snapshot_files_bad),
            ("snapshot_writes_failed", "Snapshots not written.", stats.snapshot_writes_failed),
        ):
            yield CounterMetricFamily(f"aiosd_{name}", words, value=value)
        yield _gauge("threads", "Threads the model runs on now.", stats.n_threads)

    def _server(self) -> Iterator[Metric]:
        d = self._d
        yield _gauge("connections", "Open connections.", d.n_connections)
        yield _gauge("calls", "Calls in flight.", d.n_calls)
        yield _gauge("event_streams", "Streams of sys.events.", len(d.telemetry.happenings))
        yield _gauge("agent_processes", "Agents that run as processes.", len(d.processes))
        yield _gauge("contexts", "Contexts that are kept.", len(d.contexts))
        yield _gauge("contexts_bytes", "Their logs together.", d.contexts.n_bytes)
        lags_s = d.telemetry.figures.lags_s
        yield _gauge("loop_lag_seconds", "The event loop's worst delay in the last 15 s.",
                     max(lags_s, default=0.0))  # fmt: skip
        yield CounterMetricFamily(
            "aiosd_log_lines_dropped", "Log lines nobody took.", value=logs.n_dropped()
        )


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"aiosd_{name}", words, value=value)


def _gauges(name: str, words: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(f"aiosd_{name}", words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counters(name: str, words: str, label: str, values: dict[str, float]) -> Metric:
    family = CounterMetricFamily(f"aiosd_{name}", words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


class Collected(Collector):
    """Figures that were read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


class FromAnotherThread(Collector):
    """Has the figures read on the event loop, and waits for them."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def collect(self) -> Iterable[Metric]:
        async def read() -> list[Metric]:
            return list(DaemonCollector(self._d).collect())

        return asyncio.run_coroutine_threadsafe(read(), self._d.loop).result(COLLECT_S)


async def exposition(daemon: Daemon) -> str:
    """All figures, as Prometheus reads them.  Read on the loop, written out in a worker."""
    collected = Collected(DaemonCollector(daemon).collect())
    return (await daemon.in_worker(lambda: generate_latest(collected))).decode()
