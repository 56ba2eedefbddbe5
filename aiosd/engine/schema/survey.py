"""The checks before anything is converted: size, validity, and keywords that can't be enforced.

Rule: no recursion over the schema before its depth is known; no regular expression of it is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import jsonschema

from aiosd.engine.schema.errors import Limits, Problem, Schema, pointer, refuse

# Enforced, or read together with one that is.
ENFORCED = frozenset(
    {"type", "const", "enum", "anyOf", "oneOf", "allOf", "$ref"}
    | {"properties", "required", "additionalProperties"}
    | {"items", "prefixItems", "minItems", "maxItems"}
    | {"minLength", "maxLength", "pattern", "format"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
)
# Say nothing about what validates; discriminator is OpenAPI's, beside a oneOf.
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated"}
    | {"readOnly", "writeOnly", "discriminator", "$defs", "definitions"}
)
_ONLY_AT_ROOT = frozenset({"$schema", "$id"})
_DIALECTS = ("draft/2020-12/", "draft/2019-09/", "draft-07/")
_HINTS = {
    "multipleOf": "a grammar can't divide",
    "uniqueItems": "a grammar can't compare items",
    "nullable": 'not JSON Schema; write "type": [..., "null"]',
    "$anchor": "refer with #/$defs/…",
    "$dynamicRef": "refer with #/$defs/…",
}
_META_SCHEMA = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES = ("items", "additionalProperties")


def check_size(schema: object, limits: Limits) -> None:
    """Plain JSON of bounded depth and size?  Iterative, as nothing is known yet."""
    n_values = 0
    todo: list[tuple[object, int]] = [(schema, 0)]
    while todo:
        value, depth = todo.pop()
        n_values += 1
        if n_values > limits.schema_bytes or depth > limits.depth:
            what = f"nests deeper than {limits.depth}" if depth > limits.depth else "is too large"
            raise refuse("", "", what)
        match value:
            case dict():
                todo.extend((item, depth + 1) for item in value.values())
                if not all(isinstance(key, str) for key in value):
                    raise refuse("", "", "has a key that is not a string")
            case list():
                todo.extend((item, depth + 1) for item in value)
            case str() | bool() | None:
                pass
            case int() if value.bit_length() <= 64:
                pass
            case float() if math.isfinite(value):
                pass
            case int() | float():
                raise refuse("", "", "has a number that is not finite or has more than 64 bits")
            case _:
                raise refuse("", "", f"has a value of type {type(value).__name__}, not JSON")
    try:
        n_bytes = len(json.dumps(schema, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise refuse("", "", "has half of a surrogate pair in a string") from error
    if n_bytes > limits.schema_bytes:
        raise refuse("", "", f"has {n_bytes} bytes, limit is {limits.schema_bytes}")


def check_is_schema(schema: object) -> None:
    # Not check_schema(): that would compile the schema's regular expressions.
    error = next(_META_SCHEMA.iter_errors(schema), None)
    if error is not None:
        path = pointer("", *error.absolute_path)
        message = error.message if len(error.message) <= 300 else error.message[:300] + "…"
        raise refuse("", path, f"is not a valid JSON Schema: {message}")


def survey(schema: object, limits: Limits) -> tuple[dict[int, str], list[Problem]]:
    """Where every subschema is, by identity, and the keywords that can't be enforced.

    An object that occurs twice in the same Python value counts once: the first place names it.
    """
    places: dict[int, str] = {}
    problems: list[Problem] = []
    todo: list[tuple[object, str]] = [(schema, "")]
    for value, path in todo:
        if not isinstance(value, dict) or id(value) in places:
            continue
        places[id(value)] = path
        if len(places) > limits.subschemas:
            raise refuse("", "", f"has more than {limits.subschemas} subschemas")
        problems.extend(_refused(value, path))
        todo.extend(_subschemas(value, path))
    return places, problems


def _refused(schema: Schema, path: str) -> Iterator[Problem]:
    for keyword, value in schema.items():
        if keyword in ENFORCED or keyword in ANNOTATIONS:
            continue
        if keyword in _ONLY_AT_ROOT and not path:
            if keyword == "$schema" and not any(name in str(value) for name in _DIALECTS):
                yield Problem(keyword, path, f"{str(value)[:100]!r} is no supported dialect")
        elif not (keyword == "uniqueItems" and value is False):
            yield Problem(keyword, path, _HINTS.get(keyword, "is not enforced"))


def _subschemas(schema: Schema, path: str) -> Iterator[tuple[object, str]]:
    for keyword in _MAPS:
        children = schema.get(keyword)
        if isinstance(children, dict):
            for name, child in children.items():
                yield child, pointer(path, keyword, name)
    for keyword in _LISTS:
        children = schema.get(keyword)
        if isinstance(children, list):
            for index, child in enumerate(children):
                yield child, pointer(path, keyword, index)
    for keyword in _SINGLES:
        yield schema.get(keyword), pointer(path, keyword)
