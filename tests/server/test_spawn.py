"""Agents as processes: real ones, confined, over real sockets."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aios_sdk
from aiosd.kernel.model import AgentId
from aiosd.server.daemon import Daemon
from aiosd.spawn_config import SpawnConfig
from tests.server.harness import RawPeer, served

SPAWN = SpawnConfig(processes_per_uid=6, log_bytes=16 * 1024, restarts=2, grace_s=20, tokens=10_000)
HELLO = """
import os, sys, json
from aios_sdk import Client
client = Client()
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("spawn"), spawn=SPAWN) as daemon:
        yield daemon


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[RawPeer]:
    with RawPeer(daemon.config.socket, "boss") as peer:
        peer.sock.settimeout(60)
        yield peer
        for process in result(peer, "agent.processes")["processes"]:
            peer.ask("agent.signal", agent=process["agent"], signal="kill")
            result(peer, "agent.wait", agent=process["agent"])


Spawn = Callable[..., dict[str, Any]]


def result(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is None, response.error
    return response.result


def code(peer: RawPeer, method: str, **params: Any) -> str:
    error = peer.ask(method, **params).error
    return str(error["code"]) if isinstance(error, dict) else "ok"


def spawn(peer: RawPeer, name: str, source: str, **params: Any) -> dict[str, Any]:
    """A Python program as an agent."""
    made: dict[str, Any] = result(peer, "agent.spawn", **asked(name, source, **params))
    return made


def asked(name: str, source: str, **params: Any) -> dict[str, Any]:
    """The params that run a Python program as an agent."""
    return {
        "name": name,
        "command": sys.executable,
        "args": ["-c", textwrap.dedent(source)],
        "env": {"PYTHONPATH": str(Path(aios_sdk.__file__).parents[1])},  # it may be a checkout
        **params,
    }


def output(peer: RawPeer, name: str) -> list[str]:
    """All lines, when it has ended."""
    result(peer, "agent.wait", agent=name)
    return [line["text"] for line in result(peer, "agent.logs", agent=name)["lines"]]


def test_it_has_a_connection_of_its_own_under_its_name(peer: RawPeer, daemon: Daemon) -> None:
    made = spawn(peer, "worker", HELLO + "client.ping(); print(json.dumps(client.hello))")
    assert made["agent"] == "worker"
    ended = result(peer, "agent.wait", agent="worker")
    assert (ended["state"], ended["exit_code"], ended["ended_by"]) == ("ended", 0, "exit")
    assert (ended["process"], ended["parent"]) == (made["process"], "boss")
    [line] = output(peer, "worker")
    hello = json.loads(line)
    assert (hello["agent"], hello["uid"]) == ("worker", os.getuid())
    assert "admin" not in hello["rights"]
    assert "llm" in hello["rights"]
    assert daemon.processes.running(AgentId(os.getuid(), "worker")) is None
