"""The SDK's examples, run as a user runs them, against a live daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aios_sdk import Client
from tests.e2e.conftest import Start

pytestmark = pytest.mark.slow

WHAT_A_USER_TYPES = "What is a river?\nAnd a lake?\n/undo\n/context\n"
EXAMPLES = Path(__file__).parents[2] / "sdk" / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_each_example_is_short_and_runs(start: Start, name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
    daemon = start("--slots", "8", "--slot-tokens", "1024")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={**os.environ, "AIOSD_SOCKET": daemon.socket},
        input=WHAT_A_USER_TYPES, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    print(done.stdout)  # noqa: T201 - shown with -s: what it measured


def test_an_example_runs_unchanged_as_a_process_of_the_daemons(start: Start) -> None:
    """The planner is spawned, and its workers below it."""
    example = str(EXAMPLES / "plan_and_execute.py")
    env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("sdk/src"))}
    daemon = start("--slots", "4", "--slot-tokens", "1024")
    with Client(daemon.socket, agent="boss") as boss:
        planner = boss.spawn("planner-1", "python", example, read=[example], env=env)
        ended = planner.wait(240)
        said = [line["text"] for line in planner.logs()]
        assert (ended["state"], ended.get("exit_code")) == ("ended", 0), said
        assert sum(", exit code " in line for line in said) >= 2, (
            said
        )  # each of a worker of its own
