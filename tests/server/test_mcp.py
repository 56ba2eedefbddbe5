"""MCP servers of a daemon: from its configuration, by tool.load, through a reload."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiosd.confine import landlock
from aiosd.mcp_config import parse
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer, served
from tests.services.tools.mcp_programs import program

pytestmark = pytest.mark.skipif(not landlock.abi(), reason="no Landlock: nothing can be confined")
LIMIT_S = 60.0  # far above what anything here takes


def connected(daemon: Daemon) -> RawPeer:
    peer = RawPeer(daemon.config.socket)
    peer.sock.settimeout(LIMIT_S)
    return peer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiosd.services.tools import mcp_stdio

    monkeypatch.setattr(mcp_stdio, "LEAVE_S", 0.2)


def done(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is None
    return response.result


def error(peer: RawPeer, method: str, **params: Any) -> Any:
    response: Any = peer.ask(method, **params)
    return response.error


def tools(peer: RawPeer) -> list[str]:
    return [tool["name"] for tool in done(peer, "tool.list")["tools"] if "." in tool["name"]]


def servers(peer: RawPeer, **params: Any) -> dict[str, dict[str, Any]]:
    return {s["name"]: s for s in done(peer, "tool.servers", **params)["servers"]}


def until(is_so: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_loaded_server_is_called_watched_and_unloaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path) as daemon, connected(daemon) as peer:
        loaded = done(peer, "tool.load", name="my", **program("mcp_everything.py", "stdio"))
        assert "my.echo" in loaded["tools"]
        assert tools(peer) == loaded["tools"]
        answer = done(peer, "tool.call", name="my.echo", arguments={"text": "hello"})
        assert (answer["content"], answer["is_error"]) == ("hello", False)
        wrong = error(peer, "tool.call", name="my.echo", arguments={"text": 3})
        assert (wrong["code"], wrong["data"]["field"]) == ("invalid_params", "arguments.text")
        died = error(peer, "tool.call", name="my.die")
        assert died["code"] == "tool_failed"
        assert "was lost during the call" in died["message"]
        again = done(peer, "tool.call", name="my.echo", arguments={"text": "again"})
        assert again["content"] == "again"
        shown = servers(peer, logs=True)["my"]
        assert (shown["state"], shown["over"], shown["is_loaded"]) == ("running", "stdio", True)
        assert shown["restarts"] == 1
        assert shown["last_error"] == "it ended the connection (exit code 7)"
        assert "I die" in shown["log"]
        assert error(peer, "tool.load", name="my", command="x")["code"] == "exists"
        done(peer, "tool.unload", name="my")
        assert tools(peer) == []
        assert servers(peer) == {}
        assert error(peer, "tool.unload", name="my")["code"] == "not_found"
        assert (
            error(peer, "tool.call", name="my.echo", arguments={"text": ""})["code"] == "not_found"
        )


def test_what_fails_to_load_is_not_kept_and_says_why(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, connected(daemon) as peer:
        failed = error(peer, "tool.load", name="x", command="/bin/false")
        assert failed["code"] == "tool_failed"
        assert failed["message"] == (
            "MCP server 'x' did not start: it ended the connection (exit code 1)"
        )
        neither = error(peer, "tool.load", name="x")
        assert neither["message"] == (
            "the server has neither a command nor a url, expected one of them"
        )
        slow = error(peer, "tool.load", name="x", command="x", timeout_s=10**6)
        assert slow["message"] == "timeout_s is 1000000, the limit is 86400"
        state = str(Path(daemon.config.state_dir))
        spying = error(peer, "tool.load", name="x", command="/bin/cat", read=[state])
        assert spying["code"] == "tool_failed"
        assert state in spying["message"]
        assert servers(peer) == {}


def test_servers_of_the_configuration_do_not_hold_up_the_start(tmp_path: Path) -> None:
    configured = {
        "silent": program("mcp_rude.py", "silent"),
        "good": program("mcp_everything.py", "stdio", irreversible=["echo"]),
    }
    with served(tmp_path, mcp=configured) as daemon, connected(daemon) as peer:
        assert servers(peer)["silent"]["state"] == "starting"
        until(lambda: "good.echo" in tools(peer))
        listed = done(peer, "tool.list")["tools"]
        echo = next(tool for tool in listed if tool["name"] == "good.echo")
        assert (echo["source"], echo["irreversible"]) == ("good", True)
        refused = error(peer, "tool.unload", name="good")
        assert refused["code"] == "denied"
        assert servers(peer)["good"]["is_loaded"] is False


def test_a_reload_starts_what_is_new_ends_what_is_gone_and_leaves_the_rest(tmp_path: Path) -> None:
    configured = {
        "stays": program("mcp_rude.py", "greeting"),
        "goes": program("mcp_rude.py", "greeting"),
    }
    with served(tmp_path, mcp=configured) as daemon, connected(daemon) as peer:
        done(peer, "tool.load", name="own", **program("mcp_rude.py", "x"))
        until(lambda: sorted(tools(peer)) == ["goes.fine", "own.fine", "stays.fine"])
        before = servers(peer)
        new = dict(daemon.config.mcp)
        del new["goes"]
        new["comes"] = parse(program("mcp_rude.py", "greeting"), "")
        config = dataclasses.replace(daemon.config, mcp=new)
        reloading = asyncio.run_coroutine_threadsafe(daemon.reload(lambda: config), daemon.loop)
        reloading.result(LIMIT_S)
        until(lambda: sorted(tools(peer)) == ["comes.fine", "own.fine", "stays.fine"])
        after = servers(peer)
        assert after["stays"]["pid"] == before["stays"]["pid"]
        assert after["own"]["pid"] == before["own"]["pid"]


def test_a_reload_while_the_daemon_leaves_starts_nothing(tmp_path: Path) -> None:
    configured = {"a": program("mcp_rude.py", "greeting")}
    with served(tmp_path, mcp=configured) as daemon, connected(daemon) as peer:
        until(lambda: tools(peer) == ["a.fine"])

        async def leave() -> None:
            await daemon.mcp.close()
            await daemon.mcp.configure(daemon.config.mcp)
            assert daemon.mcp.all() == []

        asyncio.run_coroutine_threadsafe(leave(), daemon.loop).result(LIMIT_S)
        assert error(peer, "tool.load", name="b", command="/bin/cat")["code"] == "unavailable"


def test_without_a_server_the_sdk_is_not_imported() -> None:
    look = "import sys, aiosd.server.daemon; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
