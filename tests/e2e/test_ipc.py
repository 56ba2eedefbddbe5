"""Mailboxes of a real daemon that is killed: what was sent is there, what was acked is gone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from aios_sdk import AiosError, Client
from tests.e2e.conftest import DaemonProcess, Start

pytestmark = pytest.mark.slow

N_KILLS = 3
N_MESSAGES = 60  # of a sender before the daemon is killed


@dataclass
class Traffic:
    """What the senders and the receiver were told."""

    sent: list[str] = field(default_factory=list)
    acked: set[str] = field(default_factory=set)
    doubted: set[str] = field(default_factory=set)  # acks under way when the daemon died
    enough: threading.Event = field(default_factory=threading.Event)

    def send(self, socket: str, sender: str, life: int) -> None:
        try:
            with Client(socket, agent=sender) as client:
                for n in range(100_000):
                    body = f"{sender} {life:02} {n:06}"
                    client.ipc.send("ada", body)
                    self.sent.append(body)
                    if n == N_MESSAGES:
                        self.enough.set()
        except AiosError:
            pass  # the daemon was killed

    def receive(self, socket: str) -> None:
        try:
            with Client(socket, agent="ada") as client:
                while True:
                    for message in client.ipc.receive(60, limit=4):
                        self.doubted = {message["body"]}
                        client.ipc.ack(message)
                        self.acked.add(message["body"])
        except AiosError:
            pass  # likewise


def test_messages_outlive_kills_and_acknowledged_ones_do_not_come_back(start: Start) -> None:
    flags = ("--slots", "1", "--slot-tokens", "64", "--embedder", "none")
    daemon: DaemonProcess = start(*flags)
    config = daemon.directory / "config.toml"
    config.write_text('[access]\nsame_uid = "read"\n[ipc]\nmailbox_messages = 65536\n')
    daemon.stop()
    daemon = DaemonProcess(daemon.directory, *flags, "--config", str(config))
    traffic = Traffic()
    try:
        doubted: set[str] = set()
        for life in range(N_KILLS):
            traffic.enough.clear()
            threads = [
                threading.Thread(target=traffic.send, args=(daemon.socket, sender, life))
                for sender in ("bob", "carol")
            ]
            threads.append(threading.Thread(target=traffic.receive, args=(daemon.socket,)))
            for thread in threads:
                thread.start()
            assert traffic.enough.wait(60)
            daemon.kill()
            for thread in threads:
                thread.join(30)
            doubted |= traffic.doubted
            daemon = daemon.again()
        with Client(daemon.socket, agent="ada") as ada:
            left = [message["body"] for message in ada.ipc.messages(timeout_s=0)]
        assert len(left) == len(set(left))
        assert not traffic.acked & set(left)
        # A call that was under way when the daemon died may have had its effect.
        missing = set(traffic.sent) - traffic.acked - set(left)
        assert missing <= doubted
        assert len(set(left) - set(traffic.sent)) <= 2 * N_KILLS
        for sender in ("bob", "carol"):
            of_one = [body for body in left if body.startswith(sender)]
            assert of_one == sorted(of_one)
        assert len(traffic.acked) > N_KILLS
    finally:
        daemon.kill()
