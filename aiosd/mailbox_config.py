"""The [ipc] table: how much mailboxes hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.settings import GIB, KIB, MIB, key


@dataclass(frozen=True, slots=True)
class MailboxConfig:
    """A message counts with 256 bytes beside its body."""

    message_bytes: int = key(
        256 * KIB,
        "The body of one message, as MessagePack; past it `too_large`.",
        low=KIB,
        high=64 * MIB,
        is_bytes=True,
        reloads=True,
    )
    mailbox_messages: int = key(
        1024,
        "Messages that wait in one mailbox; past it `busy` for who sends. Keys of twice as many "
        "are remembered.",
        low=1,
        high=65536,
        reloads=True,
    )
    mailbox_bytes: int = key(
        16 * MIB,
        "Messages that wait in one mailbox; past it `busy` for who sends.",
        low=KIB,
        high=1024**4,
        is_bytes=True,
        reloads=True,
    )
    uid_bytes: int = key(
        GIB // 4,
        "Messages that wait in all mailboxes of one uid; past it `quota_exceeded`.",
        low=KIB,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    receivers: int = key(
        256,
        "Calls of ipc.receive that wait at one mailbox; past it `busy`.",
        low=1,
        high=65536,
        reloads=True,
    )
    lease_s: int = key(
        60,
        "How long a receiver has to acknowledge a message before it is handed out again, unless "
        "the call says else.",
        low=1,
        high=86400,
        reloads=True,
    )
    keep_s: int = key(
        30 * 86400,
        "How long a message that nobody acknowledges is kept.",
        low=1,
        high=10**10,
        reloads=True,
    )
