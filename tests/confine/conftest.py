"""Each test has a place of its own for private directories, and leaves none."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    place = tmp_path_factory.mktemp("private")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    limit = time.monotonic() + 30  # a cancelled call's are removed by a thread
    while left := list(Path(place).iterdir()):
        assert time.monotonic() < limit, left
