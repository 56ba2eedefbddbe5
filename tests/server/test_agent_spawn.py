"""Agents that agents start: the same Agent in the parent and in the process of the daemon's."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import aios_sdk
from aios_sdk import Agent, AsyncAgent, Client
from tests.server.harness import served

LONG_S = 120  # until a process has ended, on a busy machine
ENV = {"PYTHONPATH": str(Path(aios_sdk.__file__).parents[1])}  # it may be a checkout
PROGRAM = textwrap.dedent("""\
    import sys
    from aios_sdk import Agent

    with Agent("by-hand", max_tokens=2, ignore_eos=True) as agent:
        agent.memory.add("I was here.")
        with agent.fork() as other:
            print(agent.name, sys.argv[1:], len(other.generate("hello").tokens))
""")


def test_an_agent_works_unchanged_when_the_daemon_started_it(tmp_path: Path) -> None:
    async def run(socket: str) -> None:
        async with AsyncAgent("chief", socket=socket) as chief:
            child = await chief.spawn("twin", "python", "-c", PROGRAM, env=ENV)
            assert (await child.wait(LONG_S)).get("exit_code") == 0, await child.logs()
            assert [line["text"] for line in await child.logs()] == ["twin [] 2"]

    with served(tmp_path) as daemon:
        socket = daemon.config.socket
        with Agent("boss", socket=socket) as boss:
            child = boss.spawn("worker", "python", "-c", PROGRAM, "a", "b c", env=ENV)
            assert child.wait(LONG_S).get("exit_code") == 0, child.logs()
            assert [line["text"] for line in child.logs()] == ["worker ['a', 'b c'] 2"]
        asyncio.run(run(socket))
        with Client(socket, agent="worker") as worker:
            assert [note["content"] for note in worker.memory.list()] == ["I was here."]
            assert worker.contexts(all=True) == []  # all that they began is forgotten
