"""The wire: what a frame may be, whatever bytes come, however they are cut."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aios_sdk import wire
from aios_sdk.wire import (
    Decoder,
    EncodeError,
    Limits,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    WireError,
    encode_notification,
    encode_request,
    encode_response,
)

SMALL = Limits(frame_bytes=1000, depth=6, items=50)


def decode(*pieces: bytes, limits: Limits = SMALL) -> tuple[list[Message], str | None]:
    """All messages, and what WireError said if it came."""
    decoder, messages = Decoder(limits), []
    for piece in pieces:
        try:
            messages += decoder.feed(piece)
        except WireError as error:
            return messages + error.messages, str(error)
    return messages, None


def pack(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


# ---------------------------------------------------------------- messages


def test_the_three_kinds_of_message_come_back_as_they_were_sent() -> None:
    assert decode(
        encode_request(7, "sys.ping", {})
        + encode_request(2**32 - 1, "llm.tokenize", {"text": "ü", "raw": b"\xff"})
        + encode_response(7, None, {"a": [1, 2.5, None]})
        + encode_response(8, {"code": "busy", "message": "m"}, None)
        + encode_notification("cancel", {"id": 7})
    ) == (
        [
            Request(7, "sys.ping", {}),
            Request(2**32 - 1, "llm.tokenize", {"text": "ü", "raw": b"\xff"}),
            Response(7, None, {"a": [1, 2.5, None]}),
            Response(8, {"code": "busy", "message": "m"}, None),
            Notification("cancel", {"id": 7}),
        ],
        None,
    )


@pytest.mark.parametrize(
    ("frame", "id_"),
    [
        ([], None),
        ([0], None),
        ([0, 5], 5),
        ([0, 5, "m"], 5),
        ([0, 5, "m", {}], 5),
        ([0, 5, "m", None], 5),
        ([0, 5, "m", [1]], 5),
        ([0, 5, "m", [{}, {}]], 5),
        ([0, 5, 6, [{}]], 5),
        ([0, 5, b"m", [{}]], 5),
        ([0, 5, "m", [{}], 1], 5),
        ([0, True, "m", [{}]], None),
        ([0, -1, "m", [{}]], None),
        ([0, 2**32, "m", [{}]], None),
        ([0, 1.0, "m", [{}]], None),
        ([0, "5", "m", [{}]], None),
        ([False, 5, "m", [{}]], None),
        ([1, 5, None], None),
        ([1, -5, None, None], None),
        ([2, "m", [1]], None),
        ([2, 5, [{}]], None),
        ([3, 5, "m", [{}]], None),
    ],
)
def test_a_frame_of_another_shape_is_malformed_with_its_id(frame: object, id_: int | None) -> None:
    after = Request(1, "sys.ping", {})
    messages, fault = decode(pack(frame) + encode_request(1, "sys.ping", {}))
    assert fault is None
    assert [type(m) for m in messages] == [Malformed, Request]
    assert isinstance(messages[0], Malformed)
    assert messages[0].id == id_
    assert messages[1] == after


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (b"\x91\x81\x01\x02", "int is not allowed for map key"),
        (b"\x91\x81\x90\x02", "list is not allowed for map key"),
        (b"\x91\x81\xa1a\xa2\xff\xfe", "not UTF-8"),
        (b"\x91\x81\xa1a\xa3\xed\xa0\x80", "not UTF-8"),  # a lone surrogate
        (b"\x91\x81\xa1a\xd4\x01\x00", "extension type"),
        (b"\x91\x81\xa1a\xd6\xff\x00\x00\x00\x00", "extension type"),  # a timestamp
        (b"\x91\x81\xa1a\xc7\x03\x05abc", "extension type"),
    ],
)
def test_content_that_no_call_takes_is_malformed_with_its_id(params: bytes, says: str) -> None:
    frame = b"\x94\x00\xce\x00\x00\x00\x05\xa1m" + params
    messages, fault = decode(frame + encode_request(1, "sys.ping", {}))
    assert fault is None
    assert isinstance(messages[0], Malformed)
    assert messages[0].id == 5
    assert says in messages[0].message
    assert messages[1] == Request(1, "sys.ping", {})


def test_of_equal_keys_the_last_counts_and_bytes_may_be_keys() -> None:
    frame = b"\x94\x00\x05\xa1m\x91\x83\xa1a\x01\xa1a\x02\xc4\x01b\x03"
    assert decode(frame) == ([Request(5, "m", {"a": 2, b"b": 3})], None)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xc1", "a frame begins with byte 0xc1"),
        (b"\x94\xc1", "0xc1"),
        (b"GET / HTTP/1.1", "a frame begins with byte 0x47"),
        (b"\x81\xa1a\x01", "a frame begins with byte 0x81"),
        (b"\xc0", "a frame begins with byte 0xc0"),
        # Headers that declare too much are refused when they are read, with nothing after them.
        (b"\xdd\xff\xff\xff\xff", "a frame of 4294967295 values or more, the limit is 50"),
        (b"\xdc\x00\x33", "a frame of 51 values or more"),
        (b"\x94\xdf\x00\x00\x00\x1a", "a frame of 56 values or more"),  # 4 and 26 pairs
        (b"\x94\xdb\x00\x00\x04\x00", "a frame of 1030 bytes or more, the limit is 1000"),
        (b"\x94\xc6\xff\xff\xff\xff", "a frame of 4294967301 bytes or more"),
        (b"\x94\xc9\xff\xff\xff\xff\x01", "bytes or more"),
        (b"\x94\xda\x03\xe8", "bytes or more"),
        (b"\x91" * 7, "nested deeper than 6"),
        (b"\x91" + b"\x81\xa1a" * 6, "nested deeper than 6"),
        (b"\x94" + b"\x9f" + b"\x90" * 15 + b"\x9f" + b"\x90" * 15 + b"\x9f" + b"\x90" * 14, ""),
    ],
)
def test_a_stream_past_a_limit_is_refused_at_once(data: bytes, says: str) -> None:
    if not says:
        assert decode(data) == ([], None)  # 49 values: one more would be too many
        return
    ping = encode_request(1, "sys.ping", {})
    messages, fault = decode(ping + data)
    assert messages == [Request(1, "sys.ping", {})]
    assert fault is not None
    assert says in fault


def test_a_frame_of_just_the_limit_passes() -> None:
    head = len(encode_request(5, "m", {"t": "x" * 900})) - 900
    fits = encode_request(5, "m", {"t": "x" * (1000 - head)})
    assert len(fits) == 1000
    assert decode(fits)[1] is None
    assert decode(encode_request(5, "m", {"t": "x" * (1001 - head)}))[1] == (
        "a frame of 1001 bytes or more, the limit is 1000"
    )


def test_after_a_fault_the_decoder_is_dead_and_holds_nothing() -> None:
    decoder = Decoder()
    decoder.feed(b"\x94\xda\x10\x00" + b"x" * 100)
    assert decoder.buffered_bytes == 104
    with pytest.raises(WireError):
        decoder.feed(b"x" * 4000 + b"\xc1")
    assert decoder.buffered_bytes == 0
    with pytest.raises(WireError, match="failed before"):
        decoder.feed(encode_request(1, "sys.ping", {}))


def test_the_default_limits_take_a_full_frame_of_tokens_and_no_nested_bomb() -> None:
    tokens = list(range(131_072))
    [message] = Decoder().feed(encode_request(1, "llm.generate", {"tokens": tokens}))
    assert isinstance(message, Request)
    assert message.params["tokens"] == tokens
    bomb = b"\xdd\x00\x01\x00\x00" * 60  # 300 bytes that declare 4 million values, one in another
    with pytest.raises(WireError, match="values or more"):
        Decoder().feed(bomb)


# ---------------------------------------------------------------- whatever comes

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.builds(Request, st.integers(0, 2**32 - 1), st.text(), st.dictionaries(st.text(), VALUES)),
    st.builds(Response, st.integers(0, 2**32 - 1), VALUES, VALUES),
    st.builds(Notification, st.text(), st.dictionaries(st.text(), VALUES)),
)


def encode(message: Message) -> bytes:
    match message:
        case Request(id_, method, params):
            return encode_request(id_, method, params)  # type: ignore[arg-type]  # keys are text
        case Response(id_, error, result):
            return encode_response(id_, error, result)
        case Notification(method, params):
            return encode_notification(method, params)  # type: ignore[arg-type]  # likewise
        case Malformed():
            raise AssertionError
    raise AssertionError


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(MESSAGES, max_size=4), st.lists(st.integers(0), max_size=8))
def test_any_split_of_a_stream_gives_the_same_messages(
    messages: list[Message], at: list[int]
) -> None:
    data = b"".join(encode(message) for message in messages)
    assert decode(*cut(data, at), limits=Limits()) == (messages, None)
    assert decode(*[bytes([b]) for b in data], limits=Limits()) == (messages, None)


HEADERS = st.sampled_from(
    [
        b"\x94",
        b"\x93",
        b"\x00\x05",
        b"\xa1m",
        b"\x91\x80",
        b"\xdd",
        b"\xdf",
        b"\xc7",
        b"\xff",
        b"\xc1",
    ]
)


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=200) | st.lists(HEADERS | st.binary(max_size=6), max_size=40).map(b"".join),
    st.lists(st.integers(0), max_size=8),
)
@example(b"\x94\x00\x05\xa1m\xdc", [4])
@example(b"\x90" * 50, [3])
@example(b"\x91\xd4\xff\x00\x91\xd5\xff\x00\x00", [])
def test_nothing_but_wire_errors_leaves_the_decoder_however_the_bytes_are_cut(
    data: bytes, at: list[int]
) -> None:
    whole = decode(data)
    for pieces in (cut(data, at), [bytes([b]) for b in data]):
        messages, fault = decode(*pieces)
        assert repr(messages) == repr(whole[0])  # a NaN is not equal to itself
        assert (fault is None) == (whole[1] is None)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(MESSAGES, min_size=1, max_size=3), st.integers(0), st.integers(0, 255))
def test_one_wrong_byte_never_does_more_than_a_wire_error(
    messages: list[Message], place: int, byte: int
) -> None:
    data = bytearray(b"".join(encode(message) for message in messages))
    data[place % len(data)] = byte
    decode(bytes(data), limits=Limits())


def test_a_frame_in_small_pieces_costs_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in headers looked at: each is read once, or twice when it was cut."""
    looked_at: list[int] = []

    class Counting(list[int]):
        def __getitem__(self, index: Any) -> Any:
            looked_at.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(wire, "_SIZE", Counting(wire._SIZE))
    frame = encode_request(1, "m", {"tokens": list(range(300, 5300)), "text": "x" * 100_000})
    decoder = Decoder()
    messages = [m for i in range(0, len(frame), 64) for m in decoder.feed(frame[i : i + 64])]
    assert len(messages) == 1
    assert 5000 <= len(looked_at) <= 5400


# ---------------------------------------------------------------- encoding


def test_what_msgpack_cannot_carry_is_an_encode_error_and_harms_no_later_message() -> None:
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    for value in (object(), 2**64, -(2**63) - 1, deep, {"a": {1, 2}}):
        with pytest.raises(EncodeError):
            encode_response(1, None, {"value": value})
    assert encode_response(1, None, {}) == b"\x94\x01\x01\xc0\x80"


def test_lone_surrogates_leave_as_question_marks() -> None:
    data = encode_response(1, {"message": "no file caf\udce9"}, None)
    assert decode(data) == ([Response(1, {"message": "no file caf?"}, None)], None)


def test_floats_travel_in_double_precision() -> None:
    assert encode_response(1, None, 0.1)[-9:] == b"\xcb" + struct.pack(">d", 0.1)
