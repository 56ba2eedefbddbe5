"""`ipc`: agents' messages, from the command line."""

from __future__ import annotations

import json

from tests.ctl.conftest import Ctl
from tests.ctl.peer import MAILBOX, Peer


def test_send_takes_a_text_standard_input_or_json(ctl: Ctl, peer: Peer) -> None:
    assert ctl("ipc", "send", "ada", "Begin.").stdout == "e9\n"
    ctl("ipc", "send", "ada", stdin="piped")
    ctl("ipc", "send", "ada", "--data", '{"n": 1}', "--key", "k1")
    assert peer.asked("ipc.send") == [
        {"to": "ada", "body": "Begin."},
        {"to": "ada", "body": "piped"},
        {"to": "ada", "body": {"n": 1}, "key": "k1"},
    ]
    assert ctl("ipc", "send", "ada", "x", "--data", "1").returncode == 2
    assert ctl("ipc", "send", "ada", "--data", "{").returncode == 2


def test_receive_shows_messages_and_acknowledges_them(ctl: Ctl, peer: Peer) -> None:
    lines = ctl("ipc", "receive", "--wait", "1.5", "-n", "4").stdout.splitlines()
    assert lines[0].split() == ["MESSAGE", "FROM", "AGE", "TIMES", "BODY"]
    assert lines[1].split()[:2] == ["e1", "bob"]
    assert lines[1].endswith('  {"n":[1]}')
    assert peer.asked("ipc.receive") == [{"timeout_ms": 1500, "limit": 4}]
    assert peer.asked("ipc.ack") == [{"message": "e1"}]
    shown = json.loads(ctl("ipc", "receive", "--keep", "--json").stdout)
    assert shown["messages"][0]["body"] == {"n": [1]}
    assert len(peer.asked("ipc.ack")) == 1


def test_ls_and_clear_tell_figures(ctl: Ctl, peer: Peer) -> None:
    lines = ctl("ipc", "ls").stdout.splitlines()
    assert lines[1].split()[:6] == ["ada", "3", "2KiB", "1", "0", lines[1].split()[5]]
    assert peer.asked("ipc.list") == [{"all": True, "limit": 100}]
    assert json.loads(ctl("ipc", "ls", "--json").stdout) == {"mailboxes": [MAILBOX]}
    assert ctl("ipc", "clear", "ada").stdout == "3\n"
