"""The connection that the daemon gives to a process it starts: one, taken once, with its name."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from aios_sdk import AsyncClient, Client, ConnectionLost, NoDaemon, dialing
from aios_sdk.wire import Request
from tests.sdk.peer import HELLO, Conversation, Script

Given = Callable[[Script], str]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Given]:
    """given(script) makes a connection whose other end follows the script, and names it."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(dialing, "_taken", set())  # each test is a process of its own

    def give(script: Script) -> str:
        ours, theirs = socket.socketpair()
        fd = theirs.detach()
        os.set_inheritable(fd, True)

        def talk() -> None:
            with ours:
                script(Conversation(ours))

        threads.append(threading.Thread(target=talk))
        threads[-1].start()
        monkeypatch.setenv("AIOSD_SOCKET", f"fd:{fd}")
        monkeypatch.setenv("AIOSD_AGENT", "worker")
        return f"fd:{fd}"

    yield give
    for thread in threads:
        thread.join(20)


def answers_pings(peer: Conversation) -> None:
    hello = peer.expect("sys.hello")
    assert hello.params["agent"] == "worker"
    peer.reply(hello, HELLO)
    while isinstance(request := peer.next(), Request):
        peer.reply(request, {})


def test_a_client_goes_by_the_name_that_comes_with_it(given: Given) -> None:
    given(answers_pings)
    with Client() as client:
        client.ping()
        client.ping()


def test_an_asyncio_client_does_too(given: Given) -> None:
    given(answers_pings)

    async def main() -> None:
        async with AsyncClient() as client:
            await asyncio.gather(client.ping(), client.ping())

    asyncio.run(asyncio.wait_for(main(), 20))


def test_there_is_one_connection_and_a_second_client_is_told(given: Given) -> None:
    name = given(answers_pings)
    with Client() as client:
        client.ping()
        with pytest.raises(NoDaemon, match="share it") as caught:
            Client()
    assert str(caught.value).startswith(f"no daemon at {name} (the daemon gave this process one")
    assert "start aiosd" not in str(caught.value)
    with pytest.raises(NoDaemon, match="which has ended"):
        Client()


def test_when_it_has_ended_there_is_no_other(given: Given) -> None:
    def leaves(peer: Conversation) -> None:
        peer.hello()
        peer.expect("context.create")

    given(leaves)
    with Client() as client:
        with pytest.raises(ConnectionLost):
            client.context()
        with pytest.raises(NoDaemon, match="which has ended"):
            client.ping()


def test_no_child_inherits_it(given: Given) -> None:
    name = given(answers_pings)
    fd = int(name[3:])
    code = f"import os\ntry: os.fstat({fd})\nexcept OSError: print('none')"
    with Client() as client:
        client.ping()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            close_fds=False,
        )  # fmt: skip
    assert done.stdout == "none\n"


@pytest.mark.parametrize("kind", ["none", "file", "datagram"])
def test_what_is_no_connection_is_refused(kind: str) -> None:
    if kind == "file":
        fd = os.open(os.devnull, os.O_RDONLY)
    elif kind == "datagram":
        fd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
    else:
        fd = 4_000_000
    try:
        with pytest.raises(NoDaemon, match="it is no"):
            Client(f"fd:{fd}")
    finally:
        if kind != "none":
            os.close(fd)  # it was left open: it isn't ours
