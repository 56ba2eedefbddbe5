"""The error tree: code <-> class, and whatever a peer sends as an error."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sdk import errors
from aios_sdk.errors import ERRORS, AiosError, Busy, InvalidParams, SyscallError, from_wire

CODES = [
    "invalid_params",
    "unknown_method",
    "protocol",
    "not_found",
    "exists",
    "denied",
    "busy",
    "quota_exceeded",
    "too_large",
    "context_full",
    "cancelled",
    "deadline_exceeded",
    "engine_failed",
    "tool_failed",
    "unavailable",
    "internal",
]


def test_there_is_one_class_for_each_code() -> None:
    assert list(ERRORS) == CODES
    assert len(set(ERRORS.values())) == 16
    assert all(cls.code == code for code, cls in ERRORS.items())
    assert all("\n" not in cls.summary and cls.summary for cls in ERRORS.values())


@pytest.mark.parametrize("code", CODES)
def test_an_error_comes_back_as_it_was_sent(code: str) -> None:
    sent = ERRORS[code]("what happened", field="x", limit=3)
    assert sent.to_wire() == {
        "code": code,
        "message": "what happened",
        "data": {"field": "x", "limit": 3},
    }
    got = from_wire(sent.to_wire())
    assert type(got) is ERRORS[code]
    assert (got.code, got.message, got.data, str(got)) == (
        code,
        "what happened",
        {"field": "x", "limit": 3},
        "what happened",
    )


def test_without_data_none_is_sent() -> None:
    assert Busy("m").to_wire() == {"code": "busy", "message": "m"}
    assert from_wire({"code": "busy", "message": "m"}).data == {}


def test_data_may_be_called_message_or_self() -> None:
    assert InvalidParams("m", message="x", self=1).data == {"message": "x", "self": 1}


def test_an_unknown_code_is_kept() -> None:
    got = from_wire({"code": "on_fire", "message": "m", "data": {"a": 1}})
    assert type(got) is SyscallError
    assert (got.code, got.message, got.data) == ("on_fire", "m", {"a": 1})
    assert got.to_wire()["code"] == "on_fire"
    assert SyscallError.code == "internal"  # the class is unharmed


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        ("a string", "a string"),
        (None, "None"),
        (7, "7"),
        ([1, "two"], "[1, 'two']"),
        ({}, "(the error carried no message)"),
        ({"code": 5, "message": "m"}, "m"),
        ({"code": None, "message": ["m"]}, "['m']"),
        ({"code": "busy", "message": "x" * 10_000}, "x" * 4096),
        ({"code": "busy", "message": "m", "data": [1]}, "m"),
        ({"code": "busy", "message": "m", "data": {1: 2}}, "m"),
    ],
)
def test_garbage_is_an_error_too(garbage: object, message: str) -> None:
    got = from_wire(garbage)
    assert isinstance(got, SyscallError)
    assert got.message == message
    assert got.data == {}


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["code", "message", "data"]) | st.text(), inner)
    ),
)


@given(ANYTHING)
def test_from_wire_takes_anything(obj: object) -> None:
    got = from_wire(obj)
    assert isinstance(got.message, str)
    assert isinstance(got.code, str)
    assert all(isinstance(key, str) for key in got.data)


def test_from_wire_takes_what_cannot_be_shown() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert from_wire(deep).message == "(an error of type list)"
    while deep:  # taken apart here, so that no destructor recurses
        deep = deep[0]  # type: ignore[assignment]


def test_client_errors_say_where_and_what_to_do() -> None:
    no_daemon = errors.NoDaemon("/run/x.sock", "there is no socket")
    assert str(no_daemon) == (
        "no daemon at /run/x.sock (there is no socket): "
        "start aiosd, or name its socket in AIOSD_SOCKET"
    )
    assert "aiosd" in str(errors.SocketDenied("/run/x.sock"))
    newer = str(errors.VersionMismatch("/x", 1, 2, "0.9.0"))
    assert "(aiosd 0.9.0) speaks protocol 2, this client speaks 1: update this client" in newer
    older = str(errors.VersionMismatch("/x", 2, 1))
    assert "/x speaks protocol 1, this client speaks 2: update the daemon" in older
    assert "is it an aiosd?" in str(errors.VersionMismatch("/x", 1, None))
    for cls in (errors.NoDaemon, errors.SocketDenied, errors.ConnectionLost):
        assert issubclass(cls, AiosError)
        assert not issubclass(cls, SyscallError)


def test_a_syscall_error_can_cross_to_another_process() -> None:
    got = pickle.loads(pickle.dumps(InvalidParams("m", field="x")))  # noqa: S301 - our own bytes
    assert (got.message, got.data) == ("m", {"field": "x"})
