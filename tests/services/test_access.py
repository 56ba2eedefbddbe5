"""The decision about access: who, what, to which thing, by which rules."""

from __future__ import annotations

import pytest

from aiosd.kernel.model import AgentId
from aiosd.services.access import (
    EVERYONE,
    RIGHTS,
    Act,
    Confirm,
    Decision,
    Grant,
    Group,
    Mode,
    Remembered,
    Rules,
    Subject,
    Target,
    Verdict,
    decide,
)

ALICE, BOB, EVE = AgentId(1000, "alice"), AgentId(1000, "bob"), AgentId(2000, "alice")
NOTE = Target("memory", ALICE, "n1")
FILE = Target("storage", ALICE, "docs/plan.txt")


def subject(agent: AgentId, *groups: str, is_admin: bool = False) -> Subject:
    return Subject(agent, frozenset(RIGHTS if is_admin else EVERYONE), frozenset(groups))


def verdict(who: Subject, act: Act, target: Target, rules: Rules | None = None) -> str:
    return decided(who, act, target, rules).verdict.value


def decided(who: Subject, act: Act, target: Target, rules: Rules | None = None) -> Decision:
    return decide(who, act, target, rules or Rules(), now_ms=1000)


def team(mode: Mode) -> Rules:
    return Rules(groups={(1000, "team"): Group(1000, "team", mode, frozenset({"alice", "bob"}))})


def granted(grant: Grant) -> Rules:
    return Rules(grants={ALICE: (grant,)})


@pytest.mark.parametrize("act", ["see", "read", "write", "delete", "replace"])
def test_an_agent_owns_what_it_makes_and_its_neighbour_does_not(act: Act) -> None:
    assert verdict(subject(ALICE), act, NOTE) == "allowed"
    assert verdict(subject(BOB), act, NOTE) == "denied"
    assert verdict(subject(EVE), act, NOTE) == "not_found"


def test_admin_opens_no_words_of_others() -> None:
    for kind in ("context", "memory", "storage"):
        target = Target(kind, ALICE, "x")
        assert verdict(subject(BOB, is_admin=True), "read", target) == "denied"
        assert verdict(subject(EVE, is_admin=True), "read", target) == "not_found"


def test_an_operator_reaches_all_of_its_own_uid_and_nothing_of_another() -> None:
    for uid, expected in ((1000, "allowed"), (2000, "not_found")):
        person = Subject(AgentId(uid, "aiosctl"), frozenset(EVERYONE), is_operator=True)
        assert verdict(person, "delete", NOTE) == expected


def test_a_uids_agents_see_and_stop_each_others_jobs_but_dont_read_them() -> None:
    job = Target("job", ALICE, "j1")
    for act, expected in (("see", "allowed"), ("steer", "allowed"), ("read", "denied")):
        assert verdict(subject(BOB), act, job) == expected  # type: ignore[arg-type]
        assert verdict(subject(EVE), act, job) == "not_found"  # type: ignore[arg-type]
    assert verdict(subject(EVE, is_admin=True), "steer", job) == "allowed"
    assert verdict(subject(EVE, is_admin=True), "read", job) == "not_found"


def test_a_group_reaches_as_far_as_its_mode() -> None:
    for mode, read, write in (
        ("none", "denied", "denied"),
        ("read", "allowed", "denied"),
        ("write", "allowed", "allowed"),
    ):
        rules = team(mode)  # type: ignore[arg-type]
        assert verdict(subject(BOB, "team"), "read", FILE, rules) == read
        assert verdict(subject(BOB, "team"), "write", FILE, rules) == write
    assert verdict(subject(BOB), "read", FILE, team("write")) == "denied"  # not a member


def test_a_group_of_the_same_name_under_another_uid_is_another() -> None:
    assert verdict(subject(EVE, "team"), "read", FILE, team("write")) == "not_found"


def test_the_mode_of_a_uid_is_that_of_a_group_of_all_its_agents() -> None:
    assert verdict(subject(BOB), "read", NOTE, Rules(same_uid="read")) == "allowed"
    assert verdict(subject(BOB), "write", NOTE, Rules(same_uid="read")) == "denied"
    assert verdict(subject(EVE), "read", NOTE, Rules(same_uid="write")) == "not_found"


def test_a_grant_is_for_one_holder_one_thing_one_mode_and_a_time() -> None:
    grant = Grant("g1", ALICE, "bob", "storage", "docs", "read", expires_ms=1001)
    assert verdict(subject(BOB), "read", FILE, granted(grant)) == "allowed"
    assert verdict(subject(BOB), "write", FILE, granted(grant)) == "denied"
    beside = Target("storage", ALICE, "docs2/plan.txt")
    assert verdict(subject(BOB), "read", beside, granted(grant)) == "denied"
    assert (
        verdict(subject(BOB), "read", Target("memory", ALICE, "docs"), granted(grant)) == "denied"
    )
    carol = subject(AgentId(1000, "carol"))
    assert verdict(carol, "read", FILE, granted(grant)) == "denied"
    late = decide(subject(BOB), "read", FILE, granted(grant), now_ms=1001)
    assert late.verdict is Verdict.DENIED


