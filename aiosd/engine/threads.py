"""How many threads llama.cpp computes with, and how they wait for each other.

Rule 1: set_environment() runs before anything imports aiosd.engine.llama: OpenMP reads its
environment once, when it is loaded.
Rule 2: deciding (choose_threads) is apart from measuring (BusyCores).

ggml's threads meet at a barrier several times per layer.  If one of them has to share its core
with another process, all wait for it: beside a busy one, 2 threads on 2 cores are slower than 1.
The number of threads changes nothing of what is computed, only when.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_S = 0.5  # shorter, and /proc/stat's 10 ms ticks are too coarse
STALE_S = 5.0  # after a pause as long as this, what was measured before says nothing
UPS_NEEDED = 2  # samples in a row before a thread is added: a neighbour may only have paused

_SPIN_COUNT = "3000"


def set_environment() -> None:
    """Let OpenMP's threads spin briefly, then sleep; what the user has set stays.

    Measured on 2 cores, tokens/s of 4 and 8 lanes, idle and (2 threads) beside one busy process:
    default 172/236 and below 20/35, 10,000 rounds 169/237 and 33/48, 5,000 170/235 and 50/78,
    3,000 171/236, 1,000 150/220 and 77/109.  Beside a busy process a thread is taken away too,
    which gives more than any of these.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def usable_cpus() -> int:
    """The cores this process may run on: its affinity, and its control group's quota rounded up."""
    n_cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return n_cpus if quota is None else max(1, min(n_cpus, math.ceil(quota)))


def choose_threads(n_max: int, n_cpus: int, busy_elsewhere_cores: float, current: int) -> int:
    """How many threads to use now: one per core that others leave free.

    A thread goes when less than half a core is left for it, and comes back when three quarters are:
    in between nothing changes, so that a neighbour at the border doesn't make it flap.
    """
    limit = max(1, min(n_max, n_cpus))
    free_cores = max(0.0, n_cpus - busy_elsewhere_cores)
    fewer = math.floor(free_cores + 0.5)
    more = math.floor(free_cores + 0.25)
    wanted = min(max(current, more), max(fewer, more))
    return max(1, min(limit, wanted))


class BusyCores:
    """How many of this process's cores others kept busy since the sample before."""

    def __init__(
        self,
        stat: Path = Path("/proc/stat"),
        now_ns: Callable[[], int] = time.monotonic_ns,
        own_ns: Callable[[], int] = time.process_time_ns,
    ) -> None:
        self._stat = stat
        self._now_ns = now_ns
        self._own_ns = own_ns
        self._cpus = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self._ns_per_tick = 10**9 // os.sysconf("SC_CLK_TCK")
        self._before: tuple[int, int, int] | None = None

    def sample(self) -> float | None:
        """None: too soon since the sample before, or nothing to compare with yet."""
        now = self._now_ns()
        if self._before is not None and now - self._before[0] < SAMPLE_S * 1e9:
            return None
        busy = self._read_busy_ns()
        if busy is None:
            return None
        own = self._own_ns()
        before, self._before = self._before, (now, busy, own)
        if before is None or now - before[0] > STALE_S * 1e9:
            return None
        others = (busy - before[1]) - (own - before[2])
        return max(0.0, others / (now - before[0]))

    def _read_busy_ns(self) -> int | None:
        """Time the cores spent on anything but idling; None where that can't be read.

        Source: proc(5): user nice system idle iowait irq softirq steal, in ticks.
        """
        try:
            lines = self._stat.read_text().splitlines()
        except OSError:
            return None
        ticks = 0
        for line in lines:
            name, *fields = line.split()
            if name in self._cpus:
                values = [int(field) for field in fields[:8]]
                ticks += sum(values) - sum(values[3:5])
        return ticks * self._ns_per_tick


class ThreadAdapter:
    """Called by the engine thread between steps; sets the number of threads if it should change."""

    def __init__(
        self,
        set_threads: Callable[[int], None],
        n_max: int,
        n_cpus: int | None = None,
        busy: BusyCores | None = None,
    ) -> None:
        self._set_threads = set_threads
        self._n_max = n_max
        self._n_cpus = usable_cpus() if n_cpus is None else n_cpus
        self._busy = busy or BusyCores()
        self._n_ups = 0
        self.n_threads = max(1, min(n_max, self._n_cpus))
        set_threads(self.n_threads)

    def __call__(self) -> None:
        busy_cores = self._busy.sample()
        if busy_cores is None:
            return
        wanted = choose_threads(self._n_max, self._n_cpus, busy_cores, self.n_threads)
        self._n_ups = self._n_ups + 1 if wanted > self.n_threads else 0
        if wanted < self.n_threads or self._n_ups >= UPS_NEEDED:
            self._n_ups = 0
            self.n_threads = wanted
            self._set_threads(wanted)


def _cgroup_quota(membership: Path, root: Path) -> float | None:
    """Cores that the tightest quota of our control groups (v2) allows; None without one."""
    try:
        line = next(x for x in membership.read_text().splitlines() if x.startswith("0::"))
    except (OSError, StopIteration):
        return None
    quotas: list[float] = []
    group = root / line.removeprefix("0::").lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
