"""What a person looks at, on the real model: traces, stories, the journal, top, who waits."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aios_sdk.client import Client
from tests.e2e.conftest import DaemonProcess, Start

pytestmark = pytest.mark.slow


def ctl(daemon: DaemonProcess, *args: str) -> str:
    command = [sys.executable, "-m", "aiosctl", "--socket", daemon.socket, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(trace: dict[str, Any], slot: int) -> list[str]:
    return [e["name"] for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == slot + 1]


def test_what_three_agents_did_on_one_slot_can_be_looked_at(start: Start, tmp_path: Path) -> None:
    daemon = start("--slots", "1", "--slot-tokens", "256", "--policy", "rr", "--quantum", "4")
    with contextlib.ExitStack() as stack:
        streams = []
        for name in ("alice", "bob", "carol"):
            client = stack.enter_context(Client(daemon.socket, agent=name))
            chat = client.context(system=f"You are {name}.")
            stream = chat.ask_stream("Count.", max_tokens=120, temperature=0, ignore_eos=True)
            client.call("job.pause", job=stream.wait_job())  # until all are there
            streams.append(stream)
        for stream in streams:
            client.call("job.resume", job=stream.wait_job())
        for stream in streams:
            assert "".join(stream)
        results = [stream.result for stream in streams]
    jobs = [result.job for result in results]

    trace = json.loads(ctl(daemon, "trace", "--seconds", "60"))
    done = names(trace, 0)
    assert {"alice", "bob", "carol", "prefill", "decode", "park", "resume", "clear"} <= set(done)
    written = sum(
        event["args"]["output_tokens"]
        for event in trace["traceEvents"]
        if event.get("cat") in ("prefill", "decode")
    )
    assert written == sum(len(result.tokens) for result in results)

    svg = tmp_path / "t.svg"
    ctl(daemon, "trace", "--seconds", "60", "--svg", str(svg))
    for words in ("slot 0", "alice", "bob", "carol", "prefill"):
        assert words in svg.read_text()

    story = json.loads(ctl(daemon, "story", jobs[0], "--json"))
    happened = [event["event"] for event in story["events"]]
    assert (happened[0], happened[-1]) == ("submitted", "ended")
    assert "resume" in happened  # it was parked: three contexts, one slot

    assert ctl(daemon, "top", "--once").startswith("aiosd ")
    assert "WAITS FOR" in ctl(daemon, "ps", "--wait")

    journal = tmp_path / "journal.gz"
    ctl(daemon, "journal", "-o", str(journal))
    replayed = subprocess.run(
        [sys.executable, "-m", "aiosd", "--replay", str(journal)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout.endswith("every invariant held\n")
