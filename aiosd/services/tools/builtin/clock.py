"""What time it is, anywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypedDict
from zoneinfo import ZoneInfo

from aios_sdk.toolbox import tool


class Moment(TypedDict):
    time: str
    weekday: str
    timezone: str
    utc_offset: str
    unix_s: int


@tool(max_parallel=8, ordered=False, timeout_s=10)
def clock(timezone: str = "UTC") -> Moment:
    """Tell the current date and time in a timezone.

    Args:
        timezone: an IANA name, for example "Europe/Paris"
    """
    now = datetime.now(UTC)
    try:
        there = now.astimezone(ZoneInfo(timezone))
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no timezone {timezone[:60]!r}; try one like 'Europe/Paris'") from None
    return {
        "time": there.isoformat(timespec="seconds"),
        "weekday": there.strftime("%A"),
        "timezone": timezone,
        "utc_offset": there.strftime("%z"),
        "unix_s": int(now.timestamp()),
    }
