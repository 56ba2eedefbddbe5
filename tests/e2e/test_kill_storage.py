"""Promise 5 for files, on the real daemon: agents write in turn, it is killed, and starts again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import Client
from aios_sdk.errors import ClientError, NotFound
from tests.e2e.conftest import DaemonProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLAGS = ("--slots", "2", "--slot-tokens", "512", "--snapshot-files", "0")
N_AGENTS = 4
N_ACKNOWLEDGED = 40


def content(agent: str, number: int) -> bytes:
    return f"{agent} {number} ".encode() * (1 + number % 7 * 100)


class Agent:
    """Writes versions of one file; n_told were acknowledged."""

    def __init__(self, name: str, socket: str, enough: threading.Semaphore) -> None:
        self.name = name
        self.n_told = 0
        self._socket = socket
        self._enough = enough

    def work(self) -> None:
        try:
            with Client(self._socket, agent=self.name) as client:
                while True:
                    made = client.storage.write("d/file", content(self.name, self.n_told + 1))
                    assert made["version"] == self.n_told + 1
                    self.n_told += 1
                    self._enough.release()
        except ClientError:
            pass  # it was killed

    def check(self) -> None:
        with Client(self._socket, agent=self.name) as client:
            try:
                versions: Any = client.storage.history("d/file")
            except NotFound:
                versions = []
            assert len(versions) in (self.n_told, self.n_told + 1)
            for version in versions:
                kept = client.storage.read("d/file", version=version["version"])
                assert kept == content(self.name, version["version"])
            assert {v["op"] for v in versions} <= {"replace"}
            self.n_told = len(versions)


def test_versions_that_were_acknowledged_are_there_after_kill_9(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, *FLAGS)
    enough = threading.Semaphore(0)
    agents = [Agent(f"a{n}", daemon.socket, enough) for n in range(N_AGENTS)]
    try:
        for _ in range(2):
            threads = [threading.Thread(target=agent.work) for agent in agents]
            for thread in threads:
                thread.start()
            for _ in range(N_ACKNOWLEDGED):
                assert enough.acquire(timeout=60)
            daemon.kill()
            for thread in threads:
                thread.join(60)
            daemon = daemon.again()
            for agent in agents:
                agent.check()
        assert list((tmp_path / "state/storage/tmp").iterdir()) == []
        contents = {content(agent.name, n + 1) for agent in agents for n in range(agent.n_told)}
        blobs = list((tmp_path / "state/storage/blobs").glob("*/*/*"))
        assert {path.read_bytes() for path in blobs} == contents
        assert daemon.stop() == 0
    finally:
        daemon.kill()
