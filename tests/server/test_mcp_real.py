"""MCP servers that others wrote, in Python and for Node, as a daemon runs them: confined.

They come from PyPI and npm into out/, once; where those can't be reached, or Node is missing, the
tests skip and say so, unless AIOSD_TEST_MCP=must.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from aiosd.confine import landlock
from tests.server.harness import RawPeer, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not landlock.abi(), reason="no Landlock: nothing can be confined"),
]

HERE = Path(__file__).parent
PINS = HERE / "mcp_servers.txt"
NODE_SERVERS = tuple(
    f"@modelcontextprotocol/server-{name}@2026.8.31" for name in ("everything", "filesystem")
)
INSTALL_S = 240
LIMIT_S = 60.0  # far above what anything here takes
PAGE = b"<html><body><h1>Loop</h1><p>A page on this machine.</p></body></html>"


def skip(reason: str) -> None:
    if os.environ.get("AIOSD_TEST_MCP") == "must":
        pytest.fail(reason)
    pytest.skip(reason)


def installed(name: str, key: str, install: Callable[[Path], list[list[str]]]) -> Path:
    """A directory in out/ that the commands have filled; made once for each key."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    place = HERE.parent.parent / "out" / f"mcp-{name}-{digest}"
    if (place / "done").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for command in install(place):
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=INSTALL_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            skip(f"{command[0]}: {error}")
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            skip(f"{Path(command[0]).name} could not install the servers: {said[-1]}")
    (place / "done").touch()
    return place


