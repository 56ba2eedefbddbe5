"""`memory`: what an agent remembers, from the command line."""

from __future__ import annotations

import json

from aios_sdk.errors import QuotaExceeded
from tests.ctl.conftest import Ctl
from tests.ctl.peer import FOUND_NOTE, Peer


def test_add_takes_its_content_as_an_argument_or_from_standard_input(ctl: Ctl, peer: Peer) -> None:
    assert ctl("memory", "add", "tea", "--tag", "user", "-t", "x").stdout == "m9\n"
    assert ctl("memory", "add", stdin="two\nlines\n").stdout == "m9\n"
    ctl("memory", "add", "-", "--agentic", "--metadata", '{"from": 1}', stdin="piped")
    assert peer.asked("memory.add") == [
        {"content": "tea", "tags": ["user", "x"], "agentic": False},
        {"content": "two\nlines\n", "agentic": False},
        {"content": "piped", "agentic": True, "metadata": {"from": 1}},
    ]


def test_get_prints_the_content_alone(ctl: Ctl) -> None:
    assert ctl("memory", "get", "m7").stdout == "The user likes tea.\n"
    assert json.loads(ctl("memory", "get", "m7", "--json").stdout)["memory"] == "m7"


def test_show_has_all_its_figures(ctl: Ctl) -> None:
    shown = ctl("memory", "show", "m7").stdout
    assert shown.startswith("memory        m7\ntags          user\n")
    assert "links         m2\n" in shown
    assert shown.endswith("\n\nThe user likes tea.\n")


def test_ls_has_a_line_for_each(ctl: Ctl, peer: Peer) -> None:
    lines = ctl("memory", "ls", "--limit", "2", "--after", "m0").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["MEMORY", "m1", "m2"]
    assert lines[1].endswith("  The user likes tea.")
    assert peer.asked("memory.list") == [{"limit": 2, "after": "m0"}]


def test_search_shows_the_score_and_says_when_only_words_counted(ctl: Ctl, peer: Peer) -> None:
    found = ctl("memory", "search", "drink", "-k", "3", "--mode", "words", "--tag", "user")
    assert found.stdout == (
        "SCORE  MEMORY  TAGS  CONTENT\n0.912  m1      user  The user likes tea.\n"
    )
    assert found.stderr == ""
    assert peer.asked("memory.search") == [
        {"query": "drink", "k": 3, "mode": "words", "tags": ["user"]}
    ]
    reason = "no embedder is loaded: found by words only"
    peer.answers["memory.search"] = {"results": [FOUND_NOTE], "mode": "words", "reason": reason}
    assert ctl("memory", "search", "drink").stderr == f"aiosctl: {reason}\n"


def test_update_changes_what_is_given(ctl: Ctl, peer: Peer) -> None:
    assert ctl("memory", "update", "m1", "coffee").stdout == ""
    ctl("memory", "update", "m1", "-", stdin="piped")
    ctl("memory", "update", "m1", "--tag", "a", "--metadata", "{}")
    assert peer.asked("memory.update") == [
        {"memory": "m1", "content": "coffee"},
        {"memory": "m1", "content": "piped"},
        {"memory": "m1", "tags": ["a"], "metadata": {}},
    ]
    assert ctl("memory", "update", "m1").returncode == 2
    assert ctl("memory", "update", "m1", "--metadata", "[1]").returncode == 2
    assert ctl("memory", "update", "m1", "--metadata", "{").returncode == 2


def test_rm_names_what_it_removed(ctl: Ctl) -> None:
    assert ctl("memory", "rm", "m1", "m2").stdout == "m1\nm2\n"


def test_stats_are_readable(ctl: Ctl) -> None:
    lines = dict(line.split(maxsplit=1) for line in ctl("memory", "stats").stdout.splitlines())
    assert lines["notes"] == "2"
    assert lines["size"] == "300B of 64MiB"
    assert lines["faults"] == "1"


def test_a_full_memory_has_its_exit_code(ctl: Ctl, peer: Peer) -> None:
    peer.answers["memory.add"] = QuotaExceeded("the notes have 9 bytes", limit=9, used=9)
    done = ctl("memory", "add", "x")
    assert done.returncode == 6
    assert "the notes have 9 bytes" in done.stderr


def test_run_can_recall(ctl: Ctl, peer: Peer) -> None:
    ctl("run", "--recall", "2", "tea?")
    assert peer.asked("llm.generate")[0]["recall"] == {"k": 2}
    assert ctl("run", "--raw", "--recall", "2", "tea?").returncode == 2


def test_another_agents_notes_are_asked_for_by_its_name(ctl: Ctl, peer: Peer) -> None:
    ctl("memory", "ls", "--of", "ada")
    ctl("memory", "search", "tea", "--of", "ada")
    ctl("memory", "stats", "--of", "ada")
    ctl("memory", "add", "tea", "--of", "ada")
    for method in ("memory.list", "memory.search", "memory.stats", "memory.add"):
        assert [params["agent"] for params in peer.asked(method)] == ["ada"]
