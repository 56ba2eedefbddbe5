"""Text from standard input, bounded and checked."""

from __future__ import annotations

import sys
from typing import BinaryIO

import click

MAX_BYTES = 8 * 1024 * 1024  # no frame is larger, so no prompt can be


def read_text(what: str) -> str:
    """All of standard input as text.

    Raises click.UsageError if there is none, too much, or it isn't UTF-8; ``what`` names it there.
    """
    return _text(_open(what).read(MAX_BYTES + 1), what)


def read_line(what: str) -> str | None:
    """The next line, None at the end.  Raises as read_text."""
    data = _open(what).readline(MAX_BYTES + 1)
    return _text(data, what) if data else None


def _open(what: str) -> BinaryIO:
    if sys.stdin is None:
        raise click.UsageError(f"standard input is closed: {what} can't be read from it")
    return sys.stdin.buffer


def _text(data: bytes, what: str) -> str:
    if len(data) > MAX_BYTES:
        raise click.UsageError(f"{what} on standard input has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"{what} on standard input isn't UTF-8 text: byte 0x{data[error.start]:02x} "
            f"at offset {error.start}"
        ) from error
