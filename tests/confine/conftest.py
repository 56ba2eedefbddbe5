"""Each test has a place of its own for private directories, and leaves none, and no groups."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosd.confine import cgroups


@pytest.fixture(autouse=True)
def nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    place = tmp_path_factory.mktemp("private")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    at = cgroups.place()
    parents = [each for each in {at.memory, at.pids} if each is not None]
    yield
    limit = time.monotonic() + 30  # a cancelled call's are removed by a thread
    while left := [*place.iterdir(), *own_groups(parents)]:
        assert time.monotonic() < limit, left


def own_groups(parents: list[Path]) -> list[Path]:
    """Control groups of processes that this one started."""
    return [each for parent in parents for each in parent.glob(f"aiosd-{os.getpid()}-*")]