def test_a_grant_to_a_group_is_for_its_members() -> None:
    rules = granted(Grant("g1", ALICE, "@team", "memory", "", "write"))
    assert verdict(subject(BOB, "team"), "delete", NOTE, rules) == "allowed"
    assert verdict(subject(BOB), "delete", NOTE, rules) == "denied"


def test_a_missing_right_is_named_and_comes_before_everything() -> None:
    who = Subject(ALICE, frozenset({"llm"}))
    decision = decided(who, "read", NOTE, Rules(confirms=(Confirm(own=True),)))
    assert (decision.verdict, decision.right) == (Verdict.DENIED, "memory")
    assert decided(subject(ALICE), "admin", Target("daemon", None)).right == "admin"


def test_nobody_is_asked_about_what_may_not_be_anyway() -> None:
    rules = Rules(confirms=(Confirm(own=True),))
    assert verdict(subject(BOB), "delete", NOTE, rules) == "denied"
    assert verdict(subject(EVE), "delete", NOTE, rules) == "not_found"


def test_nobody_is_asked_about_its_own_unless_the_rule_says_so() -> None:
    assert verdict(subject(ALICE), "delete", NOTE, Rules(confirms=(Confirm(),))) == "allowed"
    assert verdict(subject(ALICE), "delete", NOTE, Rules(confirms=(Confirm(own=True),))) == "ask"
    shared = granted(Grant("g1", ALICE, "bob", "memory", "", "write"))
    rules = Rules(grants=shared.grants, confirms=(Confirm(),))
    assert verdict(subject(BOB), "delete", NOTE, rules) == "ask"
    assert verdict(subject(BOB), "read", NOTE, rules) == "allowed"


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        (Confirm(agent="ali*", own=True), True),
        (Confirm(agent="bob", own=True), False),
        (Confirm(agent="@team", own=True), True),
        (Confirm(agent="@others", own=True), False),
        (Confirm(uid=1000, own=True), True),
        (Confirm(uid=2000, own=True), False),
        (Confirm(name="docs/*", own=True), True),
        (Confirm(name="/docs/*", own=True), True),
        (Confirm(name="*.md", own=True), False),
        (Confirm(name="docs/plan.txt/x/*", own=True), True),  # what is below it
        (Confirm(kinds=frozenset({"storage"}), own=True), True),
        (Confirm(kinds=frozenset({"tool"}), own=True), False),
        (Confirm(acts=frozenset({"read"}), own=True), False),
    ],
)
def test_which_acts_ask_is_said_by_agent_group_path_and_act(rule: Confirm, *, asks: bool) -> None:
    answer = verdict(subject(ALICE, "team"), "delete", FILE, Rules(confirms=(rule,)))
    assert answer == ("ask" if asks else "allowed")


def test_a_rule_may_be_about_irreversible_tools_alone() -> None:
    rules = Rules(confirms=(Confirm(is_irreversible=True),))
    assert verdict(subject(ALICE), "use", Target("tool", None, "look"), rules) == "allowed"
    wipe = Target("tool", None, "wipe", is_irreversible=True)
    assert verdict(subject(ALICE), "use", wipe, rules) == "ask"


def test_what_was_remembered_is_not_asked_again_and_nothing_else() -> None:
    remembered = Remembered("r1", ALICE, "delete", "storage", ALICE, "docs/plan.txt")
    rules = Rules(confirms=(Confirm(own=True),), remembered={ALICE: (remembered,)})
    assert verdict(subject(ALICE), "delete", FILE, rules) == "allowed"
    assert verdict(subject(ALICE), "replace", FILE, rules) == "ask"
    assert verdict(subject(ALICE), "delete", Target("storage", ALICE, "docs/b"), rules) == "ask"


def test_a_mailbox_is_written_to_by_its_owners_groups_and_read_by_its_owner_alone() -> None:
    box = Target("mailbox", ALICE, "alice")
    assert verdict(subject(ALICE), "read", box) == "allowed"
    for mode, expected in (("none", "denied"), ("read", "allowed"), ("write", "allowed")):
        rules = team(mode)  # type: ignore[arg-type]
        assert verdict(subject(BOB, "team"), "send", box, rules) == expected
        assert verdict(subject(BOB, "team"), "see", box, rules) == expected
        for act in ("read", "delete", "write"):
            assert verdict(subject(BOB, "team"), act, box, rules) == "denied"
    assert verdict(subject(BOB), "send", box, team("write")) == "denied"
    assert verdict(subject(BOB), "send", box, Rules(same_uid="read")) == "allowed"
    assert verdict(subject(EVE, "team", is_admin=True), "send", box, team("write")) == "not_found"
    person = Subject(AgentId(1000, "aiosctl"), frozenset(EVERYONE), is_operator=True)
    assert verdict(person, "delete", box) == "allowed"
    assert verdict(person, "read", box) == "denied"


def test_who_spawned_whom_may_write_but_not_read() -> None:
    box = Target("mailbox", ALICE, "alice", is_kin=True)
    for act, expected in (("send", "allowed"), ("see", "allowed"), ("read", "denied")):
        assert verdict(subject(BOB), act, box) == expected  # type: ignore[arg-type]
    assert verdict(subject(EVE), "send", box) == "not_found"
