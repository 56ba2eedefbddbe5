"""Params in flight are bounded per uid, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from aios_sdk.errors import Busy
from aiosd import config
from aiosd.server.budget import ParamsBudget
from tests.server.harness import RawPeer, served
from tests.server.test_red_team import answers, code, request, slow_model


def test_bytes_of_a_uid_are_counted_until_they_are_given_back() -> None:
    budget = ParamsBudget(100)
    budget.check(1, 500)  # alone it is let in
    budget.take(1, 500)
    with pytest.raises(Busy) as caught:
        budget.check(1, 1)
    assert caught.value.data == {"retry_after_ms": 100, "limit": 100, "used": 500}
    budget.check(2, 100)
    budget.give_back(1, 500)
    assert budget.held(1) == 0
    budget.take(1, 60)
    budget.check(1, 40)
    with pytest.raises(Busy):
        budget.check(1, 41)


def test_calls_past_the_budget_are_busy_and_the_room_comes_back(tmp_path: Path) -> None:
    limits = config.Limits(params_bytes_per_uid=10_000)
    with (
        served(tmp_path, slow_model(), limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        job: dict[str, Any] = {"prompt": "x", "ignore_eos": True, "max_tokens": 200}
        stop = ["y" * 256] * 16  # four kilobytes that take no tokens
        peer.send(b"".join(request(n, "llm.generate", stop=stop, **job) for n in range(4)))
        first = answers(peer, 2)
        assert {code(answer) for answer in first.values()} == {"busy"}
        error: Any = next(iter(first.values())).error
        assert "limit is 10000 together" in error["message"]
        peer.send(b"".join(wire.encode_notification("cancel", {"id": n}) for n in range(4)))
        assert [code(answer) for answer in answers(peer, 2).values()] == ["cancelled"] * 2
        assert peer.ask("llm.tokenize", text="x" * 9000).error is None
        assert peer.ask("sys.ping").result == {}
    assert daemon.params_budget.held(peer_uid()) == 0


def peer_uid() -> int:
    import os

    return os.getuid()


def test_large_params_are_checked_aside_and_refused_by_name(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(
            request(1, "llm.generate", schema={"a": [[]] * 65_000}, wrong=1)
            + request(2, "llm.generate", prompt="x" * 100_000, max_tokens=1)
            + request(3, "sys.ping")
            + request(4, "llm.tokenize", text="x" * 100_000, deadline_ms=60_000)
        )
        got = answers(peer, 4)
        assert [code(got[n]) for n in (1, 2, 3, 4)] == ["invalid_params", "too_large", "ok", "ok"]
        error: Any = got[1].error
        assert error["data"]["field"] == "wrong"


def test_a_large_hello_is_refused_before_it_is_looked_at(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, agent=None) as peer:
        answer = peer.ask("sys.hello", protocol=1, agent="me", client="x" * 5000)
        assert code(answer) == "too_large"
