"""JSON Schema to GBNF: what the grammar writes validates, what it can't promise is refused."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aiosd.engine.gbnf import ParsedGrammar, parse
from aiosd.engine.grammar import TokenTable, VocabularyGrammar
from aiosd.engine.schema import Limits, SchemaError, to_grammar
from tests.engine.gbnf import Grammar

BYTES = TokenTable([*(bytes([byte]) for byte in range(256)), b""], [256])
MAX_FOLLOWED_CHARS = 200


def assert_follows(parsed: ParsedGrammar, text: str, *, is_whole: bool) -> None:
    """The engine's own grammar reader lets the text through, byte by byte."""
    grammar = VocabularyGrammar(parsed, BYTES)
    for byte in text.encode():
        grammar.accept(byte)
    assert not is_whole or grammar.allows(256)


def texts_of(schema: object, n_texts: int = 30, seed: int = 1) -> list[str]:
    grammar = Grammar(to_grammar(schema))
    rng = random.Random(seed)
    return [grammar.text(rng) for _ in range(n_texts)]


def values_of(schema: Any, n_texts: int = 30, seed: int = 1) -> list[Any]:
    """Values of random texts of the grammar, each checked by jsonschema and for clean UTF-8."""
    values = []
    parsed = parse(to_grammar(schema), lambda _: None, len(BYTES.pieces))
    for text in texts_of(schema, n_texts, seed):
        assert_follows(parsed, text[:MAX_FOLLOWED_CHARS], is_whole=len(text) <= MAX_FOLLOWED_CHARS)
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        jsonschema.Draft202012Validator(schema).validate(value)
        values.append(value)
    return values


def problems_of(schema: object, limits: Limits | None = None) -> list[tuple[str, str]]:
    with pytest.raises(SchemaError) as caught:
        to_grammar(schema, limits=limits)
    return [(problem.keyword, problem.path) for problem in caught.value.problems]


NODE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
TAGGED = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
            "required": ["kind", "r"],
        },
        {
            "type": "object",
            "properties": {"kind": {"enum": ["box", "square"]}, "w": {"type": "number"}},
            "required": ["kind"],
        },
    ],
    "discriminator": {"propertyName": "kind"},
}


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {"type": "array"},
        {"type": "string"},
        {"type": "number"},
        {"type": "integer"},
        {"type": ["string", "null", "boolean"]},
        {"title": "T", "description": "d", "default": 1, "examples": [2], "type": "integer"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "type": "null"},
        {"type": "string", "minLength": 3},
        {"type": "string", "maxLength": 5},
        {"type": "string", "minLength": 2, "maxLength": 2},
        {"type": "string", "maxLength": 0},
        {"minLength": 2},
        {"type": "array", "uniqueItems": False, "items": {"type": "boolean"}},
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 1},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 1},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 0},
        {"type": "array", "items": False},
        {"type": "array", "minItems": 2, "maxItems": 2},
        {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "integer"}],
            "minItems": 2,
            "maxItems": 2,
        },
        {"type": "array", "prefixItems": [{"type": "string"}, {}], "items": False, "maxItems": 1},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": "null"}, "b": {}, "c": {"const": 1}}},
        {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]},
        {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
        {"type": "object", "required": ["x", "y"]},
        {"required": ["x"], "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": False},
        {"type": "object", "additionalProperties": True},
        {
            "type": "object",
            "properties": {"a": {"type": "string"}, "ab": {"type": "string"}, 'é\n"': {}},
            "additionalProperties": {"type": "integer"},
        },
        {
            "type": "object",
            "properties": {"": {"type": "string"}},
            "required": [""],
            "additionalProperties": {"type": "integer"},
        },
        {"type": "object", "properties": {'q"uo\\te': {"const": 'a"\\\n\u0000é\u2028😀'}}},
        {"enum": ["a", 1, 1.5, None, True, [1, {"a": []}], {"b": "]"}]},
        {"const": {"a": [1, 2, {"b": None}]}},
        {"type": "integer", "enum": [1, 2.0, "3", True, 4.5]},
        {"const": 1, "enum": [True, 1.0, 2]},
        {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
        {"allOf": [{"type": "integer"}], "description": "one"},
        {"oneOf": [{"type": "string"}, {"type": "integer"}, {"const": None}]},
        {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["c"]}]},
        TAGGED,
        NODE,
        {"type": "array", "items": {"$ref": "#"}},
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}},
        },
        {"$defs": {"a/b~c": {"type": "null"}}, "anyOf": [{"$ref": "#/$defs/a~1b~0c"}]},
        {
            "definitions": {"x": {"type": "null"}},
            "type": "array",
            "items": {"$ref": "#/definitions/x"},
        },
    ],
)
def test_what_the_grammar_writes_validates(schema: Any) -> None:
    values_of(schema)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0), (0, 9), (5, 5), (0, 100), (3, 1200), (-5, 5), (-120, -7), (99, 101), (-1, 0),
        (10**14 + 3, 10**15 - 1), (199, 4012), (-(10**15), 10**15),
    ],
)  # fmt: skip
def test_integers_stay_in_their_range_and_reach_its_ends(low: int, high: int) -> None:
    values = values_of({"type": "integer", "minimum": low, "maximum": high}, n_texts=400)
    if high - low <= 10:
        assert set(values) == set(range(low, high + 1))


