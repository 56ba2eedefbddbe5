"""The wire's types: what each takes, and what it says about what it doesn't."""

from __future__ import annotations

import contextlib
import math

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_sdk.errors import InvalidParams
from aios_sdk.types import (
    Any,
    AnyMap,
    Bool,
    Bytes,
    Field,
    Float,
    Int,
    List,
    Map,
    Str,
    Type,
    Union,
    Value,
    shorten,
)

NAME = Str(pattern=r"[A-Za-z0-9._-]{1,64}")
POINT = Map((Field("x", Int(0, 9)), Field("note", Str(4), is_required=False)))
EITHER = Union((Str(4), Int(0, 9)), "a short string or a digit")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Int(1, 3), 1),
        (Int(1, 3), 3),
        (Float(0, 1), 0.5),
        (Bool(), False),
        (Str(3), ""),
        (Str(3), "äöü"),
        (Str(choices=("a", "b")), "b"),
        (NAME, "a.B-9_"),
        (Bytes(2), b"\xff\x00"),
        (List(Int(0, 9), 3), [1, 2, 3]),
        (List(Str(), 3), []),
        (POINT, {"x": 1}),
        (POINT, {"x": 1, "note": "four"}),
        (EITHER, "a"),
        (EITHER, 4),
        (Any(), {"a": [None, True, 1, 1.5, "s", {}]}),
        (Value(), {b"k": [b"x", math.inf]}),
        (AnyMap(), {"type": "object", "properties": {"a": {"enum": [1, None]}}}),
    ],
)
def test_what_fits_passes_unchanged(type_: Type, value: object) -> None:
    assert type_.check(value, "p") == value


def test_a_number_may_be_given_as_an_integer_and_becomes_a_float() -> None:
    got = Float(0, 9).check(2, "p")
    assert (got, type(got)) == (2.0, float)


