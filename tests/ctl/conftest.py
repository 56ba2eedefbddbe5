"""The real aiosctl as a process of its own, against a scripted peer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.ctl.peer import Peer

LIMIT_S = 20  # of one command; far above what any needs


class Ctl(Protocol):
    """Runs aiosctl to its end, in a pipe."""

    def __call__(
        self, *args: str, stdin: bytes | str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


def environment(socket_path: Path | str) -> dict[str, str]:
    """Nothing of ours but what aiosctl needs."""
    where = os.environ.get("PYTHONPATH")  # of a tree that isn't the one installed
    return ({} if where is None else {"PYTHONPATH": where}) | {
        "AIOSD_SOCKET": str(socket_path),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONWARNINGS": "error",
    }


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "aiosctl", *args]


@contextmanager
def start(
    peer: Peer, *args: str, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """aiosctl under way, its output in pipes."""
    with subprocess.Popen(
        command(*args),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(peer.path),
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # a test that failed must not wait for it


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """Open to all and of a short name, unlike tmp_path."""
    with tempfile.TemporaryDirectory(prefix="ctl-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def peer(socket_dir: Path) -> Iterator[Peer]:
    scripted = Peer(socket_dir / "aiosd.sock")
    yield scripted
    scripted.close()


@pytest.fixture
def ctl(peer: Peer) -> Ctl:
    def run(
        *args: str, stdin: bytes | str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            command(*args),
            input=data if data is not None else b"",
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
            env=environment(peer.path) | (env or {}),
        )
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )

    return run
