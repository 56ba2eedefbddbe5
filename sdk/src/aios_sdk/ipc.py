"""Messages between agents: `client.ipc`, blocking and asyncio.

    with Client(agent="ada") as client:
        client.ipc.send("bob", {"question": "tea or coffee?"})

    with Client(agent="bob") as client:
        for message in client.ipc.messages():
            print(message["from"], message["body"])

Rule: both say the same; only the waiting differs.  A message comes again until it is acknowledged,
so what it asks for may be asked twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, cast

from aios_sdk.errors import ConnectionLost
from aios_sdk.results import Mailbox, Message, field

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient
    from aios_sdk.client import Client

WAIT_S = 20.0  # of one call of messages(); it makes another


class Ipc:
    """The mailbox of the client's agent, and the way into others'."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, to: str, body: object, *, key: str | None = None) -> str:
        """Put a message into an agent's mailbox; its id.  body: whatever MessagePack can say.

        With a key it is one message however often it is sent, and so is sent again if the
        connection is lost.  Busy: the mailbox is full.
        """
        for _ in range(2 if key is not None else 1):
            try:
                result = self._client.call("ipc.send", to=to, body=body, key=key)
                break
            except ConnectionLost as error:
                lost = error
        else:
            raise lost
        return cast(str, field(result, "message", str))

    def receive(
        self, timeout_s: float = 0, *, limit: int = 1, lease_s: float | None = None
    ) -> list[Message]:
        """The oldest messages, waiting so long for the first.  Each is to be ack()ed within
        lease_s; it comes again otherwise, or if the connection ends."""
        result = self._client.call("ipc.receive", **_asked(timeout_s, limit, lease_s))
        return cast(list[Message], field(result, "messages", list))

    def ack(self, message: Message | str) -> bool:
        """A message has been dealt with.  False: it had been, or was kept too long."""
        result = self._client.call("ipc.ack", message=_id(message))
        return cast(bool, field(result, "acked", bool))

    def messages(
        self, timeout_s: float | None = None, *, lease_s: float | None = None
    ) -> Iterator[Message]:
        """Messages as they come, each acknowledged when the next one is asked for: not if the body
        of the loop raises or breaks.  Ends when none came for timeout_s."""
        patience = _Patience(timeout_s)
        while True:
            found = self.receive(patience.next_s(), lease_s=lease_s)
            if not found and patience.is_over():
                return
            for message in found:
                yield message
                self.ack(message)
                patience = _Patience(timeout_s)

    def mailbox(self) -> Mailbox:
        """This agent's mailbox in figures."""
        result = self._client.call("ipc.list")
        return cast(list[Mailbox], field(result, "mailboxes", list))[0]

    def mailboxes(self) -> Iterator[Mailbox]:
        """Those that hold something, of all agents of the uid that this one may write to."""
        after: str | None = None
        while True:
            page = self._client.call("ipc.list", all=True, after=after)
            yield from cast(list[Mailbox], field(page, "mailboxes", list))
            after = cast("str | None", page.get("next"))
            if after is None:
                return

    def clear(self) -> int:
        """Forget all that waits in this agent's mailbox; how many messages it was."""
        return cast(int, field(self._client.call("ipc.clear"), "messages", int))


class AsyncIpc:
    """As Ipc, with await."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def send(self, to: str, body: object, *, key: str | None = None) -> str:
        """Put a message into an agent's mailbox; its id.  body: whatever MessagePack can say.

        With a key it is one message however often it is sent, and so is sent again if the
        connection is lost.  Busy: the mailbox is full.
        """
        for _ in range(2 if key is not None else 1):
            try:
                result = await self._client.call("ipc.send", to=to, body=body, key=key)
                break
            except ConnectionLost as error:
                lost = error
        else:
            raise lost
        return cast(str, field(result, "message", str))

    async def receive(
        self, timeout_s: float = 0, *, limit: int = 1, lease_s: float | None = None
    ) -> list[Message]:
        """The oldest messages, waiting so long for the first.  Each is to be ack()ed within
        lease_s; it comes again otherwise, or if the connection ends."""
        result = await self._client.call("ipc.receive", **_asked(timeout_s, limit, lease_s))
        return cast(list[Message], field(result, "messages", list))

    async def ack(self, message: Message | str) -> bool:
        """A message has been dealt with.  False: it had been, or was kept too long."""
        result = await self._client.call("ipc.ack", message=_id(message))
        return cast(bool, field(result, "acked", bool))

    async def messages(
        self, timeout_s: float | None = None, *, lease_s: float | None = None
    ) -> AsyncIterator[Message]:
        """Messages as they come, each acknowledged when the next one is asked for: not if the body
        of the loop raises or breaks.  Ends when none came for timeout_s."""
        patience = _Patience(timeout_s)
        while True:
            found = await self.receive(patience.next_s(), lease_s=lease_s)
            if not found and patience.is_over():
                return
            for message in found:
                yield message
                await self.ack(message)
                patience = _Patience(timeout_s)

    async def mailbox(self) -> Mailbox:
        """This agent's mailbox in figures."""
        result = await self._client.call("ipc.list")
        return cast(list[Mailbox], field(result, "mailboxes", list))[0]

    async def mailboxes(self) -> AsyncIterator[Mailbox]:
        """Those that hold something, of all agents of the uid that this one may write to."""
        after: str | None = None
        while True:
            page = await self._client.call("ipc.list", all=True, after=after)
            for mailbox in cast(list[Mailbox], field(page, "mailboxes", list)):
                yield mailbox
            after = cast("str | None", page.get("next"))
            if after is None:
                return

    async def clear(self) -> int:
        """Forget all that waits in this agent's mailbox; how many messages it was."""
        return cast(int, field(await self._client.call("ipc.clear"), "messages", int))


class _Patience:
    """How much longer to wait for a message; None: for ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self._until_s = None if timeout_s is None else time.monotonic() + timeout_s

    def next_s(self) -> float:
        """How long the next call waits."""
        if self._until_s is None:
            return WAIT_S
        return min(WAIT_S, max(0.0, self._until_s - time.monotonic()))

    def is_over(self) -> bool:
        return self._until_s is not None and time.monotonic() >= self._until_s


def _asked(timeout_s: float, limit: int, lease_s: float | None) -> dict[str, object]:
    return {
        "timeout_ms": round(timeout_s * 1000),
        "limit": limit,
        "lease_ms": None if lease_s is None else max(1, round(lease_s * 1000)),
    }


def _id(message: Message | str) -> str:
    return message if isinstance(message, str) else message["message"]
