"""The real daemon's log, with the real model behind it: lines of calls, and nobody's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.server.harness import RawPeer

pytestmark = pytest.mark.slow

MARK = "zqXwordsXqz"


def test_neither_we_nor_llama_cpp_log_what_was_said(start: Start) -> None:
    daemon = start(
        "--slots", "2", "--slot-tokens", "512", "--log-level", "debug", "--log-format", "json"
    )
    with RawPeer(daemon.socket, agent="poet") as peer:
        peer.sock.settimeout(60)
        good: Any = peer.ask("llm.generate", prompt=MARK, max_tokens=4).result
        for grammar in (f'root ::= "{MARK}', f"{MARK} ::= x", f"root ::= {MARK}"):
            error: Any = peer.ask("llm.generate", prompt="x", grammar=grammar).error
            assert error["code"] == "invalid_params"
        schema = {"type": "object", "properties": {MARK: {"type": "string", "pattern": MARK}}}
        peer.ask("llm.generate", prompt=MARK, schema=schema, max_tokens=4)
        peer.ask(MARK)
    assert daemon.stop() == 0
    log = daemon.log.read_text()
    assert MARK not in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line.get("job") == good["job"]]
    assert (line["event"], line["name"], line["outcome"]) == ("syscall", "llm.generate", "ok")
    assert (line["agent"], line["tokens"]) == ("poet", 4)
    assert line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"] <= line["ms"] + 1
    assert [line["name"] for line in lines if line.get("outcome") == "unknown_method"] == [
        "unknown"
    ]
