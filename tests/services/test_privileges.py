"""What access decides by: patterns, expiry, limits, and what a restart finds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aios_sdk.errors import QuotaExceeded
from aiosd.kernel.model import AgentId
from aiosd.services import access
from aiosd.services.access import Grant, Remembered, Target
from aiosd.services.privileges import AgentRule, Privileges, Settings
from aiosd.services.saved_access import SetRight
from tests.services.opened import opened

ADA, BOB = AgentId(1000, "ada"), AgentId(1000, "bob")


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


Test = Callable[[Privileges, Clock], Awaitable[None]]


def run(path: Path, settings: Settings, *tests: Test) -> None:
    """Each test on privileges made anew over the same database, as after a restart."""

    async def main() -> None:
        clock = Clock()
        async with opened(path / "db") as db:
            for test in tests:
                privileges = Privileges(db, settings, clock)
                await privileges.load()
                await test(privileges, clock)

    asyncio.run(main())


def nothing_more(_: object) -> None:
    pass


def rights(privileges: Privileges, agent: AgentId) -> set[str]:
    return set(privileges.subject(agent).rights)


def test_rights_come_from_the_file_by_name_uid_and_pattern(tmp_path: Path) -> None:
    settings = Settings(
        everyone=frozenset({"context"}),
        agents=(
            AgentRule("1000:ada", frozenset({"tool"}), frozenset()),
            AgentRule("b*", frozenset({"llm", "memory"}), frozenset({"memory"})),
            AgentRule("2000:*", frozenset({"admin"}), frozenset({"spawn"})),
        ),
    )

    async def test(privileges: Privileges, _: Clock) -> None:
        assert rights(privileges, ADA) == {"context", "tool"}
        assert rights(privileges, AgentId(1001, "ada")) == {"context"}
        assert rights(privileges, BOB) == {"context", "llm"}  # taking wins
        assert rights(privileges, AgentId(2000, "x")) == set(access.RIGHTS) - {"spawn"}
        assert rights(privileges, AgentId(0, "x")) == set(access.RIGHTS)

    run(tmp_path, settings, test)


def test_a_right_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async def lend(privileges: Privileges, clock: Clock) -> None:
        lent = SetRight(BOB, "spawn", is_held=True, expires_ms=clock.ms + 1000)
        taken = SetRight(BOB, "llm", is_held=False, expires_ms=clock.ms + 2000)
        await privileges.set_rights([lent, taken], nothing_more)
        assert rights(privileges, BOB) == set(access.EVERYONE) - {"llm"} | {"spawn"}

    async def later(privileges: Privileges, clock: Clock) -> None:
        assert "spawn" in rights(privileges, BOB)
        clock.ms += 1000
        assert rights(privileges, BOB) == set(access.EVERYONE) - {"llm"}
        clock.ms += 1000
        assert rights(privileges, BOB) == set(access.EVERYONE)
        assert privileges.set_rights_of(BOB) == []
        await privileges.expire()

    run(tmp_path, Settings(), lend, later)


def test_a_grant_ends_when_its_time_is_over_and_makes_room(tmp_path: Path) -> None:
    async def test(privileges: Privileges, clock: Clock) -> None:
        def reads() -> str:
            target = Target("memory", ADA, "m1")
            subject = privileges.subject(BOB)
            return access.decide(subject, "read", target, privileges.rules, clock.ms).by

        grant = Grant("g1", ADA, "bob", "memory", "", "read", clock.ms + 1000)
        await privileges.add_grant(grant, nothing_more)
        assert reads() == "grant"
        with pytest.raises(QuotaExceeded):
            await privileges.add_grant(Grant("g2", ADA, "x", "memory", "", "read"), nothing_more)
        clock.ms += 1000
        assert reads() == "owner"
        assert privileges.grants_of(BOB) == ([], [])
        await privileges.expire()
        await privileges.add_grant(Grant("g2", ADA, "bob", "memory", "", "read"), nothing_more)
        assert reads() == "grant"

    async def after_a_restart(privileges: Privileges, _: Clock) -> None:
        assert [g.id for g in privileges.grants_of(BOB)[1]] == ["g2"]

    run(tmp_path, Settings(grants_per_agent=1), test, after_a_restart)


def test_the_grants_and_rules_of_a_uid_are_limited_whatever_its_agents_are_called(
    tmp_path: Path,
) -> None:
    async def test(privileges: Privileges, _: Clock) -> None:
        for name in ("a", "b"):
            grant = Grant(f"g{name}", AgentId(1000, name), "x", "memory", "", "read")
            await privileges.add_grant(grant, nothing_more)
        grant = Grant("gc", AgentId(1000, "c"), "x", "memory", "", "read")
        with pytest.raises(QuotaExceeded) as caught:
            await privileges.add_grant(grant, nothing_more)
        assert caught.value.data == {"limit": 2, "used": 2}
        other = Grant("gd", AgentId(2000, "c"), "x", "memory", "", "read")
        await privileges.add_grant(other, nothing_more)
        await privileges.remember(Remembered("r1", BOB, "use", "tool", None, "x"), nothing_more)
        with pytest.raises(QuotaExceeded):
            await privileges.set_rights([SetRight(ADA, "llm", is_held=False)], nothing_more)

    run(tmp_path, Settings(grants_per_uid=2, rules_per_uid=1), test)


def test_changes_at_the_same_time_all_count(tmp_path: Path) -> None:
    async def test(privileges: Privileges, _: Clock) -> None:
        await asyncio.gather(
            *(
                privileges.change_group(1000, "team", add=[f"a{i}"], also=nothing_more)
                for i in range(20)
            )
        )

    async def after_a_restart(privileges: Privileges, _: Clock) -> None:
        ((group, is_fixed),) = privileges.groups(1000)
        assert (len(group.members), is_fixed) == (20, False)
        assert privileges.subject(AgentId(1000, "a7")).groups == {"team"}

    run(tmp_path, Settings(), test, after_a_restart)


def test_admin_may_be_kept_to_some_names(tmp_path: Path) -> None:
    async def test(privileges: Privileges, _: Clock) -> None:
        assert rights(privileges, AgentId(0, "aiosctl")) == set(access.RIGHTS)
        assert rights(privileges, AgentId(0, "ada")) == set(access.EVERYONE)
        assert rights(privileges, AgentId(1000, "aiosctl")) == set(access.EVERYONE)

    run(tmp_path, Settings(admins=("aiosctl",)), test)
