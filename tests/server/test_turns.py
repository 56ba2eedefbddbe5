"""The loop is nobody's for long: chores, long lists and large answers go in turns."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sdk import wire
from aiosd.engine.fake import FakeModel
from aiosd.server import turns
from aiosd.server.turns import Chores, InTurn, in_turns
from tests.server.harness import RawPeer, served
from tests.server.test_red_team import answers, code, request


def test_chores_are_done_in_order_a_turn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(turns, "TURN_NS", -1)  # no time: a turn ends before its first chore
        chores = Chores(asyncio.get_running_loop())
        done: list[int] = []
        chores.add(partial(done.append, n) for n in range(3))
        assert done == []
        monkeypatch.setattr(turns, "TURN_NS", 10**12)
        chores.add([lambda: done.append(3), lambda: 1 // 0, lambda: done.append(4)])
        asyncio.get_running_loop().set_exception_handler(lambda *_: done.append(99))
        for _ in range(3):
            await asyncio.sleep(0)
        assert done == [0, 1, 2, 3, 99, 4]
        chores.add([lambda: chores.add([lambda: done.append(6)]), lambda: done.append(5)])
        assert done[-2:] == [5, 6]  # one added by another waits for its turn

    asyncio.run(main())


def test_those_who_come_at_once_go_one_after_another_with_others_in_between() -> None:
    async def main() -> list[str]:
        gate, seen = InTurn(asyncio.get_running_loop()), list[str]()

        async def come(name: str) -> None:
            await gate.turn()
            seen.append(name)

        async def other() -> None:
            for _ in range(12):
                seen.append(".")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            comers = [tasks.create_task(come(name)) for name in "abcd"]
            tasks.create_task(other())
            await asyncio.sleep(0)
            comers[2].cancel()
        await come("e")
        return seen

    seen = "".join(asyncio.run(main()))
    assert seen.replace(".", "") == "abde"
    assert "ab" not in seen
    assert "bd" not in seen


def test_a_long_list_lets_others_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[int]:
        monkeypatch.setattr(turns, "TURN_NS", -1)
        seen: list[int] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(note(seen))
            async for item in in_turns(range(3)):
                seen.append(item)
        return seen

    async def note(seen: list[int]) -> None:
        for _ in range(3):
            seen.append(-1)
            await asyncio.sleep(0)

    assert sorted(asyncio.run(main())) == [-1, -1, -1, 0, 1, 2]
    assert asyncio.run(main()) != [0, 1, 2, -1, -1, -1]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values), st.integers(0, 2**32 - 1))
def test_an_answer_in_parts_is_the_answer(result: dict[str, Any], id_: int) -> None:
    assert wire.encode_large(id_, result) == wire.encode_response(id_, None, result)


@pytest.mark.parametrize("n_items", [255, 256, 257, 65_535, 65_536, 70_000])
def test_a_long_answer_in_parts_is_the_answer(n_items: int) -> None:
    result: dict[str, Any] = {"tokens": list(range(n_items)), "text": "x"}
    assert wire.is_large(result) == (n_items > 256)
    data = wire.encode_large(7, result)
    assert data == wire.encode_response(7, None, result)
    assert msgpack.unpackb(data)[3] == result


def test_long_answers_of_all_kinds_arrive_whole(tmp_path: Path) -> None:
    model = FakeModel(n_slots=4, slot_tokens=4096)
    with (
        served(tmp_path, model, slot_tokens=4096) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        tokens: Any = peer.ask("llm.tokenize", text="abcde " * 500).result
        assert len(tokens["tokens"]) > 256
        reply: Any = peer.ask(
            "llm.generate", prompt="x", max_tokens=300, ignore_eos=True, logprobs=20
        ).result
        assert len(reply["logprobs"]) == len(reply["tokens"]) == 300
        assert len(reply["logprobs"][299]["top"]) == 20


def test_a_frame_of_headers_alone_is_taken_apart_in_pieces(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(
            request(1, "llm.generate", prompt="x", schema={"a": [[]] * 60_000})
            + request(2, "sys.ping")
        )
        got = answers(peer, 2)
        assert (code(got[1]), code(got[2])) == ("invalid_params", "ok")
        peer.send(request(3, "llm.generate", prompt="x", schema={"a": [[]] * 70_000}))
        message = peer.receive()
        assert isinstance(message, wire.Notification)
        assert message.params["code"] == "too_large"
        assert "arrays and maps or more, the limit is 65536" in str(message.params["message"])
        assert peer.receive() is None


def test_all_jobs_of_an_agent_end_when_it_is_killed_or_leaves(tmp_path: Path) -> None:
    model, may_step = FakeModel(n_slots=4, slot_tokens=256), threading.Event()

    def hold(_pieces: object) -> None:
        assert may_step.wait(60)  # so that none ends before all are here

    model.before_decode = hold
    with served(tmp_path, model) as daemon, RawPeer(daemon.config.socket) as boss:
        workers = [RawPeer(daemon.config.socket, agent="worker") for _ in range(3)]
        leaver = RawPeer(daemon.config.socket, agent="leaver")
        job: dict[str, Any] = {"prompt": "x", "max_tokens": 200, "ignore_eos": True}
        for peer in (*workers, leaver):
            peer.send(b"".join(request(n, "llm.generate", **job) for n in range(100)))
        jobs: list[Any] = []
        while len(jobs) < 400:
            jobs = rows(boss)
        assert len({row["job"] for row in jobs}) == 400
        leaver.close()
        may_step.set()
        assert boss.ask("agent.kill", agent="worker").error is None
        while rows(boss):
            pass
        for worker in workers:
            while worker.receive() is not None:
                pass
            worker.close()


def rows(peer: RawPeer) -> list[Any]:
    result: Any = peer.ask("job.list", all=True).result
    return list(result["jobs"])


def test_full_collections_wait_for_a_quiet_moment() -> None:
    script = (
        "import gc, time\n"
        "from aiosd import garbage\n"
        "sweeper = garbage.Sweeper()\n"
        "assert not sweeper.sweep(is_quiet=True)\n"  # left to Python unless settled
        "garbage.settle()\n"
        "assert gc.get_freeze_count() > 1000\n"
        "assert gc.get_threshold() == (2000, 10, garbage.NEVER)\n"
        "assert not sweeper.sweep(is_quiet=False)\n"
        "assert sweeper.sweep(is_quiet=True)\n"
        "garbage.PATIENCE_S = -1.0\n"
        "assert sweeper.sweep(is_quiet=False)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert gc.get_threshold()[2] < 1000  # here it is Python's own
