"""Fixtures: a scripted peer at a path short enough for a Unix socket."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sdk.peer import Peer, Script


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sdk-") as name:  # pytest's own paths are too long
        yield Path(name)


@pytest.fixture
def serve(socket_dir: Path) -> Iterator[Callable[..., str]]:
    """serve(script, …) starts a peer, one script per connection, and gives its path."""
    peers: list[Peer] = []

    def start(*scripts: Script) -> str:
        peers.append(Peer(socket_dir / f"{len(peers)}.sock", scripts))
        return peers[-1].path

    yield start
    for peer in peers:
        peer.stop()
