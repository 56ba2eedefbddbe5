"""One connection and all a peer can get wrong: a named error for it, and nobody else notices."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_sdk import wire
from aios_sdk.syscalls import TABLE
from aiosd import __version__
from aiosd.config import Limits
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer, served


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("d")) as daemon:
        yield daemon


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[RawPeer]:
    with RawPeer(daemon.config.socket) as peer:
        yield peer


def code(response: wire.Response) -> Any:
    assert isinstance(response.error, dict)
    return response.error["code"]


def error_of(message: wire.Message | None) -> Any:
    assert isinstance(message, wire.Notification)
    assert message.method == "error"
    return message.params["code"]


def test_hello_tells_versions_limits_and_rights(daemon: Daemon) -> None:
    with RawPeer(daemon.config.socket, agent=None) as peer:
        hello: Any = peer.ask("sys.hello", protocol=1, agent="me").result
    assert hello["protocol"] == 1
    assert hello["server"]["name"] == "aiosd"
    assert (hello["uid"], hello["agent"]) == (os.getuid(), "me")
    assert set(hello["rights"]) == {
        "llm",
        "context",
        "memory",
        "storage",
        "tool",
        "ipc",
        "spawn",
        "admin",
    }
    assert hello["limits"]["frame_bytes"] == 8 * 1024 * 1024


def test_before_hello_nothing_else_is_answered(daemon: Daemon) -> None:
    with RawPeer(daemon.config.socket, agent=None) as peer:
        assert code(peer.ask("sys.ping")) == "protocol"
        assert peer.ask("sys.hello", protocol=1, agent="late").error is None
        assert peer.ask("sys.ping").result == {}


def test_a_second_hello_is_an_error_and_the_connection_stays(peer: RawPeer) -> None:
    assert code(peer.ask("sys.hello", protocol=1, agent="other")) == "protocol"
    assert peer.ask("sys.ping").result == {}


@pytest.mark.parametrize("agent", ["", "a b", "ä", "a\n", "x" * 65, "../a", 5, None])
def test_a_bad_agent_name_is_refused(daemon: Daemon, agent: object) -> None:
    with RawPeer(daemon.config.socket, agent=None) as peer:
        answer = peer.ask("sys.hello", protocol=1, agent=agent)
    assert code(answer) == "invalid_params"


@pytest.mark.parametrize(
    ("hello", "advice"),
    [
        ({"protocol": 2, "agent": "me"}, "update the daemon (aiosd)"),
        ({"protocol": 2, "agent": {"name": "me"}, "new": 1}, "update the daemon (aiosd)"),
        ({"protocol": 0, "agent": "me"}, "update the client (aios-sdk"),
    ],
)
def test_another_protocol_is_refused_with_the_one_spoken_and_who_is_to_update(
    daemon: Daemon, hello: dict[str, Any], advice: str
) -> None:
    with RawPeer(daemon.config.socket, agent=None) as peer:
        error: Any = peer.ask("sys.hello", **hello).error
        assert error["code"] == "protocol"
        assert error["data"] == {"protocol": 1, "version": __version__}
        assert f"the client speaks protocol {hello['protocol']}, this daemon" in error["message"]
        assert advice in error["message"]
        assert peer.ask("sys.hello", protocol=1, agent="me").error is None


def test_an_unknown_method_is_named(peer: RawPeer) -> None:
    error: Any = peer.ask("llm.dream").error
    assert error["code"] == "unknown_method"
    assert "llm.dream" in error["message"]


def test_an_unknown_param_is_named(peer: RawPeer) -> None:
    error: Any = peer.ask("llm.generate", prompt="x", max_token=3).error
    assert error["code"] == "invalid_params"
    assert error["data"]["field"] == "max_token"
    assert "max_tokens" in error["message"]


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    2**63,
    "",
    "\0",
    b"\xff",
    [],
    [[]],
    {},
    {"a": {}},
    "x" * 3000,
)


@pytest.mark.parametrize(
    "method", [name for name in TABLE if name not in ("agent.kill", "sys.hello")]
)
def test_no_value_of_any_param_of_any_call_is_a_bug_of_ours(peer: RawPeer, method: str) -> None:
    for param in TABLE[method].params:
        for value in WRONG:
            others = {
                p.name: {"text": "x", "tokens": [1], "priority": "normal"}.get(p.name, "x")
                for p in TABLE[method].params
                if p.is_required and p.name != param.name
            }
            if param.name == "stream":
                continue
            answer = peer.ask(method, **others, **{param.name: value})
            if answer.error is not None:
                known = ("invalid_params", "not_found", "context_full", "denied", "tool_failed")
                assert code(answer) in known, (param.name, value)
                assert code(answer) != "internal"
    assert peer.ask("sys.ping").result == {}


def test_an_id_in_flight_is_refused_and_the_call_goes_on(peer: RawPeer) -> None:
    request = wire.encode_request(7, "llm.tokenize", {"text": "hello"})
    peer.send(request + request)
    first, second = peer.receive(), peer.receive()
    assert error_of(first) == "protocol"
    assert isinstance(second, wire.Response)
    assert second.error is None


def test_a_frame_that_is_no_message_is_answered_by_id_where_it_has_one(peer: RawPeer) -> None:
    peer.send(msgpack.packb([0, 9, "sys.ping", "no array"]))
    answer = peer.receive()
    assert isinstance(answer, wire.Response)
    assert (answer.id, code(answer)) == (9, "protocol")
    peer.send(msgpack.packb({"what": "is this"}) if False else msgpack.packb([5, 5, 5]))
    assert error_of(peer.receive()) == "protocol"
    assert peer.ask("sys.ping").result == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 200,
        b"\x94\x00\x01\xa8sys.ping" + b"\x91" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_stream_that_makes_no_sense_gets_one_error_and_is_closed(
    peer: RawPeer, data: bytes
) -> None:
    peer.send(data)
    assert error_of(peer.receive()) in ("protocol", "too_large")
    assert peer.receive() is None


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=600), split=st.integers(1, 50))
def test_any_bytes_whatever_leave_an_honest_client_undisturbed(
    daemon: Daemon, peer: RawPeer, data: bytes, split: int
) -> None:
    with RawPeer(daemon.config.socket) as rogue:
        try:
            for start in range(0, len(data), split):
                rogue.send(data[start : start + split])
        except BrokenPipeError:
            pass  # it was closed already
    assert peer.ask("sys.ping").result == {}


def test_a_flood_of_nonsense_is_cut_off(peer: RawPeer) -> None:
    peer.send(b"\x90" * 10_000)
    n_answers = 0
    while (message := peer.receive()) is not None:
        assert error_of(message) == "protocol"
        n_answers += 1
    assert n_answers == 66  # one each, and the last word


def test_a_frame_past_the_limit_is_refused_when_its_header_is_read(tmp_path: Path) -> None:
    limits = dataclasses.replace(Limits(), frame_bytes=10_000)
    with served(tmp_path, limits=limits) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(b"\x94\x00\x01\xa8sys.ping\x91\x81\xa1x\xdb" + struct.pack(">I", 20_000))
        message = peer.receive()
        assert error_of(message) == "too_large"
        assert peer.receive() is None


def test_half_a_frame_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    limits = dataclasses.replace(Limits(), half_frame_s=1)
    with served(tmp_path, limits=limits) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(wire.encode_request(1, "sys.ping", {})[:-1])
        assert error_of(peer.receive()) == "protocol"
        assert peer.receive() is None


def test_a_peer_that_never_says_hello_is_closed(tmp_path: Path) -> None:
    limits = dataclasses.replace(Limits(), hello_s=1)
    with (
        served(tmp_path, limits=limits) as daemon,
        RawPeer(daemon.config.socket, agent=None) as peer,
    ):
        assert error_of(peer.receive()) == "protocol"
        assert peer.receive() is None


def test_connections_of_a_uid_are_limited_and_say_so(tmp_path: Path) -> None:
    limits = dataclasses.replace(Limits(), connections_per_uid=2)
    with served(tmp_path, limits=limits) as daemon:
        path = daemon.config.socket
        with RawPeer(path), RawPeer(path), RawPeer(path, agent=None) as third:
            assert error_of(third.receive()) == "quota_exceeded"
            assert third.receive() is None


def test_calls_in_flight_on_a_connection_are_limited(tmp_path: Path) -> None:
    limits = dataclasses.replace(Limits(), calls_per_connection=2)
    with served(tmp_path, limits=limits) as daemon, RawPeer(daemon.config.socket) as peer:
        peer.send(
            b"".join(wire.encode_request(n, "llm.tokenize", {"text": "x" * 50}) for n in range(3))
        )
        answers = {
            m.id: m.error
            for m in (peer.receive() for _ in range(3))
            if isinstance(m, wire.Response)
        }
        assert answers[0] is None
        assert answers[1] is None
        assert isinstance(answers[2], dict)
        assert answers[2]["code"] == "busy"
        assert answers[2]["data"]["retry_after_ms"] > 0


def test_notifications_and_responses_nobody_asked_for_are_told_so(peer: RawPeer) -> None:
    peer.send(wire.encode_notification("hello", {}))
    assert error_of(peer.receive()) == "protocol"
    peer.send(wire.encode_response(3, None, {}))
    assert error_of(peer.receive()) == "protocol"
    peer.send(wire.encode_notification("cancel", {}))
    assert error_of(peer.receive()) == "protocol"


def test_a_cancel_that_finds_nothing_is_a_race_not_an_error(peer: RawPeer) -> None:
    peer.send(wire.encode_notification("cancel", {"id": 12345}))
    peer.send(wire.encode_notification("cancel", {"tag": "none"}))
    assert peer.ask("sys.ping").result == {}


def test_every_syscall_of_the_table_has_a_handler(daemon: Daemon) -> None:
    assert daemon.syscalls.handlers.keys() == TABLE.keys()


def test_describe_lists_the_table(peer: RawPeer) -> None:
    result: Any = peer.ask("sys.describe").result
    assert [s["name"] for s in result["syscalls"]] == list(TABLE)
    assert {"invalid_params", "busy", "internal"} <= {e["code"] for e in result["errors"]}
