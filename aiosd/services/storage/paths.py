"""What a path may be, and what an agent's directory is called.  Pure.

Rule 1: what parse() returns has no empty, `.` or `..` part, no control character and no slash in a
part, and is within the limits: joined to a root it stays below it, as far as names can tell.
Rule 2: directory_name() is injective and never `.`, `..` or hidden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aios_sdk.errors import InvalidParams
from aios_sdk.types import shorten

MAX_PATH_BYTES = 1024  # far below PATH_MAX (4096), of which the root takes a part
MAX_PART_BYTES = 255  # NAME_MAX of every common file system
MAX_DEPTH = 32  # bounds how many descriptors and steps a walk takes

Parts = tuple[str, ...]

_ELSEWHERE = re.compile(r"([A-Za-z0-9._-]{1,64}):/(.*)", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a path leads: the agent it names (None: one's own root), and the parts below."""

    agent: str | None
    parts: Parts

    @property
    def path(self) -> str:
        return "/".join(self.parts)


def parse(text: str, field: str = "path", *, is_root_allowed: bool = False) -> Address:
    """``a/b``, or ``name:/a/b`` of another agent.  InvalidParams says what is wrong with it.

    Empty parts and `.` are left out, as a shell's user expects; the root itself is refused unless
    is_root_allowed.
    """
    elsewhere = _ELSEWHERE.fullmatch(text)
    agent, below = elsewhere.groups() if elsewhere else (None, text)
    if below.startswith("/"):
        raise _invalid(field, text, "paths are relative to the agent's root: leave out the first /")
    if _CONTROLS.search(below):
        raise _invalid(field, text, "a path has no NUL and no other control character")
    n_bytes = len(below.encode())
    if n_bytes > MAX_PATH_BYTES:
        raise InvalidParams(
            f"{field} has {n_bytes} bytes, the most is {MAX_PATH_BYTES}",
            field=field,
            limit=MAX_PATH_BYTES,
        )
    parts = tuple(part for part in below.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _invalid(field, text, "'..' is not allowed: a path stays below its root")
    if len(parts) > MAX_DEPTH:
        raise _invalid(field, text, f"it is {len(parts)} names deep, the most is {MAX_DEPTH}")
    for part in parts:
        if len(part.encode()) > MAX_PART_BYTES:
            words = f"the name {shorten(part, 20)} has {len(part.encode())} bytes"
            raise _invalid(field, text, f"{words}, the most is {MAX_PART_BYTES}")
    if not parts and not is_root_allowed:
        raise _invalid(field, text, "it names the root; give the name of something below it")
    return Address(agent, parts)


def directory_name(agent: str) -> str:
    """The directory of an agent of this name: the name, a dot at its start as %2E."""
    return "%2E" + agent[1:] if agent.startswith(".") else agent


def agent_name(directory: str) -> str:
    """The inverse of directory_name()."""
    return "." + directory[3:] if directory.startswith("%2E") else directory


def _invalid(field: str, text: str, why: str) -> InvalidParams:
    return InvalidParams(f"{field} is {shorten(text)}: {why}", field=field)
