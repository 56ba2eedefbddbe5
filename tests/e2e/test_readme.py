"""The README's first agent, as a newcomer runs it: the SDK alone in an empty environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Start

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def agents() -> list[str]:
    """The Python agents in the READMEs."""
    return [
        code
        for page in (ROOT / "README.md", ROOT / "sdk" / "README.md")
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ]


def test_the_first_agent_is_ten_lines_and_runs_with_msgpack_alone(
    start: Start, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    source = tmp_path / "sdk"
    left_over = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")  # of earlier builds
    shutil.copytree(ROOT / "sdk", source, ignore=left_over)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No matching distribution" in installed.stderr or "Connection" in installed.stderr:
        pytest.skip("pip can't reach a package index to build with")
    assert installed.returncode == 0, installed.stderr
    packages = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split("==")[0] for line in packages.split()}
    assert names - {"pip", "setuptools", "wheel"} == {"aios-sdk", "msgpack"}

    daemon = start("--slots", "2", "--slot-tokens", "1024")
    codes = agents()
    assert len([line for line in codes[0].splitlines() if line.strip()]) <= 10
    for code in codes:
        done = subprocess.run(
            [python, "-c", code],
            env={**os.environ, "AIOSD_SOCKET": daemon.socket, "PYTHONPATH": ""},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
