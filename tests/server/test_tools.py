"""Tools through the socket, each call in a process of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from aiosd.access_config import Access, ConfirmRule
from aiosd.server.daemon import Daemon
from aiosd.tools_config import ToolRule, Tools
from tests.server.harness import RawPeer, served

LIMIT_S = 60  # generous: ends at once when it is so
FILE = '''
    """Tools of all kinds."""

    import os, signal, subprocess, sys, time
    from dataclasses import dataclass
    from aios_sdk.toolbox import Outcome, report, tool

    print("printed while it was imported")

    @tool(ordered=False, max_parallel=4)
    def add(a: int, b: int = 1) -> int:
        """Add two numbers.

        Args:
            a: the first
        """
        print("printed by the tool")
        return a + b

    @tool
    async def later(word: str) -> dict[str, str]:
        """Say a word later."""
        return {"word": word}

    @tool
    def counts(n: int) -> str:
        """Count."""
        for i in range(n):
            report(i, n, f"at {i}")
            time.sleep(0.06)
        return "counted"

    @tool(irreversible=True)
    def fails() -> None:
        """Raise."""
        raise LookupError("there is no such thing")

    @tool(irreversible=True)
    def wipes(disk: str) -> None:
        """Do what can't be undone."""

    @tool
    def dies(how: str) -> str:
        """Die."""
        if how == "exit":
            os._exit(3)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "system_exit":
            sys.exit(4)
        if how == "babble":
            for fd in range(3, 64):
                try:
                    os.write(fd, b"x" * 100)
                except OSError:
                    pass
            os._exit(0)
        if how == "flood":
            while True:
                report(1)
        return "lives"

    @tool(timeout_s=1)
    def hangs() -> None:
        """Hang, ignoring what asks it to end."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)

    @tool(write=("PLACE",))
    def forks(name: str) -> None:
        """Leave a child behind, and hang with it."""
        child = subprocess.Popen(["sleep", "1000"])
        with open("PLACE/" + name, "w") as file:
            file.write(f"{os.getpid()} {child.pid}\\n")
        time.sleep(1000)

    @tool
    def much(n: int) -> Outcome:
        """Say much."""
        return Outcome("x" * n, {"n": n})

    def no_tool(a: int) -> int:
        """Not marked."""
        return a
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Daemon]:
    path = tmp_path_factory.mktemp("daemon")
    (path / "tools").mkdir()
    text = textwrap.dedent(FILE).replace("PLACE", str(place))
    (path / "tools" / "kinds.py").write_text(text)
    (path / "tools" / "broken.py").write_text("import nosuchmodule")
    (path / "tools" / "_left.py").write_text("raise SystemExit")
    tools = Tools(
        directory=str(path / "tools"),
        result_bytes=4096,
        tool={"calculator": ToolRule(agents=("*",)), "clock": ToolRule(agents=("watch*",))},
    )
    confirm = (ConfirmRule(agent="bot", kinds=("tool",), acts=("use",), irreversible=True),)
    with served(path, tools=tools, access=Access(confirm=confirm)) as daemon:
        yield daemon


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[RawPeer]:
    with RawPeer(daemon.config.socket, "ada") as peer:
        peer.sock.settimeout(LIMIT_S)
        yield peer


def result(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is None, response.error
    return response.result


def error(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is not None, response.result
    return response.error


def code(answer: wire.Response) -> object:
    assert isinstance(answer.error, dict)
    return answer.error["code"]


def test_what_there_is_is_listed_with_its_schema(peer: RawPeer) -> None:
    tools = {tool["name"]: tool for tool in result(peer, "tool.list")["tools"]}
    assert {"calculator", "python", "storage_search", "add", "later", "much"} <= set(tools)
    assert not {"shell", "fetch", "no_tool"} & set(tools)  # off; no hosts; not marked
    assert {k: v for k, v in tools["add"].items() if k != "usual_ms"} == {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first"},
                "b": {"type": "integer", "default": 1},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
        "source": "local",
        "irreversible": False,
        "ordered": False,
        "max_parallel": 4,
        "timeout_s": 60.0,
        "running": 0,
        "waiting": 0,
    }
    assert tools["fails"]["irreversible"]


def test_a_call_gives_text_and_data_and_what_is_printed_is_lost(peer: RawPeer) -> None:
    for _ in range(2):  # the second in a process that was started ahead
        found = result(peer, "tool.call", name="add", arguments={"a": 2, "b": 3})
        assert found.pop("duration_ms") >= 0
        assert found == {"content": "5", "structured": {"result": 5}, "is_error": False}
    found = result(peer, "tool.call", name="later", arguments={"word": "hé"})
    assert found["structured"] == {"word": "hé"}


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"a": "2"}, "arguments.a", "add: arguments.a: is '2', it must be of type 'integer'"),
        ({}, "arguments", "'a' is a required property"),
        ({"a": 1, "c": 1}, "arguments", "unknown key 'c'; it takes a, b"),
    ],
)
def test_wrong_arguments_are_named(
    peer: RawPeer, arguments: dict[str, Any], field: str, words: str
) -> None:
    found = error(peer, "tool.call", name="add", arguments=arguments)
    assert found["code"] == "invalid_params"
    assert words in found["message"]
    assert found["data"]["field"] == field


def test_a_tool_that_raises_says_so_and_the_call_has_a_result(peer: RawPeer) -> None:
    found = result(peer, "tool.call", name="fails")
    assert found["is_error"]
    assert found["content"] == "LookupError: there is no such thing"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "dies: it ended without an answer (exit code 3)"),
        ("kill", "dies: it ended without an answer (ended by SIGKILL)"),
        ("system_exit", "dies: it ended without an answer (exit code 4)"),
        ("babble", "dies: it said a frame of "),
        ("flood", "dies: it said more than 10000 things and was ended"),
    ],
)
def test_a_tool_that_dies_or_babbles_is_tool_failed_and_works_again(
    peer: RawPeer, how: str, words: str
) -> None:
    found = error(peer, "tool.call", name="dies", arguments={"how": how})
    assert found["code"] == "tool_failed"
    assert found["message"].startswith(words)
    assert result(peer, "tool.call", name="dies", arguments={"how": ""})["content"] == "lives"


def test_a_tool_that_hangs_is_ended_at_its_time(peer: RawPeer) -> None:
    found = error(peer, "tool.call", name="hangs")
    assert found == {
        "code": "tool_failed",
        "message": "hangs: took longer than its 1 s and was ended",
        "data": {"tool": "hangs", "bound": "its time is used up"},
    }
    entries = result(peer, "access.audit", event="bounded")["entries"]
    assert [(e["name"], e["by"]) for e in entries] == [("hangs", "its time is used up")]


def test_a_long_result_is_cut_and_says_so(peer: RawPeer) -> None:
    found = result(peer, "tool.call", name="much", arguments={"n": 100_000})
    assert found["content"] == "x" * 4096 + "\n[cut: 100000 bytes, limit is 4096]"
    assert found["structured"] == {"n": 100_000}
    assert found["cut"]


def test_progress_is_streamed(peer: RawPeer) -> None:
    arguments = {"name": "counts", "arguments": {"n": 3}, "stream": True}
    peer.send(wire.encode_request(7, "tool.call", arguments))
    told = []
    while isinstance(message := peer.receive(), wire.Notification):
        told.append(message.params)
    assert isinstance(message, wire.Response)
    assert message.error is None
    assert told[0] == {"id": 7, "progress": 0.0, "total": 3.0, "message": "at 0"}


def wait_for(path: Path) -> list[int]:
    """The pids that forks() wrote."""
    until = time.monotonic() + LIMIT_S
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return [int(word) for word in path.read_text().split()]


def wait_gone(pids: list[int]) -> None:
    until = time.monotonic() + LIMIT_S
    for pid in pids:
        while is_alive(pid):
            assert time.monotonic() < until
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_cancelled_call_ends_with_all_its_processes(peer: RawPeer, place: Path) -> None:
    peer.send(wire.encode_request(8, "tool.call", {"name": "forks", "arguments": {"name": "c"}}))
    pids = wait_for(place / "c")
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    peer.send(wire.encode_notification("cancel", {"id": 8}))
    answer = peer.receive()
    assert isinstance(answer, wire.Response)
    assert code(answer) == "cancelled"
    wait_gone(pids)


def test_a_call_past_its_deadline_or_whose_caller_left_ends_too(
    daemon: Daemon, peer: RawPeer, place: Path
) -> None:
    late = error(peer, "tool.call", name="hangs", deadline_ms=300)
    assert late["code"] == "deadline_exceeded"
    with RawPeer(daemon.config.socket, "bob") as gone:
        call: dict[str, object] = {"name": "forks", "arguments": {"name": "d"}}
        gone.send(wire.encode_request(9, "tool.call", call))
        pids = wait_for(place / "d")
    wait_gone(pids)
    assert result(peer, "tool.call", name="add", arguments={"a": 1})["content"] == "2"


def test_a_call_is_cancelled_in_line(daemon: Daemon, place: Path) -> None:
    with (
        RawPeer(daemon.config.socket, "ada") as first,
        RawPeer(daemon.config.socket, "bob") as second,
    ):
        call: dict[str, object] = {"name": "forks", "arguments": {"name": "e"}}
        first.send(wire.encode_request(1, "tool.call", call))
        wait_for(place / "e")
        second.send(wire.encode_request(2, "tool.call", call))
        until = time.monotonic() + LIMIT_S
        while not daemon.tools.n_waiting("forks"):
            assert time.monotonic() < until
            time.sleep(0.01)
        second.send(wire.encode_notification("cancel", {"id": 2}))
        answer = second.receive()
        assert isinstance(answer, wire.Response)
        assert code(answer) == "cancelled"
        assert daemon.tools.n_waiting("forks") == 0


def test_a_list_of_calls_gives_each_its_own(peer: RawPeer) -> None:
    calls = [
        {"name": "calculator", "arguments": {"expression": "6*7"}},
        {"id": "x", "name": "add", "arguments": {"a": "no"}},
        {"name": "nosuch", "arguments": {}},
        {"name": "dies", "arguments": {"how": "exit"}},
        {"name": "dies", "arguments": {"how": ""}},
    ]
    results = result(peer, "tool.call_all", calls=calls)["results"]
    found = [
        (
            one["id"],
            one["name"],
            one["error"]["code"] if "error" in one else one["result"]["content"],
        )
        for one in results
    ]
    assert found == [
        ("0", "calculator", "42"),
        ("x", "add", "invalid_params"),
        ("2", "nosuch", "not_found"),
        ("3", "dies", "tool_failed"),
        ("4", "dies", "lives"),
    ]


def test_a_tool_can_reach_neither_the_state_nor_the_socket_nor_what_wasnt_granted(
    daemon: Daemon, peer: RawPeer, tmp_path: Path
) -> None:
    state, other = Path(daemon.config.state_dir), tmp_path / "secret"
    other.write_text("secret")
    code = f"""
