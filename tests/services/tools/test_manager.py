"""A call of a tool, from its name to its result, whatever the tool does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from aios_sdk.errors import Busy, Internal, InvalidParams, NotFound, SyscallError
from aios_sdk.errors import ToolFailed as Failed
from aiosd.kernel.model import AgentId
from aiosd.services.tools.manager import ToolCall, ToolManager
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult
from aiosd.tools_config import ToolRule, Tools
from tests.services.tools.sources import ADA, BOB, ZED, Everyone, Noted, Source, admit
from tests.services.tools.sources import in_worker as worker
from tests.services.tools.sources import manager as managed

NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 10}},
    "required": ["n"],
    "additionalProperties": False,
}


async def said(arguments: Mapping[str, Any], *_: Any) -> ToolResult:
    return ToolResult(f"got {dict(arguments)}")


class Held:
    """A tool whose calls begin, and end when they are told to."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.changed = asyncio.Event()
        self.go = asyncio.Semaphore(0)

    async def __call__(self, arguments: Mapping[str, Any], caller: Any, *_: Any) -> ToolResult:
        self.began.append(arguments.get("who", caller.name))
        self.changed.set()
        await self.go.acquire()
        return ToolResult("done")

    async def wait_began(self, n: int) -> None:
        while len(self.began) < n:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 20)


