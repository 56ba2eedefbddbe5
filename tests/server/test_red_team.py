"""Found by attack: what races, limits, a refusing disk and a restart did that they must not."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from aiosd import config
from aiosd.engine.base import ModelInfo
from aiosd.engine.fake import FakeModel
from aiosd.server.daemon import Daemon
from aiosd.server.prompts import Prompter
from aiosd.server.session import HARD_FACTOR
from tests.server.harness import RawPeer, served


def request(id_: int, method: str, **params: Any) -> bytes:
    return wire.encode_request(id_, method, params)


def answers(peer: RawPeer, n: int) -> dict[int, wire.Response]:
    """The next n responses by id; what is streamed between them is passed over."""
    found: dict[int, wire.Response] = {}
    while len(found) < n:
        message = peer.receive()
        assert message is not None, "the daemon closed the connection"
        if isinstance(message, wire.Response):
            found[message.id] = message
    return found


def code(response: wire.Response) -> str:
    error: Any = response.error
    return "ok" if error is None else str(error["code"])


def new_context(peer: RawPeer, **params: Any) -> str:
    result: Any = peer.ask("context.create", **params).result
    return str(result["context"])


def slow_model() -> FakeModel:
    model = FakeModel(n_slots=4, slot_tokens=256)
    model.delay_s = 0.005
    return model


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("context.append", {"prompt": "x"}),
        ("context.rewind", {"n_tokens": 0}),
        ("context.fork", {}),
        ("context.delete", {}),
        ("context.snapshot", {}),
        ("context.prefetch", {}),
        ("llm.generate", {"prompt": "x", "max_tokens": 1}),
    ],
)
def test_what_waited_for_a_delete_finds_no_context(
    tmp_path: Path, method: str, params: dict[str, Any]
) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = new_context(peer, system="hello")
        peer.send(
            request(1, "context.delete", context=context)
            + request(2, method, context=context, **params)
        )
        got = answers(peer, 2)
        assert (code(got[1]), code(got[2])) == ("ok", "not_found")


def test_a_detached_call_past_the_job_limit_is_answered(tmp_path: Path) -> None:
    limits = config.Limits(jobs_per_uid=1)
    with (
        served(tmp_path, slow_model(), limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        job = {"prompt": "x", "max_tokens": 100, "ignore_eos": True, "detach": True}
        peer.send(request(1, "llm.generate", **job) + request(2, "llm.generate", **job))
        got = answers(peer, 2)
        assert sorted(map(code, got.values())) == ["busy", "ok"]


def test_pipelined_creates_stay_within_the_limit(tmp_path: Path) -> None:
    limits = config.Limits(contexts_per_agent=2)
    with served(tmp_path, limits=limits) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(b"".join(request(n, "context.create") for n in range(20)))
        codes = [code(answer) for answer in answers(peer, 20).values()]
        assert (codes.count("ok"), codes.count("quota_exceeded")) == (2, 18)


def test_pipelined_detached_jobs_stay_within_the_limit(tmp_path: Path) -> None:
    limits = config.Limits(detached_per_uid=2)
    with (
        served(tmp_path, slow_model(), limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        job = {"prompt": "x", "max_tokens": 100, "ignore_eos": True, "detach": True}
        peer.send(b"".join(request(n, "llm.generate", **job) for n in range(10)))
        codes = [code(answer) for answer in answers(peer, 10).values()]
        assert (codes.count("ok"), codes.count("quota_exceeded")) == (2, 8)


def test_a_detached_job_cancelled_while_it_is_prepared_does_not_run(tmp_path: Path) -> None:
    with served(tmp_path, slow_model()) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(
            request(1, "llm.generate", prompt="x", max_tokens=200, ignore_eos=True, detach=True)
            + wire.encode_notification("cancel", {"id": 1})
        )
        assert code(answers(peer, 1)[1]) == "cancelled"
        new_context(peer)  # a write behind that of the job, so the job has begun by now if ever
        assert peer.ask("job.list").result == {"jobs": []}


def test_another_model_does_not_go_on_with_a_context(tmp_path: Path) -> None:
    class Other(FakeModel):
        @property
        def info(self) -> ModelInfo:
            return dataclasses.replace(super().info, name="other")

    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = new_context(peer, system="hello")
    with (
        served(tmp_path, Other(n_slots=4, slot_tokens=256)) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        assert code(peer.ask("llm.generate", context=context, prompt="x")) != "ok"
        assert code(peer.ask("context.append", context=context, prompt="x")) != "ok"
        assert code(peer.ask("context.read", context=context)) == "ok"


@pytest.mark.slow
def test_a_detached_job_reported_as_failed_does_not_come_back(tmp_path: Path) -> None:
    with served(tmp_path, slow_model()) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.sock.settimeout(30)
        context = new_context(peer, system="hello")
        job = {"prompt": "x", "max_tokens": 30, "ignore_eos": True, "detach": True}
        peer.send(request(1, "llm.generate", context=context, stream=True, **job))
        assert isinstance(peer.receive(), wire.Notification)  # it has begun
        intruder = sqlite3.connect(tmp_path / "state" / "aiosd.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        assert code(answers(peer, 1)[1]) == "unavailable"
        threading.Event().wait(6)  # past the second attempt, to note the failure
        intruder.execute("ROLLBACK")
        intruder.close()
        appended: Any = peer.ask("context.append", context=context, prompt="meanwhile").result
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        threading.Event().wait(1)
        info: Any = peer.ask("context.info", context=context).result
        assert info["n_tokens"] == appended["n_tokens"]


def test_a_job_that_goes_on_after_a_restart_can_be_attached_to_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path, slow_model()) as daemon, RawPeer(daemon.config.socket) as peer:
        job = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "detach": True}
        peer.send(request(1, "llm.generate", stream=True, **job))
        news = peer.receive()
        assert isinstance(news, wire.Notification)
        name = news.params["job"]
    turn, may_go_on = Prompter.turn, threading.Event()

    def late(*args: Any, **kwargs: Any) -> Any:
        may_go_on.wait(5)
        return turn(*args, **kwargs)

    monkeypatch.setattr(Prompter, "turn", late)
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(request(1, "job.attach", job=name) + request(2, "sys.ping"))
        first = peer.receive()
        may_go_on.set()
        assert isinstance(first, wire.Response)
        assert first.id == 2, first.error
        assert code(answers(peer, 1)[1]) == "ok"


def test_an_append_that_is_cancelled_leaves_no_trace_or_succeeds(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = new_context(peer)
        intruder = sqlite3.connect(tmp_path / "state" / "aiosd.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        peer.send(request(1, "context.append", context=context, prompt="hello"))
        wait_for(lambda: not daemon.database.n_queued and bool(calls(daemon)))
        threading.Event().wait(0.2)  # the writer's thread has begun
        peer.send(wire.encode_notification("cancel", {"id": 1}) + request(2, "sys.ping"))
        assert isinstance(peer.receive(), wire.Response)
        intruder.execute("ROLLBACK")
        intruder.close()
        answer = answers(peer, 1)[1]
        info: Any = peer.ask("context.info", context=context).result
        assert (code(answer) == "ok") == (info["n_tokens"] > 0)


def test_a_killed_agent_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    limits = config.Limits(unread_bytes=4096)
    with (
        served(tmp_path, limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
        RawPeer(daemon.config.socket, agent="deaf") as deaf,
    ):
        deaf.send(b"".join(request(n, "sys.describe") for n in range(40)))
        assert code(peer.ask("sys.ping")) == "ok"
        assert code(peer.ask("agent.kill", agent="deaf")) == "ok"
        agents: Any = None
        until_s = time.monotonic() + 10
        while agents != ["raw"] and time.monotonic() < until_s:
            listed: Any = peer.ask("agent.list").result
            agents = [agent["agent"] for agent in listed["agents"]]
        assert agents == ["raw"]


def test_a_peer_always_in_the_middle_of_a_frame_but_finishing_them_stays(tmp_path: Path) -> None:
    limits = config.Limits(half_frame_s=1)
    with served(tmp_path, limits=limits) as daemon, RawPeer(daemon.config.socket) as peer:
        ping = request(1, "sys.ping")
        half = len(ping) // 2
        peer.send(ping[:half])
        for _ in range(30):
            peer.send(ping[half:] + ping[:half])
            assert isinstance(peer.receive(), wire.Response)
            threading.Event().wait(0.05)


@pytest.mark.parametrize("name", ["aiosd.db-wal", "aiosd.db-shm", "lock"])
def test_a_backup_does_not_replace_the_daemons_own_files(tmp_path: Path, name: str) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        own = tmp_path / "state" / name
        own.touch()
        inode = own.stat().st_ino
        assert code(peer.ask("sys.backup", path=str(own))) != "ok"
        assert own.stat().st_ino == inode


def test_a_model_that_is_not_loaded_does_not_tokenize(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert code(peer.ask("llm.tokenize", text="x", model="nope")) == "not_found"


def calls(daemon: Daemon) -> list[int]:
    return [id_ for group in daemon._sessions.values() for s in group for id_ in s.calls]


def wait_for(is_so: Any) -> None:
    for _ in range(500):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited 5 s in vain")


def test_a_flood_that_nobody_reads_is_answered_bit_by_bit_and_in_full(tmp_path: Path) -> None:
    limits = config.Limits(unread_bytes=4096)
    with (
        served(tmp_path, limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
        RawPeer(daemon.config.socket, agent="flood") as flood,
    ):
        flood.send(b"".join(request(n, "sys.describe") for n in range(200)))
        assert code(peer.ask("sys.ping")) == "ok"
        one_answer = len(wire.encode_response(1, None, peer.ask("sys.describe").result))
        waiting = [
            session.transport.get_write_buffer_size()
            for session in daemon.sessions_of(os.getuid())
            if session.transport is not None
        ]
        assert max(waiting) <= HARD_FACTOR * limits.unread_bytes + one_answer
        assert answers(flood, 200).keys() == set(range(200))
