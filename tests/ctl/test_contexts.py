"""`context`, `backup` and `model`: contexts that are copied, taken back, kept, and their tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from aios_sdk.errors import Denied
from aiosctl.context_tree import branches
from aiosctl.render import Branch
from tests.ctl.conftest import LIMIT_S, Ctl, command, environment
from tests.ctl.peer import Call, Peer, context_info
from tests.ctl.test_terminal import COLOUR, Terminal, show, terminals

__all__ = ["terminals"]  # the fixture, which pytest finds by its name here


def forest(*edges: tuple[str, str | None], **fields: object) -> list[dict[str, object]]:
    return [
        context_info(id_, **({} if parent is None else {"parent": parent}), **fields)
        for id_, parent in edges
    ]


def test_log_is_what_was_said_and_by_whom(ctl: Ctl) -> None:
    assert ctl("context", "log", "c1").stdout == (
        "user:\nMy name is Ada.\n\nassistant:\nHello, Ada.\n"
    )


def test_log_has_the_tokens_when_asked(ctl: Ctl, peer: Peer) -> None:
    said = {"messages": [{"role": "user", "content": "Hi\n"}]}

    def read(call: Call) -> dict[str, object]:
        return said | ({"tokens": [19556, 665]} if call.params["tokens"] else {})

    peer.answers["context.read"] = read
    assert ctl("context", "log", "c1").stdout == "user:\nHi\n"
    assert ctl("context", "log", "c1", "--tokens").stdout == "user:\nHi\n\ntokens:\n19556 665\n"
    said["messages"] = []
    assert ctl("context", "log", "c1", "--tokens").stdout == "tokens:\n19556 665\n"


def test_log_has_what_was_called(ctl: Ctl, peer: Peer) -> None:
    call = {"id": "j1.0", "name": "weather", "arguments": {"city": "Zürich"}}
    peer.answers["context.read"] = {
        "messages": [
            {"role": "assistant", "content": "I look.", "tool_calls": [call]},
            {"role": "tool", "content": "12", "tool_call_id": "j1.0", "name": "weather"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
    }
    called = 'calls weather {"city": "Zürich"}\n'
    assert ctl("context", "log", "c1").stdout == (
        f"assistant:\nI look.\n{called}\ntool:\n12\n\nassistant:\n{called}"
    )


def test_fork_prints_the_new_id(ctl: Ctl, peer: Peer) -> None:
    assert ctl("context", "fork", "c1").stdout == "c10\n"
    ctl("context", "fork", "c1", "another way", "--tokens", "0")
    assert peer.asked("context.fork") == [
        {"context": "c1"},
        {"context": "c1", "name": "another way", "n_tokens": 0},
    ]


def test_rewind_tells_what_is_left(ctl: Ctl, peer: Peer) -> None:
    assert ctl("context", "rewind", "c1", "--messages", "1").stdout == (
        "context   c1\ntokens    30\nmessages  1\n"
    )
    ctl("context", "rewind", "c1", "--tokens", "30")
    assert peer.asked("context.rewind") == [
        {"context": "c1", "n_messages": 1},
        {"context": "c1", "n_tokens": 30},
    ]


@pytest.mark.parametrize("args", [(), ("--tokens", "1", "--messages", "1"), ("--tokens", "-1")])
def test_rewind_needs_one_measure(ctl: Ctl, peer: Peer, args: tuple[str, ...]) -> None:
    done = ctl("context", "rewind", "c1", *args)
    assert done.returncode == 2
    assert "--tokens" in done.stderr
    assert peer.requests == []


def test_snapshot_and_prefetch_tell_where_it_is_now(ctl: Ctl, peer: Peer) -> None:
    assert ctl("context", "snapshot", "c1", "--to", "file").stdout == (
        "context   c1\nwhere     file\nsnapshot  1.5MiB\n"
    )
    assert ctl("context", "prefetch", "c1").stdout == (
        "context  c1\nwhere    slot\nread     52 tokens\n"
    )
    assert peer.asked("context.snapshot") == [{"context": "c1", "to": "file"}]


# ---------------------------------------------------------------- the tree


def test_a_tree_in_a_pipe_is_indented_ids(ctl: Ctl, peer: Peer) -> None:
    peer.answers["context.list"] = {
        "contexts": forest(
            ("c1", None), ("c3", "c2"), ("c2", "c1"), ("c4", "c1"), ("c5", None), ("c6", "c0"),
            ("c7", "c0"),
        )
    }  # fmt: skip
    assert ctl("context", "tree").stdout == (
        "c0 (deleted)\n  c6\n  c7\nc1\n  c2\n    c3\n  c4\nc5\n"
    )


def test_a_parent_of_another_agent_is_not_called_deleted(ctl: Ctl, peer: Peer) -> None:
    def contexts(call: Call) -> dict[str, object]:
        mine = forest(("c2", "c1"), ("c4", "c3"))
        return {
            "contexts": forest(("c1", None), agent="bob") + mine if call.params["all"] else mine
        }

    peer.answers["context.list"] = contexts
    assert ctl("context", "tree").stdout == ("c1 (of agent bob)\n  c2\nc3 (deleted)\n  c4\n")
    assert ctl("context", "tree", "--all").stdout == "c3 (deleted)\n  c4\nc1\n  c2\n"
    assert [params["all"] for params in peer.asked("context.list")] == [False, True, True]


def test_a_chain_of_forks_may_be_longer_than_the_stack() -> None:
    chain = forest(("c0", None), *((f"c{i}", f"c{i - 1}") for i in range(1, 5000)))
    drawn = branches(chain)
    assert len(drawn) == 5000
    assert (drawn[-1].depth, drawn[-1].label) == (4999, "c4999")


def test_a_context_has_its_figures_and_a_deleted_one_has_none() -> None:
    deleted, fork = branches(forest(("c1", "c0"), name="my way", used_ms=2**60))
    assert deleted == Branch(0, "c0 (deleted)")
    assert fork == Branch(1, "c1", "52 tokens, ram, used 0.0s ago, my way")


def test_no_contexts_are_no_lines(ctl: Ctl, peer: Peer) -> None:
    peer.answers["context.list"] = {"contexts": []}
    done = ctl("context", "tree")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_person_sees_a_tree(terminals: list[Terminal], peer: Peer) -> None:
    peer.answers["context.list"] = {
        "contexts": forest(("c1", "c0"), name="[red]\u202eab") + forest(("c2", "c1"), ("c3", None))
    }
    terminal = show(terminals, peer, "context", "tree")
    assert terminal.end() == 0
    lines = [line.rstrip() for line in COLOUR.sub("", terminal.seen).splitlines()]
    starts = ("c0 (deleted)", "└── c1  52 tokens", "    └── c2  52 tokens", "c3  52 tokens")
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert lines[1].endswith("ago, [red] ab")


def test_a_person_without_contexts_is_told_so(terminals: list[Terminal], peer: Peer) -> None:
    peer.answers["context.list"] = {"contexts": []}
    terminal = show(terminals, peer, "context", "tree")
    assert terminal.end() == 0
    assert terminal.seen == "aiosctl: no contexts of agent aiosctl; --all shows every agent's\n"


# ---------------------------------------------------------------- backup, model


@pytest.mark.parametrize("file", ["b.db", "/b.db"])
def test_backup_names_the_file_to_the_daemon_from_the_root(
    peer: Peer, tmp_path: Path, file: str
) -> None:
    done = subprocess.run(
        command("backup", file),
        cwd=tmp_path,
        env=environment(peer.path),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    path = str(tmp_path / file)  # an absolute one stays as it is
    assert (done.stdout, done.stderr) == (f"backup  {path}\nsize    1.5MiB\n", "")
    assert peer.asked("sys.backup") == [{"path": path}]


def test_backup_without_the_right_says_who_has_it(ctl: Ctl, peer: Peer) -> None:
    peer.answers["sys.backup"] = Denied("sys.backup needs the right 'admin'", right="admin")
    done = ctl("backup", "/b.db")
    assert done.returncode == 4
    assert "root and the daemon's own user hold" in done.stderr


def test_models_are_added_and_removed(ctl: Ctl, peer: Peer) -> None:
    assert ctl("model", "add", "/data/m.gguf").stdout == "m\n"
    assert ctl("model", "add", "/data/m.gguf", "--name", "big").stdout == "big\n"
    assert ctl("model", "rm", "m", "big").stdout == "m\nbig\n"
    assert peer.asked("model.add") == [
        {"path": "/data/m.gguf"},
        {"path": "/data/m.gguf", "name": "big"},
    ]
    assert peer.asked("model.remove") == [{"name": "m"}, {"name": "big"}]