async def until(is_so: Callable[[], bool]) -> None:
    """Turns of the loop until it is so: a check in a worker comes before a place in line."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - the manager has no event for it
            await asyncio.sleep(0.001)


def is_in_sight(manager: ToolManager, n: int) -> bool:
    return manager.n_running("held") + manager.n_waiting("held") == n


def test_a_call_gives_what_the_tool_gives() -> None:
    async def run() -> None:
        source = Source()
        source.offer("echo", said, parameters=NUMBER)
        result = await managed(source).call("echo", {"n": 3}, ADA, admit=admit)
        assert result == ToolResult("got {'n': 3}")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"n": 11}, "arguments.n", "11 is greater than the maximum of 10"),
        ({"n": "x"}, "arguments.n", "is 'x', it must be of type 'integer'"),
        ({}, "arguments", "'n' is a required property"),
        ({"n": 1, "m": 2}, "arguments", "unknown key 'm'; it takes n"),
    ],
)
def test_arguments_that_break_the_schema_run_nothing(
    arguments: dict[str, Any], field: str, words: str
) -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held, parameters=NUMBER)
        with pytest.raises(InvalidParams) as error:
            await managed(source).call("held", arguments, ADA, admit=admit)
        assert error.value.data["field"] == field
        assert words in str(error.value)
        assert held.began == []

    asyncio.run(run())


def test_a_tool_that_isnt_there_or_is_off_or_hidden_is_not_found_in_the_same_words() -> None:
    async def run() -> None:
        source, door = Source(), Everyone()
        for name in ("on", "off", "hidden"):
            source.offer(name, said)
        door.hidden.add((ADA, "hidden"))
        manager = ToolManager(lambda: Tools(off=("of?",)), door, worker, Noted())
        manager.add(source)
        for name in ("off", "nosuch"):
            with pytest.raises(NotFound, match=f"no tool '{name}'"):
                await manager.call(name, {}, ADA, admit=admit)
        with pytest.raises(NotFound):
            await manager.call("hidden", {}, ADA, admit=admit)
        assert [tool.name for tool in manager.list(ADA)] == ["on"]
        assert [tool.name for tool in manager.list(BOB)] == ["on", "hidden"]

    asyncio.run(run())


def test_a_tool_that_fails_works_again_and_every_failure_is_told() -> None:
    async def run() -> None:
        source, noted = Source(), Noted()
        ways: list[BaseException] = [ToolFailed("it died"), ValueError("a bug"), TimeoutError()]

        async def fails(*_: Any) -> ToolResult:
            if ways:
                raise ways.pop(0)
            return ToolResult("well again")

        source.offer("weak", fails)
        manager = ToolManager(Tools, Everyone(), worker, noted)
        manager.add(source)
        for kind, words in (
            (Failed, "weak: it died"),
            (Internal, "a bug of aiosd"),
            (Failed, "weak: it timed out"),
        ):
            with pytest.raises(kind, match=words):
                await manager.call("weak", {}, ADA, admit=admit)
        assert (await manager.call("weak", {}, ADA, admit=admit)).content == "well again"
        assert [outcome for _, _, outcome in noted.ended] == ["failed", "failed", "failed", "ok"]
        assert manager.n_running("weak") == 0

    asyncio.run(run())


def test_a_call_past_the_tools_time_is_ended() -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held, timeout_s=0.05)
        with pytest.raises(Failed, match=r"held: took longer than its 0.05 s"):
            await managed(source).call("held", {}, ADA, admit=admit)

    asyncio.run(run())


def test_places_go_to_uids_in_turn_and_within_one_to_its_agents() -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held, max_parallel=1)
        manager = managed(source)
        async with asyncio.TaskGroup() as group:
            callers = (
                (ADA, "ada1"), (ADA, "ada2"), (ADA, "ada3"), (BOB, "bob1"), (ZED, "zed1"),
                (ZED, "zed2"),
            )  # fmt: skip
            for n, (caller, who) in enumerate(callers, 1):
                group.create_task(manager.call("held", {"who": who}, caller, admit=admit))
                await until(partial(is_in_sight, manager, n))
            for i in range(6):
                await held.wait_began(i + 1)
                held.go.release()
        assert held.began == ["ada1", "ada2", "zed1", "bob1", "zed2", "ada3"]

    asyncio.run(run())


def test_a_full_line_is_busy_at_once_with_when_to_come_back() -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held)
        manager = managed(source, waiting=3, waiting_per_uid=2)
        async with asyncio.TaskGroup() as group:
            for i in range(3):
                group.create_task(manager.call("held", {}, ADA, admit=admit))
                await until(partial(is_in_sight, manager, i + 1))
            with pytest.raises(Busy, match=r"2 calls wait for it from this uid, limit is 2") as e:
                await manager.call("held", {}, BOB, admit=admit)
            assert e.value.data == {"retry_after_ms": 2000, "queue_depth": 2}
            group.create_task(manager.call("held", {}, ZED, admit=admit))
            await until(lambda: manager.n_waiting("held") == 3)
            with pytest.raises(Busy, match=r"3 calls wait for it, limit is 3"):
                await manager.call("held", {}, ZED, admit=admit)
            for _ in range(4):
                held.go.release()

    asyncio.run(run())


def test_cancelling_in_line_and_running_gives_the_place_back() -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held)
        manager = managed(source)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(manager.call("held", {}, ADA, admit=admit))
            await held.wait_began(1)
            waiting = group.create_task(manager.call("held", {}, ADA, admit=admit))
            last = group.create_task(manager.call("held", {}, BOB, admit=admit))
            await until(lambda: manager.n_waiting("held") == 2)
            waiting.cancel()
            running.cancel()
            await held.wait_began(2)
            held.go.release()
            assert (await last).content == "done"
        assert held.began == ["ada", "bob"]
        assert manager.n_running("held") == manager.n_waiting("held") == 0

    asyncio.run(run())


def test_a_list_runs_ordered_tools_one_after_another_and_the_others_beside_them() -> None:
    async def run() -> None:
        source, first, beside = Source(), Held(), Held()
        done: list[str] = []

        async def second(*_: Any) -> ToolResult:
            done.append("second")
            return ToolResult("second")

        source.offer("first", first)
        source.offer("second", second)
        source.offer("beside", beside, is_ordered=False, max_parallel=2)
        manager = managed(source)
        names = ("first", "second", "beside", "nosuch", "beside")
        async with asyncio.TaskGroup() as group:
            calls = [ToolCall(name, {}) for name in names]
            results = group.create_task(manager.call_all(calls, ADA, admit=admit))
            await first.wait_began(1)
            await beside.wait_began(2)  # both, while the first is under way
            assert done == []
            beside.go.release()
            beside.go.release()
            first.go.release()
        found = [r.code if isinstance(r, SyscallError) else r.content for r in results.result()]
        assert found == ["done", "second", "done", "not_found", "done"]

    asyncio.run(run())


def test_removing_a_source_ends_its_calls_and_the_next_one_begins_anew() -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held)
        manager = managed(source)
        ended: dict[str, SyscallError] = {}

        async def call(caller: AgentId) -> None:
            with pytest.raises(SyscallError) as error:
                await manager.call("held", {}, caller, admit=admit)
            ended[caller.name] = error.value

        async with asyncio.TaskGroup() as group:
            group.create_task(call(ADA))
            await held.wait_began(1)
            group.create_task(call(BOB))
            await until(lambda: manager.n_waiting("held") == 1)
            await manager.remove("test")
        assert isinstance(ended["ada"], Failed)
        assert "its source test was removed" in str(ended["ada"])
        assert isinstance(ended["bob"], NotFound)
        assert source.is_closed
        manager.add(source)
        held.go.release()
        assert (await manager.call("held", {}, ADA, admit=admit)).content == "done"

    asyncio.run(run())


def test_the_configuration_has_the_last_word_on_a_tool() -> None:
    async def run() -> None:
        rules = {
            "one": ToolRule(irreversible="yes", timeout_s=5, max_parallel=3, ordered="no"),
            "o*": ToolRule(max_parallel=9),
        }
        source = Source()
        source.offer("one", said)
        source.offer("other", said, is_irreversible=True)
        tools = managed(source, tool=rules).list(ADA)
        assert [(t.is_irreversible, t.is_ordered, t.timeout_s, t.max_parallel) for t in tools] == [
            (True, False, 5, 3),
            (True, True, 60.0, 9),
        ]

    asyncio.run(run())


def test_what_a_person_must_confirm_waits_before_it_takes_a_place() -> None:
    async def run() -> None:
        source, held = Source(), Held()
        source.offer("held", held, parameters=NUMBER)
        manager, asked = managed(source), asyncio.Event()

        async def never(tool: Tool, arguments: Mapping[str, Any]) -> None:
            asked.set()
            await asyncio.get_running_loop().create_future()

        async with asyncio.TaskGroup() as group:
            call = group.create_task(manager.call("held", {"n": 1}, ADA, admit=never))
            await asyncio.wait_for(asked.wait(), 20)
            assert manager.n_running("held") == manager.n_waiting("held") == 0
            call.cancel()
        asked.clear()
        with pytest.raises(InvalidParams):  # nobody is asked about what can't be
            await manager.call("held", {}, ADA, admit=never)
        assert not asked.is_set()

    asyncio.run(run())


def test_how_long_a_tool_takes_is_known_once_it_was_called() -> None:
    async def run() -> None:
        source = Source()
        source.offer("echo", said)
        manager = managed(source)
        assert manager.usual_s("echo") is None
        await manager.call("echo", {}, ADA, admit=admit)
        usual_s = manager.usual_s("echo")
        assert usual_s is not None
        assert 0 < usual_s < 60

    asyncio.run(run())


def test_a_flood_of_progress_reports_is_thinned_out_and_cut() -> None:
    async def run() -> None:
        source, told = Source(), list[Progress]()

        async def talks(_: Any, __: Any, on_progress: Any) -> ToolResult:
            for i in range(10_000):
                on_progress(Progress(i, message="x" * 10_000))
            return ToolResult("done")

        source.offer("talks", talks)
        await managed(source).call("talks", {}, ADA, admit=admit, on_progress=told.append)
        assert 1 <= len(told) < 1000
        assert told[0].message == "x" * 500 + "…"

    asyncio.run(run())


def test_a_result_past_its_bound_is_cut_at_a_character_and_says_so() -> None:
    async def run() -> None:
        source = Source()

        async def much(*_: Any) -> ToolResult:
            return ToolResult("é" * 600 + "!", {"list": ["x" * 2000]})

        async def strange(*_: Any) -> ToolResult:
            return ToolResult("a\ud800b", {"n": 2**70})

        source.offer("much", much)
        source.offer("strange", strange)
        manager = managed(source, result_bytes=1025)
        result = await manager.call("much", {}, ADA, admit=admit)
        assert result.content == (
            "é" * 512
            + "\n[structured result dropped: 2010 bytes, limit is 1025]"
            + "\n[cut: 1201 bytes, limit is 1025]"
        )
        assert result.structured is None
        assert result.is_cut
        result = await manager.call("strange", {}, ADA, admit=admit)
        dropped = "[structured result dropped: it holds what the wire can't say]"
        assert result.content == "a?b\n" + dropped

    asyncio.run(run())


def test_what_was_confirmed_is_called_of_who_was_asked_and_nobody_else() -> None:
    async def run() -> None:
        first, second = Source("server"), Source("server")
        for source in (first, second):
            source.offer("send", said, is_irreversible=True)
        manager = managed(first)

        async def and_meanwhile(*_: object) -> None:
            """A person says yes; a server of the same name, which offers the same, comes before."""
            await manager.remove("server")
            manager.add(second)

        with pytest.raises(Failed, match="send has changed while the call waited: try again"):
            await manager.call("send", {}, ADA, admit=and_meanwhile)

    asyncio.run(run())
