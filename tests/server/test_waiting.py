"""job.list says what each job waits for.  The engine is held at its decodes: nothing is raced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from aiosd.engine.base import Piece
from aiosd.engine.fake import FakeModel
from aiosd.kernel.model import JobId
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer, served

PATIENCE_S = 20.0


class Gate:
    """Each decode waits for a permit; arrived is set while one does."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)
        self._is_open = False

    def decode(self, _pieces: Sequence[Piece]) -> None:
        self._arrivals.release()
        if not self._is_open:
            assert self._permits.acquire(timeout=PATIENCE_S)

    def wait(self) -> None:
        """Until the engine stands at the gate."""
        assert self._arrivals.acquire(timeout=PATIENCE_S)

    def let_one_through(self) -> None:
        self._permits.release()

    def open(self) -> None:
        self._is_open = True
        self._permits.release()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def daemon(tmp_path: Path, gate: Gate) -> Iterator[Daemon]:
    model = FakeModel(n_slots=4, slot_tokens=1024)
    model.before_decode = gate.decode
    with served(tmp_path, model, slot_tokens=1024, lanes=2, prefill_tokens=32) as daemon:
        try:
            yield daemon
        finally:
            gate.open()


def begin(peer: RawPeer, number: int, **params: Any) -> None:
    more = {"max_tokens": 3, "ignore_eos": True, **params}
    peer.send(wire.encode_request(number, "llm.generate", more))


def waiting(peer: RawPeer, n_jobs: int) -> dict[str, Any]:
    """What each agent's job waits for, once there are so many."""
    while True:
        result: Any = peer.ask("job.list", all=True).result
        if len(result["jobs"]) == n_jobs:
            return {job["agent"]: job.get("waits_for") for job in result["jobs"]}


def job_of(peer: RawPeer, agent: str) -> str:
    result: Any = peer.ask("job.list", all=True).result
    return next(str(job["job"]) for job in result["jobs"] if job["agent"] == agent)


def test_lanes_pauses_readers_and_steps(daemon: Daemon, gate: Gate) -> None:
    socket = daemon.config.socket
    with (
        RawPeer(socket) as watcher, RawPeer(socket, "a") as a, RawPeer(socket, "b") as b,
        RawPeer(socket, "c") as c, RawPeer(socket, "d") as d,
    ):  # fmt: skip
        watcher.ask("sys.policy", policy="fifo", lanes=1)
        begin(a, 1, prompt="a" * 40)
        gate.wait()
        assert waiting(watcher, 1) == {"a": None}
        for number, peer in enumerate((b, c, d), start=2):
            begin(peer, 1, prompt="x")
            waiting(watcher, number)  # they came in this order
        lanes = [{"kind": "lane", "position": n} for n in (1, 2, 3)]
        assert waiting(watcher, 4) == {"a": None, "b": lanes[0], "c": lanes[1], "d": lanes[2]}
        watcher.ask("job.pause", job=job_of(watcher, "b"))
        stalled = JobId(job_of(watcher, "d"))
        daemon.loop.call_soon_threadsafe(lambda: daemon.stall(stalled, is_stalled=True))
        while waiting(watcher, 4)["d"] == lanes[1]:
            pass  # it is on its way
        watcher.ask("job.cancel", job=job_of(watcher, "a"))
        assert waiting(watcher, 4) == {
            "a": {"kind": "step"}, "b": {"kind": "resume"}, "c": lanes[0],
            "d": {"kind": "reader"},
        }  # fmt: skip


def test_a_job_that_waits_for_anothers_reading_names_it(daemon: Daemon, gate: Gate) -> None:
    socket = daemon.config.socket
    with RawPeer(socket) as watcher, RawPeer(socket, "a") as a, RawPeer(socket, "b") as b:
        for peer in (a, b):
            begin(peer, 1, prompt="The same long beginning. " * 30)
        gate.wait()
        found = waiting(watcher, 2)
        for _ in range(8):  # of the 24 pieces; the second is there after the first or second
            if found.get("b") == {"kind": "prefix", "job": job_of(watcher, "a")}:
                break
            if found.get("a") == {"kind": "prefix", "job": job_of(watcher, "b")}:
                break
            gate.let_one_through()
            gate.wait()
            found = waiting(watcher, 2)
        else:
            raise AssertionError(found)
        assert None in found.values()  # the leader waits for nobody


def test_a_turn_that_is_being_written_waits_for_the_database(
    daemon: Daemon, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.open()
    may_go = asyncio.Event()
    append = daemon.contexts.append

    async def held(*args: Any) -> None:
        await may_go.wait()
        await append(*args)

    monkeypatch.setattr(daemon.contexts, "append", held)
    with RawPeer(daemon.config.socket) as watcher, RawPeer(daemon.config.socket, "a") as a:
        context: Any = a.ask("context.create").result
        begin(a, 1, prompt="Keep this", context=context["context"])
        while waiting(watcher, 1) != {"a": {"kind": "database"}}:
            pass
        listed: Any = watcher.ask("job.list", all=True).result
        assert (listed["jobs"][0]["state"], listed["jobs"][0]["n_output"]) == ("saving", 3)
        daemon.loop.call_soon_threadsafe(may_go.set)
        answer = a.receive()
        assert isinstance(answer, wire.Response)
        assert answer.error is None
        assert waiting(watcher, 0) == {}
