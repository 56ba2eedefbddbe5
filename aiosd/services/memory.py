"""What agents remember: notes on the disk, an agent's hot ones in RAM, found by words and vectors.

Rule 1: nothing here waits for the model.  A note is kept, and found by its words, when add()
returns; vectors and what the model writes about it come later.
Rule 2: what is in RAM changes when the disk has (on_commit), and never says anything else.
Rule 3: who may do what to whose notes is decided before; here an agent is the owner.
"""

from __future__ import annotations

import datetime
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aios_sdk.errors import SyscallError, TooLarge
from aiosd.kernel.model import AgentId
from aiosd.services import saved_notes
from aiosd.services.database import Database, Transaction
from aiosd.services.documents import Mode
from aiosd.services.hot_set import HotSet
from aiosd.services.saved_notes import Changed, Note, Quota
from aiosd.services.search import Found, Hit, Search

MAX_USES = 4096  # times of use that are not on the disk yet; more are written at once
MAX_BLOCKS = 4096  # agents whose blocks and figures are kept
NEAR = 0.3  # cosine; texts that have nothing to do with each other have about 0


@dataclass(frozen=True, slots=True)
class Limits:
    """note_bytes: of one note · answer_bytes: of the notes in one answer, which a frame must hold ·
    hot_bytes: of an agent's block · hot_total_bytes: of all blocks · k: of LRU-K · quota_of: what
    an agent may keep."""

    note_bytes: int
    answer_bytes: int
    hot_bytes: int
    hot_total_bytes: int
    k: int
    quota_of: Callable[[AgentId], Quota]


@dataclass(frozen=True, slots=True)
class Stats:
    """An agent's own figures."""

    n_notes: int
    n_bytes: int
    quota_bytes: int
    n_hot: int
    hot_bytes: int
    hot_limit_bytes: int
    evictions: int
    faults: int
    hits: int
    n_pending: int


