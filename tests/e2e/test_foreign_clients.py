"""Two MessagePack-RPC clients nobody here wrote make syscalls, streams and cancels included."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aio_msgpack_rpc import Client
from aio_msgpack_rpc.error import RPCResponseError

from aiosd.engine.fake import FakeModel
from aiosd.server.daemon import Daemon
from tests.server.harness import served


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    model = FakeModel(n_slots=4, slot_tokens=4096)
    model.delay_s = 0.001  # so that a job can be cancelled while it runs
    with served(tmp_path, model, slot_tokens=4096) as daemon:
        yield daemon


# In a process of its own: pynvim leaves its sockets to the garbage collector.  It greets with a
# notification that aiosd tells it not to know, and both go on.
PYNVIM = """
import json, sys
from pynvim.msgpack_rpc import socket_session

class CallError(Exception):
    pass

session = socket_session(sys.argv[1])
session.error_wrapper = CallError
session.request("sys.hello", {"protocol": 1, "agent": "nvim"})
seen = {"ping": session.request("sys.ping", {}), "no_params": session.request("sys.ping")}
tokens = session.request("llm.tokenize", {"text": "the time"})["tokens"]
seen["text"] = session.request("llm.detokenize", {"tokens": tokens})["text"]
try:
    session.request("llm.generate", {"prompt": "x", "max_tokens": 0})
except CallError as error:
    seen["error"] = error.args[0]
params = {"prompt": "Go", "max_tokens": 20, "ignore_eos": True, "stream": True, "tag": "t1"}
seen["reply"] = session.request("llm.generate", params)
seen["chunks"] = []
while "".join(chunk["text"] for chunk in seen["chunks"]) != seen["reply"]["text"]:
    message = session.next_message()
    if message.name == "stream" and "text" in message.args[0]:
        seen["chunks"].append(message.args[0])
session.close()
print(json.dumps(seen))
"""


def test_pynvim_makes_calls_gets_errors_and_streams_by_tag(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PYNVIM, daemon.config.socket],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: Any = json.loads(done.stdout)
    assert (seen["ping"], seen["no_params"], seen["text"]) == ({}, {}, "the time")
    assert seen["error"]["code"] == "invalid_params"
    assert seen["error"]["data"]["field"] == "max_tokens"
    assert len(seen["reply"]["tokens"]) == 20
    assert {chunk["tag"] for chunk in seen["chunks"]} == {"t1"}


async def connected(daemon: Daemon) -> tuple[Client, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(daemon.config.socket)
    client = Client(reader, writer, response_timeout=20)
    hello = await client.call("sys.hello", {"protocol": 1, "agent": "aio"})
    assert hello["server"]["name"] == "aiosd"
    return client, writer


def test_aio_msgpack_rpc_makes_overlapping_calls_and_gets_errors(daemon: Daemon) -> None:
    async def run() -> None:
        client, writer = await connected(daemon)
        context = (await client.call("context.create", {"system": "Be brief."}))["context"]
        replies = await asyncio.gather(
            client.call("llm.generate", {"context": context, "prompt": "Hi", "max_tokens": 5}),
            *(client.call("llm.generate", {"prompt": f"{n}", "max_tokens": 5}) for n in range(6)),
        )
        assert all(len(reply["tokens"]) <= 5 for reply in replies)
        assert replies[0]["context"] == context
        with pytest.raises(RPCResponseError) as caught:
            await client.call("context.info", {"context": "none"})
        assert caught.value.args[0]["code"] == "not_found"
        client.close()
        await writer.wait_closed()

    asyncio.run(run())


def test_aio_msgpack_rpc_cancels_by_tag(daemon: Daemon) -> None:
    async def run() -> None:
        client, writer = await connected(daemon)
        params = {"prompt": "Go", "max_tokens": 2000, "ignore_eos": True, "tag": 7}
        call = asyncio.ensure_future(  # noqa: TID251 - a test of two things at once
            client.call("llm.generate", params)
        )
        while not (await client.call("job.list", {}))["jobs"]:
            pass
        await client.notify("cancel", {"tag": 7})
        with pytest.raises(RPCResponseError) as caught:
            await call
        assert caught.value.args[0]["code"] == "cancelled"
        client.close()
        await writer.wait_closed()

    asyncio.run(run())