def test_exclusive_and_fractional_bounds_are_kept() -> None:
    schema = {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4}
    assert set(values_of(schema)) == {2, 3}
    assert set(values_of({"type": "integer", "minimum": 0.5, "maximum": 2.5})) == {1, 2}
    both = {"type": "integer", "minimum": 0, "exclusiveMinimum": 0, "maximum": 2}
    assert set(values_of(both)) == {1, 2}
    assert min(values_of({"type": "integer", "minimum": 7}, n_texts=300)) >= 7
    assert max(values_of({"type": "integer", "maximum": -7}, n_texts=300)) <= -7


def test_formats_write_real_dates_times_and_uuids() -> None:
    for value in values_of({"type": "string", "format": "date"}, n_texts=300):
        date.fromisoformat(value)
    for value in values_of({"type": "string", "format": "time"}, n_texts=300):
        time.fromisoformat(value)
    for value in values_of({"type": "string", "format": "date-time"}, n_texts=300):
        datetime.fromisoformat(value)
    for value in values_of({"format": "uuid"}):
        assert str(UUID(value)) == value.lower()


@pytest.mark.parametrize(
    "pattern",
    [
        "^$",
        "^abc$",
        "^a.c$",
        r"^\d{3}-\d{4}$",
        "^[a-z]+$",
        "^[^a-z]{1,4}$",
        r"^[\w.-]+@[a-z]{2,}$",
        r"^(red|green|blue)?$",
        r"^(?:a|b(c|d)*)+?e{0}$",
        r"^[\]\\\-^\"/]{2,3}$",
        r"^\^\$\.\"\\\/$",
        r"^\u00e9\x41\t\n$",
        r"^\s?é😀[é-ü]$",
        "^a{2,}b*?$",
        '^[^"\\\\]{3}$',
        "^(a|)$",
        r"^\\$",
        "^[a-]-[-a]$",
    ],
)
def test_patterns_write_what_matches(pattern: str) -> None:
    values_of({"type": "string", "pattern": pattern}, n_texts=150)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("abc", "anchor it with ^ and $"),
        ("^abc", "anchor it with ^ and $"),
        (r"^abc\$", "ends with an escaped $"),
        ("^a|b$", "has | outside of a group"),
        ("^(?=a)a$", "group of the kind (?…)"),
        ("^(?P<n>a)$", "group of the kind (?…)"),
        (r"^(a)\1$", r"has the escape \1"),
        (r"^\bword\b$", r"has the escape \b"),
        (r"^\D$", r"has the escape \D"),
        (r"^[^\d]$", r"has \d in a negated class"),
        ("^a++$", "quantifier after a quantifier"),
        ("^a{,3}$", "a { that begins no quantifier"),
        ("^a{3,2}$", "a { that begins no quantifier"),
        ("^(a$", "has a ( without its )"),
        ("^a)$", "has a ) without its ("),
        ("^[a$", "ends too early"),
        ("^[]a]$", "empty class"),
        ("^[z-a]$", "a range in a class that is none"),
        ("^[[:alpha:]]$", "has [ in a class"),
        ("^[a&&b]$", "has & in a class"),
        ("^a^b$", "has ^ inside"),
        ("^*a$", "has * where a character is expected"),
        ("^(a*)*$", "repeats without end what can be empty"),
        ("^(a{1,30}){1,30}$", "limit is 256"),
        ("^a{99999}$", "limit is 256"),
        ("^" + "(" * 30 + "a" + ")" * 30 + "$", "nests deeper than 16 groups"),
        ("^" + "a" * 300 + "$", "has 302 characters, limit is 256"),
        ("^[\x01]$", "without any character that can be written"),
        (r"^\ud800$", "half of a surrogate pair"),
    ],
)
def test_other_patterns_are_refused_with_words(pattern: str, words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        to_grammar({"type": "object", "properties": {"a": {"pattern": pattern}}})
    (problem,) = caught.value.problems
    assert (problem.keyword, problem.path) == ("pattern", "/properties/a")
    assert words in problem.reason


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("multipleOf", {"type": "integer", "multipleOf": 3}),
        ("uniqueItems", {"type": "array", "uniqueItems": True}),
        ("minimum", {"type": "number", "minimum": 0}),
        ("exclusiveMaximum", {"exclusiveMaximum": 0}),
        ("format", {"type": "string", "format": "email"}),
        ("not", {"not": {"type": "string"}}),
        ("if", {"if": {}}),
        ("contains", {"type": "array", "contains": {}}),
        ("patternProperties", {"patternProperties": {"a": {}}}),
        ("propertyNames", {"propertyNames": {}}),
        ("minProperties", {"minProperties": 1}),
        ("dependentRequired", {"dependentRequired": {}}),
        ("unevaluatedProperties", {"unevaluatedProperties": False}),
        ("contentEncoding", {"contentEncoding": "base64"}),
        ("nullable", {"type": "string", "nullable": True}),
        ("$anchor", {"$anchor": "a"}),
        ("no-keyword", {"no-keyword": 1}),
        ("$schema", {"$schema": "http://json-schema.org/draft-04/schema#"}),
        ("maxLength", {"type": "string", "maxLength": 2001}),
        ("minLength", {"pattern": "^a$", "minLength": 1}),
        ("maxLength", {"minLength": 2, "maxLength": 1}),
        ("maxLength", {"format": "date", "maxLength": 4}),
        ("minimum", {"type": "integer", "minimum": 10**16}),
        ("maximum", {"type": "integer", "maximum": 1, "minimum": 2}),
        ("exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}),
        ("minItems", {"prefixItems": [{}], "minItems": 2}),
        ("minItems", {"items": False, "minItems": 1}),
        ("items", {"prefixItems": [{}], "items": {"type": "null"}}),
        ("required", {"required": ["a"], "additionalProperties": False}),
        ("false", False),
        ("false", {"anyOf": [False]}),
        ("enum", {"enum": []}),
        ("enum", {"type": "string", "enum": [1]}),
        ("const", {"type": "string", "const": 1}),
        ("minLength", {"enum": ["a"], "minLength": 1}),
        ("enum", {"enum": list(range(257))}),
        ("anyOf", {"anyOf": [{"const": i} for i in range(65)]}),
        ("type", {"type": "object", "anyOf": [{}]}),
        ("properties", {"$ref": "#/$defs/a", "properties": {}, "$defs": {"a": {"type": "null"}}}),
        ("allOf", {"allOf": [{"type": "string"}, {"minLength": 1}]}),
        ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        ("oneOf", {"oneOf": [{"type": "string"}, {"enum": ["a"]}]}),
        ("oneOf", {"oneOf": [{"const": 1}, {"const": 1.0}]}),
        ("oneOf", {"oneOf": [{"properties": {"a": {}}}, {"type": "string"}]}),
        ("oneOf", {"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object"}]}),
        ("$ref", {"$ref": "https://example.com/schema"}),
        ("$ref", {"$ref": "other.json#/a"}),
        ("$ref", {"$ref": "#/$defs/nothing"}),
        ("$ref", {"$ref": "#/default", "default": {"type": "string"}}),
        ("$ref", {"$ref": "#"}),
        ("$ref", {"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        ("$ref", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ("$ref", {"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
        ("anyOf", {
            "anyOf": [
                {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
                {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
            ]
        }),
    ],
)  # fmt: skip
def test_what_is_not_enforced_is_refused_by_name(keyword: str, schema: object) -> None:
    assert {name for name, _ in problems_of(schema)} == {keyword}


def test_every_problem_is_named_with_its_place() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "number", "multipleOf": 2},
            "b/c": {"type": "array", "uniqueItems": True, "items": {"not": {}}},
        },
        "minProperties": 1,
    }
    assert problems_of(schema) == [
        ("minProperties", ""),
        ("multipleOf", "/properties/a"),
        ("uniqueItems", "/properties/b~1c"),
        ("not", "/properties/b~1c/items"),
    ]
    with pytest.raises(SchemaError, match="multipleOf at /properties/a: a grammar can't divide"):
        to_grammar(schema)


