"""Where the default socket is, and whom a client trusts in /tmp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aios_sdk import dialing, paths
from aios_sdk.errors import NoDaemon


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIOSD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))


def test_aiosd_socket_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSD_SOCKET", "/named.sock")
    assert paths.default_socket() == "/named.sock"


def test_the_users_own_daemon_goes_before_the_systems(tmp_path: Path) -> None:
    own, system = tmp_path / "aiosd" / "aiosd.sock", tmp_path / "system.sock"
    assert paths.default_socket() == str(own)  # neither exists: where one's own would be
    system.touch()
    assert paths.default_socket() == str(system)
    own.parent.mkdir()
    own.touch()
    assert paths.default_socket() == str(own)


@pytest.mark.parametrize("runtime_dir", [None, "", "relative"])
def test_without_a_runtime_directory_there_is_a_fallback(
    monkeypatch: pytest.MonkeyPatch, runtime_dir: str | None
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if runtime_dir is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dir)
    monkeypatch.setattr(os, "getuid", lambda: 987654)  # surely without a /run/user
    assert paths.user_socket() == "/tmp/aiosd-987654/aiosd.sock"  # noqa: S108 - the fallback


def test_a_strangers_directory_in_tmp_is_not_our_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.stat_result((0o40700, 1, 1, 1, 4242, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda self, **_: own)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(NoDaemon, match="its directory belongs to uid 4242, not to you"):
        dialing.dial("/tmp/aiosd-1000/aiosd.sock")  # noqa: S108 - what is tested
