"""The show of the examples together, in small: each twice, and nothing is left of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_examples_together_leave_nothing_and_every_job_is_accounted() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.show", "--instances", "1", "--minutes", "0",
            "--slots", "4", "--examples", "debate", "plan_and_execute", "react",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is left, and every job is accounted." in done.stdout
    assert "requests of tool" in done.stdout  # a person was asked
    assert "calls: agent.spawn ok" in done.stdout