def test_a_broken_schema_is_refused_with_the_place() -> None:
    for schema, path in (
        ({"type": "strng"}, "/type"),
        ({"properties": {"a": 5}}, "/properties/a"),
        ({"items": [{}]}, "/items"),
        ({"minLength": -1}, "/minLength"),
        ([], ""),
        ("string", ""),
        (None, ""),
    ):
        assert problems_of(schema) == [("", path)]


def deep(n: int) -> object:
    schema: object = {}
    for _ in range(n):
        schema = {"items": schema}
    return schema


def doubling(n: int) -> object:
    """Each definition offers the next two: 2^n ways to the end."""
    defs: dict[str, object] = {"d0": {"type": "null"}, "e0": {"type": "boolean"}}
    for i in range(n):
        both = [{"$ref": f"#/$defs/d{i}"}, {"$ref": f"#/$defs/e{i}"}]
        defs[f"d{i + 1}"] = {"anyOf": both}
        defs[f"e{i + 1}"] = {"anyOf": both}
    return {"$defs": defs, "$ref": f"#/$defs/d{n}"}


def shared(n: int) -> object:
    """A Python value whose JSON would be 2^n times as large."""
    value: object = {"type": "null"}
    for _ in range(n):
        value = {"anyOf": [value, value]}
    return value


