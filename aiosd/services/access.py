"""Who may do what.  Pure: identity is the uid from the peer's credentials and the agent's name."""

from __future__ import annotations

from aiosd.kernel.model import AgentId

EVERYONE = ("llm", "context")
"""Rights every agent holds."""


def rights(uid: int, daemon_uid: int) -> tuple[str, ...]:
    """The rights of an agent of this uid: the daemon's own uid and uid 0 hold `admin`."""
    return (*EVERYONE, "admin") if uid in (0, daemon_uid) else EVERYONE


def may_see(owner: AgentId, viewer: AgentId, *, is_admin: bool) -> bool:
    """Whether the viewer may know that the owner's jobs and agents exist, and their figures."""
    return is_admin or owner.uid == viewer.uid


def may_act(owner: AgentId, viewer: AgentId, *, is_admin: bool) -> bool:
    """Whether the viewer may cancel, pause or kill what belongs to the owner.

    Names within a uid are self-declared, so a uid's agents may stop each other.
    """
    return is_admin or owner.uid == viewer.uid
