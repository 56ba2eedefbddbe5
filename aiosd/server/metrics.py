"""The daemon's figures in Prometheus' text format: totals only, which say nothing of anyone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon


class DaemonCollector(Collector):
    """Reads the figures when they are asked for; keeps none of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def collect(self) -> Iterator[Metric]:
        kernel, stats = self._d.driver.kernel, self._d.engine.stats
        jobs = GaugeMetricFamily("aiosd_jobs", "Jobs that have not ended.", labels=["state"])
        for state, n_jobs in kernel.counts.items():
            jobs.add_metric([state.value], n_jobs)
        yield jobs
        ended = CounterMetricFamily("aiosd_jobs_ended", "Jobs that have ended.", labels=["outcome"])
        for outcome, n_jobs in kernel.counters.finished.items():
            ended.add_metric([outcome.value], n_jobs)
        yield ended
        tokens = CounterMetricFamily("aiosd_tokens", "Tokens by what was done.", labels=["kind"])
        for kind in ("prompt", "cached", "reread", "output"):
            tokens.add_metric([kind], getattr(stats, f"{kind}_tokens"))
        yield tokens
        switches = CounterMetricFamily(
            "aiosd_switches", "What switching contexts took.", labels=["kind"]
        )
        for kind in ("runs", "slices", "parks", "saves", "loads", "moves"):
            switches.add_metric([kind], getattr(kernel.counters, kind))
        yield switches
        snapshots = GaugeMetricFamily(
            "aiosd_snapshot_bytes", "Parked contexts, by where they are.", labels=["tier"]
        )
        snapshots.add_metric(["ram"], stats.snapshot_ram_bytes)
        snapshots.add_metric(["file"], stats.snapshot_file_bytes)
        yield snapshots
        for name, words, value in (
            ("aiosd_steps", "Steps of the engine.", stats.steps),
            ("aiosd_engine_busy_seconds", "Time spent in steps.", stats.busy_ns / 1e9),
            ("aiosd_snapshots_lost", "Snapshots there was no room for.", stats.snapshots_lost),
        ):
            yield CounterMetricFamily(name, words, value=value)
        for name, words, value in (
            ("aiosd_slots", "Contexts the model has room for.", kernel.n_slots),
            ("aiosd_lanes", "Jobs that may step together.", kernel.n_lanes),
            ("aiosd_threads", "Threads the model runs on now.", stats.n_threads),
            ("aiosd_contexts", "Contexts that are kept.", len(self._d.contexts)),
            ("aiosd_contexts_bytes", "Their logs together.", self._d.contexts.n_bytes),
        ):
            yield GaugeMetricFamily(name, words, value=value)


def exposition(daemon: Daemon) -> str:
    """All figures, as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DaemonCollector(daemon))
    return generate_latest(registry).decode()
