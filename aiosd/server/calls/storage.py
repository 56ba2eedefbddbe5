"""`storage.*`: agents' files.

Rule: rights come before existence, existence before asking a person, and that before the act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aios_sdk.errors import InvalidParams, NotFound
from aiosd.kernel.model import AgentId
from aiosd.server.calls.base import Result
from aiosd.services.access import Act, Grant, Target, Verdict
from aiosd.services.documents import Mode
from aiosd.services.storage.paths import Parts, parse
from aiosd.services.storage.reading import Entry
from aiosd.services.storage.rows import File

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

FRAME_ROOM = 4096  # what a frame needs besides the data


class StorageCalls:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._storage = daemon.storage

    # ------------------------------------------------------------ writing and reading

    async def storage_write(self, call: Call) -> Result:
        p = call.params
        owner, parts = self._place(call, "write")
        data = p["data"].encode() if isinstance(p["data"], str) else p["data"]
        if not p["more"] and "upload" not in p:
            await self._admit_write(call, owner, parts)
            file = await self._storage.write(owner, parts, data, p["mode"], call.agent.name)
            return {"path": p["path"], **_version_of(file)}
        session = call.session.id
        if "upload" in p:
            upload = self._storage.upload(p["upload"], owner, parts, session)
        else:
            await self._admit_write(call, owner, parts)
            upload = await self._storage.begin(owner, parts, p["mode"], session)
        size = await self._storage.append(upload, data)
        if p["more"]:
            return {"path": p["path"], "size": size, "upload": upload.id}
        file = await self._storage.finish(upload, call.agent.name)
        return {"path": p["path"], **_version_of(file)}

    def storage_abandon(self, call: Call) -> Result:
        self._storage.abandon(call.params["upload"], call.session.id)
        return {}

    async def _admit_write(self, call: Call, owner: AgentId, parts: Parts) -> None:
        """Writing over what is there may have to be confirmed.

        Whether there is something need only be known where that makes a difference.
        """
        access, target = self._d.access, _target(owner, parts)
        act: Act = "write"
        if call.params["mode"] == "replace":
            replacing = access.decide(call.subject, "replace", target)
            is_free = replacing.verdict is Verdict.ALLOWED
            if is_free or await self._storage.find(owner, parts) is not None:
                act = "replace"
        await access.admit(call, act, target)

    async def storage_read(self, call: Call) -> Result:
        p = call.params
        owner, parts = self._place(call, "read")
        await self._d.access.admit(call, "read", _target(owner, parts))
        data, version = await self._storage.read(
            owner,
            parts,
            p.get("version"),
            offset=p["offset"],
            n_bytes=p.get("length"),
            n_most=self._d.config.limits.frame_bytes - FRAME_ROOM,
        )
        return {
            "data": data,
            "version": version.version,
            "size": version.size,
            "sha256": version.sha256,
        }

    # ------------------------------------------------------------ the tree

    async def storage_list(self, call: Call) -> Result:
        p = call.params
        owner, parts = self._place(call, "read", is_root_allowed=True)
        await self._d.access.admit(call, "read", _target(owner, parts))
        after = parse(p["after"], "after").path if p.get("after") else ""
        found, has_more = await self._storage.entries(
            owner, parts, recursive=p["recursive"], after=after, n_most=p["limit"]
        )
        entries = [_described(call, owner, entry) for entry in found]
        return {"entries": entries, **({"next": entries[-1]["path"]} if has_more else {})}

    async def storage_stat(self, call: Call) -> Result:
        owner, parts = self._place(call, "see", is_root_allowed=True)
        if parts:
            return _described(call, owner, await self._storage.stat(owner, parts))
        entry = await self._storage.find(owner, parts) or Entry("", True, 0, 0)
        root, limits = await self._storage.usage(owner)
        usage = {
            "bytes": root.n_bytes,
            "quota_bytes": limits.n_bytes,
            "files": root.n_files,
            "quota_files": limits.n_files,
            "history_bytes": root.n_history_bytes,
            "history_limit_bytes": limits.history_bytes,
        }
        return {**_described(call, owner, entry), "usage": usage}

    async def storage_mkdir(self, call: Call) -> Result:
        owner, parts = self._place(call, "write")
        await self._d.access.admit(call, "write", _target(owner, parts))
        await self._storage.make_directory(owner, parts)
        return {}

    async def storage_delete(self, call: Call) -> Result:
        owner, parts = self._place(call, "delete")
        await self._storage.stat(owner, parts)
        await self._d.access.admit(call, "delete", _target(owner, parts))
        await self._storage.delete(
            owner, parts, call.agent.name, recursive=call.params["recursive"]
        )
        await self._d.access.forget_grants(owner, "storage", "/".join(parts))
        return {}

    async def storage_rename(self, call: Call) -> Result:
        over = call.params["replace"]
        owner, source = self._place(call, "delete")
        other, target = self._place(call, "write", "to")
        if other != owner:
            raise InvalidParams(
                "a file moves within one root: write it to the other agent's, then delete it here",
                field="to",
            )
        await self._storage.stat(owner, source)
        await self._d.access.admit(call, "write", _target(owner, source))
        is_there = over and await self._storage.find(owner, target) is not None
        await self._d.access.admit(call, "replace" if is_there else "write", _target(owner, target))
        await self._storage.rename(owner, source, target, call.agent.name, over=over)
        # What comes to be at that path later wasn't meant.
        await self._d.access.forget_grants(owner, "storage", "/".join(source))
        return {}

    # ------------------------------------------------------------ versions

    async def storage_history(self, call: Call) -> Result:
        owner, parts = self._place(call, "read")
        await self._d.access.admit(call, "read", _target(owner, parts))
        return {
            "versions": [
                {
                    "version": v.version,
                    **({"sha256": v.sha256} if v.sha256 else {}),
                    "size": v.size,
                    "created_ms": v.created_ms,
                    "op": v.op,
                    "by": v.by,
                }
                for v in await self._storage.history(owner, parts)
            ]
        }

    async def storage_rollback(self, call: Call) -> Result:
        p = call.params
        owner, parts = self._place(call, "write")
        await self._storage.history(owner, parts)  # NotFound before anybody is asked
        await self._d.access.admit(call, "replace", _target(owner, parts))
        file = await self._storage.rollback(
            owner, parts, p.get("version"), p.get("steps", 1), call.agent.name
        )
        return {"path": p["path"], **_version_of(file)}

    async def storage_search(self, call: Call) -> Result:
        p = call.params
        owner, below = self._place(call, "read", is_root_allowed=True)
        await self._d.access.admit(call, "read", _target(owner, below))
        found = await self._d.storage_index.search(
            owner, p["query"], p["k"], Mode(p["mode"]), below
        )
        where = "" if owner == call.agent else f"{owner.name}:/"
        return {
            "results": [
                {
                    "path": where + match.path,
                    "version": match.version,
                    "snippet": match.snippet,
                    "offset": match.offset,
                    "score": match.score,
                }
                for match in found.results
            ],
            "mode": found.mode.value,
            **({"reason": found.reason} if found.reason else {}),
            "pending": found.pending,
        }

    # ------------------------------------------------------------ sharing

    async def storage_share(self, call: Call) -> Result:
        p = call.params
        address = parse(p["path"], is_root_allowed=True)
        if address.agent not in (None, call.agent.name):
            raise InvalidParams("only one's own files can be shared", field="path")
        if address.parts and await self._storage.find(call.agent, address.parts) is None:
            raise NotFound(f"no file {address.path!r}", path=address.path)
        grant = await self._d.access.grant(
            call.agent,
            p["with"],
            "storage",
            address.path,
            mode=p["mode"],
            expires_s=p.get("expires_s"),
        )
        return {"grant": grant.id, **_expiry(grant)}

    def storage_grants(self, call: Call) -> Result:
        given, held = self._d.access.grants_of(call.agent)
        return {
            "given": [_grant(grant) for grant in given if grant.kind == "storage"],
            "held": [_grant(grant) for grant in held if grant.kind == "storage"],
        }

    async def storage_revoke(self, call: Call) -> Result:
        wanted = call.params["grant"]
        given, _ = self._d.access.grants_of(call.agent)
        if not any(g.id == wanted and g.kind == "storage" for g in given):
            raise NotFound(f"no grant {wanted!r} of storage", grant=wanted)
        await self._d.access.revoke(call.agent, wanted)
        return {}

    # ------------------------------------------------------------ inside

    def _place(
        self, call: Call, act: Act, field: str = "path", *, is_root_allowed: bool = False
    ) -> tuple[AgentId, Parts]:
        """Whose root and which path, if the caller may do that there.

        What a person would have to confirm passes here: admit() asks, once it is known to exist.
        """
        address = parse(call.params[field], field, is_root_allowed=is_root_allowed)
        name = address.agent
        owner = call.agent if name is None else AgentId(call.agent.uid, name)
        self._d.access.check(call, act, _target(owner, address.parts), is_confirmed=True)
        return owner, address.parts


def _target(owner: AgentId, parts: Parts) -> Target:
    return Target("storage", owner, "/".join(parts))


def _described(call: Call, owner: AgentId, entry: Entry) -> dict[str, Any]:
    """An entry, its path such that the caller can give it back."""
    path = entry.path if owner == call.agent else f"{owner.name}:/{entry.path}"
    return {
        "path": path,
        "kind": "directory" if entry.is_dir else "file",
        "size": entry.size,
        "modified_ms": entry.modified_ms,
        **({} if entry.version is None else {"version": entry.version}),
        **({} if entry.sha256 is None else {"sha256": entry.sha256}),
    }


def _version_of(file: File) -> dict[str, Any]:
    return {"version": file.version, "size": file.size, "sha256": file.sha256}


def _grant(grant: Grant) -> dict[str, Any]:
    return {
        "grant": grant.id,
        "agent": grant.owner.name,
        "path": grant.name,
        "holder": grant.holder,
        "mode": grant.mode,
        **_expiry(grant),
    }


def _expiry(grant: Grant) -> dict[str, int]:
    return {} if grant.expires_ms is None else {"expires_ms": grant.expires_ms}
