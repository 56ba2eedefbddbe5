"""Promise 5 on a full disk: writes fail and say what to do, reads go on, nothing is damaged.

The state directory is a small file system of its own, filled through to the last byte.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from tests.e2e.conftest import DaemonProcess
from tests.server.harness import RawPeer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = "6m"
FLAGS = ("--slots", "2", "--slot-tokens", "512", "--snapshot-files", "0")
TURN = {"prompt": " and then", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory whose `state` is a tmpfs of SIZE."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    state = tmp_path / "state"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(state)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def fill(path: Path) -> None:
    """Write until not one more byte fits."""
    with path.open("wb", buffering=0) as file:
        for n_bytes in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(n_bytes))
            except OSError as error:
                assert error.strerror == "No space left on device"  # noqa: PT017 - write, not open


def told(response: wire.Response) -> Any:
    assert response.error is None, response.error
    return response.result


def refused(response: wire.Response) -> dict[str, Any]:
    assert isinstance(response.error, dict), response
    return response.error


def tokens_of(peer: RawPeer, context: str) -> list[int]:
    tokens: list[int] = told(peer.ask("context.read", context=context, tokens=True))["tokens"]
    return tokens


def grow_until_refused(peer: RawPeer, context: str) -> wire.Response:
    """Append until the disk refuses: what is free inside the database's own files goes first."""
    for _ in range(2000):
        answer = peer.ask("context.append", context=context, tokens=[1000] * 50)
        if answer.error is not None:
            return answer
        told(peer.ask("context.rewind", context=context, n_tokens=0))
    raise AssertionError("the full disk never refused a write")


def test_a_full_disk_costs_writes_only_and_only_while_it_is_full(small_disk: Path) -> None:
    daemon = DaemonProcess(small_disk, *FLAGS)
    filler = small_disk / "state" / "filler"
    try:
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            kept = told(peer.ask("context.create", system="You keep things."))["context"]
            grown = told(peer.ask("context.create"))["context"]
            told(peer.ask("llm.generate", context=kept, **TURN))
            before = tokens_of(peer, kept)

            fill(filler)
            error = refused(grow_until_refused(peer, grown))
            assert error["code"] == "unavailable"
            assert "the disk is full; free some space" in error["message"]
            during = tokens_of(peer, grown)

            # A turn that can't be kept is refused, and leaves its context as it was.
            error = refused(peer.ask("llm.generate", context=kept, **TURN))
            assert (error["code"], "free some space" in error["message"]) == ("unavailable", True)
            assert refused(peer.ask("context.create"))["code"] == "unavailable"
            assert tokens_of(peer, kept) == before
            # What writes nothing works.
            assert told(peer.ask("sys.ping")) == {}
            assert told(peer.ask("sys.status"))["state"] == "serving"
            assert told(peer.ask("context.read", context=kept))["messages"]
            assert len(told(peer.ask("context.list"))["contexts"]) == 2
            assert len(told(peer.ask("llm.generate", **TURN))["tokens"]) == 4

            filler.unlink()
            told(peer.ask("llm.generate", context=kept, **TURN))
            after = tokens_of(peer, kept)
            assert after[: len(before)] == before
            assert len(after) > len(before)
            assert tokens_of(peer, grown) == during
        daemon.kill()

        with sqlite3.connect(small_disk / "state" / "aiosd.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()
        daemon = daemon.again()
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            assert tokens_of(peer, kept) == after
            assert tokens_of(peer, grown) == during
            told(peer.ask("llm.generate", context=kept, **TURN))
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def test_a_daemon_killed_on_a_full_disk_comes_back_with_all_it_acknowledged(
    small_disk: Path,
) -> None:
    daemon = DaemonProcess(small_disk, *FLAGS)
    filler = small_disk / "state" / "filler"
    try:
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            kept = told(peer.ask("context.create", system="You keep things."))["context"]
            grown = told(peer.ask("context.create"))["context"]
            before = tokens_of(peer, kept)
            fill(filler)
            refused(grow_until_refused(peer, grown))
            during = tokens_of(peer, grown)
        daemon.kill()
        daemon = daemon.again()  # while the disk is full still
        with RawPeer(daemon.socket) as peer:
            assert tokens_of(peer, kept) == before
            assert tokens_of(peer, grown) == during
            assert refused(peer.ask("context.create"))["code"] == "unavailable"
            filler.unlink()
            told(peer.ask("context.create"))
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def test_files_and_notes_are_read_on_a_full_disk_and_not_written(small_disk: Path) -> None:
    daemon = DaemonProcess(small_disk, *FLAGS)
    try:
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            grown = told(peer.ask("context.create"))["context"]
            told(peer.ask("storage.write", path="a.txt", data=b"hello"))
            told(peer.ask("memory.add", content="foxes are red"))
            fill(small_disk / "state" / "filler")
            refused(grow_until_refused(peer, grown))
            for method, params in (
                ("storage.write", {"path": "a.txt", "data": bytes(8192)}),
                ("storage.delete", {"path": "a.txt"}),
                ("memory.add", {"content": "salt is white"}),
                ("context.delete", {"context": grown}),
                ("llm.generate", {**TURN, "detach": True}),
            ):
                error = refused(peer.ask(method, **params))
                assert error["code"] == "unavailable", method
                assert "the disk is full; free some space" in error["message"], method
            assert told(peer.ask("storage.read", path="a.txt"))["data"] == b"hello"
            found = told(peer.ask("memory.search", query="foxes", mode="words"))["results"]
            assert [note["content"] for note in found] == ["foxes are red"]
        assert daemon.stop() == 0
        daemon = daemon.again()  # while the disk is full still
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            assert told(peer.ask("storage.read", path="a.txt"))["data"] == b"hello"
            notes = told(peer.ask("memory.list"))["notes"]
            assert [note["content"] for note in notes] == ["foxes are red"]
        assert daemon.stop() == 0
    finally:
        daemon.kill()
