"""Arguments against schemas, friendly and hostile."""

from __future__ import annotations

from typing import Any

import pytest

from aios_sdk.errors import InvalidParams
from aiosd.services.tools.arguments import BadSchema, Checker


def problem(schema: dict[str, Any], arguments: dict[str, Any], max_bytes: int = 10**6) -> str:
    """What is wrong with the arguments: "" if nothing is."""
    try:
        Checker(schema).check(arguments, max_bytes)
    except InvalidParams as error:
        return str(error)
    return ""


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


OLD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "definitions": {"n": {"exclusiveMinimum": 0}},
    "properties": {
        "a": {"items": [{"type": "integer"}, {"type": "string"}]},
        "n": {"$ref": "#/definitions/n"},
    },
}


@pytest.mark.parametrize(
    ("schema", "arguments", "expected"),
    [
        (of(a={"type": "integer"}), {"a": 1}, ""),
        (of(a={"type": "integer"}), {"a": 1.0}, ""),
        (of(a={"type": "integer"}), {"a": True}, "arguments.a: is true, it must be of type "),
        (of(a={"enum": ["x", 2]}), {"a": "y"}, "arguments.a: is 'y', not one of 'x, 2'"),
        (of(a={"const": "x"}), {"a": "y"}, "arguments.a: is 'y', it must be 'x'"),
        (
            of(a={"type": "array", "items": {"type": "object", "required": ["b"]}}),
            {"a": [{"b": 1}, {}]},
            "arguments.a[1]: 'b' is a required property",
        ),
        (of(a={"pattern": "^[a-z]+$"}), {"a": "x1"}, "arguments.a: 'x1' does not match"),
        (of(a={"pattern": "^[a-z]+$"}), {"a": "xy"}, ""),
        (of(a={"uniqueItems": True}), {"a": [1, "1", [1], {"x": 1}]}, ""),
        (of(a={"uniqueItems": True}), {"a": [1, 1.0]}, "arguments.a: its 2 items must differ"),
        (of(a={"uniqueItems": True}), {"a": [1, True]}, ""),
        (
            {"patternProperties": {"^x_": {"type": "string"}}, "additionalProperties": False},
            {"x_a": "1"},
            "",
        ),
        (
            {"patternProperties": {"^x_": {"type": "string"}}, "additionalProperties": False},
            {"x_a": 1},
            "arguments.x_a: is 1, it must be of type 'string'",
        ),
        (of(a={"additionalProperties": {"type": "null"}}), {"a": {"b": 1}}, "arguments.a.b: is 1"),
        (of(a={"$ref": "#/$defs/n"}) | {"$defs": {"n": {"minimum": 3}}}, {"a": 2}, "arguments.a: "),
        ({}, {"anything": ["goes"]}, ""),
        (OLD, {"a": [1, "x"], "n": 2}, ""),
        (OLD, {"a": ["x"]}, "arguments.a[0]: is 'x', it must be of type 'integer'"),
        (OLD, {"n": 0}, "arguments.n: 0 is less than or equal to the minimum of 0"),
    ],
)
def test_arguments_are_what_the_schema_says(
    schema: dict[str, Any], arguments: dict[str, Any], expected: str
) -> None:
    found = problem(schema, arguments)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array"}, "arguments are an object"),
        ({"$schema": "http://nowhere/else"}, "which is no draft of JSON Schema known here"),
        ({"$schema": 7}, "which is no draft of JSON Schema known here"),
        (of(a={"type": "nosuch"}), r"schema.properties.a.type: 'nosuch' is not valid"),
        (of(a={"pattern": "("}), r"the pattern '\('"),
        (of(a={"pattern": "((a{100}){100}){100}"}), "unfolds to too much"),
        (of(a={"pattern": "a" * 2000}), "a pattern of 2000 characters, limit is 1024"),
        ({"patternProperties": {"(": {}}}, r"the pattern '\('"),
        ({"description": "x" * 300_000}, "a schema of 300019 bytes, limit is 262144"),
    ],
)
def test_a_schema_that_no_arguments_can_be_checked_against_is_refused(
    schema: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadSchema, match=words):
        Checker(schema)


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"not": schema}
    with pytest.raises(BadSchema, match="nested too deeply"):
        Checker(schema)


def doubling(n: int) -> dict[str, Any]:
    """A small schema that takes 2^n keywords to check."""
    defs = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)}
    return {"$defs": {**defs, f"d{n}": {}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (of(a={"pattern": "^(a|aa|b)+$"}), {"a": "a" * 60 + "c"}),
        (of(a={"pattern": "^(.*)(.*)(.*)(.*)(.*)[^a]$"}), {"a": "a" * 50_000}),
        ({"patternProperties": {"^(a|aa|b)+$": {}}}, {"a" * 60 + "c": 1}),
        (doubling(40), {}),
        ({"$ref": "#"}, {}),
        (of(a={"$ref": "#/$defs/loop"}) | {"$defs": {"loop": {"$ref": "#/$defs/loop"}}}, {"a": 1}),
    ],
)
def test_a_hostile_schema_is_given_up_in_reasonable_time(
    schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    assert problem(schema, arguments) == (
        "arguments: they can't be checked against the tool's schema in reasonable time"
    )


def test_nothing_is_fetched_for_a_reference() -> None:
    found = problem(of(a={"$ref": "http://127.0.0.1:9/schema.json"}), {"a": 1})
    assert found.startswith("arguments: they can't be checked against the tool's schema: ")


def test_huge_arguments_are_refused_before_they_are_looked_at() -> None:
    assert problem({}, {"a": "x" * 2000}, 1000) == "arguments of 2009 bytes, limit is 1000"
    assert problem(of(a={"multipleOf": 0.5}), {"a": 10**400}).startswith("arguments: they can't")
    assert problem({}, {"a": float("nan")}).startswith("arguments: it holds what JSON can't say")
