"""job.story and sys.journal of a serving daemon, and `aiosd --replay` of what it saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiosd import config
from tests.server.harness import RawPeer, served


def generated(peer: RawPeer, **params: Any) -> Any:
    asked = {"prompt": "x", "max_tokens": 3, "ignore_eos": True} | params
    response = peer.ask("llm.generate", **asked)
    assert response.error is None
    return response.result


def replayed(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aiosd", "--replay", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )


def test_the_story_of_an_ended_job_is_kept(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, agent="alice") as peer:
        reply = generated(peer)
        told: Any = peer.ask("job.story", job=reply["job"]).result
    assert (told["agent"], told["uid"], told["whole"]) == ("alice", os.getuid(), True)
    names = [event["event"] for event in told["events"]]
    assert (names[0], names[-1]) == ("submitted", "ended")
    assert {"run", "first_token", "ran"} < set(names)
    assert told["events"][-1]["output_tokens"] == 3
    times = [event["at_us"] for event in told["events"]]
    assert times == sorted(times)


def test_a_job_that_fell_out_of_the_journal_is_not_found(tmp_path: Path) -> None:
    limits = config.Limits(journal_events=4)
    with served(tmp_path, limits=limits) as daemon, RawPeer(daemon.config.socket) as peer:
        first = generated(peer)
        for _ in range(3):
            generated(peer)
        error: Any = peer.ask("job.story", job=first["job"]).error
        assert error["code"] == "not_found"
        other: Any = peer.ask("job.story", job="j-nobody").error
    assert other["message"].replace("j-nobody", first["job"]) == error["message"]


@pytest.mark.parametrize("journal_events", [5, 10_000])
def test_a_saved_journal_replays_also_when_it_has_lost_its_beginning(
    tmp_path: Path, journal_events: int
) -> None:
    limits = config.Limits(journal_events=journal_events)
    with (
        served(tmp_path, slots=2, lanes=1, quantum=2, limits=limits) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        for _ in range(5):
            generated(peer)
        saved: Any = peer.ask("sys.journal").result
    assert 0 < saved["events"] <= journal_events
    file = tmp_path / "journal.gz"
    file.write_bytes(saved["journal"])
    done = replayed(str(file))
    assert (done.stderr, done.returncode) == ("", 0)
    lines = done.stdout.splitlines()
    assert lines[0].endswith(f": {saved['events']} events")
    assert lines[-1] == (
        f"{saved['events']} events replayed to the same actions; every invariant held"
    )
    assert any("-> Run(" in line for line in lines)


def test_what_cannot_be_replayed_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.gz").write_bytes(b"no journal\n")
    for name, words in (("no.gz", "isn't JSON"), ("missing", "No such file or directory")):
        done = replayed(str(tmp_path / name))
        assert done.returncode == 1
        assert done.stderr.startswith("aiosd: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
