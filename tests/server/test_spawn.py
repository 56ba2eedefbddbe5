"""Agents as processes: real ones, confined, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aios_sdk
from aios_sdk import AsyncClient, Client, Denied, InvalidParams, wire
from aiosd.access_config import Access, AgentRights
from aiosd.confine import landlock
from aiosd.kernel.model import AgentId
from aiosd.server.daemon import Daemon
from aiosd.services.processes import model
from aiosd.spawn_config import SpawnConfig
from tests.server.harness import RawPeer, served
from tests.server.peers import place_for_all

pytestmark = pytest.mark.skipif(not landlock.abi(), reason="no Landlock: nothing can be confined")

SPAWN = SpawnConfig(processes_per_uid=5, log_bytes=16 * 1024, restarts=2, grace_s=20, tokens=9000)
ACCESS = Access(agents={"meek": AgentRights(without=("spawn", "admin"))})
ENV = {"PYTHONPATH": str(Path(aios_sdk.__file__).parents[1])}  # it may be a checkout
PATIENCE_S = 60  # never reached when a test passes
HELLO = """
import json, os, sys
from aios_sdk import Client
client = Client()
"""
WAITS = HELLO + "print('ready', flush=True); os.read(os.pipe()[0], 1)"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("spawn"), spawn=SPAWN, access=ACCESS) as daemon:
        yield daemon
        assert not list(daemon.processes.all(with_ended=False))


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[RawPeer]:
    with entered(daemon, "boss") as peer:
        yield peer
        for process in result(peer, "agent.processes")["processes"]:
            peer.ask("agent.signal", agent=process["agent"], signal="kill")
            result(peer, "agent.wait", agent=process["agent"])


@contextlib.contextmanager
def entered(daemon: Daemon, agent: str) -> Iterator[RawPeer]:
    with RawPeer(daemon.config.socket, agent) as peer:
        peer.sock.settimeout(PATIENCE_S)
        yield peer


def result(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is None, response.error
    return response.result


def error(peer: RawPeer, method: str, **params: Any) -> Any:
    return peer.ask(method, **params).error


def asked(name: str, source: str, **params: Any) -> dict[str, Any]:
    """The params that run a Python program as an agent."""
    program = ["-c", textwrap.dedent(source)]
    return {"name": name, "command": sys.executable, "args": program, "env": ENV, **params}


def spawn(peer: RawPeer, name: str, source: str, **params: Any) -> dict[str, Any]:
    made: dict[str, Any] = result(peer, "agent.spawn", **asked(name, source, **params))
    return made


def output(peer: RawPeer, name: str) -> list[str]:
    """All that it wrote, when it has ended."""
    result(peer, "agent.wait", agent=name)
    return [line["text"] for line in result(peer, "agent.logs", agent=name)["lines"]]


def first_line(peer: RawPeer, name: str) -> str:
    """What it writes first, as soon as it does."""
    peer.send(wire.encode_request(1, "agent.logs", {"agent": name, "stream": True}))
    message = peer.receive()
    assert isinstance(message, wire.Notification), message
    peer.send(wire.encode_notification("cancel", {"id": 1}))
    while not isinstance(peer.receive(), wire.Response):
        pass
    line: Any = message.params
    return str(line["lines"][0]["text"])


def becomes(pid: int, states: str) -> bool:
    """Whether the process comes into one of these states (proc(5)), which takes it a moment."""
    stat = Path(f"/proc/{pid}/stat")
    return eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] in states)


def eventually(holds: Callable[[], bool]) -> bool:
    """Look again and again, until it does."""
    until, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not (held := holds()) and time.monotonic() < until:
        pause.wait(0.01)
    return held


# ---------------------------------------------------------------- who it is


def test_it_has_a_connection_of_its_own_under_its_name(peer: RawPeer, daemon: Daemon) -> None:
    made = spawn(peer, "worker", HELLO + "client.ping(); print(json.dumps(client.hello))")
    ended = result(peer, "agent.wait", agent="worker")
    assert (ended["state"], ended["exit_code"], ended["ended_by"]) == ("ended", 0, "exit")
    assert (ended["process"], ended["parent"]) == (made["process"], "boss")
    hello = json.loads(output(peer, "worker")[0])
    assert (hello["agent"], hello["uid"]) == ("worker", os.getuid())
    assert "llm" in hello["rights"]
    assert "admin" not in hello["rights"]
    assert daemon.agents.get(AgentId(os.getuid(), "worker")) is None


def test_it_cannot_be_anybody_else(peer: RawPeer) -> None:
    program = """
    from aios_sdk import Client, Denied
    try: Client(agent="boss")
    except Denied as refused: print(refused)
    """
    spawn(peer, "worker", program)
    [refused] = output(peer, "worker")
    assert "can't go by the name boss" in refused


def test_a_shell_is_an_agent_too_and_its_python_the_daemons(peer: RawPeer) -> None:
    says = "from aios_sdk import Client; c = Client(); print(c.hello['agent']); c.close()"
    script = f"""
    python -c 'import sys; print(sys.prefix)'
    for n in 1 2; do python -c "{says}"; done
    """
    result(peer, "agent.spawn", name="worker", command="sh", args=["-c", script], env=ENV)
    assert output(peer, "worker") == [sys.prefix, "worker", "worker"]  # one after another


def test_it_sees_neither_socket_nor_state(peer: RawPeer, daemon: Daemon) -> None:
    program = f"""
    import os, socket
    for act in (
        lambda: socket.socket(socket.AF_UNIX).connect({daemon.config.socket!r}),
        lambda: open({daemon.config.state_dir + "/aiosd.db"!r}),
        lambda: os.listdir({daemon.config.state_dir!r}),
        lambda: open("/etc/shadow"),
        lambda: open({__file__!r}),
    ):
        try: print(act())
        except OSError as refused: print(type(refused).__name__)
    """
    spawn(peer, "worker", program)
    assert output(peer, "worker") == ["PermissionError"] * 5
    for path in (daemon.config.state_dir, str(Path(daemon.config.state_dir).parent), "/"):
        refused = error(peer, "agent.spawn", **asked("w2", "", grants={"read": [path]}))
        assert refused["code"] == "invalid_params", path
        assert "daemon's own" in refused["message"]


def test_it_cannot_get_at_the_daemon_or_leave_its_group(peer: RawPeer) -> None:
    program = """
    import os
    daemon = os.getppid()
    for act in (
        lambda: open(f"/proc/{daemon}/environ"),
        lambda: os.listdir(f"/proc/{daemon}/fd"),
        os.setsid,
        lambda: os.setpgid(0, 0),
        lambda: os.kill(daemon, 0),
    ):
        try: print(act())
        except OSError as refused: print(type(refused).__name__)
    """
    spawn(peer, "worker", program)
    said = output(peer, "worker")
    if landlock.abi() < 6:  # signals within a user are then the kernel's to allow
        said.pop()
    assert set(said) == {"PermissionError"}


def test_its_name_is_its_own_while_it_runs(peer: RawPeer, daemon: Daemon) -> None:
    spawn(peer, "worker", WAITS)
    assert first_line(peer, "worker") == "ready"
    with RawPeer(daemon.config.socket, agent=None) as other:
        refused = error(other, "sys.hello", protocol=1, agent="worker")
        assert (refused["code"], "is a process that aiosd runs" in refused["message"]) == (
            "denied",
            True,
        )
        assert other.ask("sys.hello", protocol=1, agent="another").error is None
        assert error(peer, "agent.spawn", **asked("another", ""))["code"] == "exists"
    assert error(peer, "agent.spawn", **asked("worker", ""))["code"] == "exists"
    assert error(peer, "agent.spawn", **asked("aiosctl", ""))["code"] == "denied"
    result(peer, "agent.signal", agent="worker", signal="kill")
    result(peer, "agent.wait", agent="worker")
    with entered(daemon, "worker"):
        pass


def test_its_rights_are_at_most_its_spawners(peer: RawPeer, daemon: Daemon) -> None:
    program = (
        HELLO
        + """
