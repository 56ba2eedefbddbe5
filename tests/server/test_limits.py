"""Fair shares and limits through a real socket: classes, weights, tokens per minute, queues."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aios_sdk import wire
from aiosd.config import Limits
from aiosd.engine.fake import FakeModel
from aiosd.kernel.model import AgentId
from aiosd.server.workers import LONG_TEXT
from tests.server.harness import RawPeer, served


def ok(response: wire.Response) -> Any:
    assert response.error is None, response.error
    return response.result


def failed(response: wire.Response) -> Any:
    assert response.error is not None, response.result
    return response.error


def slow_model(n_slots: int = 2) -> FakeModel:
    model = FakeModel(n_slots=n_slots, slot_tokens=2048)
    model.delay_s = 0.002
    return model


def begin(peer: RawPeer, id_: int, **params: Any) -> None:
    words = {} if "tokens" in params else {"prompt": "Go"}
    more = {**words, "max_tokens": 1500, "ignore_eos": True, "stream": True, **params}
    peer.send(wire.encode_request(id_, "llm.generate", more))


def until_words(peer: RawPeer) -> str:
    """Read until the job talks; its id."""
    job = ""
    while isinstance(message := peer.receive(), wire.Notification):
        job = str(message.params.get("job", job))
        if "text" in message.params:
            return job
    raise AssertionError(message)


def until_state(peer: RawPeer, state: str) -> None:
    while isinstance(message := peer.receive(), wire.Notification):
        if message.params.get("state") == state:
            return
    raise AssertionError(message)


def test_fair_is_the_default_and_an_interactive_job_takes_the_lane_of_a_lower_class(
    tmp_path: Path,
) -> None:
    with (
        served(tmp_path, slow_model(1), slots=1, slot_tokens=2048) as daemon,
        RawPeer(daemon.config.socket, "worker") as worker,
        RawPeer(daemon.config.socket, "person") as person,
    ):
        assert ok(person.ask("sys.policy"))["policy"] == "fair"
        begin(worker, 1, priority="background")
        until_words(worker)
        reply = ok(
            person.ask(
                "llm.generate", prompt="Hi", max_tokens=8, ignore_eos=True, priority="interactive"
            )
        )
        assert reply["usage"]["slices"] == 1  # nobody took a turn in between
        until_state(worker, "paused")
        until_state(worker, "resumed")


def test_an_agent_at_its_limit_of_jobs_is_told_when_to_come_back(tmp_path: Path) -> None:
    with (
        served(tmp_path, slow_model(), slots=2, slot_tokens=2048) as daemon,
        RawPeer(daemon.config.socket, "eager") as eager,
        RawPeer(daemon.config.socket, "other") as other,
    ):
        ok(other.ask("agent.limits", agent="eager", max_jobs=2))
        begin(eager, 1)
        until_words(eager)
        begin(eager, 2)
        begin(eager, 3)
        while isinstance(message := eager.receive(), wire.Notification):
            pass
        assert isinstance(message, wire.Response)
        assert message.id == 3
        error = failed(message)
        assert error["code"] == "busy"
        assert error["message"].startswith("agent eager has 2 jobs, limit is 2; try again in ")
        assert error["data"]["queue_depth"] == error["data"]["limit"] == 2
        assert error["data"]["retry_after_ms"] >= 50
        ok(other.ask("llm.generate", prompt="x", max_tokens=1))  # nobody else is held up


def test_over_its_tokens_per_minute_an_agent_waits_and_nothing_fails(tmp_path: Path) -> None:
    with (
        served(tmp_path, slots=2) as daemon,
        RawPeer(daemon.config.socket, "eager") as eager,
        RawPeer(daemon.config.socket, "other") as other,
    ):
        ok(other.ask("agent.limits", agent="eager", tokens_per_minute=40))
        begin(eager, 1, prompt="abc", max_tokens=60)
        until_state(eager, "paused")
        (job,) = ok(other.ask("job.list", all=True))["jobs"]
        assert (job["state"], job["n_output"] < 60) == ("delayed", True)
        assert ok(other.ask("sys.status"))["cores"][0]["jobs"]["delayed"] == 1
        ok(other.ask("agent.limits", agent="eager", tokens_per_minute=0))
        while isinstance(message := eager.receive(), wire.Notification):
            pass
        assert isinstance(message, wire.Response)
        assert len(ok(message)["tokens"]) == 60


def test_a_delayed_agent_goes_on_by_itself(tmp_path: Path) -> None:
    with served(tmp_path, slots=2) as daemon, RawPeer(daemon.config.socket, "eager") as eager:
        ok(eager.ask("agent.limits", agent="eager", tokens_per_minute=6000))
        was_delayed = False
        for first in range(100):  # a minute's worth is gone after 29, if the machine is quick
            begin(eager, 1, tokens=[first, *range(200, 399)], max_tokens=10)
            while isinstance(message := eager.receive(), wire.Notification):
                was_delayed |= message.params.get("state") == "paused"
            assert isinstance(message, wire.Response)
            assert len(ok(message)["tokens"]) == 10
            if was_delayed:
                return
        raise AssertionError("20,000 tokens in a minute that has 6,000")


def test_limits_are_told_to_the_uid_set_by_an_admin_and_last_over_a_restart(
    tmp_path: Path,
) -> None:
    limits = {"max_jobs": 7, "tokens_per_minute": 600, "weight": 3, "storage_bytes": 2**20}
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "a") as peer:
        told = ok(peer.ask("agent.limits", agent="b"))
        assert told == {
            "agent": "b",
            "uid": os.getuid(),
            "max_jobs": Limits().jobs_per_agent,
            "tokens_per_minute": 0,
            "weight": 1,
            "memory_bytes": Limits().memory_bytes,
            "storage_bytes": 2**30,
        }
        told = ok(peer.ask("agent.limits", agent="b", **limits))
        assert told == {
            "agent": "b",
            "uid": os.getuid(),
            "memory_bytes": Limits().memory_bytes,
            **limits,
        }
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "a") as peer:
        assert ok(peer.ask("agent.limits", agent="b")) == told
        assert daemon.driver.kernel.wake_ns() is None
        told = ok(peer.ask("agent.limits", agent="b", **dict.fromkeys(limits, 0) | {"weight": 1}))
        assert told["max_jobs"] == Limits().jobs_per_agent
    with served(tmp_path) as daemon:
        assert daemon.agent_limits.of(AgentId(os.getuid(), "b")).max_jobs is None


def test_the_policy_changes_while_jobs_of_all_classes_run_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    with (
        served(tmp_path, slow_model(), slots=2, slot_tokens=2048) as daemon,
        RawPeer(daemon.config.socket, "peer") as peer,
        RawPeer(daemon.config.socket, "admin") as admin,
    ):
        for id_, priority in enumerate(("background", "normal", "interactive"), 1):
            begin(peer, id_, max_tokens=120, priority=priority, stream=False)
        for policy in ("fifo", "fair", "rr", "fair", "fifo", "rr"):
            ok(admin.ask("sys.policy", policy=policy, quantum_tokens=3, lanes=1))
            ok(admin.ask("sys.policy", quantum_tokens=16, lanes=2))
        answers: dict[int, int] = {}
        while len(answers) < 3:
            message = peer.receive()
            assert isinstance(message, wire.Response)
            answers[message.id] = len(ok(message)["tokens"])
        assert answers == {1: 120, 2: 120, 3: 120}


def test_limits_that_are_set_at_the_same_time_all_hold(tmp_path: Path) -> None:
    asked: list[dict[str, int]] = [
        {"weight": 3},
        {"max_jobs": 7},
        {"tokens_per_minute": 600},
        {"weight": 5},
    ]
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "a") as peer:
        peer.send(
            b"".join(
                wire.encode_request(number, "agent.limits", {"agent": "a", **params})
                for number, params in enumerate(asked)
            )
        )
        for _ in asked:
            message = peer.receive()
            assert isinstance(message, wire.Response)
            ok(message)
        limits = ok(peer.ask("agent.limits", agent="a"))
    assert (limits["weight"], limits["max_jobs"], limits["tokens_per_minute"]) == (5, 7, 600)
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "a") as peer:
        assert ok(peer.ask("agent.limits", agent="a")) == limits


def test_a_flood_of_pictures_and_stories_leaves_the_workers_to_others(tmp_path: Path) -> None:
    """Of one uid one is made at a time, so the other worker is free for whoever else needs it."""
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "a") as peer:
        n_at_once: list[int] = []
        run = daemon.in_worker

        async def counted(work: Any, uid: int = 0, size: int = 0) -> Any:
            n_at_once.append(size)
            return await run(work, uid, size)

        daemon.in_worker = counted  # type: ignore[method-assign]  # to see what it is asked
        ok(peer.ask("sys.trace"))
        failed(peer.ask("job.story", job="nobody"))
    assert n_at_once[:2] == [LONG_TEXT, LONG_TEXT]
