"""sys.events: what happens, as it happens, to whom it concerns, and what a slow reader loses."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import AsyncClient, Client, wire
from aios_sdk.errors import QuotaExceeded
from aiosd import config
from aiosd.kernel.model import AgentId
from aiosd.server.daemon import Daemon
from aiosd.server.happenings import Happenings, Listener
from aiosd.services.access import Subject
from tests.server.harness import RawPeer, served
from tests.server.test_red_team import code, request


def taken(listener: Listener) -> list[dict[str, Any]]:
    found = []
    while (happening := listener.take(99)) is not None:
        found.append(happening)
    return found


def listen(peer: RawPeer) -> None:
    peer.send(request(1, "sys.events", stream=True, tag="mine"))
    assert next_event(peer)["event"] == "listening"


def next_event(peer: RawPeer) -> dict[str, Any]:
    message = peer.receive()
    assert isinstance(message, wire.Notification), message
    assert message.params["id"] == 1
    assert message.params["tag"] == "mine"
    return dict(message.params)  # type: ignore[arg-type]  # keys are str here


def until(peer: RawPeer, event: str) -> list[dict[str, Any]]:
    """The events up to the first such."""
    found = [next_event(peer)]
    while found[-1]["event"] != event:
        found.append(next_event(peer))
    return found


def viewer(uid: int, *rights: str) -> Subject:
    return Subject(AgentId(uid, "viewer"), frozenset(rights))


def test_an_agent_that_the_daemon_runs_hears_of_itself_and_those_below_it() -> None:
    happenings = Happenings(10, 10)
    spawned = Subject(AgentId(1, "boss"), frozenset(), is_spawned=True)
    with happenings.listening(spawned) as listener:
        for agent in ("boss", "boss.worker", "bossy", "other", None):
            happenings.tell("started", 1, 5, agent=agent)
        happenings.tell("started", 2, 5, agent="boss")
        happenings.tell("reloaded", None, 5)
        heard = [listener.take(5) for _ in range(4)]
    assert [h and h.get("agent", h["event"]) for h in heard] == [
        "boss",
        "boss.worker",
        "reloaded",
        None,
    ]


def test_a_uid_hears_of_itself_and_of_what_concerns_all_an_admin_of_everything() -> None:
    happenings = Happenings(10, 10)
    with (
        happenings.listening(viewer(1)) as one,
        happenings.listening(viewer(2)) as two,
        happenings.listening(viewer(0, "admin")) as admin,
    ):
        happenings.tell("started", 1, 5, job="j1", agent=None)
        happenings.tell("reloaded", None, 6)
        assert taken(one) == [
            {"event": "started", "at_ms": 5, "job": "j1", "uid": 1},
            {"event": "reloaded", "at_ms": 6},
        ]
        assert taken(two) == [{"event": "reloaded", "at_ms": 6}]
        assert len(taken(admin)) == 2
    assert len(happenings) == 0


def test_what_a_slow_reader_lost_is_counted_where_it_is_missing() -> None:
    happenings = Happenings(2, 10)
    with happenings.listening(viewer(1)) as slow:
        for n in range(5):
            happenings.tell("started", 1, n)
        assert slow.take(99) == {"event": "started", "at_ms": 0, "uid": 1}
        happenings.tell("started", 1, 7)
        assert taken(slow) == [
            {"event": "started", "at_ms": 1, "uid": 1},
            {"event": "lost", "at_ms": 7, "lost": 3},
            {"event": "started", "at_ms": 7, "uid": 1},
        ]
        for n in range(4):
            happenings.tell("ended", 1, n)
        assert taken(slow)[2:] == [{"event": "lost", "at_ms": 99, "lost": 2}]
        assert not slow.changed.is_set()


def test_a_uid_has_so_many_streams_and_no_more() -> None:
    happenings = Happenings(2, 1)
    with (
        happenings.listening(viewer(1)),
        happenings.listening(viewer(2)),
        pytest.raises(QuotaExceeded),
        happenings.listening(viewer(1)),
    ):
        pass
    with happenings.listening(viewer(1)):
        pass


def test_a_job_starts_and_ends_with_what_it_cost(tmp_path: Path) -> None:
    with (
        served(tmp_path) as daemon,
        RawPeer(daemon.config.socket) as listener,
        RawPeer(daemon.config.socket, agent="worker") as worker,
    ):
        listen(listener)
        result: Any = worker.ask("llm.generate", prompt="Secret", max_tokens=3, ignore_eos=True)
        job = result.result["job"]
        started, ended = until(listener, "ended")
        assert (started["event"], started["job"], started["agent"]) == ("started", job, "worker")
        assert (ended["job"], ended["outcome"], ended["finish"]) == (job, "done", "length")
        assert ended["tokens"] == 3
        assert ended["queue_ms"] <= ended["total_ms"]
        assert "Secret" not in str((started, ended))


def test_parks_refusals_policies_and_kills_are_told(tmp_path: Path) -> None:
    limits = dataclasses.replace(config.Limits(), jobs_per_uid=2)
    with (
        served(tmp_path, slots=1, limits=limits, quantum=1) as daemon,
        RawPeer(daemon.config.socket) as listener,
        RawPeer(daemon.config.socket, agent="worker") as worker,
    ):
        listen(listener)
        job: dict[str, Any] = {"prompt": "x", "max_tokens": 100, "ignore_eos": True}
        worker.send(b"".join(request(n, "llm.generate", **job) for n in range(3)))
        events = until(listener, "parked")
        while not [e for e in events if e["event"] == "refused"]:
            events.append(next_event(listener))
        [refused] = [e for e in events if e["event"] == "refused"]
        assert (refused["code"], refused["name"]) == ("busy", "llm.generate")
        assert refused["agent"] == "worker"
        listener.send(request(2, "sys.policy", policy="fifo"))
        assert_answer_or_events(listener, 2)
        listener.send(request(3, "agent.kill", agent="worker"))
        assert_answer_or_events(listener, 3)


def assert_answer_or_events(peer: RawPeer, id_: int) -> None:
    while not isinstance(message := peer.receive(), wire.Response):
        assert isinstance(message, wire.Notification)
    assert message.id == id_
    assert message.error is None


def test_a_stream_of_events_ends_when_it_is_cancelled_and_with_the_daemon(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        with RawPeer(daemon.config.socket) as peer:
            listen(peer)
            peer.send(wire.encode_notification("cancel", {"id": 1}))
            answer = peer.receive()
            assert isinstance(answer, wire.Response)
            assert code(answer) == "cancelled"
            assert code(peer.ask("sys.events")) == "invalid_params"
        with RawPeer(daemon.config.socket) as peer:
            listen(peer)
            daemon.loop.call_soon_threadsafe(daemon.stop)
            assert next_event(peer)["event"] == "stopping"
            answer = peer.receive()
            assert isinstance(answer, wire.Response)
            assert code(answer) == "unavailable"


def test_a_reader_that_stops_reading_loses_events_and_goes_on(tmp_path: Path) -> None:
    limits = dataclasses.replace(config.Limits(), unread_bytes=4096, events_waiting=10)
    with (
        served(tmp_path, limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        listen(peer)
        on_loop(daemon, 20_000)  # far more than the socket's buffers hold
        n_next = n_lost = 0
        while n_next < 20_000:
            event = next_event(peer)
            if event["event"] == "lost":
                n_lost += event["lost"]
                n_next += event["lost"]
            else:
                assert event["n"] == n_next  # in order, and each gap is told where it is
                n_next += 1
        assert n_lost > 0
        on_loop(daemon, 1)
        assert next_event(peer)["n"] == 0


def on_loop(daemon: Daemon, n_events: int) -> None:
    async def tell() -> None:
        for n in range(n_events):
            daemon.telemetry.happenings.tell("test", None, 1, n=n, padding="x" * 200)
            if n % 50 == 0:
                await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(tell(), daemon.loop).result(20)


def test_both_clients_listen_and_leave(daemon_socket: str) -> None:
    with Client(daemon_socket, agent="worker") as client:
        with client.events() as events:
            assert next(events)["event"] == "listening"
            client.generate("x", max_tokens=2)
            assert [next(events)["event"] for _ in range(2)] == ["started", "ended"]
        assert "aiosd_ttft_seconds_count 1.0" in client.metrics()

    async def main() -> list[object]:
        seen: list[object] = []
        async with AsyncClient(daemon_socket, agent="worker") as client:
            async with client.events() as events:
                async for event in events:
                    seen.append(event["event"])
                    if len(seen) == 1:
                        await client.generate("x", max_tokens=2)
                    if len(seen) == 3:
                        break
            assert "aiosd_ttft_seconds_count 2.0" in await client.metrics()
        return seen

    assert asyncio.run(main()) == ["listening", "started", "ended"]


@pytest.fixture
def daemon_socket(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as daemon:
        yield daemon.config.socket
