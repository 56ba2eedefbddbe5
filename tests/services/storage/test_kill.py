"""kill -9 at any point of a stream of writes: what was acknowledged is there, and nothing else is.

Several agents store in a process of its own that dies by SIGKILL at a named point, or whenever.
Then, for each agent, the versions of every path are those that were acknowledged, or those and the
one act that was under way, whole; the visible files are the newest ones; no temporary file and no
blob without a version is left.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from aiosd.services.storage import recovery, rows
from aiosd.services.storage.files import Files
from tests.services.storage.opened import opened, seen, tree
from tests.services.storage.writer import AGENTS, LIMITS, Act, History, applied

POINTS = ["written", "staged", "committed", "installed", "moved"]
LIMIT_S = 60.0


def killed(
    directory: Path,
    seed: str,
    known: dict[str, History],
    *,
    point: str = "never",
    n_times: int = 1,
    n_acts: int = -1,
) -> dict[str, tuple[History, Act | None]]:
    """What each agent was told until the process died, and the act it was in.

    n_acts: kill it when so many were acknowledged, wherever it is then.
    """
    command = [sys.executable, "-m", "tests.services.storage.writer", str(directory), seed]
    process = subprocess.Popen(
        [*command, point, str(n_times)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    with process.stdin as state:
        state.write(json.dumps(known).encode())
    told: dict[str, tuple[History, Act | None]] = {name: (h, None) for name, h in known.items()}
    n_done = 0
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            name, event, act = json.loads(line)
            assert event in ("begin", "done"), line
            history, _ = told[name]
            told[name] = (history, act) if event == "begin" else (applied(history, act), None)
            n_done += event == "done"
            if n_done == n_acts and process.poll() is None:
                process.kill()
    assert process.wait(LIMIT_S) == -9
    return told


def versions(files: Files, name: str) -> History:
    """What is kept of an agent now, from the database and the blobs."""
    owner = next(agent for agent in AGENTS if agent.name == name)
    found: History = {}
    for file in files.records.read(lambda t: rows.below(t, owner, "", live=False)):
        kept = files.records.read(lambda t, file=file: rows.history(t, file))  # type: ignore[misc]
        assert [v.version for v in kept] == list(range(file.version, 0, -1))
        found[file.path] = [
            None if v.sha256 is None else files.reader.content(owner.uid, v.sha256).decode()
            for v in reversed(kept)
        ]
    return found


def check(directory: Path, told: dict[str, tuple[History, Act | None]]) -> dict[str, History]:
    """Compare, after recovery; what each agent has now."""
    now: dict[str, History] = {}
    with opened(directory, LIMITS) as files:
        for owner in AGENTS:
            history, act = told[owner.name]
            there = versions(files, owner.name)
            whole = [history] if act is None else [history, applied(history, act)]
            assert there in whole, f"{owner.name} in {act}"
            live = {
                path: contents[-1].encode()
                for path, contents in there.items()
                if contents[-1] is not None
            }
            assert tree(seen(directory, owner)) == live
            assert all(
                files.reader.current(owner, tuple(path.split("/"))) is not None for path in live
            ), "no outside edit is invented"
            now[owner.name] = there
        assert set(files.blobs.all()) == files.records.read(rows.all_hashes)
        assert tree(directory / "storage/tmp") == {}
        again = recovery.recover(files)
        assert (again.finished, again.temporary, again.orphans, again.failed) == (0, 0, 0, 0)
    return now


NOTHING: dict[str, History] = {agent.name: {} for agent in AGENTS}


@pytest.mark.parametrize("point", POINTS)
def test_dying_at_each_step_of_an_act_loses_and_invents_nothing(tmp_path: Path, point: str) -> None:
    known = NOTHING
    for round_ in range(2):
        told = killed(tmp_path, f"{point} {round_}", known, point=point, n_times=7 + round_)
        known = check(tmp_path, told)
    assert any(known.values())


@pytest.mark.slow
def test_dying_at_any_moment_loses_and_invents_nothing(tmp_path: Path) -> None:
    rng = random.Random(6)
    known = NOTHING
    for round_ in range(12):
        n_acts = rng.randint(1, 60)
        known = check(tmp_path, killed(tmp_path, str(round_), known, n_acts=n_acts))
    assert sum(len(contents) for h in known.values() for contents in h.values()) > 100
