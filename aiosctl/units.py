"""Figures as people read them: times, sizes, counts.  Pure; no figure contains a space."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def milliseconds(value: float) -> str:
    """0.21ms, 14ms, 3.2s, 4m05s, 2h03m, 5d04h."""
    if value < 10:
        return f"{value:.3g}ms"
    if value < 1000:
        return f"{value:.0f}ms"
    return seconds(value / 1000)


def seconds(value: float) -> str:
    """3.2s, 42s, 4m05s, 2h03m, 5d04h."""
    if value < 9.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def age(since_ms: float) -> str:
    """How long ago that moment (milliseconds since 1970) was; a clock that is ahead gives 0."""
    now_ms = datetime.now(UTC).timestamp() * 1000
    return seconds(max(0.0, now_ms - since_ms) / 1000)


def left(until_ms: float) -> str:
    """How long until that moment; 0 when it has passed."""
    return seconds(max(0.0, until_ms / 1000 - datetime.now(UTC).timestamp()))


def size(n_bytes: float) -> str:
    """812B, 1.5MiB, 64GiB."""
    value = float(n_bytes)
    for unit in _SIZES:
        if value < 1023.5 or unit == _SIZES[-1]:
            break
        value /= 1024
    return f"{value:.0f}{unit}" if unit == "B" or value >= 99.5 else f"{value:.3g}{unit}"


def parse_size(text: str) -> int:
    """ "512M", "1.5GiB", "4096" -> bytes.  ValueError if it is none of these."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number of bytes, or 512M, 2G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def count(value: float) -> str:
    """999, 135M, 7.2G: for figures whose last digits nobody needs."""
    number = float(value)
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.0f}{unit}" if not unit or number >= 99.5 else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
