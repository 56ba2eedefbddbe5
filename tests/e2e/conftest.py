"""Real daemons as processes of their own, on real sockets, with the real model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_S = 60


class DaemonProcess:
    """`python -m aiosd` with flags, ready to serve when made."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.flags = flags
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = str(directory / "s.sock")
        self.log = directory / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "aiosd", "--socket", self.socket,
                    "--state-dir", str(directory / "state"), *flags,
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"aiosd ended with {self.process.returncode}: {self.words()}")
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(self.socket)
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise RuntimeError(f"aiosd wasn't ready within {START_S} s: {self.words()}")

    def again(self) -> DaemonProcess:
        """Another daemon with the same flags and state, after this one has ended."""
        return DaemonProcess(self.directory, *self.flags)

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def n_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - a count is enough

    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def stop(self) -> int:
        """SIGTERM, as systemd does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


Start = Callable[..., DaemonProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start daemons with flags; those still there at the end must stop in order, with code 0."""
    started: list[DaemonProcess] = []

    def start(*flags: str) -> DaemonProcess:
        started.append(DaemonProcess(tmp_path_factory.mktemp("daemon"), *flags))
        return started[-1]

    yield start
    running = [d for d in started if d.process.poll() is None]
    try:
        assert [d.stop() for d in running] == [0] * len(running)
    finally:
        for daemon in started:
            daemon.kill()