import os, socket
for path in ({str(state / "aiosd.db")!r}, {str(other)!r}, "/etc/shadow"):
    try:
        print(open(path, "rb").read(3))
    except OSError as error:
        print(error.strerror)
for family, address in ((socket.AF_UNIX, {daemon.config.socket!r}), (socket.AF_INET, ("::1", 9))):
    try:
        socket.socket(family).connect(address)
        print("connected")
    except OSError as error:
        print(error.strerror)
print(sorted(name for name in os.environ if "AIOS" in name.upper()))
"""
    said = result(peer, "tool.call", name="python", arguments={"code": code})["content"]
    lines = said.splitlines()
    assert lines[:3] == ["Permission denied"] * 3
    assert len(lines) == 6
    assert "connected" not in lines
    assert lines[5] == "[]"


def test_what_along_comes_does_what_it_says(peer: RawPeer) -> None:
    def said(name: str, **arguments: Any) -> Any:
        return result(peer, "tool.call", name=name, arguments=arguments)

    assert said("python", code="print(6*7)")["content"] == "42\n"
    broken = said("python", code="1/0")
    assert broken["is_error"]
    assert "ZeroDivisionError" in broken["content"]
    assert broken["content"].endswith("[exit code 1]")
    result(peer, "storage.write", path="sea.txt", data="the harbour at night")
    until = time.monotonic() + LIMIT_S
    while True:  # it is indexed in the background
        found = said("storage_search", query="harbour")
        if found["structured"]["results"]:
            break
        assert time.monotonic() < until
        time.sleep(0.01)
    assert found["structured"]["results"][0]["path"] == "sea.txt"


def test_check_tells_what_a_tool_may_touch(daemon: Daemon, peer: RawPeer, place: Path) -> None:
    found = result(peer, "tool.check", name="forks")
    assert (found["name"], found["source"], found["confined"], found["asks"]) == (
        "forks", "local", True, False,
    )  # fmt: skip
    assert str(place) in found["write"]
    assert found["network"] == "none"
    assert found["kept"]["time"].startswith("60 s for a call")
    assert {*found["kept"], *found["not_kept"]} >= {"memory", "processes", "disk", "file size"}
    assert not result(peer, "tool.check", name="storage_search")["confined"]
    for hidden in ("clock", "nosuch"):
        assert error(peer, "tool.check", name=hidden)["code"] == "not_found"
    with RawPeer(daemon.config.socket, "bot") as bot:
        assert result(bot, "tool.check", name="wipes")["asks"]


def test_a_tool_for_some_agents_isnt_there_for_others(daemon: Daemon, peer: RawPeer) -> None:
    assert "clock" not in [tool["name"] for tool in result(peer, "tool.list")["tools"]]
    hidden = error(peer, "tool.call", name="clock")
    missing = error(peer, "tool.call", name="nosuch")
    assert hidden["code"] == missing["code"] == "not_found"
    assert hidden["message"].replace("clock", "nosuch") == missing["message"]
    with RawPeer(daemon.config.socket, "watchman") as other:
        assert "clock" in [tool["name"] for tool in result(other, "tool.list")["tools"]]
        there = result(other, "tool.call", name="clock", arguments={"timezone": "Asia/Tokyo"})
        assert there["structured"]["utc_offset"] == "+0900"


def test_an_irreversible_tool_waits_for_a_person_who_sees_its_arguments(daemon: Daemon) -> None:
    with (
        RawPeer(daemon.config.socket, "bot") as bot,
        RawPeer(daemon.config.socket, "aiosctl") as person,
    ):
        bot.sock.settimeout(LIMIT_S)
        for who, decided in ((bot, (True, False)), (person, (False, True))):
            told = result(who, "access.check", action="tool.call", target="wipes")
            assert (told["asks"], told["allowed"]) == decided
            told = result(who, "access.check", action="tool.call", target="nosuch")
            assert (told["asks"], told["allowed"]) == (False, False)
        wrong: dict[str, object] = {"name": "wipes", "arguments": {}}
        assert bot.ask("tool.call", **wrong).error is not None  # nobody is asked about that
        assert result(person, "access.pending")["requests"] == []
        for verdict, expected in (("access.approve", None), ("access.deny", "denied")):
            call: dict[str, object] = {"name": "wipes", "arguments": {"disk": "C:"}}
            bot.send(wire.encode_request(5, "tool.call", call))
            asked = bot.receive()
            assert isinstance(asked, wire.Notification)
            [request] = result(person, "access.pending")["requests"]
            assert (request["name"], request["reason"]) == ("wipes", '{"disk": "C:"}')
            result(person, verdict, request=request["request"])
            answer = bot.receive()
            assert isinstance(answer, wire.Response)
            assert (None if answer.error is None else code(answer)) == expected
        call = {"name": "wipes", "arguments": {"disk": "x" * 2000 + "C:"}}
        bot.send(wire.encode_request(5, "tool.call", call))
        bot.receive()
        [request] = result(person, "access.pending")["requests"]
        assert request["reason"].startswith('[the first 1000 of 2014 characters] {"disk": "xxx')
        result(person, "access.deny", request=request["request"])
        assert isinstance(bot.receive(), wire.Response)
        assert result(bot, "tool.call", name="add", arguments={"a": 1})["content"] == "2"


def test_calls_are_counted_and_told_to_who_listens(daemon: Daemon, peer: RawPeer) -> None:
    with RawPeer(daemon.config.socket, "watcher") as watcher:
        watcher.sock.settimeout(LIMIT_S)
        watcher.send(wire.encode_request(3, "sys.events", {"stream": True}))
        assert isinstance(watcher.receive(), wire.Notification)  # it listens
        result(peer, "tool.call", name="fails")
        told = watcher.receive()
        assert isinstance(told, wire.Notification)
        event: Any = told.params
        assert (event["event"], event["name"], event["agent"], event["outcome"]) == (
            "tool", "fails", "ada", "error",
        )  # fmt: skip
    text = result(peer, "sys.metrics")["text"]
    assert 'aiosd_tool_seconds_count{outcome="error",source="local"}' in text


def test_a_reload_finds_new_tools_and_lets_old_ones_go(tmp_path: Path) -> None:
    directory = tmp_path / "tools"
    directory.mkdir()
    head = "from aios_sdk.toolbox import tool\n"
    body = '@tool\ndef {}() -> str:\n    """Say."""\n    return "{}"\n'
    (directory / "a.py").write_text(head + body.format("one", "first"))
    with (
        served(tmp_path, tools=Tools(directory=str(directory))) as daemon,
        RawPeer(daemon.config.socket, "ada") as peer,
    ):
        peer.sock.settimeout(LIMIT_S)
        assert result(peer, "tool.call", name="one")["content"] == "first"
        (directory / "a.py").write_text(head + body.format("two", "second"))
        tools = dataclasses.replace(
            daemon.config.tools, off=("calculator",), tool={"python": ToolRule(agents=("bob",))}
        )
        config = dataclasses.replace(daemon.config, tools=tools)
        asyncio.run_coroutine_threadsafe(daemon.reload(lambda: config), daemon.loop).result(LIMIT_S)
        names = [tool["name"] for tool in result(peer, "tool.list")["tools"]]
        assert {"two", "shell"} <= set(names)
        assert not {"one", "calculator", "python"} & set(names)
        assert result(peer, "tool.call", name="two")["content"] == "second"
        assert error(peer, "tool.call", name="one")["code"] == "not_found"


def test_nothing_of_tools_outlives_the_daemon(tmp_path: Path) -> None:
    others = children()
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "ada") as peer:
        peer.sock.settimeout(LIMIT_S)
        result(peer, "tool.call", name="calculator", arguments={"expression": "1"})
        pids = wait_for_spare(others)
    assert not [pid for pid in pids if is_alive(pid)]


def wait_for_spare(others: set[int]) -> list[int]:
    """The worker that was started ahead."""
    until = time.monotonic() + LIMIT_S
    while not (pids := children() - others):
        assert time.monotonic() < until
        time.sleep(0.01)
    return list(pids)


def children() -> set[int]:
    """Workers of tools that are children of this process."""
    found = set()
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                parent = (each / "stat").read_text().rpartition(")")[2].split()[1]
                command = (each / "cmdline").read_text()
            except OSError:
                continue
            if int(parent) == os.getpid() and "aiosd.services.tools.worker" in command:
                found.add(int(each.name))
    return found


def test_a_worker_that_was_killed_while_it_waited_is_no_failure(tmp_path: Path) -> None:
    others = children()
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket, "ada") as peer:
        peer.sock.settimeout(LIMIT_S)
        ask = {"name": "calculator", "arguments": {"expression": "2+2"}}
        result(peer, "tool.call", **ask)
        pids = wait_for_spare(others)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_gone(pids)
        assert result(peer, "tool.call", **ask)["content"] == "4"