@pytest.fixture(scope="module")
def venv() -> Path:
    return installed(
        "python",
        PINS.read_text() + sys.version,
        lambda place: [
            [sys.executable, "-m", "venv", str(place)],
            [str(place / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(PINS)],
        ],
    )


@pytest.fixture(scope="module")
def node() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip("node and npm are not installed")
    return installed(
        "node",
        " ".join(NODE_SERVERS),
        lambda place: [
            [
                *("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"),
                *("--prefix", str(place), *NODE_SERVERS),
            ]
        ],
    )


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[RawPeer]:
    state = tmp_path / "daemon"
    state.mkdir()
    with served(state) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.sock.settimeout(LIMIT_S)
        yield peer


def load(peer: RawPeer, name: str, **keys: Any) -> list[str]:
    response: Any = peer.ask("tool.load", name=name, start_s=int(LIMIT_S), **keys)
    if response.error is not None:
        shown: Any = peer.ask("tool.servers", logs=True).result
        raise AssertionError(f"{response.error}: {shown}")
    assert response.result["left_out"] == []
    return list(response.result["tools"])


def python_server(venv: Path, name: str, *args: str, **more: Any) -> dict[str, Any]:
    return {
        "command": str(venv / "bin" / name),
        "args": list(args),
        "read": [str(venv), sys.base_prefix, *more.pop("read", [])],
        **more,
    }


def node_server(node: Path, name: str, *args: str, **more: Any) -> dict[str, Any]:
    program = node / "node_modules" / "@modelcontextprotocol" / f"server-{name}" / "dist/index.js"
    return {
        "command": "node",
        "args": [str(program), *args],
        "read": [str(node), *more.pop("read", [])],
        **more,
    }


def call(peer: RawPeer, tool: str, **arguments: Any) -> Any:
    response: Any = peer.ask("tool.call", name=tool, arguments=arguments)
    assert response.error is None, response.error
    return response.result


def test_time(peer: RawPeer, venv: Path) -> None:
    tools = load(peer, "time", **python_server(venv, "mcp-server-time"))
    assert tools == ["time.get_current_time", "time.convert_time"]
    converted = call(
        peer,
        "time.convert_time",
        source_timezone="UTC",
        time="12:00",
        target_timezone="Asia/Tokyo",
    )
    assert not converted["is_error"]
    assert "T21:00:00+09:00" in converted["content"]
    nowhere = call(peer, "time.get_current_time", timezone="Nowhere/Else")
    assert nowhere["is_error"]
    assert "Nowhere/Else" in nowhere["content"]


def test_git(peer: RawPeer, venv: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / "a.txt").write_text("a\n")
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a"}
    env = {**identity, "GIT_COMMITTER_EMAIL": "a@b"}
    path = str(repository)
    reader = python_server(venv, "mcp-server-git", read=[path], env=env)
    writer = python_server(venv, "mcp-server-git", write=[path], env=env)
    assert "reader.git_status" in load(peer, "reader", **reader)
    load(peer, "writer", **writer)
    assert "a.txt" in call(peer, "reader.git_status", repo_path=path)["content"]
    refused = call(peer, "reader.git_add", repo_path=path, files=["a.txt"])
    assert refused["is_error"]  # it may only read there
    assert not call(peer, "writer.git_add", repo_path=path, files=["a.txt"])["is_error"]
    assert not call(peer, "writer.git_commit", repo_path=path, message="first")["is_error"]
    assert "first" in call(peer, "reader.git_log", repo_path=path)["content"]
    tools: Any = peer.ask("tool.list").result
    irreversible = {tool["name"] for tool in tools["tools"] if tool["irreversible"]}
    assert "writer.git_reset" in irreversible  # it says so of itself


@contextlib.contextmanager
def page() -> Iterator[str]:
    """The address of a page on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/page"
            self.send_response(200 if found else 404)
            self.send_header("content-type", "text/html")
            self.end_headers()
            if found:
                self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/page"
        finally:
            server.shutdown()
            thread.join()


def test_fetch(peer: RawPeer, venv: Path) -> None:
    local = ("mcp-server-fetch", "--allow-private-ips")
    load(peer, "fetch", **python_server(venv, *local, network=True))
    load(peer, "cut", **python_server(venv, *local))
    with page() as url:
        # raw: to make text of a page it would install programs of npm's, which nobody granted.
        fetched = call(peer, "fetch.fetch", url=url, raw=True)
        assert not fetched["is_error"], fetched
        assert "A page on this machine." in fetched["content"]
        refused = call(peer, "cut.fetch", url=url, raw=True)  # it has no network
        assert refused["is_error"]
        assert "A page on this machine." not in refused["content"]


def test_everything_on_node(peer: RawPeer, node: Path) -> None:
    load(peer, "every", **node_server(node, "everything", "stdio"))
    assert "5" in call(peer, "every.get-sum", a=2, b=3)["content"]
    assert "[image: image/png, " in call(peer, "every.get-tiny-image")["content"]
    weather = call(peer, "every.get-structured-content", location="Chicago")
    assert weather["structured"].keys() >= {"temperature", "conditions"}
    environment = call(peer, "every.get-env")["content"]
    assert "AIOSD" not in environment
    chunks, result = stream(
        peer, "every.trigger-long-running-operation", {"duration": 1, "steps": 4}
    )
    assert [c["progress"] for c in chunks] == sorted(c["progress"] for c in chunks)
    assert chunks
    assert {c["total"] for c in chunks} == {4}
    assert not result["is_error"]


def test_everything_lives_on_after_it_was_killed(peer: RawPeer, node: Path) -> None:
    load(peer, "every", **node_server(node, "everything", "stdio"))
    shown: Any = peer.ask("tool.servers").result
    os.kill(shown["servers"][0]["pid"], 9)
    limit = time.monotonic() + LIMIT_S
    while True:
        response: Any = peer.ask("tool.call", name="every.echo", arguments={"message": "again"})
        if response.error is None:
            break
        assert response.error["code"] == "tool_failed"  # it had not been noticed yet
        assert time.monotonic() < limit
    assert "again" in response.result["content"]
    after: Any = peer.ask("tool.servers").result
    assert after["servers"][0]["restarts"] == 1


def test_files_on_node(peer: RawPeer, node: Path, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    (other / "kept").write_text("as it is")
    # The server itself would serve both; what confines it is what was granted.
    served_paths = (str(mine), str(other))
    granted = {"read": [str(other)], "write": [str(mine)]}
    load(peer, "fs", **node_server(node, "filesystem", *served_paths, **granted))
    wrote = call(peer, "fs.write_file", path=str(mine / "a.txt"), content="written")
    assert not wrote["is_error"], wrote
    assert (mine / "a.txt").read_text() == "written"
    read = call(peer, "fs.read_text_file", path=str(mine / "a.txt"))
    assert read["content"] == "written"
    assert call(peer, "fs.read_text_file", path=str(other / "kept"))["content"] == "as it is"
    refused = call(peer, "fs.write_file", path=str(other / "kept"), content="x")
    assert refused["is_error"]
    assert "EACCES" in refused["content"]
    assert (other / "kept").read_text() == "as it is"


def stream(peer: RawPeer, tool: str, arguments: dict[str, Any]) -> tuple[list[Any], Any]:
    """A call's chunks and its result."""
    params = {"name": tool, "arguments": arguments, "stream": True}
    peer.send(wire.encode_request(7, "tool.call", params))
    chunks = []
    while not isinstance(message := peer.receive(), wire.Response):
        assert isinstance(message, wire.Notification)
        chunks.append(message.params)
    assert message.error is None
    return chunks, message.result
