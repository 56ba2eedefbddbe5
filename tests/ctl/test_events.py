"""`aiosctl events` and `aiosctl metrics`."""

from __future__ import annotations

import json

from tests.ctl.conftest import Ctl
from tests.ctl.peer import METRICS, Peer

EVENTS = """\
2023-11-14T22:13:21.500Z  started    alice         job=j1 context=c1 priority=normal
2023-11-14T22:13:22.000Z  lost       -             lost=7
2023-11-14T22:13:23.001Z  refused    carol (1001)  name=llm.generate code=busy
2023-11-14T22:13:24.000Z  reloaded   -             applied=quantum needs_restart=-
"""


def test_events_are_a_line_each(ctl: Ctl) -> None:
    done = ctl("events")
    assert (done.stdout, done.stderr, done.returncode) == (EVENTS, "", 0)


def test_events_as_json_are_a_document_each_and_begin_when_they_are_heard(ctl: Ctl) -> None:
    lines = [json.loads(line) for line in ctl("events", "--json").stdout.splitlines()]
    assert [line["event"] for line in lines] == [
        "listening", "started", "lost", "refused", "reloaded",
    ]  # fmt: skip
    assert lines[2]["lost"] == 7


def test_events_leave_after_as_many_as_wanted(ctl: Ctl, peer: Peer) -> None:
    done = ctl("events", "-n", "2")
    assert (done.stdout, done.returncode) == ("".join(EVENTS.splitlines(True)[:2]), 0)
    assert peer.asked("sys.events") == [{"stream": True}]


def test_metrics_are_what_the_daemon_says(ctl: Ctl) -> None:
    assert ctl("metrics").stdout == METRICS
    assert json.loads(ctl("metrics", "--json").stdout) == {"text": METRICS}
