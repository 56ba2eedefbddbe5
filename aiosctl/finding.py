"""What the doctor found: one thing looked at, how it is, and in words what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.StrEnum):
    """How it is.  Only a problem makes the doctor's exit code 1."""

    OK = "ok"
    NOTE = "note"  # good to know; nothing is broken
    UNKNOWN = "unknown"  # couldn't be looked at; the words say why
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome."""

    check: str
    state: State
    words: str
