"""`aiosctl story` and `aiosctl journal`."""

from __future__ import annotations

import json
from pathlib import Path

from aios_sdk.errors import NotFound
from tests.ctl.conftest import Ctl
from tests.ctl.peer import STORY, Peer

TOLD = """\
     0.000s           submitted by alice on c1, normal
     0.000s           its client was told: queued, position 2
     0.250s   +250ms  runs in slot 3, for 16 tokens, lanes in all: 2
     1.000s   +750ms  came home: 12 tokens read, 4 written
     1.000s           parked: slot 3 goes to another
     2.000s    +1.0s  dreamt {"of":"sheep"}
     2.500s   +500ms  ended: done, tokens written: 4, slices: 1, parks: 1, waited: 1.2s, in all: 2.5s
"""  # noqa: E501 - as it is printed


def test_a_story_is_told_in_words_with_times(ctl: Ctl, peer: Peer) -> None:
    done = ctl("story", "j1")
    assert (done.stdout, done.stderr, done.returncode) == (TOLD, "", 0)
    assert peer.asked("job.story") == [{"job": "j1"}]


def test_a_story_as_json_is_what_the_daemon_said(ctl: Ctl) -> None:
    assert json.loads(ctl("story", "j1", "--json").stdout) == STORY


def test_a_story_that_has_lost_its_beginning_says_so(ctl: Ctl, peer: Peer) -> None:
    peer.answers["job.story"] = {**STORY, "whole": False, "events": STORY["events"][2:]}
    done = ctl("story", "j1")
    assert "doesn't remember how j1 began" in done.stderr
    assert done.stdout.startswith("     0.000s           runs in slot 3")


def test_a_job_that_is_forgotten_is_not_found(ctl: Ctl, peer: Peer) -> None:
    peer.answers["job.story"] = NotFound("no job 'j1' in the journal", job="j1")
    done = ctl("story", "j1")
    assert (done.stdout, done.returncode) == ("", 5)


def test_a_journal_is_saved_as_it_is(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "j.gz"
    done = ctl("journal", "-o", str(file))
    assert file.read_bytes() == b"\x1f\x8bsaved"
    assert done.stdout == f"journal  {file}\nevents   3\nbytes    7\n"


def test_a_journal_that_cannot_be_written_is_said(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl("journal", "-o", str(tmp_path))
    assert done.returncode == 2