def cycle() -> object:
    value: dict[str, object] = {}
    value["items"] = value
    return value


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (deep(33), "nests deeper than 32"),
        (deep(100_000), "nests deeper than 32"),
        (cycle(), "nests deeper than 32"),
        (shared(15), "subschemas|too large|bytes"),
        ({"enum": ["x" * 70_000]}, "70015 bytes?|bytes, limit is 65536"),
        ({"const": 2**70}, "64 bits"),
        ({"const": float("inf")}, "not finite"),
        ({"const": float("nan")}, "not finite"),
        ({"const": "\ud800"}, "surrogate"),
        ({"const": b"x"}, "type bytes, not JSON"),
        ({1: 2}, "key that is not a string"),
        ({"properties": {str(i): {} for i in range(500)}}, "more than 500 subschemas"),
        (
            {"prefixItems": [{"maxLength": 2000, "type": "string"} for _ in range(9)]},
            "sum up to more than 16000",
        ),
        (doubling(40), "references in a row|refers"),
        (
            {
                "$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(200)}
                | {"a200": {"type": "null"}},
                "$ref": "#/$defs/a0",
            },
            "more than 64 references in a row",
        ),
        ({"pattern": "^(a+)+(" + "b{9}" * 40 + "){9}$"}, "limit is 256"),
        (
            {
                "properties": {f"{i:03}" + "k" * 300: {} for i in range(200)},
                "additionalProperties": {"type": "null"},
            },
            "declared names of 60600 characters together, limit is 4000",
        ),
        (
            {"properties": {str(i): {"type": ["string", "null"]} for i in range(490)}},
            r"needs a grammar of \d+ bytes, limit is 65536",
        ),
    ],
    ids=range(18),
)
def test_nasty_schemas_end_soon(schema: object, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        to_grammar(schema)


@pytest.mark.timeout(20)
def test_branches_that_lead_to_the_same_place_are_taken_once() -> None:
    grammar = to_grammar(doubling(12))
    assert "root ::= union-0" in grammar
    assert "union-0 ::= boolean | null\n" in grammar


def test_white_space_is_one_space_at_most() -> None:
    for text in texts_of({"type": "object", "additionalProperties": {"type": "integer"}}):
        assert "  " not in text.replace("{  }", "{ }") or '"' in text
    assert Grammar(to_grammar({})).rules["space"] == Grammar('root ::= " "?').rules["root"]


def test_numbers_are_json_and_finite() -> None:
    for text in texts_of({"type": "number"}, n_texts=500):
        assert not text.lstrip("-").startswith("0") or text.lstrip("-")[1:2] in ("", ".", "e", "E")
        assert abs(json.loads(text)) < 1e116


def test_the_root_ends_with_its_last_bracket() -> None:
    assert all(text.endswith("}") for text in texts_of({"type": "object"}))


# ---------------------------------------------------------------- random schemas

KEYWORDS = [
    *("type", "properties", "items", "enum", "const", "$ref", "anyOf", "oneOf", "required"),
    *("minLength", "pattern", "additionalProperties", "not", "x"),
]
NAMES = st.sampled_from(["a", "b", "ab", "kind", "é", 'q"\\', ""])
SCALARS = st.one_of(
    st.sampled_from(["null", "boolean", "integer", "number", "string"]).map(lambda t: {"type": t}),
    st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 10**6)).map(
        lambda p: {"type": "integer", "minimum": p[0], "maximum": p[0] + p[1]}
    ),
    st.tuples(st.integers(0, 4), st.integers(0, 4)).map(
        lambda p: {"type": "string", "minLength": p[0], "maxLength": p[0] + p[1]}
    ),
    st.lists(
        st.one_of(
            st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=4), st.floats(-1, 1)
        ),
        min_size=1,
        max_size=4,
        unique_by=json.dumps,
    ).map(lambda values: {"enum": values}),
    st.sampled_from([{}, True, {"type": ["string", "null"]}, {"format": "date"}, {"$ref": "#"}]),
    st.sampled_from(["^a+$", "^[a-c]{2}(x|yz)?$", r"^\w.$"]).map(lambda p: {"pattern": p}),
)


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda p: {"type": "array", "items": p[0], "minItems": p[1], "maxItems": p[1] + p[2]}
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(lambda p: {"prefixItems": p})
    objects = st.tuples(
        st.dictionaries(NAMES, inner, max_size=4),
        st.lists(NAMES, unique=True, max_size=3),
        st.one_of(st.none(), st.just(False), inner),
    ).map(
        lambda p: (
            {"type": "object", "properties": p[0], "required": p[1]}
            | ({} if p[2] is None else {"additionalProperties": p[2]})
        )
    )
    unions = st.tuples(
        st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(inner, min_size=1, max_size=3)
    ).map(lambda p: {p[0]: p[1]})
    return st.one_of(arrays, tuples, objects, objects, unions)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(schema=st.recursive(SCALARS, compound, max_leaves=8), seed=st.integers(0, 2**32))
def test_random_schemas_are_kept_or_refused(schema: Any, seed: int) -> None:
    try:
        to_grammar(schema)
    except SchemaError:
        assume(False)
    values_of(schema, n_texts=10, seed=seed)


@settings(max_examples=150, deadline=None)
@given(
    schema=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(KEYWORDS),
                st.one_of(inner, st.sampled_from(["object", "string", "#", "#/x", "^a$"])),
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_nothing_but_schema_error_leaves(schema: object) -> None:
    with suppress(SchemaError):
        Grammar(to_grammar(schema))
