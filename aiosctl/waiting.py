"""What a job waits for, in words.  Pure."""

from __future__ import annotations

from typing import Any

from aiosctl import units


def words(waits_for: dict[str, Any]) -> str:
    """The words for job.list's waits_for; of a kind that this version doesn't know, its name."""
    match waits_for:
        case {"kind": "lane", "position": int(position)}:
            return f"a lane, {_ordinal(position)} in line"
        case {"kind": "prefix", "job": str(job)}:
            return f"{job} to read the same beginning"
        case {"kind": "rate", "wait_ms": int(wait_ms)}:
            return f"its tokens per minute, {units.milliseconds(wait_ms)} more"
        case {"kind": str(kind)}:
            return _WORDS.get(kind, kind)
    return "?"


_WORDS = {
    "lane": "a lane",
    "rate": "its tokens per minute",
    "reader": "its client to read",
    "resume": "someone to resume it",
    "step": "the end of this step",
    "database": "the database",
    "tools": "its tools",
}


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"
