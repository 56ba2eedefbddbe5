"""Choosing threads: the decision by examples, the measuring against files written here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiosd.engine import threads
from aiosd.engine.threads import BusyCores, ThreadAdapter, choose_threads

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CPU = min(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("n_max", "n_cpus", "busy", "current", "wanted"),
    [
        (2, 2, 0.0, 2, 2),
        (2, 2, 0.4, 2, 2),
        (2, 2, 0.6, 2, 1),  # less than half a core is left for the second
        (2, 2, 1.0, 1, 1),
        (2, 2, 0.4, 1, 1),  # not enough yet to come back
        (2, 2, 0.2, 1, 2),
        (2, 2, 2.0, 2, 1),  # never none
        (2, 2, 9.0, 1, 1),
        (8, 8, 3.2, 8, 5),
        (8, 8, 3.2, 5, 5),
        (8, 8, 0.0, 1, 8),
        (4, 8, 3.2, 4, 4),  # others have cores that we don't use
        (4, 8, 7.0, 4, 1),
        (8, 2, 0.0, 8, 2),
        (1, 16, 0.0, 1, 1),
    ],
)
def test_a_thread_for_each_core_that_others_leave_free(
    n_max: int, n_cpus: int, busy: float, current: int, wanted: int
) -> None:
    assert choose_threads(n_max, n_cpus, busy, current) == wanted


def test_no_load_makes_the_number_flap() -> None:
    for tenths in range(81):
        current = 8
        chosen = [current := choose_threads(8, 8, tenths / 10, current) for _ in range(6)]
        assert len(set(chosen[1:])) == 1, tenths


class Machine:
    """A /proc/stat, a clock and our own CPU time, all set by hand."""

    def __init__(self, folder: Path) -> None:
        self.stat = folder / "stat"
        self.now_ns = 0
        self.own_ns = 0
        self.busy_s = 0.0
        self.pass_time(0.0, others=0.0, ours=0.0)

    def pass_time(self, seconds: float, *, others: float, ours: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.own_ns += int(ours * seconds * 1e9)
        self.busy_s += (others + ours) * seconds
        ticks = int(self.busy_s * TICKS_PER_S)
        self.stat.write_text(
            f"cpu  1 2 3 4 5 6 7 8 9 10\ncpu{CPU} {ticks} 0 0 777 888 0 0 0 0 0\n"
            f"cpu99999 {10 * ticks} 0 0 0 0 0 0 0 0 0\nintr 1 2 3\n"
        )

    def cores(self) -> BusyCores:
        return BusyCores(self.stat, lambda: self.now_ns, lambda: self.own_ns)


def test_busy_cores_are_those_of_others_on_our_cores(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    busy = machine.cores()
    assert busy.sample() is None  # nothing to compare with
    machine.pass_time(1.0, others=0.75, ours=2.0)
    assert busy.sample() == pytest.approx(0.75, abs=0.02)
    machine.pass_time(0.3, others=1.0, ours=0.0)
    assert busy.sample() is None  # too soon
    machine.pass_time(0.3, others=1.0, ours=0.0)
    assert busy.sample() == pytest.approx(1.0, abs=0.04)
    machine.pass_time(1.0, others=0.0, ours=1.0)
    assert busy.sample() == pytest.approx(0.0, abs=0.02)
    machine.pass_time(60.0, others=1.0, ours=0.0)
    assert busy.sample() is None  # what lies a minute back says nothing
    machine.pass_time(1.0, others=0.5, ours=0.0)
    assert busy.sample() == pytest.approx(0.5, abs=0.02)


def test_without_proc_stat_nothing_is_known(tmp_path: Path) -> None:
    assert BusyCores(tmp_path / "missing").sample() is None


def test_threads_go_at_once_and_come_back_after_two_quiet_samples(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    chosen: list[int] = []
    adapt = ThreadAdapter(chosen.append, 2, n_cpus=2, busy=machine.cores())
    adapt()
    assert chosen == [2]
    for others in (0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0):
        machine.pass_time(1.0, others=others, ours=1.0)
        adapt()
    assert chosen == [2, 1, 2]
    assert adapt.n_threads == 2


def test_the_real_machine_can_be_read() -> None:
    clock = iter([0, 10**9])
    busy = BusyCores(now_ns=lambda: next(clock))
    assert busy.sample() is None
    sample = busy.sample()
    assert sample is not None
    assert sample >= 0.0


def test_quotas_of_control_groups_count(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("1:name=systemd:/x\n0::/user.slice/aiosd.service\n")
    root = tmp_path / "sys"
    group = root / "user.slice" / "aiosd.service"
    group.mkdir(parents=True)
    assert threads._cgroup_quota(membership, root) is None
    (group / "cpu.max").write_text("max 100000\n")
    assert threads._cgroup_quota(membership, root) is None
    (root / "user.slice" / "cpu.max").write_text("150000 100000\n")
    assert threads._cgroup_quota(membership, root) == 1.5
    assert threads._cgroup_quota(tmp_path / "missing", root) is None
    assert 1 <= threads.usable_cpus() <= len(os.sched_getaffinity(0))


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    threads.set_environment()
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    threads.set_environment()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    threads.set_environment()
    assert "GOMP_SPINCOUNT" not in os.environ
