"""`aiosctl ps --wait`: who waits for what."""

from __future__ import annotations

import pytest

from aiosctl import waiting
from tests.ctl.conftest import Ctl
from tests.ctl.peer import JOBS, Peer

WAIT = """\
JOB  AGENT   UID  STATE    WAITED  WAITS FOR
j1   alice  1000  running    3.2s  -
j2   bob    1000  paused     15ms  someone to resume it
"""


def test_ps_wait_says_who_waits_for_what(ctl: Ctl, peer: Peer) -> None:
    paused = {**JOBS[1], "waits_for": {"kind": "resume"}}
    peer.answers["job.list"] = {"jobs": [JOBS[0], paused]}
    done = ctl("ps", "--wait")
    assert (done.stdout, done.stderr, done.returncode) == (WAIT, "", 0)
    assert "WAITS FOR" not in ctl("ps").stdout


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"kind": "lane", "position": 1}, "a lane, 1st in line"),
        ({"kind": "lane", "position": 2}, "a lane, 2nd in line"),
        ({"kind": "lane", "position": 13}, "a lane, 13th in line"),
        ({"kind": "lane", "position": 123}, "a lane, 123rd in line"),
        ({"kind": "prefix", "job": "j7"}, "j7 to read the same beginning"),
        ({"kind": "rate", "wait_ms": 12_000}, "its tokens per minute, 12s more"),
        ({"kind": "rate"}, "its tokens per minute"),
        ({"kind": "reader"}, "its client to read"),
        ({"kind": "step"}, "the end of this step"),
        ({"kind": "database"}, "the database"),
        ({"kind": "godot"}, "godot"),
        ({}, "?"),
    ],
    ids=repr,
)
def test_every_kind_has_words(told: dict[str, object], words: str) -> None:
    assert waiting.words(told) == words