@pytest.mark.parametrize(
    ("type_", "value", "says"),
    [
        (Int(1, 3), 0, "p is 0, the least is 1"),
        (Int(1, 3), 4, "p is 4, the most is 3"),
        (Int(1, 3), 2**9000, "p is an integer of 9001 bits, the most is 3"),
        (Int(), 2**64, f"p is {2**64}, the most is {2**63 - 1}"),
        (Int(1, 3), True, "p is true, it must be an integer"),
        (Int(1, 3), 2.0, "p is 2.0, it must be an integer"),
        (Int(1, 3), "2", "p is '2', it must be an integer"),
        (Int(1, 3), None, "p is null, it must be an integer"),
        (Float(0, 1), math.nan, "p is nan, it must be a finite number"),
        (Float(0, 1), math.inf, "p is inf, it must be a finite number"),
        (Float(0, 1), -math.inf, "p is -inf, it must be a finite number"),
        (Float(0, 1), 2, "p is 2, the most is 1"),
        (Float(0, 1), 10**400, "p is an integer of 1329 bits, the most is 1"),
        (Float(0, 1), -0.5, "p is -0.5, the least is 0"),
        (Float(0, 1, is_min_excluded=True), 0, "p is 0, it must be more than 0"),
        (Float(0, 1), False, "p is false, it must be a number"),
        (Bool(), 1, "p is 1, it must be true or false"),
        (Str(3), "four", "p has 4 characters, the most is 3"),
        (Str(3, 1), "", "p has 0 characters, the least is 1"),
        (Str(), b"bytes", "p is b'bytes', it must be a string"),
        (Str(), ["x"], "p is an array of 1 items, it must be a string"),
        (Str(choices=("a", "b")), "c", "p is 'c', not one of a, b"),
        (NAME, "", "p is '', it must match [A-Za-z0-9._-]{1,64}"),
        (NAME, "x\n", r"p is 'x\n', it must match"),
        (NAME, "x" * 65, "p is 'xxxxxxxxxxxxxxxxx"),
        (NAME, "a\x00", r"p is 'a\x00', it must match"),
        (NAME, "\ud800", r"p is '\ud800', it must match"),
        (NAME, "é", r"p is '\xe9', it must match"),
        (Bytes(2), b"123", "p has 3 bytes, the most is 2"),
        (Bytes(2), "12", "p is '12', it must be binary data"),
        (List(Int(0, 9), 3), [1, 2, 3, 4], "p has 4 items, the most is 3"),
        (List(Int(0, 9), 3, 1), [], "p has 0 items, the least is 1"),
        (List(Int(0, 9), 3), [1, 10], "p[1] is 10, the most is 9"),
        (List(Int(0, 9), 3), [1, True], "p[1] is true, it must be an integer"),
        (List(POINT, 3), [{"x": 1}, {"x": "a"}], "p[1].x is 'a', it must be an integer"),
        (List(Int(0, 9), 3), {}, "p is a map of 0 keys, it must be an array"),
        (POINT, {}, "p.x is missing"),
        (POINT, {"x": 1, "y": 2}, "p has an unknown key 'y'; it takes x, note"),
        (POINT, {"x": 1, 5: 2}, "p has an unknown key 5"),
        (POINT, [], "p is an array of 0 items, it must be a map"),
        (EITHER, 10, "p is 10, it must be a short string or a digit"),
        (Any(), {"a": math.nan}, "p holds nan, which JSON lacks"),
        (Any(), [b"x"], "p holds b'x', which JSON lacks"),
        (AnyMap(), {"a": {1: 2}}, "p has a key 1, keys must be strings"),
        (AnyMap(), [], "p is an array of 0 items, it must be a map"),
        (Any(), [[0] * 200_000, [0] * 200_000], "p has more than 262144 values"),
    ],
)
def test_what_does_not_fit_is_named_with_its_value_and_the_limit(
    type_: Type, value: object, says: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        type_.check(value, "p")
    assert says in caught.value.message
    assert len(caught.value.message) < 300
    assert str(caught.value.data["field"]).startswith("p")


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_depth_is_an_error_and_not_a_crash() -> None:
    assert AnyMap().check(nested(64), "p")
    assert Value().check(nested(64), "p")
    for depth in (65, 100_000):
        with pytest.raises(InvalidParams, match="p is nested deeper than 64"):
            AnyMap().check(nested(depth), "p")
        with pytest.raises(InvalidParams, match="p is nested deeper than 64"):
            Value().check(nested(depth), "p")


def test_an_open_map_lets_unknown_keys_pass_unseen() -> None:
    assert Map((Field("x", Int()),), is_open=True).check({"x": 1, "new": 2}, "p") == {"x": 1}


def test_a_long_value_is_shortened() -> None:
    assert shorten("x" * 100) == "'" + "x" * 60 + "'…"
    assert shorten(b"\x00" * 10**6, 2) == r"b'\x00\x00'…"
    assert shorten(object()) == "a object"


TYPES: list[Type] = [
    Int(-5, 5),
    Float(-5, 5, is_min_excluded=True),
    Bool(),
    Str(5, 1),
    NAME,
    Str(choices=("a", "b")),
    List(Int(0, 3), 3, 1),
    POINT,
    EITHER,
    Any(),
    AnyMap(),
]
JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("ab\n", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "note", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(TYPES), JSON)
def test_the_schema_says_what_check_does(type_: Type, value: object) -> None:
    schema = type_.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    says_schema = jsonschema.Draft202012Validator(schema).is_valid(value)
    try:
        type_.check(value, "p")
        says_check = True
    except InvalidParams:
        says_check = False
    # JSON Schema knows no difference between 2 and 2.0, and its regex search takes $ before \n.
    if says_schema != says_check:
        assert says_schema
        assert ".0" in repr(value) or "\\n" in repr(value)


@given(st.sampled_from(TYPES), st.text() | st.binary() | st.integers() | st.floats() | JSON)
def test_check_raises_nothing_but_invalid_params(type_: Type, value: object) -> None:
    with contextlib.suppress(InvalidParams):
        type_.check(value, "p")