class Memory:
    """The notes of all agents."""

    def __init__(self, database: Database, search: Search, limits: Limits) -> None:
        self._database = database
        self._search = search
        self._limits = limits
        self._blocks: OrderedDict[AgentId, HotSet[Note]] = OrderedDict()
        self._used_ms: dict[str, int] = {}
        self.on_waiting: Callable[[], object] = lambda: None  # told of notes that want the model

    # ------------------------------------------------------------ single notes

    async def add(
        self,
        agent: AgentId,
        content: str,
        tags: Sequence[str],
        metadata: Mapping[str, Any],
        now_ms: int,
        *,
        wants_enrichment: bool = False,
    ) -> Note:
        """TooLarge, QuotaExceeded: nothing is kept."""
        note = Note(
            id=new_id(),
            agent=agent,
            content=content,
            tags=tuple(dict.fromkeys(tags)),
            metadata=metadata,
            created_ms=now_ms,
            updated_ms=now_ms,
            used_ms=now_ms,
            enrichment=saved_notes.WAITING if wants_enrichment else saved_notes.NONE,
        )
        self._check_size(note)
        await self._search.ready(saved_notes.owner_of(agent))
        quota = self._limits.quota_of(agent)
        changed = await self._database.write(
            lambda t: saved_notes.add(t, note, quota), self._committed
        )
        return changed.note

    async def agent_of(self, id_: str, likely: AgentId) -> AgentId:
        """Whose note it is.  NotFound: nobody's."""
        block = self._blocks.get(likely)
        if block is not None and id_ in block:
            return likely
        found = await self._database.read(lambda t: saved_notes.find_agent(t, id_))
        if found is None:
            raise saved_notes.not_found(id_)
        return found

    async def get(self, agent: AgentId, id_: str, now_ms: int) -> Note:
        """The agent's note, which counts as a use of it.  NotFound."""
        block = self._block(agent)
        note = block.get(id_)
        if note is None:
            before = block.n_changes
            note = await self._database.read(partial(saved_notes.load, agent=agent, id_=id_))
            self._fault(block, before, note)
        return await self._used(note, now_ms)

    async def update(
        self,
        agent: AgentId,
        id_: str,
        now_ms: int,
        *,
        content: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Note:
        """Change what isn't None.  NotFound, TooLarge, QuotaExceeded: nothing is changed."""
        fields: dict[str, Any] = {"updated_ms": now_ms, "used_ms": now_ms}
        if content is not None:
            fields["content"] = content
        if tags is not None:
            fields["tags"] = tuple(dict.fromkeys(tags))
        if metadata is not None:
            fields["metadata"] = metadata
        return await self.change(agent, id_, **fields)

    async def change(self, agent: AgentId, id_: str, **fields: Any) -> Note:
        """As update(), of any field by its name."""
        quota = self._limits.quota_of(agent)

        def work(t: Transaction) -> Changed:
            changed = saved_notes.change(t, agent, id_, quota, **fields)
            self._check_size(changed.note)
            return changed

        return (await self._database.write(work, self._committed)).note

    async def enrich(self, read: Note, **fields: Any) -> Note | None:
        """What the model wrote about a note as it was read; None if its content has changed, so
        that it waits again.  NotFound, QuotaExceeded: nothing is changed."""
        quota = self._limits.quota_of(read.agent)

        def work(t: Transaction) -> Changed | None:
            now = saved_notes.load(t, read.agent, read.id)
            if (now.content, now.tags) != (read.content, read.tags):
                return None
            return saved_notes.change(t, read.agent, read.id, quota, **fields)

        def committed(changed: Changed | None) -> None:
            if changed is not None:
                self._committed(changed)

        changed = await self._database.write(work, committed)
        return None if changed is None else changed.note

    async def near(self, note: Note, k: int) -> list[str]:
        """The agent's notes that are nearest to one by their vectors; no use of any."""
        owner = saved_notes.owner_of(note.agent)
        found = await self._search.search(owner, note.searchable, k + 1, Mode.VECTORS)
        docs = [
            hit.doc
            for hit in found.hits
            if hit.doc != note.doc and hit.similarity is not None and hit.similarity >= NEAR
        ]
        notes = await self._database.read(
            lambda t: saved_notes.load_of_docs(t, note.agent, docs[:k], self._limits.answer_bytes)
        )
        return [notes[doc].id for doc in docs if doc in notes]

    async def link(self, agent: AgentId, id_: str, others: Sequence[str]) -> None:
        """Join a note with others of the agent, both ways."""

        def committed(touched: Sequence[str]) -> None:
            for one in touched:
                self._block(agent).drop(one)

        await self._database.write(lambda t: saved_notes.link(t, agent, id_, others), committed)

    async def delete(self, agent: AgentId, id_: str) -> None:
        def committed(changed: Changed) -> None:
            self._search.committed(changed.removed)
            self._used_ms.pop(id_, None)
            for one in (id_, *changed.touched):
                self._block(agent).drop(one)

        await self._database.write(lambda t: saved_notes.delete(t, agent, id_), committed)

    # ------------------------------------------------------------ many notes

    async def page(self, agent: AgentId, limit: int, after: str) -> tuple[list[Note], str | None]:
        """Notes in the order they were made, and where the next page begins.  No use of any: a walk
        through all of them shall not drive out the hot ones."""
        notes, has_more = await self._database.read(
            lambda t: saved_notes.page(t, agent, limit, after, self._limits.answer_bytes)
        )
        more = notes[-1].id if has_more else None
        return [self._with_use(note) for note in notes], more

    async def search(
        self,
        agent: AgentId,
        query: str,
        *,
        k: int,
        mode: Mode,
        tags: Sequence[str],
        now_ms: int,
    ) -> tuple[Found, list[tuple[Note, Hit]]]:
        """The notes that fit best, which counts as a use of each."""
        found = await self._search.search(saved_notes.owner_of(agent), query, k, mode, tags)
        docs = [hit.doc for hit in found.hits]
        block = self._block(agent)
        before = block.n_changes
        n_bytes = self._limits.answer_bytes
        notes = await self._database.read(
            lambda t: saved_notes.load_of_docs(t, agent, docs, n_bytes)
        )
        pairs = []
        for hit in found.hits:
            note = notes.get(hit.doc)
            if note is None:
                continue  # deleted or changed since
            if block.get(note.id) is None:
                self._fault(block, before, note)
            pairs.append((await self._used(note, now_ms), hit))
        return found, pairs

    async def stats(self, agent: AgentId) -> Stats:
        usage = await self._database.read(lambda t: saved_notes.usage(t, agent))
        block = self._block(agent)
        return Stats(
            n_notes=usage.n_notes,
            n_bytes=usage.n_bytes,
            quota_bytes=self._limits.quota_of(agent).of_agent,
            n_hot=len(block),
            hot_bytes=block.n_bytes,
            hot_limit_bytes=block.limit_bytes,
            evictions=block.evictions,
            faults=block.faults,
            hits=block.hits,
            n_pending=await self._search.n_pending(saved_notes.owner_of(agent)),
        )

    async def flush(self) -> None:
        """Write down when notes were last used."""
        used_ms, self._used_ms = self._used_ms, {}
        try:
            if used_ms:
                await self._database.write(lambda t: saved_notes.set_used(t, used_ms))
        except SyscallError:
            if len(used_ms) <= MAX_USES:  # the disk may be better next time
                self._used_ms = used_ms | self._used_ms
            raise

    # ------------------------------------------------------------ inside

    def _check_size(self, note: Note) -> None:
        limit = self._limits.note_bytes
        if note.n_bytes > limit:
            raise TooLarge(f"a note of {note.n_bytes} bytes, limit is {limit}", limit=limit)

    def _block(self, agent: AgentId) -> HotSet[Note]:
        block = self._blocks.get(agent)
        if block is None:
            block = self._blocks[agent] = HotSet(self._limits.hot_bytes, self._limits.k)
            if len(self._blocks) > MAX_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(agent)
        return block

    def _make_room(self) -> None:
        """Empty the least recently used agents' blocks until all are within their limit."""
        n_bytes = sum(block.n_bytes for block in self._blocks.values())
        for block in list(self._blocks.values())[:-1]:
            if n_bytes <= self._limits.hot_total_bytes:
                break
            n_bytes -= block.n_bytes
            block.evict_all()

    def _committed(self, changed: Changed) -> None:
        self._search.committed(changed.removed)
        self._block(changed.note.agent).put(changed.note)
        self._make_room()
        if changed.note.enrichment == saved_notes.WAITING:
            self.on_waiting()

    def _fault(self, block: HotSet[Note], n_changes_before: int, note: Note) -> None:
        """The note was read; what was read may be out of date if something changed meanwhile."""
        block.fault(note)
        if block.n_changes != n_changes_before:
            block.drop(note.id)
        self._make_room()

    async def _used(self, note: Note, now_ms: int) -> Note:
        self._used_ms[note.id] = now_ms
        if len(self._used_ms) > MAX_USES:
            await self.flush()
        return self._with_use(note)

    def _with_use(self, note: Note) -> Note:
        return replace(note, used_ms=max(note.used_ms, self._used_ms.get(note.id, 0)))


def new_id() -> str:
    """Sorts by time, to the microsecond; tells nothing of how many notes there are."""
    now_us = int(datetime.datetime.now(datetime.UTC).timestamp() * 1_000_000)
    return f"m{now_us:014x}{secrets.token_hex(4)}"
