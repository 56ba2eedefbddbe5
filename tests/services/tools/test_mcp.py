"""MCP servers as sources of tools: real processes, confined."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from aiosd.confine import landlock
from aiosd.mcp_config import McpConfig, parse
from aiosd.services.tools.mcp_server import McpServer, Pace, State
from aiosd.services.tools.model import Progress, ToolFailed, ToolResult
from tests.services.tools import mcp_programs
from tests.services.tools.mcp_started import ADA, call, run, started, until

pytestmark = pytest.mark.skipif(not landlock.abi(), reason="no Landlock: nothing can be confined")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiosd.services.tools import mcp_stdio

    monkeypatch.setattr(mcp_stdio, "LEAVE_S", 0.2)


def program(name: str, *args: str, **more: Any) -> McpConfig:
    return parse(mcp_programs.program(name, *args, **more), "")


@contextlib.asynccontextmanager
async def everything(**more: Any) -> AsyncIterator[McpServer]:
    async with started(program("mcp_everything.py", "stdio", **more)) as server:
        await server.ready()
        yield server


def n_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---------------------------------------------------------------- what it offers and answers


def test_its_tools_appear_under_its_name_with_their_schemas() -> None:
    async def test() -> None:
        async with everything(irreversible=["d*"], timeout_s=7, max_parallel=3) as server:
            tools = {tool.name: tool for tool in server.tools()}
            echo = tools["s.echo"]
            assert echo.description == "Say it again."
            assert echo.parameters["properties"]["text"]["type"] == "string"
            assert (echo.source, echo.timeout_s, echo.max_parallel) == ("s", 7.0, 3)
            stricter = [name for name, tool in tools.items() if tool.is_irreversible]
            assert stricter == ["s.data", "s.wipe", "s.die"]

    run(test)


def test_a_call_brings_text_data_errors_and_words_for_what_is_no_text() -> None:
    async def test() -> None:
        async with everything() as server:
            assert (await call(server, "echo", text="ä\n")).content == "ä\n"
            doubled = await call(server, "data", n=3)
            assert doubled.structured == {"n": 3, "double": 6}
            assert '"double": 6' in doubled.content
            failed = await call(server, "fail", why="no such thing")
            assert (failed.content, failed.is_error) == ("no such thing", True)
            assert (await call(server, "mixed")).content.splitlines() == [
                "first",
                "[image: image/png, 3 bytes]",
                "[audio: audio/wav, 1 bytes]",
                "[resource x at file:///x, an x]",
                "[resource note://1]",
                "a note",
                "[resource blob://1: x/y, 4 bytes]",
            ]

    run(test)


def test_progress_passes_through() -> None:
    async def test() -> None:
        seen: list[Progress] = []
        async with everything() as server:
            assert (await call(server, "count", seen.append, n=3)).content == "counted"
            await until(lambda: len(seen) == 3)
        assert seen == [Progress(float(i), 3.0, f"step {i}") for i in (1, 2, 3)]

    run(test)


def test_a_server_is_told_that_its_call_was_cancelled_and_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with everything(write=[str(tmp_path)]) as server, asyncio.TaskGroup() as group:
            pid = server.pid
            waiting = group.create_task(call(server, "wait", seen=str(tmp_path / "w")))
            await until((tmp_path / "w.began").exists)
            waiting.cancel()
            await until((tmp_path / "w.cancelled").exists)
            assert (await call(server, "echo", text="on")).content == "on"
            assert (server.pid, server.n_restarts) == (pid, 0)

    run(test)


def test_a_changed_list_is_read_again() -> None:
    async def test() -> None:
        async with everything() as server:
            assert "s.grown" not in [tool.name for tool in server.tools()]
            await call(server, "grow")
            await until(lambda: "s.grown" in [tool.name for tool in server.tools()])
            assert (await call(server, "grown", text="new")).content == "new"

    run(test)


def test_what_it_asks_of_our_model_is_refused() -> None:
    async def test() -> None:
        async with everything() as server:
            assert (await call(server, "ask")).content.startswith("refused: ")

    run(test)


# ---------------------------------------------------------------- what it may touch


def test_it_is_confined_to_what_was_granted(tmp_path: Path) -> None:
    (tmp_path / "granted").mkdir()
    (tmp_path / "granted" / "a").write_text("yours")
    (tmp_path / "b").write_text("not yours")

    async def test() -> None:
        async with everything(read=[str(tmp_path / "granted")]) as server:
            assert (await call(server, "look", path=str(tmp_path / "granted/a"))).content == "yours"
            refused = await call(server, "look", path=str(tmp_path / "b"))
            assert refused.is_error
            assert "yours" not in refused.content

    run(test)


def test_a_program_that_is_not_there_fails_and_says_so() -> None:
    async def test() -> None:
        async with started(parse({"command": "/nowhere/x"}, "")) as server:
            with pytest.raises(ToolFailed, match=r"MCP server 's' did not start: .*/nowhere/x"):
                await server.ready()

    run(test)


# ---------------------------------------------------------------- death, and life after it


def test_a_call_it_dies_over_fails_and_the_next_one_works() -> None:
    async def test() -> None:
        async with everything() as server:
            before = (await call(server, "pid")).content
            with pytest.raises(ToolFailed, match="MCP server 's' was lost during the call"):
                await call(server, "die")
            after = (await call(server, "pid")).content  # it waits until there is one again
            assert after != before
            assert server.n_restarts == 1
            assert server.last_error == "it ended the connection (exit code 7)"
            assert "I die" in server.log.lines()

    run(test)


def test_every_pending_call_fails_when_it_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        async with everything(write=[str(tmp_path)]) as server, asyncio.TaskGroup() as group:
            calls = [
                group.create_task(_refusal(call(server, "wait", seen=str(tmp_path / f"{i}"))))
                for i in range(5)
            ]
            await until(lambda: all((tmp_path / f"{i}.began").exists() for i in range(5)))
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            for one in calls:
                assert "was lost during the call" in await one
            assert (await call(server, "echo", text="again")).content == "again"
            assert "SIGKILL" in server.last_error

    run(test)


def test_one_that_hangs_over_a_cancelled_call_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiosd.services.tools import mcp_link

    monkeypatch.setattr(mcp_link, "PING_S", 0.2)

    async def test() -> None:
        async with everything(write=[str(tmp_path)]) as server, asyncio.TaskGroup() as group:
            hanging = group.create_task(call(server, "hang", seen=str(tmp_path / "h")))
            await until((tmp_path / "h.began").exists)
            hanging.cancel()
            await until(lambda: server.n_restarts == 1)
            assert (await call(server, "echo", text="awake")).content == "awake"
            assert "has not answered" in server.last_error

    run(test)


def test_one_that_fails_for_ever_refuses_calls_and_says_why() -> None:
    async def test() -> None:
        pace = Pace(first_s=0.01, most_s=0.01, failed_after=3, failed_s=3600)
        async with started(program("mcp_everything.py", "nonsense"), pace) as server:
            await until(lambda: server.state is State.FAILED)
            assert server.n_restarts == 2
            with pytest.raises(ToolFailed, match="did not start: "):
                await server.ready()
            assert any("ValueError" in line or "IndexError" in line for line in server.log.lines())

    run(test)


def test_one_that_says_nothing_is_given_up_after_its_time() -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", "silent", start_s=1)) as server:
            with pytest.raises(ToolFailed, match="did not start: it took too long"):
                await server.ready()

    run(test)


def test_closing_ends_it_even_while_it_starts() -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", "silent")) as server:
            await until(lambda: server.pid is not None)
            pid = server.pid
            assert pid is not None
            await server.close()
            assert not exists(pid)
            with pytest.raises(ToolFailed, match="MCP server 's' is stopped"):
                await server.call(_any_tool(), {}, ADA, lambda _: None)

    run(test)


# ---------------------------------------------------------------- servers that mean harm


def test_tools_that_cannot_be_used_are_left_out_with_the_reason() -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", "tools", tools=20)) as server:
            await server.ready()
            tools = server.tools()
            assert len(tools) == 20
            assert [tool.name for tool in tools[:3]] == ["s.fine", "s.wordy", "s.many0"]
            assert len(tools[1].description) == 4096
            assert "\x1b" not in tools[1].description
            name_is = "its name is not like [A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}"
            assert server.left_out[:5] == (
                "'fine': there are two of that name",
                f"'a b': {name_is}",
                f"'../up': {name_is}",
                f"'{'n' * 64}': {name_is}",
                "'vast': its schema has 70031 bytes, limit is 65536",
            )
            assert server.left_out[5] == "'many18': the server may have 20 tools"
            assert len(server.left_out) == 16

    run(test)


def test_a_list_of_tools_that_is_against_the_protocol_is_refused_whole() -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", "array")) as server:
            with pytest.raises(ToolFailed, match="did not start: ValidationError"):
                await server.ready()

    run(test)


def test_one_that_speaks_only_the_protocol_without_a_handshake_is_understood() -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", "modern")) as server:
            await server.ready()
            assert (await call(server, "fine")).content == "done"

    run(test)


def test_a_greeting_on_stdout_is_passed_over_and_kept_for_people() -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", "greeting")) as server:
            await server.ready()
            assert (await call(server, "fine")).content == "done"
            assert server.log.lines() == ["stdout: Welcome to the rude server!"]

    run(test)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("garbage", "it wrote 101 lines that are no messages to its stdout"),
        ("endless", "it sent a message of [0-9]+ bytes, limit is 16384"),
        ("begging", "it leaves [0-9]+ bytes unread, limit is 16384"),
    ],
)
def test_one_that_floods_us_is_ended(how: str, why: str) -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", how, frame_bytes=16384)) as server:
            await until(lambda: server.n_restarts >= 1)
            assert re.match(why, server.last_error), server.last_error

    run(test)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("oversize", "was lost during the call: it sent a message of [0-9]+ bytes"),
        ("no result", "answered with no result"),
        ("refusing", "refused the call: not today"),
    ],
)
def test_an_answer_that_is_none_fails_the_call(how: str, why: str) -> None:
    async def test() -> None:
        async with started(program("mcp_rude.py", how)) as server:
            await server.ready()
            with pytest.raises(ToolFailed, match=why):
                await call(server, "fine")
            with pytest.raises(ToolFailed, match=why):  # and it is there for the next
                await call(server, "fine")

    run(test)


def _any_tool() -> Any:
    from aiosd.services.tools.model import Tool

    return Tool("s.x", "", {}, "s")


async def _refusal(call: Awaitable[ToolResult]) -> str:
    with pytest.raises(ToolFailed) as caught:
        await call
    return str(caught.value)


def test_servers_that_came_and_went_leave_no_descriptor_and_no_process() -> None:
    async def test() -> None:
        seen = []
        for _ in range(4):
            async with started(program("mcp_rude.py", "greeting")) as server:
                await server.ready()
                assert server.pid is not None
                seen.append((server.pid, n_descriptors()))
        assert not any(exists(pid) for pid, _ in seen)
        assert seen[-1][1] - seen[1][1] < 2  # of each that came since there would be one or more

    run(test)