print(client.hello["rights"])
try: client.call("memory.stats")
except Exception as refused: print(refused.code)
"""
    )
    spawn(peer, "worker", program, rights=["llm", "storage"])
    assert output(peer, "worker") == ["['llm', 'storage']", "denied"]
    assert error(peer, "agent.spawn", **asked("w", "", rights=["admin"]))["code"] == "denied"
    with entered(daemon, "meek") as meek:
        refused = error(meek, "agent.spawn", **asked("w", ""))
        assert (refused["code"], refused["data"]) == ("denied", {"right": "spawn"})


def test_it_sees_and_steers_itself_and_those_below_it_alone(peer: RawPeer) -> None:
    program = (
        HELLO
        + """
print(sorted(a["agent"] for a in client.call("agent.list")["agents"]))
for method, params in (
    ("agent.kill", {"agent": "boss"}), ("agent.info", {"agent": "boss"}),
    ("agent.signal", {"agent": "other", "signal": "kill"}), ("agent.logs", {"agent": "other"}),
):
    try: print(client.call(method, **params))
    except Exception as refused: print(refused.code)
"""
    )
    spawn(peer, "other", WAITS)
    spawn(peer, "worker", program)
    assert output(peer, "worker") == ["['worker']", *["not_found"] * 4]
    assert result(peer, "agent.wait", agent="other", timeout_ms=0)["state"] == "running"


# ---------------------------------------------------------------- its life


@pytest.mark.parametrize(
    ("source", "ended"),
    [
        ("import sys; sys.exit(3)", {"exit_code": 3}),
        ("import os; os.kill(os.getpid(), 9)", {"signal": "SIGKILL"}),
        ("pass", {"exit_code": 0}),
    ],
)
def test_how_it_ended_is_told(peer: RawPeer, source: str, ended: dict[str, Any]) -> None:
    spawn(peer, "worker", source)
    info = result(peer, "agent.wait", agent="worker")
    assert {k: v for k, v in info.items() if k in ("exit_code", "signal")} == ended
    assert (info["ended_by"], info["state"]) == ("exit", "ended")
    assert "pid" not in info


def test_what_cannot_be_started_says_why(peer: RawPeer) -> None:
    for params, words in (
        ({"command": "/nowhere/x"}, "/nowhere/x is no program"),
        ({"command": "no-such-thing"}, "no program 'no-such-thing' on the PATH"),
        ({"command": "/etc/passwd"}, "/etc/passwd is no program"),
        ({"command": "true", "env": {"A=B": "x"}}, "is no name of a variable"),
        ({"command": "true", "env": {"AIOSD_SOCKET": "x"}}, "aiosd sets it itself"),
        ({"command": "true", "env": {"A": 1}}, "must be a text"),
        ({"command": "true", "limits": {"memory_bytes": 2**50}}, "[spawn] memory_bytes"),
        ({"command": "true", "cwd": "/nowhere"}, "was not started"),
        ({"command": "true", "grants": {"read": ["/nowhere"]}}, "was not started"),
    ):
        refused = error(peer, "agent.spawn", name="worker", **params)
        assert refused["code"] == "invalid_params"
        assert words in refused["message"]
    assert result(peer, "agent.processes")["processes"] == []


def test_a_failing_one_is_started_again_so_often(
    peer: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "FIRST_DELAY_S", 0.01)
    spawn(peer, "worker", "print('once'); raise SystemExit(1)", restart="on_failure")
    info = result(peer, "agent.wait", agent="worker")
    assert (info["ended_by"], info["restarts"], info["exit_code"]) == ("restarts", 2, 1)
    assert output(peer, "worker") == ["once"] * 3
    spawn(peer, "fine", "print('once')", restart="on_failure")
    assert result(peer, "agent.wait", agent="fine")["ended_by"] == "exit"


def test_each_start_has_a_connection_of_its_own(
    peer: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "FIRST_DELAY_S", 0.01)
    spawn(peer, "worker", HELLO + "print(client.hello['agent'])", restart="always")
    assert output(peer, "worker") == ["worker"] * 3


def test_term_ends_it_and_its_restarts(peer: RawPeer) -> None:
    program = (
        HELLO
        + """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print('ready', flush=True)
