"""`tool load`, `unload`, `servers`: MCP servers from the command line."""

from __future__ import annotations

import json

from tests.ctl.conftest import Ctl
from tests.ctl.peer import SERVER, Peer


def test_load_passes_the_command_and_its_grants_and_prints_the_tools(ctl: Ctl, peer: Peer) -> None:
    done = ctl(
        *("tool", "load", "time", "--read", "/opt/mcp", "--env", "TZ=a=b", "--irreversible", "rm*"),
        *("--", "/opt/mcp/serve", "--verbose"),
    )
    assert (done.returncode, done.stdout) == (0, "time.now\n")
    assert peer.asked("tool.load") == [
        {
            "name": "time",
            "command": "/opt/mcp/serve",
            "args": ["--verbose"],
            "read": ["/opt/mcp"],
            "env": {"TZ": "a=b"},
            "irreversible": ["rm*"],
        }
    ]


def test_load_of_a_url_passes_its_headers(ctl: Ctl, peer: Peer) -> None:
    url = "http://127.0.0.1:1/mcp"
    assert ctl("tool", "load", "wiki", "--url", url, "--header", "x-key=k").returncode == 0
    assert peer.asked("tool.load") == [{"name": "wiki", "url": url, "headers": {"x-key": "k"}}]


def test_load_of_neither_or_of_a_broken_pair_is_a_usage_error(ctl: Ctl, peer: Peer) -> None:
    neither = ctl("tool", "load", "time")
    assert neither.returncode == 2
    assert "give a command (after --) or a --url" in neither.stderr
    broken = ctl("tool", "load", "time", "--env", "TZ", "--", "serve")
    assert broken.returncode == 2
    assert "--env 'TZ' is not NAME=TEXT" in broken.stderr
    assert peer.asked("tool.load") == []


def test_unload_takes_several(ctl: Ctl, peer: Peer) -> None:
    assert ctl("tool", "unload", "a", "b").stdout == "a\nb\n"
    assert peer.asked("tool.unload") == [{"name": "a"}, {"name": "b"}]


def test_servers_has_a_line_for_each(ctl: Ctl) -> None:
    lines = ctl("tool", "servers").stdout.splitlines()
    assert lines[1].split()[:7] == ["time", "running", "stdio", "yes", "4242", "2", "1"]
    assert lines[1].endswith("it ended the connection (exit code 7)")
    assert json.loads(ctl("tool", "servers", "--json").stdout) == {"servers": [SERVER]}


def test_servers_logs_shows_what_was_left_out_and_said(ctl: Ctl, peer: Peer) -> None:
    assert ctl("tool", "servers", "time", "--logs").stdout.splitlines() == [
        "time: 'a b': its name is not like it",
        "time: it began",
    ]
    assert peer.asked("tool.servers") == [{"name": "time", "logs": True}]
