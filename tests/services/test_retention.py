"""Retention: oldest use first, within each limit, never what is busy."""

from __future__ import annotations

from aiosd.kernel.model import AgentId, ContextId
from aiosd.services.retention import Held, Retention, to_drop
from tests.services.opened import ALICE, BOB


def held(id_: str, used_ms: int, agent: AgentId = ALICE, n_bytes: int = 10) -> Held:
    return Held(ContextId(id_), agent, used_ms, n_bytes)


A, B, C, D = (held(id_, used_ms) for id_, used_ms in [("a", 1), ("b", 2), ("c", 3), ("d", 4)])


def test_without_limits_everything_stays() -> None:
    assert to_drop([A, B, C, D], Retention(), 10**12) == []


def test_each_agent_keeps_its_latest_contexts() -> None:
    contexts = [D, B, held("x", 0, BOB), A, C]
    assert to_drop(contexts, Retention(per_agent=2), 9) == ["a", "b"]
    assert to_drop(contexts, Retention(per_agent=0), 9) == ["x", "a", "b", "c", "d"]


def test_what_is_idle_for_longer_than_the_limit_goes() -> None:
    assert to_drop([A, B, C], Retention(idle_ms=7), 9) == ["a"]
    assert to_drop([A, B, C], Retention(idle_ms=7), 8) == []


def test_bytes_in_all_bound_everybodys_contexts_together() -> None:
    contexts = [A, held("x", 2, BOB, 25), C, D]
    assert to_drop(contexts, Retention(total_bytes=55), 9) == []
    assert to_drop(contexts, Retention(total_bytes=54), 9) == ["a"]
    assert to_drop(contexts, Retention(total_bytes=20), 9) == ["a", "x"]


def test_what_one_limit_drops_counts_for_the_others() -> None:
    assert to_drop([A, B, C], Retention(per_agent=2, total_bytes=20), 9) == ["a"]


def test_busy_contexts_count_and_stay() -> None:
    busy = frozenset({A.id, B.id})
    assert to_drop([A, B, C, D], Retention(per_agent=2), 9, busy) == ["c", "d"]
    assert to_drop([A, B], Retention(per_agent=1, idle_ms=1, total_bytes=1), 99, busy) == []


def test_a_later_use_that_only_memory_knows_counts() -> None:
    assert to_drop([A, B, C], Retention(per_agent=2), 9, used_ms={A.id: 5}) == ["b"]


def test_one_uids_hoard_does_not_cost_another_its_contexts() -> None:
    victim = Held(ContextId("old"), AgentId(1, "a"), 1, 10)
    hoard = [Held(ContextId(f"h{n}"), AgentId(2, "b"), 10 + n, 50) for n in range(4)]
    assert to_drop([victim, *hoard], Retention(total_bytes=120), now_ms=100) == ["h0", "h1"]
