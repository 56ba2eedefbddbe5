"""What the service manager is told, on a real datagram socket, and when its watchdog is fed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosd.engine.thread import Call
from aiosd.server.notify import LOOK_S, Notifier, Pulse, is_alive
from tests.server.harness import RawPeer, served


class Manager:
    """The service manager's end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(30)
        self.sock.bind("\0" + path[1:] if path.startswith("@") else path)

    def hear(self) -> dict[str, str]:
        lines = self.sock.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def hear_until(self, key: str) -> dict[str, str]:
        for _ in range(1000):
            if key in (said := self.hear()):
                return said
        raise AssertionError(f"{key} never came")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.sock.close()


def test_without_a_manager_nothing_is_said_and_nothing_fails() -> None:
    notifier = Notifier({})
    assert not notifier.has_manager
    notifier.ready("serving")
    notifier.moved()


def test_a_manager_that_has_gone_stops_nobody(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert notifier.has_manager
    notifier.ready("serving")


def test_an_abstract_socket_is_spoken_to() -> None:
    manager = Manager(f"@aiosd-test-{os.getpid()}")
    Notifier({"NOTIFY_SOCKET": manager.path}).ready("serving")
    assert manager.hear() == {"READY": "1", "STATUS": "serving"}
    manager.sock.close()


def test_a_status_is_one_line_and_said_once(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.path})
    notifier.status("two\nREADY=1 lines")
    notifier.status("two\nREADY=1 lines")
    notifier.status("news")
    assert manager.hear() == {"STATUS": "two READY=1 lines"}
    assert manager.hear() == {"STATUS": "news"}


def test_the_variables_are_taken_out_of_the_environment(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "8000000", "HOME": "/"}
    notifier = Notifier(environ)
    assert environ == {"HOME": "/"}
    assert notifier.look_s == 2.0


def test_another_processes_watchdog_is_not_fed(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}
    notifier = Notifier(environ)
    assert notifier.look_s == LOOK_S
    notifier.moved()
    notifier.status("and nothing before this")
    assert manager.hear() == {"STATUS": "and nothing before this"}


@pytest.mark.parametrize(
    ("before", "now", "alive"),
    [
        (Pulse(7, 0, False), Pulse(7, 0, False), True),  # nothing to do
        (Pulse(7, 100, True), Pulse(8, 200, True), True),  # a step ended
        (Pulse(7, 0, False), Pulse(8, 0, False), True),  # came, done, gone
        (Pulse(7, 100, True), Pulse(7, 100, True), False),  # one step, for all this time
        (Pulse(7, 100, True), Pulse(7, 0, True), False),  # the engine waits for a Run we wait for
        (Pulse(7, 100, False), Pulse(7, 100, False), False),  # a command that doesn't end
        (Pulse(7, 100, False), Pulse(7, 200, False), True),  # one command after the other
    ],
)
def test_alive_means_that_steps_move_or_that_there_is_no_work(
    before: Pulse, now: Pulse, alive: bool
) -> None:
    assert is_alive(before, now) is alive


def test_a_daemon_says_ready_feeds_while_idle_and_says_that_it_stops(
    tmp_path: Path, manager: Manager
) -> None:
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"}
    with served(tmp_path, notifier=Notifier(environ)) as daemon:
        ready = manager.hear_until("READY")
        assert ready["STATUS"] == "serving fake: 0 connections, 0 jobs, 0 of them in lanes"
        manager.hear_until("WATCHDOG")
        with RawPeer(daemon.config.socket):
            assert "1 connections" in manager.hear_until("STATUS")["STATUS"]
    assert "STOPPING" in manager.hear_until("STOPPING")


def test_a_hanging_engine_is_said_and_the_watchdog_starves(
    tmp_path: Path, manager: Manager
) -> None:
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"}
    gate = threading.Event()
    with served(tmp_path, notifier=Notifier(environ)) as daemon:
        manager.hear_until("WATCHDOG")
        daemon.loop.call_soon_threadsafe(
            daemon.thread.put, Call(gate.wait, lambda _result, _error: None)
        )
        try:
            while manager.hear_until("STATUS")["STATUS"] != "the engine hangs: no step ends":
                pass
            said = []
            manager.sock.settimeout(1)  # twenty looks: none of them feeds
            with pytest.raises(TimeoutError):
                said.append(manager.hear())
            assert said == []
        finally:
            gate.set()
        manager.sock.settimeout(30)
        assert manager.hear_until("WATCHDOG") == {"WATCHDOG": "1"}
