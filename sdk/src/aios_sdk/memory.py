"""What an agent remembers: `client.memory`, blocking and asyncio.

    with Client(agent="ada") as client:
        client.memory.add("The user likes tea.", tags=["user"])
        for note in client.memory.search("what do they drink?")["results"]:
            print(note["score"], note["content"])

Rule: both say the same; only the waiting differs.  agent names another agent of the same uid, whose
notes a group or a grant opens; absent it is oneself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from aios_sdk.results import FoundNotes, MemoryStats, Note, NotePage, SearchMode, field

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient
    from aios_sdk.client import Client


class Memory:
    """The notes of the client's agent, or of the agent named in a call."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(
        self,
        content: str,
        *,
        tags: Sequence[str] | None = None,
        metadata: dict[str, object] | None = None,
        agentic: bool = False,
        agent: str | None = None,
    ) -> str:
        """Keep a note; its id.  agentic: the model adds keywords, a summary, tags and links."""
        result = self._client.call(
            "memory.add",
            content=content,
            tags=_listed(tags),
            metadata=metadata,
            agentic=agentic,
            agent=agent,
        )
        return cast(str, field(result, "memory", str))

    def get(self, memory: str) -> Note:
        return cast(Note, self._client.call("memory.get", memory=memory))

    def update(
        self,
        memory: str,
        *,
        content: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: dict[str, object] | None = None,
    ) -> None:
        """Change what is given; the rest stays."""
        self._client.call(
            "memory.update", memory=memory, content=content, tags=_listed(tags), metadata=metadata
        )

    def delete(self, memory: str) -> None:
        self._client.call("memory.delete", memory=memory)

    def page(
        self, limit: int = 100, after: str | None = None, *, agent: str | None = None
    ) -> NotePage:
        """Notes in the order they were made; its "next", if any, is the next after."""
        result = self._client.call("memory.list", limit=limit, after=after, agent=agent)
        return cast(NotePage, result)

    def list(self, *, agent: str | None = None) -> Iterator[Note]:
        """All notes, in the order they were made, asked for page by page."""
        after: str | None = None
        while True:
            page = self.page(after=after, agent=agent)
            yield from page["notes"]
            after = page.get("next")
            if after is None:
                return

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        mode: SearchMode = "hybrid",
        tags: Sequence[str] | None = None,
        agent: str | None = None,
    ) -> FoundNotes:
        """The notes that fit best.  Its "mode" says how they were found."""
        result = self._client.call(
            "memory.search", query=query, k=k, mode=mode, tags=_listed(tags), agent=agent
        )
        return cast(FoundNotes, result)

    def stats(self, *, agent: str | None = None) -> MemoryStats:
        return cast(MemoryStats, self._client.call("memory.stats", agent=agent))


class AsyncMemory:
    """As Memory, with await."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def add(
        self,
        content: str,
        *,
        tags: Sequence[str] | None = None,
        metadata: dict[str, object] | None = None,
        agentic: bool = False,
        agent: str | None = None,
    ) -> str:
        """Keep a note; its id.  agentic: the model adds keywords, a summary, tags and links."""
        result = await self._client.call(
            "memory.add",
            content=content,
            tags=_listed(tags),
            metadata=metadata,
            agentic=agentic,
            agent=agent,
        )
        return cast(str, field(result, "memory", str))

    async def get(self, memory: str) -> Note:
        return cast(Note, await self._client.call("memory.get", memory=memory))

    async def update(
        self,
        memory: str,
        *,
        content: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: dict[str, object] | None = None,
    ) -> None:
        """Change what is given; the rest stays."""
        await self._client.call(
            "memory.update", memory=memory, content=content, tags=_listed(tags), metadata=metadata
        )

    async def delete(self, memory: str) -> None:
        await self._client.call("memory.delete", memory=memory)

    async def page(
        self, limit: int = 100, after: str | None = None, *, agent: str | None = None
    ) -> NotePage:
        """Notes in the order they were made; its "next", if any, is the next after."""
        result = await self._client.call("memory.list", limit=limit, after=after, agent=agent)
        return cast(NotePage, result)

    async def list(self, *, agent: str | None = None) -> AsyncIterator[Note]:
        """All notes, in the order they were made, asked for page by page."""
        after: str | None = None
        while True:
            page = await self.page(after=after, agent=agent)
            for note in page["notes"]:
                yield note
            after = page.get("next")
            if after is None:
                return

    async def search(
        self,
        query: str,
        k: int = 5,
        *,
        mode: SearchMode = "hybrid",
        tags: Sequence[str] | None = None,
        agent: str | None = None,
    ) -> FoundNotes:
        """The notes that fit best.  Its "mode" says how they were found."""
        result = await self._client.call(
            "memory.search", query=query, k=k, mode=mode, tags=_listed(tags), agent=agent
        )
        return cast(FoundNotes, result)

    async def stats(self, *, agent: str | None = None) -> MemoryStats:
        return cast(MemoryStats, await self._client.call("memory.stats", agent=agent))


def _listed(tags: Sequence[str] | None) -> Sequence[str] | None:
    """On the wire tags are a list, whatever sequence they came in."""
    return None if tags is None else [*tags]
