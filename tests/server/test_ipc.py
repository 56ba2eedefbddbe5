"""ipc.* over the socket: who may write to whom, who waits how long, and what a restart keeps."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import AsyncClient, Client, wire
from aios_sdk.errors import Busy, Denied, TooLarge, Unavailable
from aiosd.access_config import Access, ConfirmRule, FixedGroup
from aiosd.kernel.model import AgentId
from aiosd.mailbox_config import MailboxConfig
from tests.server.harness import RawPeer, served

TEAM = Access(groups={"team": FixedGroup(members=("ada", "bob"))})
SOON_S = 20.0
BODIES: list[Any] = [
    None,
    1.5,
    "tea ☕",
    b"\x00\xff",
    [1, {"a": [None, b"x"]}],
    {b"key": True},
    2**63,
]


def test_a_message_has_its_body_its_sender_and_comes_until_it_is_acknowledged(
    tmp_path: Path,
) -> None:
    with served(tmp_path, access=TEAM) as daemon, Client(daemon.config.socket, agent="ada") as ada:
        ids = [ada.ipc.send("bob", body) for body in BODIES]
        with Client(daemon.config.socket, agent="bob") as bob:
            found = bob.ipc.receive(limit=100)
            assert [m["body"] for m in found] == BODIES
            assert [m["message"] for m in found] == ids
            assert {(m["from"], m["deliveries"]) for m in found} == {("ada", 1)}
            assert bob.ipc.receive() == []
            assert bob.ipc.ack(found[0])
            assert not bob.ipc.ack(found[0])
    with (
        served(tmp_path, access=TEAM) as daemon,
        Client(daemon.config.socket, agent="bob") as bob,
    ):
        found = bob.ipc.receive(limit=100)
        assert [(m["body"], m["deliveries"]) for m in found] == [(body, 2) for body in BODIES[1:]]
        assert bob.ipc.mailbox()["leased"] == len(BODIES) - 1


def test_what_a_dead_receiver_had_comes_again_at_once(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.config.socket, agent="ada") as ada:
        ada.ipc.send("ada", "x")
        with RawPeer(daemon.config.socket, "ada") as dead:
            assert dead.ask("ipc.receive", lease_ms=86_400_000).error is None
            assert ada.ipc.receive() == []
        [message] = ada.ipc.receive(SOON_S)
        assert message["deliveries"] == 2


def test_a_receiver_waits_and_is_woken_and_leaving_it_early_takes_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.config.socket, agent="ada") as ada:
        with RawPeer(daemon.config.socket, "ada") as peer:
            peer.send(wire.encode_request(1, "ipc.receive", {"timeout_ms": 60_000}))
            peer.send(wire.encode_notification("cancel", {"id": 1}))
            cancelled: Any = peer.receive()
            assert cancelled.error["code"] == "cancelled"
            late = {"timeout_ms": 60_000, "deadline_ms": 1}
            assert_code(peer.ask("ipc.receive", **late), "deadline_exceeded")
            peer.send(wire.encode_request(2, "ipc.receive", {"timeout_ms": 60_000}))
            id_ = ada.ipc.send("ada", "x")
            woken: Any = peer.receive()
            assert [m["message"] for m in woken.result["messages"]] == [id_]
            peer.send(wire.encode_request(3, "ipc.receive", {"timeout_ms": 60_000}))
        assert ada.ipc.receive(SOON_S)[0]["message"] == id_


def assert_code(response: Any, code: str) -> None:
    assert response.error is not None
    assert response.error["code"] == code


def test_a_waiting_receiver_is_told_that_the_daemon_stops(tmp_path: Path) -> None:
    told: list[BaseException] = []

    def wait(client: Client) -> None:
        try:
            client.ipc.receive(600)
        except Unavailable as error:
            told.append(error)

    with served(tmp_path) as daemon:
        client = Client(daemon.config.socket, agent="ada")
        thread = threading.Thread(target=wait, args=(client,))
        thread.start()
        with Client(daemon.config.socket, agent="ada") as other:
            while not other.ipc.mailbox()["receivers"]:
                pass
    thread.join(SOON_S)
    client.close()
    assert len(told) == 1


def test_only_a_common_group_or_the_uids_mode_or_an_operator_opens_a_mailbox(
    tmp_path: Path,
) -> None:
    with served(tmp_path, access=TEAM) as daemon:
        path = daemon.config.socket
        with Client(path, agent="bob") as bob, Client(path, agent="eve") as eve:
            bob.ipc.send("ada", 1)
            with pytest.raises(Denied, match="mailbox 'ada' of agent ada is not agent eve's"):
                eve.ipc.send("ada", 1)
            with pytest.raises(Denied):
                bob.call("ipc.clear", agent="ada")
            assert [box["agent"] for box in bob.ipc.mailboxes()] == ["ada"]
            assert list(eve.ipc.mailboxes()) == []
            with Client(path, agent="aiosctl") as person:
                person.ipc.send("eve", 2)
                assert {box["agent"] for box in person.ipc.mailboxes()} == {"ada", "eve"}
                assert person.call("ipc.clear", agent="eve") == {"messages": 1}
            assert eve.call("access.check", action="ipc.send", target="ada")["allowed"] is False
            assert bob.call("access.check", action="send", target="mailbox:ada")["allowed"] is True
            assert bob.call("access.check", action="read", target="mailbox:ada")["allowed"] is False
    open_ = Access(same_uid="read")
    with served(tmp_path, access=open_) as daemon:
        with Client(daemon.config.socket, agent="eve") as eve:
            eve.ipc.send("ada", 3)
        with Client(daemon.config.socket, agent="ada") as ada:
            assert [m["body"] for m in ada.ipc.receive(limit=9)] == [1, 3]


def test_another_uids_agent_of_that_name_is_another_mailbox(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.config.socket, agent="ada") as ada:
        id_ = ada.ipc.send("ada", "mine")
        session = next(iter(daemon.sessions_of(os.getuid())))
        session.agent = AgentId(os.getuid() + 1, "ada")
        try:
            assert ada.ipc.receive() == []
            assert not ada.ipc.ack(id_)
            assert ada.ipc.mailbox()["messages"] == 0
            assert ada.ipc.clear() == 0
        finally:
            session.agent = AgentId(os.getuid(), "ada")
        assert ada.ipc.receive()[0]["message"] == id_


def test_a_person_may_be_asked_before_a_message_leaves(tmp_path: Path) -> None:
    rule = ConfirmRule(agent="bob", kinds=("mailbox",), acts=("send",), name="ada")
    access = Access(groups=TEAM.groups, confirm=(rule,))
    with served(tmp_path, access=access) as daemon:
        path = daemon.config.socket

        def approve(chunk: dict[str, Any]) -> None:
            with Client(path, agent="aiosctl") as person:
                person.access.approve(str(chunk["request"]))

        def in_a_thread(chunk: dict[str, Any]) -> None:
            threading.Thread(target=approve, args=(chunk,)).start()

        with Client(path, agent="bob", on_waiting=in_a_thread) as bob:
            bob.ipc.send("ada", "approved")
        with Client(path, agent="ada") as ada:
            assert ada.ipc.receive()[0]["body"] == "approved"


def test_limits_come_from_the_config(tmp_path: Path) -> None:
    ipc = MailboxConfig(message_bytes=1024, mailbox_messages=2)
    with (
        served(tmp_path, ipc=ipc) as daemon,
        Client(daemon.config.socket, agent="ada") as ada,
    ):
        with pytest.raises(TooLarge, match="limit is 1024"):
            ada.ipc.send("ada", "x" * 1024)
        ada.ipc.send("ada", 1)
        ada.ipc.send("ada", 2)
        with pytest.raises(Busy, match="the mailbox of agent ada is full"):
            ada.ipc.send("ada", 3)


def test_the_loop_over_messages_acknowledges_what_it_has_done(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.config.socket, agent="ada") as ada:
        for n in range(3):
            ada.ipc.send("ada", n)
        seen = []
        for message in ada.ipc.messages():
            seen.append(message["body"])
            if message["body"] == 1:
                break
        assert seen == [0, 1]
        with Client(daemon.config.socket, agent="ada") as other:
            ada.close()
            again = [(m["body"], m["deliveries"]) for m in other.ipc.messages(timeout_s=0.2)]
            assert again == [(1, 2), (2, 1)]
            assert other.ipc.mailbox()["messages"] == 0


def test_the_asyncio_client_says_the_same(tmp_path: Path) -> None:
    async def main(socket: str) -> None:
        async with AsyncClient(socket, agent="ada") as ada:
            ipc = ada.ipc
            first = await ipc.send("ada", 1, key="k")
            assert await ipc.send("ada", 1, key="k") == first
            [message] = await ipc.receive(SOON_S, lease_s=60)
            assert await ipc.ack(message)
            for n in (2, 3):
                await ipc.send("ada", n)
            assert [m["body"] async for m in ipc.messages(timeout_s=0)] == [2, 3]
            await ipc.send("ada", 3)
            assert [box["agent"] async for box in ipc.mailboxes()] == ["ada"]
            assert (await ipc.mailbox())["messages"] == 1
            assert await ipc.clear() == 1

    with served(tmp_path) as daemon:
        asyncio.run(main(daemon.config.socket))
