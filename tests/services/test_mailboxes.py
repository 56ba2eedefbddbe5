"""Handing out: who gets which message, in which order, again when, and what holds no more."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from aios_sdk.errors import Busy, QuotaExceeded, TooLarge
from aiosd.kernel.model import AgentId
from aiosd.services import saved_messages
from aiosd.services.mailboxes import Limits, Mailboxes
from aiosd.services.saved_messages import Message, Room
from tests.services.opened import ALICE, BOB, in_memory, opened

CAROL = AgentId(1000, "carol")
LIMITS = Limits(1000, Room(8, 100_000, 200_000), n_receivers=4, keep_ms=1000)
SOON_S = 20.0  # a test that works doesn't wait for it


def on_a_loop(test: Callable[[Path], Coroutine[None, None, None]]) -> Callable[[Path], None]:
    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    return run


@contextlib.asynccontextmanager
async def mailing(tmp_path: Path, limits: Limits = LIMITS) -> AsyncIterator[Mailboxes]:
    async with opened(tmp_path / "db") as db, asyncio.TaskGroup() as tasks:
        boxes = Mailboxes(db, limits)
        running = tasks.create_task(boxes.run())
        try:
            yield boxes
        finally:
            running.cancel()


async def received(
    boxes: Mailboxes,
    session: str = "s1",
    *,
    limit: int = 10,
    timeout_s: float = 0,
    lease_s: float = 60,
) -> list[bytes]:
    found = await boxes.receive(ALICE, session, limit=limit, timeout_s=timeout_s, lease_s=lease_s)
    return [message.body for message in found]


async def send(boxes: Mailboxes, *bodies: bytes, sender: AgentId = BOB) -> list[str]:
    return [await boxes.send(sender, ALICE, body, None, 5) for body in bodies]


@on_a_loop
async def test_a_message_comes_once_and_not_again_when_acknowledged(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes:
        assert await received(boxes) == []
        [id_] = await send(boxes, b"1")
        [message] = await boxes.receive(ALICE, "s1", limit=10, timeout_s=0, lease_s=60)
        assert (message.id, message.sender, message.body) == (id_, "bob", b"1")
        assert (message.sent_ms, message.n_deliveries) == (5, 1)
        assert await received(boxes) == []
        assert await boxes.ack(ALICE, id_)
        assert not await boxes.ack(ALICE, id_)
        boxes.leave(ALICE, "s1")
        assert await received(boxes) == []
        assert (await boxes.figures(ALICE)).held.n_messages == 0


@on_a_loop
async def test_it_comes_again_when_its_receiver_leaves_and_counts(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes:
        await send(boxes, b"1")
        for n in (1, 2, 3):
            [message] = await boxes.receive(ALICE, f"s{n}", limit=1, timeout_s=0, lease_s=60)
            assert message.n_deliveries == n
            boxes.leave(ALICE, f"s{n}")


@on_a_loop
async def test_it_comes_again_when_its_lease_has_run_out(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes:
        await send(boxes, b"1")
        assert await received(boxes, lease_s=0.001) == [b"1"]
        assert await received(boxes, "s2", timeout_s=SOON_S) == [b"1"]


@on_a_loop
async def test_those_that_wait_are_served_in_the_order_they_came(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes, asyncio.TaskGroup() as tasks:
        waiting = []
        for n in range(3):
            wait = received(boxes, f"s{n}", limit=1, timeout_s=SOON_S)
            waiting.append(tasks.create_task(wait))
            await asyncio.sleep(0)
        for n, sender in enumerate((BOB, CAROL, ALICE)):
            await send(boxes, b"%d" % n, sender=sender)
        assert [await one for one in waiting] == [[b"0"], [b"1"], [b"2"]]


@on_a_loop
async def test_a_senders_messages_keep_their_order_among_receivers(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes:
        ids = await send(boxes, b"b1", b"b2", b"b3")
        await send(boxes, b"c1", sender=CAROL)
        assert await received(boxes, "s1", limit=1) == [b"b1"]
        assert await received(boxes, "s2") == [b"c1"]  # bob's others wait for the first one
        assert await received(boxes, "s1", limit=1) == [b"b2"]
        boxes.leave(ALICE, "s1")
        assert await received(boxes, "s2", limit=2) == [b"b1", b"b2"]
        assert await boxes.ack(ALICE, ids[0])
        assert await received(boxes, "s3") == []
        assert await boxes.ack(ALICE, ids[1])
        assert await received(boxes, "s3") == [b"b3"]


@on_a_loop
async def test_an_acknowledgement_lets_a_waiting_receiver_have_the_next(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes, asyncio.TaskGroup() as tasks:
        first, _ = await send(boxes, b"1", b"2")
        assert await received(boxes, "s1", limit=1) == [b"1"]
        waiting = tasks.create_task(received(boxes, "s2", timeout_s=SOON_S))
        await asyncio.sleep(0)
        await boxes.ack(ALICE, first)
        assert await waiting == [b"2"]


@on_a_loop
async def test_who_gives_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes, asyncio.TaskGroup() as tasks:
        assert await received(boxes, timeout_s=0.001) == []
        for _ in range(20):  # a cancel at whatever point it comes
            waiting = tasks.create_task(received(boxes, "s1", timeout_s=SOON_S))
            await asyncio.sleep(0)
            sending = tasks.create_task(boxes.send(BOB, ALICE, b"x", None, 5))
            for _ in range(3):
                await asyncio.sleep(0)
            waiting.cancel()
            id_ = await sending
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            boxes.leave(ALICE, "s1")
            assert await received(boxes, "s2", timeout_s=SOON_S) == [b"x"]
            await boxes.ack(ALICE, id_)
        figures = await boxes.figures(ALICE)
        assert (figures.n_leased, figures.n_receivers, figures.held.n_bytes) == (0, 0, 0)


@on_a_loop
async def test_a_key_makes_many_sends_one_message(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes:
        first = await boxes.send(BOB, ALICE, b"1", "k", 5)
        assert await boxes.send(BOB, ALICE, b"2", "k", 5) == first
        assert await boxes.send(CAROL, ALICE, b"3", "k", 5) != first
        assert await boxes.send(BOB, CAROL, b"4", "k", 5) != first
        assert await received(boxes) == [b"1", b"3"]
        await boxes.ack(ALICE, first)
        assert await boxes.send(BOB, ALICE, b"5", "k", 5) == first
        assert await received(boxes) == []
        for n in range(16):  # twice what the mailbox holds: the first key is forgotten
            await boxes.ack(ALICE, await boxes.send(BOB, ALICE, b"x", f"k{n}", 5))
        assert await boxes.send(BOB, ALICE, b"6", "k", 5) != first


def test_a_uid_has_its_newest_keys_remembered() -> None:
    room = Room(8, 10**6, 10**6)
    with in_memory() as t:
        for n in range(6):
            to = AgentId(1000, f"agent-{n}")
            message = Message(0, f"e{n}", "bob", b"", 5, 0)
            assert saved_messages.send(t, to, message, "k", room) == (f"e{n}", True)
        saved_messages.forget_keys(t, 2)
        again = Message(0, "again", "bob", b"", 5, 0)
        sent = [
            saved_messages.send(t, AgentId(1000, f"agent-{n}"), again, "k", room) for n in (4, 5)
        ]
        assert sent == [("e4", False), ("e5", False)]
        assert saved_messages.send(t, AgentId(1000, "agent-3"), again, "k", room)[1]


@on_a_loop
async def test_limits_are_told_with_their_figures(tmp_path: Path) -> None:
    limits = Limits(1000, Room(2, 2600, 3000), n_receivers=1, keep_ms=1000)
    async with mailing(tmp_path, limits) as boxes, asyncio.TaskGroup() as tasks:
        with pytest.raises(TooLarge, match="1001 bytes, limit is 1000"):
            await send(boxes, b"x" * 1001)
        [id_] = await send(boxes, b"x" * 1000)
        await boxes.send(BOB, CAROL, b"x" * 1000, None, 5)
        with pytest.raises(QuotaExceeded, match="the limit is 3000"):
            await boxes.send(BOB, CAROL, b"x" * 1000, None, 5)
        await boxes.clear(CAROL)
        await send(boxes, b"x")
        with pytest.raises(Busy, match="alice is full: 2 messages") as full:
            await send(boxes, b"x")
        assert full.value.data == {"retry_after_ms": 1000, "queue_depth": 2}
        await boxes.ack(ALICE, id_)
        await send(boxes, b"y")
        assert await received(boxes) == [b"x", b"y"]
        waiting = tasks.create_task(received(boxes, timeout_s=SOON_S))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="1 calls wait at the mailbox of agent alice"):
            await received(boxes)
        waiting.cancel()


@on_a_loop
async def test_an_answer_holds_what_a_frame_may(tmp_path: Path) -> None:
    limits = Limits(300_000, Room(8, 10**7, 10**7), n_receivers=1, keep_ms=1000)
    async with mailing(tmp_path, limits) as boxes:
        await send(boxes, b"1" * 300_000, b"2" * 200_000, b"3" * 200_000, b"4")
        found = [await received(boxes) for _ in range(3)]
        assert [[body[:1] for body in one] for one in found] == [[b"1"], [b"2"], [b"3", b"4"]]


@on_a_loop
async def test_what_nobody_wants_goes_after_a_while_or_when_cleared(tmp_path: Path) -> None:
    async with mailing(tmp_path) as boxes:
        await boxes.send(BOB, ALICE, b"1", None, 5)
        await boxes.send(BOB, ALICE, b"2", None, 6)
        await boxes.send(BOB, CAROL, b"3", None, 6)
        await boxes.tidy(1006)
        held = [figures.held for figures in await boxes.of_uid(1000, 10, "")]
        assert [(one.agent, one.n_messages, one.oldest_ms) for one in held] == [
            ("alice", 1, 6),
            ("carol", 1, 6),
        ]
        assert await received(boxes) == [b"2"]
        assert await boxes.clear(ALICE) == 1
        assert (await boxes.figures(ALICE)).held.n_bytes == 0
        assert [one.held.agent for one in await boxes.of_uid(1000, 10, "")] == ["carol"]
