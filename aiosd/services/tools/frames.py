"""What the daemon and a tool's process say to each other: MessagePack maps, each after its length.

Rule: the daemon trusts nothing in them: a length is bounded before it is waited for, what is read
is looked at by explicit patterns.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

import msgpack

HEADER_BYTES: Final = 4


class BadFrame(Exception):  # noqa: N818 - says what it is of
    """What came is no frame; str() says why."""


def encoded(message: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb(message, unicode_errors="replace")
    return len(data).to_bytes(HEADER_BYTES, "big") + data


def decoded(data: bytes) -> dict[str, Any]:
    """BadFrame if it is anything but one map."""
    try:
        message = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise BadFrame(f"a frame that can't be read: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise BadFrame("a frame that is no map")
    return message


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next one, in the tool's process; None at the end."""
    header = stream.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    return decoded(stream.read(int.from_bytes(header, "big")))
