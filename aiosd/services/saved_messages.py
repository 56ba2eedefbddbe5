"""Messages in the database: rows, keys, and what each mailbox holds.  Functions for Database.write
and read; each is a unit.

Rule: a limit is checked in the write that would break it, so that no two calls pass it together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aios_sdk.errors import Busy, QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction

MESSAGE_BYTES = 256  # what a message counts for beside its body: its row, key and indexes
KEYS_PER_MESSAGE = 2  # of the messages a mailbox may hold; so many keys are remembered
KEYS_PER_UID = 65_536  # at most, by housekeeping
ALL = ""  # no agent's name: the mailbox of this name counts what is in all of a uid's
RETRY_MS = 1000  # when a sender to a full mailbox may come back
NOBODY = ""  # no connection has this id


@dataclass(frozen=True, slots=True)
class Message:
    """body: as MessagePack · n_deliveries: how often it was handed out, this time included."""

    seq: int
    id: str
    sender: str
    body: bytes
    sent_ms: int
    n_deliveries: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a mailbox, and all of a uid, may hold."""

    n_messages: int
    n_bytes: int
    uid_bytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A receiver's connection, and how many messages it takes."""

    session: str
    limit: int


@dataclass(frozen=True, slots=True)
class Held:
    """A mailbox in figures."""

    agent: str
    n_messages: int
    n_bytes: int
    oldest_ms: int | None = None


def send(
    t: Transaction, to: AgentId, message: Message, key: str | None, room: Room
) -> tuple[str, bool]:
    """Keep a message; its id and True, or the id that the key had before.  Busy, QuotaExceeded."""
    if key is not None:
        row = t.execute(
            "SELECT message FROM message_keys WHERE (uid, agent, sender, key) = (?, ?, ?, ?)",
            (to.uid, to.name, message.sender, key),
        ).fetchone()
        if row is not None:
            return row[0], False
    n_bytes = MESSAGE_BYTES + len(message.body)
    _check_room(t, to, n_bytes, room)
    t.execute(
        "INSERT INTO messages (id, uid, agent, sender, body, n_bytes, sent_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (message.id, to.uid, to.name, message.sender, message.body, n_bytes, message.sent_ms),
    )
    _count(t, to, 1, n_bytes)
    if key is not None:
        t.execute(
            "INSERT INTO message_keys (uid, agent, sender, key, message, sent_ms) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (to.uid, to.name, message.sender, key, message.id, message.sent_ms),
        )
        t.execute(
            "DELETE FROM message_keys WHERE (uid, agent) = (:uid, :agent) AND seq <= ("
            "SELECT seq FROM message_keys WHERE (uid, agent) = (:uid, :agent) "
            "ORDER BY seq DESC LIMIT 1 OFFSET :n)",
            {"uid": to.uid, "agent": to.name, "n": KEYS_PER_MESSAGE * room.n_messages},
        )
    return message.id, True


def _check_room(t: Transaction, to: AgentId, n_bytes: int, room: Room) -> None:
    held = of_mailbox(t, to)
    if held.n_messages >= room.n_messages or held.n_bytes + n_bytes > room.n_bytes:
        raise Busy(
            f"the mailbox of agent {to.name} is full: {held.n_messages} messages of "
            f"{held.n_bytes} bytes wait, limits are {room.n_messages} and {room.n_bytes}",
            retry_after_ms=RETRY_MS,
            queue_depth=held.n_messages,
        )
    used = of_mailbox(t, AgentId(to.uid, ALL)).n_bytes
    if used + n_bytes > room.uid_bytes:
        raise QuotaExceeded(
            f"a message of {n_bytes} bytes, and {used} bytes wait in the mailboxes of uid "
            f"{to.uid}: the limit is {room.uid_bytes}",
            limit=room.uid_bytes,
            used=used,
        )


def hand_out(
    t: Transaction,
    to: AgentId,
    leased: Mapping[int, str],
    wanted: Sequence[Wanted],
    n_bytes: int,
) -> list[list[Message]]:
    """What each of those that wait gets, oldest first, and at most so many bytes beyond its first.

    A message stays back while an earlier one of its sender is with another connection, or waits.
    leased: which messages are with which connection.
    """
    taken: list[list[int]] = [[] for _ in wanted]
    room = [n_bytes for _ in wanted]
    holders: dict[str, str] = {}  # by sender: the connection with its earlier messages
    rows = t.execute(
        "SELECT seq, sender, n_bytes FROM messages WHERE (uid, agent) = (?, ?) ORDER BY seq",
        (to.uid, to.name),
    )
    for seq, sender, size in rows:
        holder = leased.get(seq, NOBODY)
        if holder == NOBODY:
            for n, one in enumerate(wanted):
                fits = len(taken[n]) < one.limit and (not taken[n] or size <= room[n])
                if fits and holders.get(sender, one.session) == one.session:
                    taken[n].append(seq)
                    room[n] -= size
                    holder = one.session
                    break
        holders[sender] = holder if holders.get(sender, holder) == holder else NOBODY
        if all(len(mine) == one.limit for mine, one in zip(taken, wanted, strict=True)):
            break
    return [[_deliver(t, seq) for seq in mine] for mine in taken]