signal.pause()
"""
    )
    spawn(peer, "worker", program, restart="always")
    assert first_line(peer, "worker") == "ready"
    result(peer, "agent.signal", agent="worker", signal="term")
    info = result(peer, "agent.wait", agent="worker")
    assert (info["exit_code"], info["ended_by"], info["restarts"]) == (7, "signal", 0)
    refused = error(peer, "agent.signal", agent="worker", signal="term")
    assert refused["code"] == "not_found"


def test_it_can_be_stopped_and_goes_on(peer: RawPeer) -> None:
    pid = spawn(peer, "worker", WAITS)["pid"]
    assert first_line(peer, "worker") == "ready"
    result(peer, "agent.signal", agent="worker", signal="stop")
    assert result(peer, "agent.wait", agent="worker", timeout_ms=0)["state"] == "stopped"
    assert becomes(pid, "T")
    result(peer, "agent.signal", agent="worker", signal="cont")
    assert result(peer, "agent.wait", agent="worker", timeout_ms=0)["state"] == "running"
    assert becomes(pid, "SR")
    result(peer, "agent.signal", agent="worker", signal="stop")
    result(peer, "agent.signal", agent="worker", signal="term")  # also when it is stopped
    assert result(peer, "agent.wait", agent="worker")["signal"] == "SIGTERM"


def test_agent_kill_ends_it(peer: RawPeer) -> None:
    spawn(peer, "worker", WAITS)
    assert first_line(peer, "worker") == "ready"
    result(peer, "agent.kill", agent="worker")
    assert result(peer, "agent.wait", agent="worker")["ended_by"] == "kill"


def test_it_ends_with_the_connection_that_spawned_it(peer: RawPeer, daemon: Daemon) -> None:
    with entered(daemon, "passer") as passer:
        spawn(passer, "bound", WAITS)
        spawn(passer, "free", WAITS, detach=True)
    assert result(peer, "agent.wait", agent="bound")["ended_by"] == "parent"
    assert result(peer, "agent.wait", agent="free", timeout_ms=0)["state"] == "running"


def test_a_tree_is_named_and_ends_from_its_root(peer: RawPeer) -> None:
    program = (
        HELLO
        + f"""
