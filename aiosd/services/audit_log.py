"""What becomes of decisions on their way to the audit: alike ones are counted, not repeated.

Rule: a peer can't fill the disk with refusals.  Of one kind (same agent, act, thing) the first is
written at once and those that follow as one count an hour; of one uid only so many kinds are told
apart, the others are one count.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from aios_sdk.errors import SyscallError
from aiosd.kernel.model import AgentId
from aiosd.services import audit
from aiosd.services.audit import Chain, Entry, Link
from aiosd.services.database import Database, Transaction

log = structlog.get_logger()

HOLD_MS = 3_600_000  # of one kind, one entry in this time after the first
KINDS_PER_UID = 64  # told apart at a time
MAX_KINDS = 8192  # of all uids
PART_ROWS = 2000  # checked in one read: a few milliseconds, others read between
MANY = "*"  # stands for "several" in an entry that counts different ones


@dataclass(slots=True)
class _Count:
    first: Entry
    n: int
    last_ms: int
    written_ms: int | None = None


class Tally:
    """Counts entries that are alike.  Pure: time comes with them."""

    def __init__(self) -> None:
        self._counts: dict[tuple[object, ...], _Count] = {}
        self._n_kinds: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def note(self, entry: Entry) -> bool:
        """Whether it is the first of its kind, to be written at once."""
        key = _key(entry)
        if key not in self._counts and self._is_full(entry.agent.uid):
            uid = entry.agent.uid if len(self._counts) < MAX_KINDS else -1
            entry = dataclasses.replace(
                entry, agent=AgentId(uid, MANY), act=MANY, kind=MANY, owner=None, name="", by=MANY
            )
            key = _key(entry)
        count = self._counts.get(key)
        if count is None:
            self._counts[key] = _Count(entry, entry.n, entry.time_ms)
            self._n_kinds[entry.agent.uid] += 1
            return True
        if count.n == 0:
            count.first = entry
        count.n += entry.n
        count.last_ms = entry.time_ms
        return False

    def _is_full(self, uid: int) -> bool:
        return self._n_kinds[uid] >= KINDS_PER_UID or len(self._counts) >= MAX_KINDS

    def take(self, now_ms: int, *, is_last: bool = False) -> list[Entry]:
        """What is to be written now: first ones, and counts that have been held long enough."""
        due = []
        for key, count in list(self._counts.items()):
            is_over = count.written_ms is None or now_ms - count.written_ms >= HOLD_MS
            if not (is_over or is_last):
                continue
            if count.n:
                due.append(dataclasses.replace(count.first, n=count.n, last_ms=count.last_ms))
                count.n, count.written_ms = 0, now_ms
            else:
                del self._counts[key]
                self._n_kinds -= Counter({count.first.agent.uid: 1})
        return due


def _key(entry: Entry) -> tuple[object, ...]:
    return (entry.event, entry.agent, entry.act, entry.kind, entry.owner, entry.name, entry.by)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a walk along the chain found.  problem: None if it is whole."""

    first: int
    last: int
    head: Link
    problem: str | None


class AuditLog:
    """The way into the audit and back.  run() is a task of the daemon's."""

    def __init__(self, database: Database, max_entries: int, now_ms: Callable[[], int]) -> None:
        self.max_entries = max_entries
        self._database = database
        self._now_ms = now_ms
        self._tally = Tally()
        self._wake = asyncio.Event()
        self._unwritten: list[Entry] = []  # the disk refused
        self._head = self._told = Link(0, bytes(32))
        self._is_closed = False
        self._stopped = asyncio.Event()

    def note(self, entry: Entry) -> None:
        """A decision that will be in the audit soon; counted with those that are alike."""
        if self._tally.note(entry):
            self._wake.set()

    def tell_head(self) -> None:
        """Into the daemon's log: whoever changes the database would have to change that as well."""
        if self._head != self._told:
            self._told = self._head
            log.info("audit_head", seq=self._head.seq, hash=self._head.hash.hex())

    def append(self, t: Transaction, entry: Entry) -> None:
        """An entry of its own, in the write that makes it so."""
        audit.append(t, [entry], self.max_entries)

    async def run(self) -> None:
        """Write what comes, as it comes, until close()."""
        try:
            while not self._is_closed:
                await self._wake.wait()
                self._wake.clear()
                await self.flush()
        finally:
            self._stopped.set()

    async def close(self) -> None:
        """Write what is left, counts that were held included."""
        self._is_closed = True
        self._wake.set()
        await self._stopped.wait()
        await self.flush(is_last=True)
        self.tell_head()

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what is due; what the disk refuses is kept for the next time."""
        entries = self._unwritten + self._tally.take(self._now_ms(), is_last=is_last)
        self._unwritten = []
        if not entries:
            return
        try:
            self._head = await self._database.write(
                lambda t: audit.append(t, entries, self.max_entries)
            )
        except SyscallError as error:
            self._unwritten = (entries + self._unwritten)[-MAX_KINDS:]
            log.warning("audit_not_written", entries=len(entries), reason=error.message)

    async def verify(self, noted: Link | None = None) -> Verified:
        """Walk along the whole chain, part by part, while others read.

        noted: a head of earlier, kept elsewhere: who can write the database can write the head in
        it, too.
        """
        while True:
            chain = await self._database.read(audit.read_chain)
            last, problem = chain.anchor, None
            while problem is None and last.seq < chain.head.seq:
                last, problem = await self._check_part(last, chain.head.seq)
            now = await self._database.read(audit.read_chain)
            if problem is not None and now.anchor.seq > last.seq:
                continue  # the oldest were let go meanwhile: walk again
            if problem is None:
                problem = await self._database.read(partial(_check_end, last, chain, noted))
            return Verified(chain.anchor.seq + 1, last.seq, chain.head, problem)

    async def _check_part(self, after: Link, up_to: int) -> tuple[Link, str | None]:
        return await self._database.read(lambda t: audit.check_part(t, after, up_to, PART_ROWS))


def _check_end(last: Link, chain: Chain, noted: Link | None, t: Transaction) -> str | None:
    problem = audit.check_end(t, last, chain)
    if problem is None and noted is not None:
        problem = audit.check_noted(t, noted)
    return problem
