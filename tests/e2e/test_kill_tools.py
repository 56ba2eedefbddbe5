"""A daemon that is killed takes the calls of tools with it, and the next one is whole."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from tests.e2e.conftest import DaemonProcess
from tests.server.harness import RawPeer

pytestmark = pytest.mark.slow

LIMIT_S = 60


def running(mark: str) -> list[int]:
    """Processes that have the mark on their command line."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                command = (each / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in command:  # of a zombie it is empty
                found.append(int(each.name))
    return found


def test_calls_of_a_killed_daemon_end_with_it(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    daemon = DaemonProcess(tmp_path, "--embedder", "none", "--slots", "2")
    try:
        with RawPeer(daemon.socket, "ada") as peer:
            code = f"import time; time.sleep(3600)  # {mark}"
            call: dict[str, Any] = {"name": "python", "arguments": {"code": code}}
            peer.send(wire.encode_request(1, "tool.call", call))
            until = time.monotonic() + LIMIT_S
            while not running(mark):
                assert time.monotonic() < until
                time.sleep(0.02)
            daemon.kill()
            while running(mark):
                assert time.monotonic() < until + LIMIT_S
                time.sleep(0.02)
        daemon = daemon.again()
        with RawPeer(daemon.socket, "ada") as peer:
            peer.sock.settimeout(LIMIT_S)
            answer = peer.ask("tool.call", name="calculator", arguments={"expression": "6*7"})
            result: Any = answer.result
            assert result["content"] == "42"
        assert daemon.stop() == 0
    finally:
        daemon.kill()