kid = client.spawn("kid", sys.executable, "-c", {WAITS!r}, env={ENV!r})
print(kid.agent, flush=True)
os.read(os.pipe()[0], 1)
"""
    )
    spawn(peer, "root", program)
    assert first_line(peer, "root") == "root.kid"
    assert first_line_of_operator(peer, "root.kid") == "denied"
    processes = result(peer, "agent.processes")["processes"]
    assert [(p["agent"], p["parent"]) for p in processes] == [
        ("root", "boss"),
        ("root.kid", "root"),
    ]
    inspected = result(peer, "agent.inspect", agent="root")
    assert inspected["children"] == ["root.kid"]
    assert inspected["confinement"]["network"] == "none"
    assert "calls" in inspected["confinement"]["kept"]
    result(peer, "agent.signal", agent="root", signal="kill")
    assert result(peer, "agent.wait", agent="root.kid")["ended_by"] == "parent"


def first_line_of_operator(peer: RawPeer, name: str) -> str:
    """What a grandchild writes is its parent's to read."""
    return str(error(peer, "agent.logs", agent=name)["code"])


def test_what_it_was_granted_bounds_what_it_grants(peer: RawPeer, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "f").write_text("hello\n")
    file = str(tmp_path / "own" / "f")
    program = (
        HELLO
        + """
file, *grants = sys.argv[1:]
for grant in grants:
    try: print(client.spawn("kid", "cat", file, read=[grant]).wait()["exit_code"])
    except Exception as refused: print(refused.code)
"""
    )
    args = ["-c", program, file, file, str(tmp_path), "/srv"]
    params = asked("root", "", grants={"read": [str(tmp_path / "own")]})
    result(peer, "agent.spawn", **{**params, "args": args})
    assert output(peer, "root") == ["0", "denied", "denied"]


# ---------------------------------------------------------------- bounds


def test_its_tokens_are_counted_and_bounded(peer: RawPeer) -> None:
    program = (
        HELLO
        + """
from aios_sdk import QuotaExceeded
try: client.generate("Go on", max_tokens=200, ignore_eos=True)
except QuotaExceeded as refused: print(refused.code, refused.data["limit"])
try: client.generate("Go on", max_tokens=1)
except QuotaExceeded as refused: print(refused.code, refused.data["used"] >= 40)
"""
    )
    spawn(peer, "worker", program, limits={"tokens": 40})
    assert output(peer, "worker") == ["quota_exceeded 40", "quota_exceeded True"]
    assert 40 <= result(peer, "agent.wait", agent="worker")["tokens"] < 150


def test_it_has_so_many_jobs_at_once(
    peer: RawPeer, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.model, "delay_s", 0.1)  # the first job lasts until it is cancelled
    program = (
        HELLO
        + """
stream = client.generate_stream("Go on", max_tokens=5000, ignore_eos=True)
next(iter(stream))
try: client.generate("Go on", max_tokens=1)
except Exception as refused: print(refused.code)
"""
    )
    spawn(peer, "worker", program, limits={"jobs": 1})
    assert output(peer, "worker") == ["busy"]


def test_it_has_so_long(peer: RawPeer) -> None:
    spawn(peer, "worker", WAITS, limits={"wall_s": 1}, restart="always")
    info = result(peer, "agent.wait", agent="worker")
    assert (info["ended_by"], info["restarts"]) == ("wall_time", 0)


