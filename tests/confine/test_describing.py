"""What is said about a confinement: true on this machine, and what isn't kept is said, with why."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiosd.confine import Bounds, Confinement, Grant, cgroups, describe, landlock
from aiosd.confine.cgroups import Place


def here(monkeypatch: pytest.MonkeyPatch, abi: int, at: Place) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    monkeypatch.setattr(cgroups, "place", lambda: at)


def test_with_all_that_there_is_only_looking_late_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here(monkeypatch, 7, Place(tmp_path, tmp_path, tmp_path, is_v2=True))
    bounds = Bounds(memory_bytes=64 << 20, n_processes=8, cpu_s=10, cpu_percent=50)
    found = describe(Confinement(Grant(("/srv/a",), ("/srv/b",)), bounds))
    assert found.read[:2] == ("/srv/a", "/srv/b")
    assert found.write[0] == "/srv/b"
    assert found.network == "none"
    assert found.kept["files"] == "Landlock ABI 7: only the paths above"
    assert found.kept["memory"] == "64 MiB for all of it together (cgroup)"
    assert found.kept["processes"] == "8, threads counted (cgroup)"
    assert found.kept["CPU time"] == "10 s for each process"
    assert found.kept["CPU share"] == "50 % of a core for all of it together (cgroup)"
    assert set(found.not_kept) == {"disk"}
    assert found.as_data()["read"][0] == "/srv/a"


def test_what_an_old_kernel_can_not_refuse_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, 2, Place(None, None, why_not="it is not writable"))
    found = describe(Confinement(Grant(is_networked=True)), uid=1000)
    assert found.network.startswith("IP (TCP, UDP)")
    assert found.not_kept["truncating"].endswith("Landlock ABI 3, this is 2")
    assert found.not_kept["signals"].endswith("Landlock ABI 6, this is 2")
    assert found.kept["memory"] == "512 MiB for each process (RLIMIT_DATA)"
    assert found.not_kept["memory"].endswith("no cgroup, it is not writable")
    assert "all of the user's together" in found.not_kept["processes"]
    assert "root has no limit" in describe(Confinement(), uid=0).not_kept["processes"]
    here(monkeypatch, 0, Place(None, None, why_not="x"))
    assert "has no Landlock" in describe(Confinement()).not_kept["files"]


def test_what_was_not_bounded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, 7, Place(None, None, why_not="x"))
    nothing = Bounds(None, None, None, None, None, None, None)
    found = describe(Confinement(bounds=nothing)).not_kept
    names = ("memory", "processes", "descriptors", "file size", "CPU time", "CPU share", "disk")
    assert {name: found[name] for name in names} == dict.fromkeys(names, "no bound is set")


def test_a_group_of_version_2_is_made_where_it_was_delegated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On plain files: this machine may have no controllers to delegate."""
    own = tmp_path / "aiosd.service"
    own.mkdir()
    assert cgroups._v2(own).why_not == f"{own}: No such file or directory"
    (own / "cgroup.controllers").write_text("cpu pids\n")
    assert "has no controller memory" in cgroups._v2(own).why_not
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("\n")
    (own / "cgroup.procs").write_text("1\n")
    assert cgroups._v2(own).why_not == f"{own} has other processes than this one"
    (own / "cgroup.procs").write_text("")
    at = cgroups._v2(own)
    assert (at.memory, at.is_v2) == (own, True)
    assert (own / "aiosd-main/cgroup.procs").read_text().isdecimal()
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    monkeypatch.setattr(cgroups, "place", lambda: at)
    group = cgroups.make(Bounds(memory_bytes=1000, n_processes=5, cpu_percent=150))
    assert group is not None
    assert (group.dirs[0] / "memory.max").read_text() == "1000"
    assert (group.dirs[0] / "pids.max").read_text() == "5"
    assert (group.dirs[0] / "cpu.max").read_text() == "150000 100000"
    assert len(group.procs) == 1
    (group.dirs[0] / "memory.events").write_text("low 0\noom_kill 1\n")
    assert group.reason() == "out of its memory"


def test_a_group_of_a_daemon_that_is_no_more_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups, "place", lambda: Place(None, tmp_path))
    ours = cgroups.make(Bounds(memory_bytes=None, n_processes=5))
    assert ours is not None
    gone = tmp_path / "aiosd-1-999999999999-3"  # pid 1 began at another time
    gone.mkdir()
    (tmp_path / "aiosd-main").mkdir()
    (tmp_path / "aiosd-of-somebody-else").mkdir()
    assert [group.dirs for group in cgroups.left_behind()] == [(gone,)]
