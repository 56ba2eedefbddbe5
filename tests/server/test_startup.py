"""What happens before serving: the socket, the lock, and the memory there is."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from aiosd.engine.base import EngineError
from aiosd.server import startup
from aiosd.server.listener import ListenError, listen, locked, unlink_own

MIB = 1024**2


def test_the_socket_has_its_mode_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.sock"
    sock, inode = listen(path, 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    sock.close()
    unlink_own(path, inode)
    assert not path.exists()


def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    sock, inode = listen(path, 0o600)
    assert path.stat().st_ino == inode
    sock.close()


def test_a_socket_that_somebody_serves_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    sock, inode = listen(path, 0o600)
    with pytest.raises(ListenError, match="somebody serves"):
        listen(path, 0o600)
    assert path.stat().st_ino == inode
    sock.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("precious")
    with pytest.raises(ListenError, match="is not a socket"):
        listen(path, 0o600)
    assert path.read_text() == "precious"


def test_another_daemons_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    sock, inode = listen(path, 0o600)
    path.unlink()
    path.write_text("somebody else's")
    unlink_own(path, inode if path.stat().st_ino != inode else inode + 1)
    assert path.exists()
    sock.close()


def test_a_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="limit is 107"):
        listen(tmp_path / ("x" * 100) / "s.sock", 0o600)


def test_a_state_directory_serves_one_daemon(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "state"),
        pytest.raises(ListenError, match=f"pid {os.getpid()}"),
        locked(tmp_path / "state"),
    ):
        pass
    with locked(tmp_path / "state"):
        pass  # free again


def test_what_can_not_fit_is_refused_with_figures() -> None:
    needs = {"model": 100 * MIB, "kv": 300 * MIB, "compute": 50 * MIB}
    with pytest.raises(EngineError, match=r"450 MiB \(model 100 MiB, kv 300 MiB.*400 MiB are"):
        startup.check_memory(needs, 0, 400 * MIB)
    startup.check_memory(needs, 0, 500 * MIB)
    startup.check_memory(needs, 0, None)  # nothing to compare with


def test_a_snapshot_budget_that_may_not_fit_is_warned_about(
    capsys: pytest.CaptureFixture[str],
) -> None:
    startup.check_memory({"model": 100 * MIB}, 500 * MIB, 400 * MIB)
    said = capsys.readouterr().out
    assert "memory_tight" in said
    assert "500" in said
    assert "400" in said


def test_available_memory_is_read_here() -> None:
    available = startup.available_bytes()
    assert available is not None
    assert available > 100 * MIB
