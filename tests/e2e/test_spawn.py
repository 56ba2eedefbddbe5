"""Agents as processes of a real daemon: they work with the model, and end when it is killed."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

import aios_sdk
from aios_sdk import Client
from aiosd.confine import landlock
from tests.e2e.conftest import DaemonProcess, Start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not landlock.abi(), reason="no Landlock: nothing can be confined"),
]

PATIENCE_S = 60  # never reached when a test passes
ENV = {"PYTHONPATH": str(Path(aios_sdk.__file__).parents[1])}  # it may be a checkout
ASKS = """
from aios_sdk import Agent
with Agent(max_tokens=8, temperature=0) as agent:
    print(agent.name, agent.generate("Say hello.").text.strip(), flush=True)
"""
STAYS = """
import signal, time
from aios_sdk import Client
signal.signal(signal.SIGTERM, signal.SIG_IGN)
client = Client()
print("ready", flush=True)
while True: signal.pause()
"""


def until_gone(pid: int) -> bool:
    """Whether the process ends.  Source: pidfd_open(2): readable when it has."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(PATIENCE_S * 1000))
    finally:
        os.close(fd)


def test_an_agent_works_and_a_killed_daemon_takes_all_with_it(start: Start) -> None:
    daemon = start("--embedder", "none")
    with Client(daemon.socket, "boss", timeout_s=PATIENCE_S) as client:
        asks = client.spawn("asks", sys.executable, "-c", ASKS, env=ENV)
        assert asks.wait()["exit_code"] == 0
        [line] = asks.logs()
        assert line["text"].startswith("asks ")
        assert asks.info()["tokens"] > 8
        kept = client.spawn(
            "kept", sys.executable, "-c", STAYS, env=ENV, detach=True, restart="always"
        )
        other = client.spawn("other", "sleep", "1000", detach=True)
        assert next(iter(kept.follow()))["text"] == "ready"
        pids = [process.info()["pid"] for process in (kept, other)]
    daemon.kill()
    assert [until_gone(pid) for pid in pids] == [True, True]
    later(daemon)


def later(daemon: DaemonProcess) -> None:
    """The next daemon starts what is kept, and ends it in order."""
    again = daemon.again()
    try:
        with Client(again.socket, "aiosctl", timeout_s=PATIENCE_S) as client:
            processes = client.call("agent.processes")["processes"]
            assert isinstance(processes, list)
            assert [p["agent"] for p in processes] == ["kept"]
            stream = client.stream("agent.logs", agent="kept")
            assert next(iter(stream))["lines"][0]["text"] == "ready"  # type: ignore[index]  # a list
            pid = client.call("agent.wait", agent="kept", timeout_ms=0)["pid"]
            assert isinstance(pid, int)
        assert again.stop() == 0
        assert until_gone(pid)
    finally:
        again.kill()