def test_the_last_of_its_output_is_kept(peer: RawPeer) -> None:
    program = "for i in range(20_000): print(i)\nimport sys; print('end', file=sys.stderr, end='')"
    spawn(peer, "worker", program)
    result(peer, "agent.wait", agent="worker")
    kept = result(peer, "agent.logs", agent="worker", lines=10_000)
    texts = [line["text"] for line in kept["lines"]]
    assert set(texts[-2:]) == {"19999", "end"}
    assert 50 < len(texts) < 130  # 16 KiB, 128 bytes a line beside its text
    assert kept["dropped"] + len(texts) <= 20_001
    assert kept["next"] == 20_001
    assert result(peer, "agent.logs", agent="worker", after=kept["next"])["lines"] == []
    last = result(peer, "agent.logs", agent="worker", lines=1)["lines"]
    assert [line["seq"] for line in last] == [20_001]


def test_who_spawned_it_and_follows_has_every_line(peer: RawPeer) -> None:
    spawn(peer, "worker", "import sys; sys.stdin.read()\nfor i in range(20_000): print(i)")
    peer.send(wire.encode_request(1, "agent.logs", {"agent": "worker", "lines": 0, "stream": True}))
    found: list[str] = []
    while not isinstance(message := peer.receive(), wire.Response):
        assert isinstance(message, wire.Notification)
        lines: Any = message.params
        found += [line["text"] for line in lines["lines"]]
    assert isinstance(message.result, dict)
    lost = message.result["dropped"]  # what it wrote before we followed
    assert found == [str(n) for n in range(20_000 - len(found), 20_000)]
    assert lost <= 20_000 - len(found)


def test_a_storm_of_spawns_meets_its_bound_and_leaves_nothing(
    peer: RawPeer, daemon: Daemon
) -> None:
    storm(peer)  # what is opened once and kept is open now
    before = n_descriptors()
    storm(peer)
    assert eventually(lambda: n_descriptors() <= before)
    assert daemon.access._bound == {}


def storm(peer: RawPeer) -> None:
    for number in range(20):
        params: dict[str, object] = {"name": f"s{number}", "command": "sleep", "args": ["1000"]}
        peer.send(wire.encode_request(number, "agent.spawn", params))
    codes = []
    for _ in range(20):
        answer: Any = peer.receive()
        codes.append(answer.error and answer.error["code"])
    assert sorted(codes, key=str) == [None] * 5 + ["quota_exceeded"] * 15
    running = result(peer, "agent.processes")["processes"]
    assert len(running) == 5
    for process in running:
        result(peer, "agent.kill", agent=process["agent"])
    for process in running:
        result(peer, "agent.wait", agent=process["agent"])
        assert not Path(f"/proc/{process['pid']}").exists()


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is enough


