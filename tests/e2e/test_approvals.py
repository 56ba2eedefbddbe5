"""What waits for a person when the daemon is killed, and the audit after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from tests.e2e.conftest import Start
from tests.server.harness import RawPeer

pytestmark = pytest.mark.slow

CONFIG = """
[[access.confirm]]
kinds = ["context"]
acts = ["delete"]
own = true
"""


def ctl(socket: str, *args: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "aiosctl", "--socket", socket, "--json", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask_to_delete(peer: RawPeer, context: str) -> str:
    peer.send(wire.encode_request(1, "context.delete", {"context": context}))
    told: Any = peer.receive()
    assert told.params["state"] == "waiting_approval"
    return str(told.params["request"])


def test_what_waits_when_the_daemon_is_killed_is_refused(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "aiosd.toml"
    config.write_text(CONFIG)
    daemon = start("--config", str(config), "--slots", "2", "--slot-tokens", "512")
    with RawPeer(daemon.socket, agent="ada") as ada:
        created: Any = ada.ask("context.create").result
        context = created["context"]
        request = ask_to_delete(ada, context)
        (pending,) = ctl(daemon.socket, "approvals", "ls")["requests"]
        assert (pending["request"], pending["agent"]) == (request, "ada")
        daemon.kill()
    daemon = daemon.again()
    try:
        assert ctl(daemon.socket, "approvals", "ls")["requests"] == []
        told = ctl(daemon.socket, "audit", "--of", "ada", "--event", "refused")["entries"]
        assert [(e["act"], e["name"], e["by"]) for e in told] == [("delete", context, "restart")]
        assert ctl(daemon.socket, "audit", "--verify")["chain"]["is_whole"]
        with RawPeer(daemon.socket, agent="ada") as ada:
            assert ada.ask("context.info", context=context).error is None
            ctl(daemon.socket, "approvals", "approve", ask_to_delete(ada, context))
            done: Any = ada.receive()
            assert done.error is None
    finally:
        assert daemon.stop() == 0
