"""What a server says costs the others little, however much it says."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from aiosd.services.tools.mcp_stdio import Lines
from aiosd.services.tools.mcp_traffic import Incoming, Item, Traffic
from aiosd.services.tools.mcp_trouble import ServerLog


def lines(said: bytes) -> Lines:
    reader = asyncio.StreamReader()
    reader.feed_data(said)
    reader.feed_eof()
    return Lines(reader, 10_000, ServerLog(1000), lambda _: None)


def test_who_says_much_is_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[float]:
        waits: list[float] = []

        async def sleep(s: float) -> None:
            waits.append(s)

        clock = count()
        monkeypatch.setattr(
            "aiosd.services.tools.mcp_stdio.time.thread_time", lambda: next(clock) / 10
        )
        monkeypatch.setattr("aiosd.services.tools.mcp_stdio.asyncio.sleep", sleep)
        come = lines(b'{"jsonrpc":"2.0","method":"x"}\n' * 2 + b"[[[\n" + b"\n")
        assert [each.message.method async for each in come] == ["x", "x"]  # type: ignore[union-attr]  # both are notifications
        return waits

    assert asyncio.run(run()) == [pytest.approx(0.8), pytest.approx(0.8)]


def test_each_kind_of_message_is_told_apart() -> None:
    async def run() -> None:
        said = b"""
        {"jsonrpc":"2.0","id":1,"method":"ping"}
        {"jsonrpc":"2.0","method":"x","params":{"a":1}}
        {"jsonrpc":"2.0","id":1,"result":{}}
        {"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}
        7
        {"jsonrpc":"2.0","id":1,"result":{"n":NaN}}
        {"jsonrpc":"2.0","id":1,"result":{"text":"\\ud800"}}
        """
        kinds = [type(each.message) async for each in lines(said)]
        assert kinds == [JSONRPCRequest, JSONRPCNotification, JSONRPCResponse, JSONRPCError]

    asyncio.run(run())


def test_talk_that_nobody_heeds_is_passed_over() -> None:
    class Said:
        def __init__(self, *methods: str) -> None:
            self._left = [JSONRPCNotification(jsonrpc="2.0", method=each) for each in methods]

        async def receive(self) -> Item:
            return SessionMessage(self._left.pop(0))

        async def aclose(self) -> None: ...

    async def run() -> None:
        said = Said("notifications/message", "x", "notifications/tools/list_changed")
        item = await Incoming(said, Traffic(lambda _: None)).receive()  # type: ignore[arg-type]  # what it needs of a stream
        assert isinstance(item, SessionMessage)
        assert isinstance(item.message, JSONRPCNotification)
        assert item.message.method == "notifications/tools/list_changed"

    asyncio.run(run())


def test_of_many_lines_at_once_only_those_are_looked_at_that_are_kept() -> None:
    class Counting(ServerLog):
        n_added = 0

        def add(self, line: str) -> None:
            self.n_added += 1
            super().add(line)

    log = Counting(6400)
    log.feed(b"x\n" * 30_000 + b"last\nand")
    assert log.n_added == 100
    assert log.lines()[-2:] == ["last", "and"]
