"""The last events that the kernel saw, what it said to each, and a kernel as it was before them.

Rule 1: bounded by number, of events and of what they are made of.  An event that falls out is
played to the base, a second kernel that trails the first: so what is kept always replays, from the
base on, to the same actions, and no event is held up by the taking of a checkpoint.
Rule 2: a saved journal holds names and ids, never a word.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import BinaryIO

from aiosd.kernel import checkpoint, replay
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel

FORMAT = 1
PARTS_PER_ENTRY = 16  # lanes, reports and actions, on average; a full journal has no more of them
TRIMMED_AT_ONCE = 32  # entries, each an event for the base to handle: a millisecond or two
MAX_LINE = 256 * 1024 * 1024  # of a journal that is read back: a checkpoint of 10^5 jobs fits
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, and what the kernel said to it; None if it raised an error instead."""

    now_ns: int
    event: ev.Event
    actions: tuple[ev.Action, ...] | None

    @property
    def n_parts(self) -> int:
        """Roughly what it takes to keep: with many lanes a Run is far larger than an event."""
        actions = self.actions or ()
        lanes = sum(len(action.lanes) for action in actions if isinstance(action, ev.Run))
        reports = len(self.event.lanes) if isinstance(self.event, ev.RunDone) else 0
        return len(actions) + lanes + reports


class HeldError(Exception):
    """Somebody else holds the journal."""


class Journal:
    """kernel: as it is now, before its first event here."""

    def __init__(self, kernel: Kernel, max_entries: int) -> None:
        self._base = deepcopy(kernel)
        self._max_entries = max_entries
        self._entries: deque[Entry] = deque()
        self._n_parts = 0
        self._is_held = False

    def note(self, now_ns: int, event: ev.Event, actions: list[ev.Action] | None) -> None:
        entry = Entry(now_ns, event, None if actions is None else tuple(actions))
        self._entries.append(entry)
        self._n_parts += entry.n_parts
        if not self._is_held:
            self._trim()

    def entries(self) -> list[Entry]:
        """From the oldest on."""
        return list(self._entries)

    @property
    def base(self) -> Kernel:
        """The kernel before the first entry; for reading."""
        return self._base

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[Kernel, list[Entry]]]:
        """The base and what followed it.  Within the block the base stays as it is, so that it may
        be read on another thread; what comes meanwhile is kept besides.  Raises HeldError."""
        if self._is_held:
            raise HeldError("the journal is being saved already")
        self._is_held = True
        try:
            yield self._base, list(self._entries)
        finally:
            self._is_held = False
            self._trim()

    def _trim(self) -> None:
        """A few at a time: what came in while it was held is let go bit by bit as more comes."""
        most_parts = PARTS_PER_ENTRY * self._max_entries
        for _ in range(TRIMMED_AT_ONCE):
            if len(self._entries) <= self._max_entries and self._n_parts <= most_parts:
                break
            oldest = self._entries.popleft()
            self._n_parts -= oldest.n_parts
            with contextlib.suppress(Exception):  # it raised the same when it happened
                self._base.handle(oldest.event, oldest.now_ns)


# ---------------------------------------------------------------- saved


@dataclass(frozen=True, slots=True)
class Saved:
    """A journal read back; digests[i] is of what the kernel said to entries[i] when it happened."""

    version: str
    kernel: Kernel
    entries: list[tuple[int, ev.Event]]
    digests: list[int | None]


def save(version: str, base: Kernel, entries: Iterable[Entry]) -> bytes:
    """Gzipped lines of JSON: a header with the base's checkpoint, then [entry, digest] each."""
    packed = BytesIO()
    # mtime: the same journal gives the same bytes.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped,
        TextIOWrapper(zipped, encoding="utf-8") as lines,
    ):
        header = {"aiosd_journal": FORMAT, "version": version, "base": checkpoint.encode(base)}
        lines.write(json.dumps(header) + "\n")
        for entry in entries:
            plain = replay.encode(entry.now_ns, entry.event)
            lines.write(json.dumps([plain, digest(entry.actions)]) + "\n")
    return packed.getvalue()


def load(file: BinaryIO) -> Saved:
    """A journal that save() wrote, gzipped or not.  Raises ValueError for anything else."""
    lines = _lines(file)
    version, kernel = _header(next(lines, b""))
    entries: list[tuple[int, ev.Event]] = []
    digests: list[int | None] = []
    for number, line in enumerate(lines, start=2):
        match _parsed(line, number):
            case [list(plain), (int() | None) as of_actions]:
                entries.append(replay.decode(plain))
                digests.append(of_actions)
            case _:
                raise ValueError(f"line {number} is no entry of a journal")
    return Saved(version, kernel, entries, digests)


def digest(actions: Iterable[ev.Action] | None) -> int | None:
    """A number that tells whether two lists of actions are the same; None if there are none,
    because the kernel raised an error."""
    return None if actions is None else zlib.crc32(repr(tuple(actions)).encode())


def _header(line: bytes) -> tuple[str, Kernel]:
    match _parsed(line, 1):
        case {"aiosd_journal": int(number), "version": str(version), "base": base}:
            pass
        case _:
            raise ValueError("not a journal of aiosd: line 1 isn't its header")
    if number != FORMAT:
        raise ValueError(f"a journal of format {number}; this aiosd reads format {FORMAT}")
    return version, checkpoint.decode(base)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    is_zipped = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    source = gzip.GzipFile(fileobj=file) if is_zipped else file
    while True:
        try:
            line = source.readline(MAX_LINE + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"the journal is cut short or damaged: {error}") from error
        if len(line) > MAX_LINE:
            raise ValueError(f"a line of a journal has more than {MAX_LINE} bytes")
        if not line:
            return
        yield line


def _parsed(line: bytes, number: int) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} of the journal isn't JSON: {error}") from error
