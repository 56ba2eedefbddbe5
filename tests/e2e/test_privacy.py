"""Promise 2: another uid's contexts, jobs and agents do not exist.  Needs root, to be two users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.server.harness import RawPeer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can become a second user"),
]

STRANGER = """
import json, sys
sys.path[:0] = {paths!r}
import os
from tests.server.harness import RawPeer
os.setgroups([])
os.setgid(1234)
os.setuid(1234)
with RawPeer({socket!r}, agent={agent!r}) as peer:
    def ask(method, **params):
        response = peer.ask(method, **params)
        return response.error["code"] if response.error else response.result
    context, job = {context!r}, {job!r}
    print(json.dumps({{
        "info": ask("context.info", context=context),
        "read": ask("context.read", context=context),
        "append": ask("context.append", context=context, prompt="x"),
        "generate": ask("llm.generate", context=context, prompt="x"),
        "delete": ask("context.delete", context=context),
        "contexts": ask("context.list", all=True)["contexts"],
        "jobs": ask("job.list", all=True)["jobs"],
        "agents": [a["agent"] for a in ask("agent.list")["agents"]],
        "agent": ask("agent.info", agent="owner"),
        "policy": ask("sys.policy", quantum_tokens=3),
        "count": ask("sys.status")["agents"],
        "story": ask("job.story", job=job),
        "trace": ask("sys.trace", seconds=3600)["traceEvents"],
        "kill": ask("agent.kill", agent="owner"),
    }}))
"""


def as_stranger(socket: str, context: str, agent: str, job: str) -> Any:
    paths = [p for p in sys.path if p] + [str(Path(__file__).parents[2])]
    script = textwrap.dedent(STRANGER).format(
        paths=paths, socket=socket, agent=agent, context=context, job=job
    )
    done = subprocess.run(
        # The second user may not be able to read this Python: it imports first, then changes.
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_another_uid_finds_nothing(start: Start) -> None:
    daemon = start("--slots", "2", "--slot-tokens", "512")
    Path(daemon.socket).chmod(0o666)
    for parent in Path(daemon.socket).parents:
        if str(parent).startswith("/tmp/"):  # noqa: S108 - pytest's own directories
            parent.chmod(0o755)
    with RawPeer(daemon.socket, agent="owner") as owner:
        created: Any = owner.ask("context.create", system="A secret.").result
        reply: Any = owner.ask("llm.generate", prompt="A secret", max_tokens=2).result
        seen = as_stranger(daemon.socket, created["context"], "owner", reply["job"])
        assert {seen[k] for k in ("info", "read", "append", "generate", "delete")} == {"not_found"}
        assert seen["contexts"] == []
        assert seen["jobs"] == []
        assert seen["story"] == "not_found"
        assert seen["agents"] == ["owner"]  # itself: the same name under its own uid
        assert seen["agent"]["contexts"] == 0
        assert seen["kill"] == {}  # and that was itself, too
        assert seen["policy"] == "denied"
        assert seen["count"] == 1
        assert {event["ph"] for event in seen["trace"]} <= {"M", "C"}  # rows, and the total load
        read: Any = owner.ask("context.read", context=created["context"]).result
        assert read["messages"] == [{"role": "system", "content": "A secret."}]
