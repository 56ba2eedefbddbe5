"""Who may do what: `client.access`, blocking and asyncio.

    with Client(agent="ada") as client:
        client.access.grant("storage", "bob", name="docs", mode="read", expires_s=3600)
        if not client.access.check("tool.call", "tool:search")["allowed"]:
            client.access.request("tool", reason="to look things up", wait=True)

Rule: both say the same; only the waiting differs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, cast

from aios_sdk.results import field

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient
    from aios_sdk.client import Client

Mode = Literal["read", "write"]
GroupMode = Literal["none", "read", "write"]


class Checked(TypedDict):
    """Whether something is allowed now; asks: it is, once a person has confirmed it."""

    allowed: bool
    reason: str
    asks: bool


class Asked(TypedDict):
    """A request for a right, and where it stands."""

    request: str
    state: Literal["pending", "approved"]


class PendingRequest(TypedDict):
    """What waits for a person."""

    request: str
    agent: str
    uid: int
    act: str
    kind: str
    owner: NotRequired[str]
    name: str
    method: str
    reason: str
    created_ms: int
    expires_ms: int


class GroupInfo(TypedDict):
    """A privilege group; is_fixed: only the daemon's configuration changes it."""

    name: str
    uid: int
    mode: GroupMode
    members: list[str]
    rights: list[str]
    is_fixed: bool


class GrantInfo(TypedDict):
    """What an owner lets another agent, or "@group", do."""

    grant: str
    owner: str
    holder: str
    kind: str
    name: str
    mode: Mode
    expires_ms: NotRequired[int]


class Grants(TypedDict):
    given: list[GrantInfo]
    held: list[GrantInfo]


class AuditEntry(TypedDict):
    """A decision, or n alike between time_ms and last_ms."""

    seq: NotRequired[int]
    time_ms: int
    last_ms: int
    n: int
    event: str
    agent: str
    uid: int
    act: str
    kind: str
    owner: NotRequired[str]
    owner_uid: NotRequired[int]
    name: str
    by: str


class Access:
    """What the client's agent may do, and who may do what to its things."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def check(self, action: str, target: str = "") -> Checked:
        """Whether a syscall, or an act (read, delete…) on a target, would be allowed now."""
        result = self._client.call("access.check", action=action, target=target)
        return cast(Checked, result)

    def request(
        self, right: str, *, reason: str, target: str | None = None, wait: bool = False
    ) -> Asked:
        """Ask a person for a right, or to read or write a target.

        wait: return when it is approved; Denied if it isn't, or nobody answers in time.
        """
        result = self._client.call(
            "access.request", right=right, reason=reason, target=target, wait=wait
        )
        return cast(Asked, result)

    def pending(self) -> list[PendingRequest]:
        """What waits for a person, as far as this agent may know."""
        result = self._client.call("access.pending")
        return cast(list[PendingRequest], field(result, "requests", list))

    def watch(self) -> Iterator[list[PendingRequest]]:
        """What waits, now and at every change; leave the loop to end it."""
        with self._client.stream("access.pending") as stream:
            for chunk in stream:
                yield cast(list[PendingRequest], field(chunk, "requests", list))

    def approve(self, request: str, *, remember: bool = False) -> None:
        self._client.call("access.approve", request=request, remember=remember)

    def deny(self, request: str) -> None:
        self._client.call("access.deny", request=request)

    def groups(self) -> list[GroupInfo]:
        result = self._client.call("access.groups")
        return cast(list[GroupInfo], field(result, "groups", list))

    def group(
        self,
        name: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        mode: GroupMode | None = None,
    ) -> GroupInfo:
        """Make a group or change it; without its last member it is gone."""
        result = self._client.call(
            "access.group", name=name, add=[*add], remove=[*remove], mode=mode
        )
        return cast(GroupInfo, result)

    def grant(
        self,
        kind: Literal["context", "memory", "storage"],
        holder: str,
        *,
        name: str = "",
        mode: Mode = "read",
        expires_s: int | None = None,
    ) -> str:
        """Let an agent of one's uid, or "@group", at one's things; the grant's id."""
        params = {"kind": kind, "with": holder, "name": name, "mode": mode, "expires_s": expires_s}
        result = self._client.call("access.grant", **params)
        return cast(str, field(result, "grant", str))

    def grants(self) -> Grants:
        return cast(Grants, self._client.call("access.grants"))

    def revoke(self, grant: str) -> None:
        self._client.call("access.revoke", grant=grant)

    def audit(self, *, since_ms: int = 0, limit: int = 100) -> list[AuditEntry]:
        """The newest decisions that denied, asked, approved or used admin, oldest first."""
        result = self._client.call("access.audit", since_ms=since_ms, limit=limit)
        return cast(list[AuditEntry], field(result, "entries", list))


class AsyncAccess:
    """As Access, with await."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def check(self, action: str, target: str = "") -> Checked:
        """Whether a syscall, or an act (read, delete…) on a target, would be allowed now."""
        result = await self._client.call("access.check", action=action, target=target)
        return cast(Checked, result)

    async def request(
        self, right: str, *, reason: str, target: str | None = None, wait: bool = False
    ) -> Asked:
        """Ask a person for a right, or to read or write a target.

        wait: return when it is approved; Denied if it isn't, or nobody answers in time.
        """
        result = await self._client.call(
            "access.request", right=right, reason=reason, target=target, wait=wait
        )
        return cast(Asked, result)

    async def pending(self) -> list[PendingRequest]:
        """What waits for a person, as far as this agent may know."""
        result = await self._client.call("access.pending")
        return cast(list[PendingRequest], field(result, "requests", list))

    async def watch(self) -> AsyncIterator[list[PendingRequest]]:
        """What waits, now and at every change; leave the loop to end it."""
        async with self._client.stream("access.pending") as stream:
            async for chunk in stream:
                yield cast(list[PendingRequest], field(chunk, "requests", list))

    async def approve(self, request: str, *, remember: bool = False) -> None:
        await self._client.call("access.approve", request=request, remember=remember)

    async def deny(self, request: str) -> None:
        await self._client.call("access.deny", request=request)

    async def groups(self) -> list[GroupInfo]:
        result = await self._client.call("access.groups")
        return cast(list[GroupInfo], field(result, "groups", list))

    async def group(
        self,
        name: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        mode: GroupMode | None = None,
    ) -> GroupInfo:
        """Make a group or change it; without its last member it is gone."""
        result = await self._client.call(
            "access.group", name=name, add=[*add], remove=[*remove], mode=mode
        )
        return cast(GroupInfo, result)

    async def grant(
        self,
        kind: Literal["context", "memory", "storage"],
        holder: str,
        *,
        name: str = "",
        mode: Mode = "read",
        expires_s: int | None = None,
    ) -> str:
        """Let an agent of one's uid, or "@group", at one's things; the grant's id."""
        params = {"kind": kind, "with": holder, "name": name, "mode": mode, "expires_s": expires_s}
        result = await self._client.call("access.grant", **params)
        return cast(str, field(result, "grant", str))

    async def grants(self) -> Grants:
        return cast(Grants, await self._client.call("access.grants"))

    async def revoke(self, grant: str) -> None:
        await self._client.call("access.revoke", grant=grant)

    async def audit(self, *, since_ms: int = 0, limit: int = 100) -> list[AuditEntry]:
        """The newest decisions that denied, asked, approved or used admin, oldest first."""
        result = await self._client.call("access.audit", since_ms=since_ms, limit=limit)
        return cast(list[AuditEntry], field(result, "entries", list))
