"""SIGHUP: what a reload puts into force, what it leaves, and what it says."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import structlog

from aiosd import config, logs
from aiosd.config import Bounds, Config, Limits
from aiosd.server import reload
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer, served


def test_a_change_is_split_into_what_applies_and_what_needs_a_restart() -> None:
    old = config.load(None, {"slots": 4})
    new = dataclasses.replace(
        old, slots=8, quantum=3, limits=dataclasses.replace(old.limits, jobs=5, journal_events=6)
    )
    change = reload.compare(old, new)
    assert change.applied == ("quantum", "limits.jobs")
    assert change.needs_restart == ("slots", "limits.journal_events")
    assert change.config == dataclasses.replace(
        old, quantum=3, limits=dataclasses.replace(old.limits, jobs=5)
    )


def test_what_the_model_was_loaded_with_needs_a_restart() -> None:
    live = {key for key, (_, bounds) in config.keys(Config).items() if bounds.reloads}
    assert live == {"policy", "quantum", "lanes", "log_level", "mcp"}
    assert not Bounds("a new key says nothing of itself").reloads


def reloaded(daemon: Daemon, new: Config) -> None:
    asyncio.run_coroutine_threadsafe(daemon.reload(lambda: new), daemon.loop).result(30)


def test_policy_quantum_and_lanes_change_at_once(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        reloaded(
            daemon, dataclasses.replace(daemon.config, policy="fifo", quantum=5, lanes=2, slots=99)
        )
        assert peer.ask("sys.policy").result == {
            "policy": "fifo",
            "quantum_tokens": 5,
            "lanes": 2,
        }
        assert daemon.config.slots == 4


def test_a_policy_set_by_hand_stays_while_the_file_says_what_it_said(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert peer.ask("sys.policy", policy="fifo", quantum_tokens=7).error is None
        reloaded(daemon, dataclasses.replace(daemon.config, lanes=1))
        assert peer.ask("sys.policy").result == {
            "policy": "fifo",
            "quantum_tokens": 7,
            "lanes": 1,
        }


def test_new_limits_hold_for_new_connections_and_old_ones_keep_theirs(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as old:
        limits = Limits(frame_bytes=4096, connections_per_uid=2, contexts_per_agent=1)
        reloaded(daemon, dataclasses.replace(daemon.config, limits=limits))
        long = "x" * 5000
        assert old.ask("llm.tokenize", text=long).error is None
        with RawPeer(daemon.config.socket) as new:
            assert new.ask("context.create").error is None
            assert "limit is 1" in str(new.ask("context.create").error)
            third = RawPeer(daemon.config.socket, agent=None)
            assert third.receive() is not None  # why it is refused
            assert third.receive() is None
            third.close()
            new.send(b"\x94\x00\x07\xacllm.tokenize\x91\x81\xa4text\xda\x13\x88" + b"x" * 5000)
            assert "limit" in str(new.receive())


def test_a_configuration_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    def wrong() -> Config:
        raise config.ConfigError("slotz: no such key, did you mean slots?")

    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        before = daemon.config
        asyncio.run_coroutine_threadsafe(daemon.reload(wrong), daemon.loop).result(30)
        assert daemon.config is before
        assert peer.ask("sys.ping").error is None


def test_a_level_set_later_holds_for_loggers_made_before() -> None:
    line = {"event": "x"}
    try:
        logs.set_level("warning")
        for method, passes in {"info": False, "warning": True, "exception": True}.items():
            assert _passes(method, line) is passes
        logs.set_level("debug")
        assert _passes("debug", line)
    finally:
        logs.set_level("info")


def _passes(method: str, line: dict[str, str]) -> bool:
    try:
        logs._drop_below_level(None, method, line)
    except structlog.DropEvent:
        return False
    return True