def _deliver(t: Transaction, seq: int) -> Message:
    row = t.execute(
        "UPDATE messages SET n_deliveries = n_deliveries + 1 WHERE seq = ? "
        "RETURNING seq, id, sender, body, sent_ms, n_deliveries",
        (seq,),
    ).fetchone()
    return Message(*row)


def acknowledge(t: Transaction, to: AgentId, id_: str) -> int | None:
    """Forget a message of the agent's mailbox; its seq, None if there is none."""
    row = t.execute(
        "DELETE FROM messages WHERE (id, uid, agent) = (?, ?, ?) RETURNING seq, n_bytes",
        (id_, to.uid, to.name),
    ).fetchone()
    if row is None:
        return None
    seq, n_bytes = row
    _count(t, to, -1, -n_bytes)
    return int(seq)


def clear(t: Transaction, to: AgentId) -> int:
    """Forget all of a mailbox; how many it held."""
    held = of_mailbox(t, to)
    t.execute("DELETE FROM messages WHERE (uid, agent) = (?, ?)", (to.uid, to.name))
    _count(t, to, -held.n_messages, -held.n_bytes)
    return held.n_messages


def expire(t: Transaction, before_ms: int) -> int:
    """Forget what was sent before that; how many messages it was."""
    rows = t.execute(
        "DELETE FROM messages WHERE sent_ms < ? RETURNING uid, agent, n_bytes", (before_ms,)
    ).fetchall()
    for uid, name, n_bytes in rows:
        _count(t, AgentId(uid, name), -1, -n_bytes)
    t.execute("DELETE FROM message_keys WHERE sent_ms < ?", (before_ms,))
    return len(rows)


def forget_keys(t: Transaction, n_keys: int = KEYS_PER_UID) -> None:
    """Of each uid, all but the newest so many."""
    many = t.execute("SELECT uid FROM message_keys GROUP BY uid HAVING count(*) > ?", (n_keys,))
    for (uid,) in many.fetchall():
        t.execute(
            "DELETE FROM message_keys WHERE uid = :uid AND seq <= (SELECT seq FROM message_keys "
            "WHERE uid = :uid ORDER BY seq DESC LIMIT 1 OFFSET :n)",
            {"uid": uid, "n": n_keys},
        )


def of_mailbox(t: Transaction, to: AgentId) -> Held:
    row = t.execute(
        "SELECT n_messages, n_bytes FROM mailboxes WHERE (uid, agent) = (?, ?)", (to.uid, to.name)
    ).fetchone()
    return Held(to.name, 0, 0) if row is None else Held(to.name, *row)


def of_uid(t: Transaction, uid: int, limit: int, after: str) -> list[Held]:
    """So many of a uid's mailboxes that hold something, by name, those after that name."""
    rows = t.execute(
        "SELECT agent, n_messages, n_bytes, (SELECT sent_ms FROM messages m "
        "WHERE (m.uid, m.agent) = (b.uid, b.agent) ORDER BY seq LIMIT 1) "
        "FROM mailboxes b WHERE uid = ? AND agent > ? ORDER BY agent LIMIT ?",
        (uid, after or ALL, limit),
    )
    return [Held(*row) for row in rows]


def oldest_ms(t: Transaction, to: AgentId) -> int | None:
    """When the oldest message of a mailbox was sent."""
    row = t.execute(
        "SELECT sent_ms FROM messages WHERE (uid, agent) = (?, ?) ORDER BY seq LIMIT 1",
        (to.uid, to.name),
    ).fetchone()
    return None if row is None else int(row[0])


def _count(t: Transaction, to: AgentId, n_messages: int, n_bytes: int) -> None:
    for name in (to.name, ALL):
        t.execute(
            "INSERT INTO mailboxes (uid, agent, n_messages, n_bytes) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET n_messages = n_messages + excluded.n_messages, "
            "n_bytes = n_bytes + excluded.n_bytes",
            (to.uid, name, n_messages, n_bytes),
        )
        t.execute(
            "DELETE FROM mailboxes WHERE (uid, agent) = (?, ?) AND n_messages = 0", (to.uid, name)
        )
