"""Facts about one schema, read without following anything: its types, its listed values.

The schemas are checked already (schema.to_grammar), so that e.g. required is a list of strings.
"""

from __future__ import annotations

from aiosd.engine.schema.errors import Schema

_ALL_KINDS = frozenset({"object", "array", "string", "number", "boolean", "null"})


def types_of(schema: Schema) -> list[str] | None:
    """The types that are allowed, in the schema's order; None if it doesn't say."""
    match schema.get("type"):
        case str() as name:
            return [name]
        case list() as names:
            return [str(name) for name in names]
        case _:
            return None


def kinds_of(schema: Schema) -> frozenset[str]:
    """The JSON types a value can have; integer counts as number."""
    if is_listed(schema):
        return frozenset(kind_of(value) for value in listed_values(schema))
    types = types_of(schema)
    if types is None:
        return _ALL_KINDS
    return frozenset("number" if name == "integer" else name for name in types)


def is_listed(schema: Schema) -> bool:
    return "const" in schema or "enum" in schema


def listed_values(schema: Schema) -> list[object]:
    """The values of const and enum that the type (and the other of the two) allows."""
    listed = schema.get("enum")
    values = list(listed) if isinstance(listed, list) else [schema["const"]]
    if "const" in schema:
        only = key_of(schema["const"])
        values = [value for value in values if key_of(value) == only]
    types = types_of(schema)
    return [value for value in values if types is None or any(_is_a(value, t) for t in types)]


def kind_of(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"


def _is_a(value: object, name: str) -> bool:
    if name == "integer":
        return kind_of(value) == "number" and number(value) == int(number(value))
    return kind_of(value) == name


def key_of(value: object) -> object:
    """Equal for values that JSON Schema calls equal: 1 and 1.0, but not 1 and true."""
    match value:
        case dict():
            return ("object", frozenset((name, key_of(item)) for name, item in value.items()))
        case list():
            return ("array", tuple(key_of(item) for item in value))
        case _:
            return (kind_of(value), value)


def keys_of(values: list[object]) -> frozenset[object]:
    return frozenset(key_of(value) for value in values)


def names_required(schema: Schema) -> frozenset[str]:
    required = schema.get("required")
    return frozenset(map(str, required)) if isinstance(required, list) else frozenset()


def property_of(schema: Schema, name: str) -> object:
    """The schema of a property; True (anything) if it isn't declared."""
    declared = schema.get("properties")
    return declared.get(name, True) if isinstance(declared, dict) else True


def number(value: object) -> int | float:
    """A value that the meta-schema says is a number."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value