def test_the_configuration_says_which_programs(tmp_path: Path) -> None:
    config = SpawnConfig(commands=("/nowhere/*",))
    with served(tmp_path, spawn=config) as daemon, entered(daemon, "boss") as peer:
        refused = error(peer, "agent.spawn", name="w", command="/bin/sh")
        assert refused["code"] == "denied"
        assert "[spawn] commands" in refused["message"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")
def test_another_users_agent_runs_as_that_user_and_grants_what_is_listed() -> None:
    access = Access(agents={"4001:boss": AgentRights(rights=("spawn",))})
    with (
        place_for_all() as path,
        served(path, access=access, socket_mode=0o666) as daemon,
        RawPeer(daemon.config.socket, "boss", uid=4001) as boss,
        RawPeer(daemon.config.socket, "boss", uid=4002) as stranger,
    ):
        made = result(boss, "agent.spawn", name="worker", command="id", args=["-u"])
        assert output(boss, "worker") == ["4001"]
        for params in ({}, {"process": made["process"]}):
            hidden = error(stranger, "agent.wait", agent="worker", **params)
            assert hidden["code"] == "not_found"
            assert hidden["message"].startswith("agent 'worker' has no process")
        assert error(stranger, "agent.spawn", name="w", command="id")["code"] == "denied"
        grants = {"read": ["/root"]}
        refused = error(boss, "agent.spawn", name="w", command="id", grants=grants)
        assert (refused["code"], "[spawn] doesn't list" in refused["message"]) == ("denied", True)


# ---------------------------------------------------------------- the daemon's end, the SDK


def test_kept_ones_are_started_again_by_the_next_daemon(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, entered(daemon, "boss") as peer:
        spawn(peer, "kept", WAITS, detach=True, restart="always", limits={"jobs": 3})
        spawn(peer, "once", WAITS, detach=True)
        spawn(peer, "ended", "pass", detach=True, restart="always")
        result(peer, "agent.signal", agent="ended", signal="kill")
        result(peer, "agent.wait", agent="ended")
        assert first_line(peer, "kept") == "ready"
    with served(tmp_path) as daemon, entered(daemon, "boss") as peer:
        [kept] = result(peer, "agent.processes")["processes"]
        assert (kept["agent"], kept["state"] in ("starting", "running")) == ("kept", True)
        with entered(daemon, "aiosctl") as operator:
            assert first_line(operator, "kept") == "ready"
            assert result(operator, "agent.inspect", agent="kept")["limits"] == {"jobs": 3}
        result(peer, "agent.kill", agent="kept")
        result(peer, "agent.wait", agent="kept")
    with served(tmp_path) as daemon, entered(daemon, "boss") as peer:
        assert result(peer, "agent.processes", ended=True)["processes"] == []


def test_the_blocking_client_spawns(daemon: Daemon) -> None:
    with Client(daemon.config.socket, "boss", timeout_s=PATIENCE_S) as client:
        program = "print('one'); print('two')"
        worker = client.spawn("worker", "python", "-c", program, limits={"wall_s": 60})
        assert [line["text"] for line in worker.follow()] == ["one", "two"]
        assert worker.wait()["exit_code"] == 0
        assert worker.info()["state"] == "ended"
        assert [line["text"] for line in worker.logs(1)] == ["two"]
        with pytest.raises(InvalidParams, match="is no program"):
            client.spawn("worker", "/nowhere/x")
    with Client(daemon.config.socket, "meek") as client, pytest.raises(Denied):
        client.spawn("worker", "true")


def test_the_asyncio_client_spawns(daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.config.socket, "boss", PATIENCE_S) as client:
            worker = await client.spawn("worker", "cat", "/dev/zero")
            assert (await worker.wait(0))["state"] == "running"
            await worker.signal("kill")
            assert (await worker.wait())["signal"] == "SIGKILL"
            assert [line async for line in worker.follow(0)] == []

    asyncio.run(main())


# ---------------------------------------------------------------- its mailbox


def test_it_and_who_spawned_it_may_write_to_each_other_and_nobody_else(peer: RawPeer) -> None:
    source = """
    [message] = client.ipc.receive(timeout_s=60)
    client.ipc.send(message["from"], message["body"] + 1)
    client.ipc.ack(message)
    """
    spawn(peer, "worker", HELLO + textwrap.dedent(source))
    result(peer, "ipc.send", to="worker", body=41)
    [answer] = result(peer, "ipc.receive", timeout_ms=60_000)["messages"]
    assert (answer["from"], answer["body"]) == ("worker", 42)
    result(peer, "agent.wait", agent="worker")
    assert error(peer, "ipc.send", to="worker", body=0)["code"] == "denied"  # it runs no more
    assert error(peer, "ipc.send", to="meek", body=0)["code"] == "denied"


def test_one_that_used_too_much_is_in_the_audit_with_the_bound(peer: RawPeer) -> None:
    command = {"command": "sh", "args": ["-c", "while :; do :; done"], "limits": {"cpu_s": 1}}
    result(peer, "agent.spawn", name="burner", **command)
    assert result(peer, "agent.wait", agent="burner")["reason"] == "its CPU time is used up"
    entries = result(peer, "access.audit", event="bounded")["entries"]
    assert [(e["kind"], e["name"], e["by"]) for e in entries] == [
        ("agent", "burner", "its CPU time is used up")
    ]


def test_a_spawner_can_wait_for_one_that_ended_long_before_others(tmp_path: Path) -> None:
    config = SpawnConfig(ended_per_uid=1)
    with (
        served(tmp_path, spawn=config) as daemon,
        entered(daemon, "boss") as peer,
        entered(daemon, "other") as other,
    ):

        def run(name: str) -> None:
            result(peer, "agent.spawn", name=name, command="true")
            result(other, "agent.wait", agent=name)

        for name in ("first", "second", "third"):
            run(name)
        assert result(peer, "agent.wait", agent="first")["exit_code"] == 0
        run("fourth")
        gone = error(peer, "agent.wait", agent="first")
        assert gone["code"] == "not_found"  # it was told
        assert result(peer, "agent.wait", agent="second")["exit_code"] == 0
        for name in ("fifth", "sixth", "seventh"):
            run(name)
        assert error(peer, "agent.wait", agent="third")["code"] == "not_found"  # too long ago
