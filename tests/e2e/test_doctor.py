"""`aiosctl doctor` as a user runs it, against the real model."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

from aiosd import models
from tests.e2e.conftest import DaemonProcess, Start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def ctl(daemon: DaemonProcess, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aiosctl", "--socket", daemon.socket, "--json", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in json.loads(done.stdout)["checks"]}


def test_the_promise_holds_on_the_default_model_and_nothing_is_left_behind(start: Start) -> None:
    daemon = start("--slots", "3", "--slot-tokens", "512", "--quantum", "7", "--lanes", "2")
    before = ctl(daemon, "policy").stdout
    done = ctl(daemon, "doctor", "--seconds", "200")
    found = checks(done)["promise 1"]
    assert (done.returncode, found["state"]) == (0, "ok"), done.stdout
    for part in ("parks", "resumed from a file", "forked", "scheduling changes no answer here"):
        assert part in found["words"]
    assert "not checked" not in found["words"]
    assert ctl(daemon, "policy").stdout == before
    assert json.loads(ctl(daemon, "context", "ls", "--all").stdout) == {"contexts": []}
    assert json.loads(ctl(daemon, "job", "ls", "--all").stdout) == {"jobs": []}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="kernels differ from CPU to CPU")
def test_it_knows_weights_that_this_cpu_is_slow_with(start: Start) -> None:
    packaged = start(
        "--slots", "2", "--slot-tokens", "256", "--model", str(models.packaged_source())
    )
    found = checks(ctl(packaged, "doctor", "--seconds", "0"))["weights"]
    assert (found["state"], found["words"][:5]) == ("note", "Q4_1,")
    prepared = start("--slots", "2", "--slot-tokens", "256")
    found = checks(ctl(prepared, "doctor", "--seconds", "0"))["weights"]
    assert (found["state"], found["words"][:5]) == ("ok", "Q8_0,")
