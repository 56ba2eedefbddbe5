"""`memory.*`: what agents remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiosd.kernel.model import AgentId
from aiosd.server import generate
from aiosd.server.calls.base import Result
from aiosd.services.access import Act, Target
from aiosd.services.documents import Mode
from aiosd.services.saved_notes import Note

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class Memories:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    async def memory_add(self, call: Call) -> Result:
        p = call.params
        if p["agentic"]:  # it costs the agent what llm.generate would
            self._d.access.check_right(call.agent, "llm", "memory.add with agentic")
        note = await self._d.memory.add(
            await self._agent(call, "write"),
            p["content"],
            p.get("tags", ()),
            p.get("metadata", {}),
            generate.now_ms(),
            wants_enrichment=p["agentic"],
        )
        return {"memory": note.id}

    async def memory_get(self, call: Call) -> Result:
        agent = await self._owner(call, "read")
        note = await self._d.memory.get(agent, call.params["memory"], generate.now_ms())
        return describe(note)

    async def memory_update(self, call: Call) -> Result:
        p = call.params
        agent = await self._owner(call, "write")
        fields = {name: p[name] for name in ("content", "tags", "metadata") if name in p}
        await self._d.memory.update(agent, p["memory"], generate.now_ms(), **fields)
        return {}

    async def memory_delete(self, call: Call) -> Result:
        agent = await self._owner(call, "delete")
        await self._d.memory.delete(agent, call.params["memory"])
        await self._d.access.forget_grants(agent, "memory", call.params["memory"])
        return {}

    async def memory_list(self, call: Call) -> Result:
        agent = await self._agent(call, "read")
        limit, after = call.params["limit"], call.params.get("after", "")
        notes, more = await self._d.memory.page(agent, limit, after)
        next_ = {} if more is None else {"next": more}
        return {"notes": [describe(note) for note in notes], **next_}

    async def memory_search(self, call: Call) -> Result:
        p = call.params
        found, pairs = await self._d.memory.search(
            await self._agent(call, "read"),
            p["query"],
            k=p["k"],
            mode=Mode(p["mode"]),
            tags=p.get("tags", ()),
            now_ms=generate.now_ms(),
        )
        results = []
        for note, hit in pairs:
            similarity = {} if hit.similarity is None else {"similarity": hit.similarity}
            results.append({**_said(note), "score": hit.score, **similarity})
        reason = {} if found.reason is None else {"reason": found.reason}
        return {"results": results, "mode": str(found.mode), **reason}

    async def memory_stats(self, call: Call) -> Result:
        stats = await self._d.memory.stats(await self._agent(call, "see"))
        embedder = self._d.search.embedder
        return {
            "notes": stats.n_notes,
            "bytes": stats.n_bytes,
            "quota_bytes": stats.quota_bytes,
            "hot_notes": stats.n_hot,
            "hot_bytes": stats.hot_bytes,
            "hot_limit_bytes": stats.hot_limit_bytes,
            "hits": stats.hits,
            "faults": stats.faults,
            "evictions": stats.evictions,
            "without_vector": stats.n_pending,
            **({} if embedder is None else {"embedder": embedder.name}),
        }

    async def _agent(self, call: Call, act: Act) -> AgentId:
        """Whose notes the call is about, all of them."""
        name = call.params.get("agent", call.agent.name)
        agent = AgentId(call.agent.uid, name)
        await self._d.access.admit(call, act, Target("memory", agent))
        return agent

    async def _owner(self, call: Call, act: Act) -> AgentId:
        """Whose note the call is about."""
        id_ = call.params["memory"]
        agent = await self._d.memory.agent_of(id_, call.agent)
        await self._d.access.admit(call, act, Target("memory", agent, id_))
        return agent


def _said(note: Note) -> Result:
    return {
        "memory": note.id,
        "content": note.content,
        "tags": list(note.tags),
        "metadata": dict(note.metadata),
    }


def describe(note: Note) -> Result:
    """A note as memory.get gives it."""
    return {
        **_said(note),
        "links": list(note.links),
        **({"keywords": list(note.keywords)} if note.keywords else {}),
        **({"summary": note.summary} if note.summary else {}),
        "enrichment": note.enrichment,
        "bytes": note.n_bytes,
        "created_ms": note.created_ms,
        "updated_ms": note.updated_ms,
        "used_ms": note.used_ms,
    }
