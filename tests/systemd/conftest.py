"""A real systemd as PID 1 of a throw-away container (sdlab), with aiosd installed in it as the
README says: `make install`.  Nothing on the host changes, and the container has no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VENV = Path(sys.prefix)
WAIT_S = 120  # for what takes a second or two on a quiet machine


class Lab:
    """The container and what is done in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def sdlab(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(HERE / "sdlab"), *arguments],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )

    def up(self) -> str:
        """Boot; why it couldn't, or nothing."""
        binds = ":".join(map(str, {ROOT, VENV} if VENV.parent != ROOT else {ROOT}))
        done = self.sdlab("up", self.name, SDLAB_SIZE="1500m", SDLAB_BIND=binds)
        return "" if done.returncode == 0 else (done.stdout + done.stderr)[-500:] or "no reason"

    def down(self) -> None:
        self.sdlab("down", self.name)

    def path(self, inside: str) -> Path:
        """Where a file of the container is for us."""
        return Path(self.sdlab("root", self.name).stdout.strip() + inside)

    def do(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As the container's root."""
        return self.sdlab("exec", self.name, *command)

    def must(self, *command: str) -> str:
        done = self.do(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def as_user(self, user: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.do("runuser", "-u", user, "--", *command)

    def make(self, *arguments: str) -> str:
        return self.must("make", "-C", str(ROOT), *arguments, f"VENV={VENV}")

    def show(self, key: str, unit: str = "aiosd.service") -> str:
        return self.must("systemctl", "show", "--property", key, "--value", unit).strip()

    def journal(self) -> str:
        return self.do("journalctl", "-u", "aiosd.service", "-o", "cat", "--no-pager").stdout

    def lines(self, event: str) -> list[str]:
        """What the journal has of that event of the daemon's."""
        return [x for x in self.journal().splitlines() if re.search(rf"\b{event}\b", x)]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Look again and again; each look runs a program in the container, which paces it."""
        limit = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < limit, f"{what}, not within {WAIT_S} s: {self.journal()}"


def missing() -> str:
    """What the container needs and isn't here."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    for program in ("unshare", "nsenter", "runuser", "setpriv", "make"):
        if shutil.which(program) is None:
            return f"booting a systemd needs {program}"
    if not Path("/lib/systemd/systemd").exists():
        return "there is no systemd on this machine"
    if not list((VENV / "share/aiosd/models").glob("*.gguf")):
        return f"set-up has not prepared a model in {VENV}"
    return ""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A booted container with aiosd installed, ann in the group aiosd and bob not."""
    if reason := missing():
        pytest.skip(reason)
    lab = Lab(f"aiosd-test-{os.getpid()}")
    try:
        if reason := lab.up():
            pytest.skip(f"a systemd can't be booted here: {reason}")
        lab.make("install")
        lab.must("useradd", "--create-home", "--groups", "aiosd", "ann")
        lab.must("useradd", "--create-home", "bob")
        yield lab
    finally:
        lab.down()
