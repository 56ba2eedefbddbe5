"""Mailboxes: messages from agent to agent, which wait until they are acknowledged.

Rule 1: at least once.  What send() returned for is on the disk, and is handed out again and again
until ack().  Leases are in RAM alone: they end with their time, with the connection that has the
messages, and with the daemon.
Rule 2: one task, run(), hands out, so that no message is with two receivers.  Who waits longest is
served first.
Rule 3: a sender's messages are handed out in the order they were sent; while one is with a
connection, later ones go to that connection or wait.  One that comes again may follow later ones
that this connection had already.
Rule 4: who may do what is decided before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from aios_sdk.errors import Busy, SyscallError, TooLarge
from aiosd.kernel.model import AgentId
from aiosd.services import saved_messages
from aiosd.services.database import Database, Transaction
from aiosd.services.saved_messages import Held, Message, Room, Wanted

MAX_MAILBOXES_AT_ONCE = 64  # looked into in one write
ANSWER_BYTES = 256 * 1024  # of messages in one answer beyond the first: it is encoded in one go
RETRY_MS = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """message_bytes: of one body · n_receivers: calls that wait at one mailbox · keep_ms: how long
    a message waits at most."""

    message_bytes: int
    room: Room
    n_receivers: int
    keep_ms: int


@dataclass(slots=True, eq=False)
class _Receiver:
    """A call that waits.  is_patient: also when there is nothing yet."""

    wanted: Wanted
    lease_s: float
    is_patient: bool
    found: asyncio.Future[list[Message]]


@dataclass(frozen=True, slots=True)
class _Lease:
    session: str
    end: asyncio.TimerHandle


@dataclass(slots=True)
class _Box:
    """What is going on at a mailbox; there is one only as long as something is."""

    receivers: list[_Receiver] = field(default_factory=list)  # in the order they came
    leases: dict[int, _Lease] = field(default_factory=dict)  # by the messages' seq


@dataclass(frozen=True, slots=True)
class Figures:
    """A mailbox: what it holds, how much of it is with receivers, and how many wait for more."""

    held: Held
    n_leased: int
    n_receivers: int


class Mailboxes:
    """The mailboxes of all agents."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self.limits = limits
        self._database = database
        self._boxes: dict[AgentId, _Box] = {}
        self._changed: dict[AgentId, None] = {}  # those to look into, in order
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def send(
        self, sender: AgentId, to: AgentId, body: bytes, key: str | None, now_ms: int
    ) -> str:
        """Put a message into a mailbox of the sender's uid; its id.  A key that the sender has used
        for this mailbox lately brings the id of that message, and no other.

        TooLarge, Busy (the mailbox is full), QuotaExceeded: nothing is kept.
        """
        limit = self.limits.message_bytes
        if len(body) > limit:
            raise TooLarge(f"a message of {len(body)} bytes, limit is {limit}", limit=limit)
        message = Message(0, "e" + secrets.token_hex(8), sender.name, body, now_ms, 0)
        room = self.limits.room

        def committed(sent: tuple[str, bool]) -> None:
            if sent[1]:
                self._look_into(to)

        id_, _ = await self._database.write(
            lambda t: saved_messages.send(t, to, message, key, room), committed
        )
        return id_

    async def receive(
        self, agent: AgentId, session: str, *, limit: int, timeout_s: float, lease_s: float
    ) -> list[Message]:
        """The oldest messages that nobody has, for lease_s the connection's; none if none comes in
        time.  Busy: too many wait here already."""
        box = self._boxes.setdefault(agent, _Box())
        if len(box.receivers) >= self.limits.n_receivers:
            raise Busy(
                f"{len(box.receivers)} calls wait at the mailbox of agent {agent.name}, limit is "
                f"{self.limits.n_receivers}",
                retry_after_ms=RETRY_MS,
                queue_depth=len(box.receivers),
            )
        found: asyncio.Future[list[Message]] = self._loop.create_future()
        receiver = _Receiver(Wanted(session, limit), lease_s, timeout_s > 0, found)
        box.receivers.append(receiver)
        self._look_into(agent)
        try:
            await asyncio.wait([found], timeout=timeout_s or None)
        except asyncio.CancelledError:
            if found.done() and not found.exception():
                self._give_back(agent, [message.seq for message in found.result()])
            raise
        finally:
            if receiver in box.receivers:
                box.receivers.remove(receiver)
            self._forget_quiet(agent)
        return found.result() if found.done() else []

    async def ack(self, agent: AgentId, id_: str) -> bool:
        """The message has been dealt with; False if there is none (any more)."""

        def committed(seq: int | None) -> None:
            if seq is not None:
                self._give_back(agent, [seq])

        seq = await self._database.write(
            lambda t: saved_messages.acknowledge(t, agent, id_), committed
        )
        return seq is not None

    async def clear(self, agent: AgentId) -> int:
        """Forget all messages of a mailbox; how many they were."""

        def committed(_: int) -> None:
            self._give_back(agent, list(self._boxes.get(agent, _Box()).leases))

        return await self._database.write(lambda t: saved_messages.clear(t, agent), committed)

    def leave(self, agent: AgentId, session: str) -> None:
        """A connection is gone: what it had is handed out again."""
        leases = self._boxes.get(agent, _Box()).leases
        self._give_back(agent, [s for s, lease in leases.items() if lease.session == session])

    async def figures(self, agent: AgentId) -> Figures:
        """One mailbox."""

        def work(t: Transaction) -> Held:
            held = saved_messages.of_mailbox(t, agent)
            oldest_ms = saved_messages.oldest_ms(t, agent)
            return Held(held.agent, held.n_messages, held.n_bytes, oldest_ms)

        return self._figures(agent, await self._database.read(work))

    async def of_uid(self, uid: int, limit: int, after: str) -> list[Figures]:
        """A uid's mailboxes that hold something, by name."""
        found = await self._database.read(lambda t: saved_messages.of_uid(t, uid, limit, after))
        return [self._figures(AgentId(uid, held.agent), held) for held in found]

    def _figures(self, agent: AgentId, held: Held) -> Figures:
        box = self._boxes.get(agent, _Box())
        return Figures(held, len(box.leases), len(box.receivers))

    async def tidy(self, now_ms: int) -> None:
        """Forget what has waited too long."""
        before_ms = now_ms - self.limits.keep_ms

        def work(t: Transaction) -> None:
            saved_messages.expire(t, before_ms)
            saved_messages.forget_keys(t)

        await self._database.write(work)

    # ------------------------------------------------------------ handing out

    async def run(self) -> None:
        """Hand out what there is to those that wait, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._changed:
                await self._hand_out()

    async def _hand_out(self) -> None:
        asked: list[tuple[AgentId, dict[int, str], list[_Receiver]]] = []
        while self._changed and len(asked) < MAX_MAILBOXES_AT_ONCE:
            agent = next(iter(self._changed))
            del self._changed[agent]
            box = self._boxes.get(agent)
            if box is not None and box.receivers:
                leased = {seq: lease.session for seq, lease in box.leases.items()}
                asked.append((agent, leased, list(box.receivers)))
        if not asked:
            return

        def work(t: Transaction) -> list[list[list[Message]]]:
            return [
                saved_messages.hand_out(t, who, leased, [r.wanted for r in waiting], ANSWER_BYTES)
                for who, leased, waiting in asked
            ]

        def committed(found: list[list[list[Message]]]) -> None:
            for (agent, _, receivers), lists in zip(asked, found, strict=True):
                for receiver, messages in zip(receivers, lists, strict=True):
                    self._settle(agent, receiver, messages)

        try:
            await self._database.write(work, committed)
        except SyscallError as error:  # the disk refuses: those that wait are told
            for agent, _, receivers in asked:
                for receiver in receivers:
                    if self._is_waiting(agent, receiver):
                        receiver.found.set_exception(error)

    def _settle(self, agent: AgentId, receiver: _Receiver, messages: Sequence[Message]) -> None:
        """What the receiver gets is on the disk as delivered."""
        if not self._is_waiting(agent, receiver):
            if messages:
                self._look_into(agent)  # it has left: they are for the next
            return
        if not messages and receiver.is_patient:
            return
        box = self._boxes[agent]
        box.receivers.remove(receiver)
        for message in messages:
            end = self._loop.call_later(receiver.lease_s, self._give_back, agent, [message.seq])
            box.leases[message.seq] = _Lease(receiver.wanted.session, end)
        receiver.found.set_result(list(messages))

    def _is_waiting(self, agent: AgentId, receiver: _Receiver) -> bool:
        return receiver in self._boxes.get(agent, _Box()).receivers

    def _give_back(self, agent: AgentId, seqs: Sequence[int]) -> None:
        """Nobody has these messages any more; they may be gone, too."""
        box = self._boxes.get(agent)
        if box is None or not seqs:
            return
        for seq in seqs:
            lease = box.leases.pop(seq, None)
            if lease is not None:
                lease.end.cancel()
        self._look_into(agent)
        self._forget_quiet(agent)

    def _look_into(self, agent: AgentId) -> None:
        if agent in self._boxes:
            self._changed[agent] = None
            self._wake.set()

    def _forget_quiet(self, agent: AgentId) -> None:
        box = self._boxes.get(agent)
        if box is not None and not box.receivers and not box.leases:
            del self._boxes[agent]
