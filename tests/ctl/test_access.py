"""`approvals`, `access`, `audit`: who may do what, from the command line."""

from __future__ import annotations

import json
from typing import Any

from aios_sdk.errors import Denied
from tests.ctl.conftest import LIMIT_S, Ctl, start
from tests.ctl.peer import CHAIN, REQUEST, Call, Peer


def test_approvals_ls_has_a_line_for_each(ctl: Ctl) -> None:
    lines = ctl("approvals", "ls").stdout.splitlines()
    assert lines[0].split() == [
        *("REQUEST", "AGENT", "UID", "ACT", "KIND", "OWNER", "AGE", "NAME", "REASON")
    ]
    assert lines[1].split()[:6] == ["q1", "bob", "1000", "delete", "storage", "alice"]
    assert json.loads(ctl("approvals", "ls", "--json").stdout) == {"requests": [REQUEST]}


def test_approve_and_deny_take_several_and_name_them(ctl: Ctl, peer: Peer) -> None:
    assert ctl("approvals", "approve", "q1", "q2", "--remember").stdout == "q1\nq2\n"
    assert ctl("approvals", "deny", "q3").stdout == "q3\n"
    assert peer.asked("access.approve") == [
        {"request": "q1", "remember": True},
        {"request": "q2", "remember": True},
    ]
    assert peer.asked("access.deny") == [{"request": "q3"}]


def test_watch_tells_each_request_once(ctl: Ctl, peer: Peer) -> None:
    def changing(call: Call) -> dict[str, Any]:
        other = {**REQUEST, "request": "q2", "reason": "to tidy up"}
        call.chunk(requests=[REQUEST])
        call.chunk(requests=[REQUEST, other])
        call.chunk(requests=[other])
        return {"requests": []}

    peer.answers["access.pending"] = changing
    with start(peer, "approvals", "watch") as process:
        out, _ = process.communicate(timeout=LIMIT_S)
    assert out.decode().splitlines() == [
        "q1  bob (1000)  delete storage docs/plan.txt of alice",
        "q2  bob (1000)  delete storage docs/plan.txt of alice: to tidy up",
    ]


def test_a_command_that_waits_says_so(ctl: Ctl, peer: Peer) -> None:
    def asking(call: Call) -> dict[str, Any]:
        call.chunk(state="waiting_approval", request="q7")
        return {}

    peer.answers["context.delete"] = asking
    done = ctl("context", "rm", "c1")
    assert (done.returncode, done.stdout) == (0, "c1\n")
    assert done.stderr == "aiosctl: waiting for a person: aiosctl approvals approve q7\n"


def test_check_answers_with_its_exit_code(ctl: Ctl, peer: Peer) -> None:
    done = ctl("access", "check", "read", "memory:alice")
    assert (done.returncode, done.stdout) == (0, "allowed: own\n")
    peer.answers["access.check"] = {"allowed": False, "reason": "no", "asks": False}
    done = ctl("access", "check", "llm.generate")
    assert (done.returncode, done.stdout) == (4, "no\n")
    assert peer.asked("access.check") == [
        {"action": "read", "target": "memory:alice"},
        {"action": "llm.generate", "target": ""},
    ]


def test_groups_are_shown_and_changed(ctl: Ctl, peer: Peer) -> None:
    lines = ctl("access", "groups").stdout.splitlines()
    assert lines[1].split() == ["team", "read", "no", "alice,bob"]
    ctl("access", "group", "team", "--add", "a", "--add", "b", "--remove", "c", "-m", "write")
    assert peer.asked("access.group") == [
        {"name": "team", "add": ["a", "b"], "remove": ["c"], "mode": "write"}
    ]


def test_rights_are_shown_and_changed(ctl: Ctl, peer: Peer) -> None:
    assert ctl("access", "rights", "bob").stdout.splitlines() == [
        "agent    bob",
        "uid      1000",
        "rights   llm context",
        "groups   team",
        "changed  -tool",
    ]
    ctl("access", "rights", "bob", "--add", "spawn", "--remove", "llm", "--for", "60")
    assert peer.asked("access.rights") == [
        {"agent": "bob"},
        {"agent": "bob", "add": ["spawn"], "remove": ["llm"], "expires_s": 60},
    ]


def test_grants_are_made_listed_and_ended(ctl: Ctl, peer: Peer) -> None:
    assert ctl("access", "grant", "storage", "@team", "docs", "--for", "60").stdout == "g1\n"
    lines = ctl("access", "grants").stdout.splitlines()
    assert lines[1].split() == ["g1", "alice", "bob", "storage", "read", "-", "docs"]
    assert ctl("access", "revoke", "g1").stdout == "g1\n"
    assert peer.asked("access.grant") == [
        {"kind": "storage", "with": "@team", "name": "docs", "mode": "read", "expires_s": 60}
    ]


def test_a_right_is_asked_for(ctl: Ctl, peer: Peer) -> None:
    done = ctl("--agent", "bob", "access", "request", "tool", "to search", "--wait")
    assert done.stdout == "q1\n"
    assert peer.asked("access.request") == [{"right": "tool", "reason": "to search", "wait": True}]


def test_rules_are_listed_and_forgotten(ctl: Ctl, peer: Peer) -> None:
    assert "r1    bob    delete  storage  alice  docs/plan.txt" in ctl("access", "rules").stdout
    assert ctl("access", "forget", "r1").stdout == "r1\n"
    assert peer.asked("access.forget") == [{"rule": "r1"}]


def test_the_audit_is_read_and_filtered(ctl: Ctl, peer: Peer) -> None:
    lines = ctl("audit", "--of", "bob", "--event", "denied", "--uid", "1000", "-n", "5").stdout
    assert lines.splitlines()[1].split() == [
        *("1970-01-01T00:01:01Z", "denied", "3", "bob", "1000", "read", "memory", "alice"),
        *("owner", "m1"),
    ]
    assert peer.asked("access.audit") == [
        {"agent": "bob", "event": "denied", "uid": 1000, "limit": 5}
    ]
    ctl("audit", "--since", "2h")
    assert peer.asked("access.audit")[1]["since_ms"] > 0
    assert ctl("audit", "--since", "yesterday").returncode == 2


def test_a_chain_that_is_not_whole_is_exit_code_1(ctl: Ctl, peer: Peer) -> None:
    whole = ctl("audit", "--verify")
    assert whole.returncode == 0
    assert whole.stdout.splitlines() == [
        "whole    yes",
        "entries  1 to 7",
        f"head     7:{'ab' * 32}",
    ]
    broken = {**CHAIN, "is_whole": False, "problem": "entry 3 is missing", "last": 2}
    peer.answers["access.audit"] = {"entries": [], "chain": broken}
    done = ctl("audit", "--verify", "--head", f"7:{'ab' * 32}")
    assert done.returncode == 1
    assert "problem  entry 3 is missing\n" in done.stdout
    assert ctl("audit", "--head", "7:" + "ab" * 32).returncode == 2


def test_who_lacks_a_right_is_told_how_to_ask_for_it(ctl: Ctl, peer: Peer) -> None:
    peer.answers["llm.tokenize"] = Denied("llm.tokenize needs the right 'llm'", right="llm")
    done = ctl("call", "llm.tokenize", "text=x")
    assert done.returncode == 4
    assert "ask for it with: aiosctl --agent NAME access request llm REASON" in done.stderr
