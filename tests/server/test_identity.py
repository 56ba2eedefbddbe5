"""A connection that the daemon itself has made: whose it is, is said by nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from aios_sdk import wire
from aiosd.kernel.model import AgentId
from aiosd.server.daemon import Daemon
from aiosd.server.session import Identity, Session
from tests.server.harness import RawPeer, served

WORKER = AgentId(4242, "worker")  # of another uid than the process that holds the socket


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("identity")) as daemon:
        yield daemon


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[RawPeer]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connecting = daemon.loop.connect_accepted_socket(
        lambda: Session(daemon, Identity(WORKER, 1)), ours
    )
    asyncio.run_coroutine_threadsafe(connecting, daemon.loop).result(20)
    with RawPeer(theirs, agent=None) as peer:
        yield peer


def test_it_is_the_agent_it_was_made_for(peer: RawPeer) -> None:
    hello = peer.ask("sys.hello", protocol=1, agent="worker").result
    assert isinstance(hello, dict)
    assert (hello["uid"], hello["agent"]) == (4242, "worker")
    assert "admin" not in hello["rights"]  # which the daemon's own uid holds


def test_it_cannot_go_by_another_name(peer: RawPeer) -> None:
    error = peer.ask("sys.hello", protocol=1, agent="aiosctl").error
    assert isinstance(error, dict)
    assert error["code"] == "denied"
    assert "can't go by the name aiosctl" in error["message"]
    assert peer.ask("sys.hello", protocol=1, agent="worker").error is None
    again = peer.ask("sys.hello", protocol=1, agent="other").error
    assert isinstance(again, dict)
    assert again["code"] == "denied"
    listed = peer.ask("agent.list").result
    assert isinstance(listed, dict)
    assert [a["agent"] for a in listed["agents"]] == ["worker"]


def test_nothing_is_served_before_its_hello_either(peer: RawPeer, daemon: Daemon) -> None:
    error = peer.ask("sys.ping").error
    assert isinstance(error, dict)
    assert error["code"] == "protocol"
    assert daemon.agents.get(WORKER) is None


def test_who_comes_after_its_holder_finds_nothing_under_way(
    peer: RawPeer, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.model, "delay_s", 0.1)  # what is left lasts until it is ended
    assert peer.ask("sys.hello", protocol=1, agent="worker").error is None
    more = {"prompt": "Go on", "max_tokens": 200, "ignore_eos": True}
    peer.send(wire.encode_request(7, "llm.generate", more))
    peer.send(wire.encode_request(1, "sys.hello", {"protocol": 1, "agent": "worker"}))
    left, hello = peer.receive(), peer.receive()
    assert isinstance(left, wire.Response)
    assert isinstance(left.error, dict)
    assert (left.id, left.error["code"]) == (7, "cancelled")
    assert isinstance(hello, wire.Response)
    assert (hello.id, hello.error) == (1, None)
    assert peer.ask("sys.ping").error is None
    agent = daemon.agents.get(WORKER)
    assert agent is not None
    assert agent.n_connections == 1
