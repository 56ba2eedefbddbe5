"""Type hints as JSON Schemas, and JSON values as what the hints say.

What is understood: str, int, float, bool, None, Any, Literal, Enum, list, set, tuple, dict with str
keys, unions, TypedDict, dataclasses, and Annotated with a description or more of a schema.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

MAX_DEPTH = 16

_PLAIN: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    None: "null",
}


class BadTool(Exception):  # noqa: N818 - says what it is of, not that it is an error
    """A function that can't be a tool; str() says what to change."""


def type_hints(function: Any) -> dict[str, Any]:
    """Its hints, evaluated.  BadTool if one names what isn't there."""
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except (NameError, TypeError) as error:
        raise BadTool(f"{getattr(function, '__name__', function)}: {error}") from error


def schema_of(hint: Any, where: str, depth: int = 0) -> dict[str, Any]:
    """The JSON Schema of what the hint lets through.  where: for BadTool's message."""
    if depth > MAX_DEPTH:
        raise BadTool(f"{where} is nested deeper than {MAX_DEPTH}, or is its own part")

    def inner(of: Any, of_what: str = "") -> dict[str, Any]:
        return schema_of(of, where + of_what, depth + 1)

    origin, args = get_origin(hint), get_args(hint)
    if hint in (Any, object):
        return {}
    if _is_plain(hint):
        return {"type": _PLAIN[hint]}
    if origin is Annotated:
        return _annotated(inner(args[0]), args[1:])
    if origin in (Required, NotRequired):
        return inner(args[0])
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [inner(of) for of in args]}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if hint is tuple or origin is tuple:
        if not args or args[-1] is ...:
            return {"type": "array", **({"items": inner(args[0])} if args else {})}
        n = len(args)
        parts = [inner(of) for of in args]
        return {"type": "array", "prefixItems": parts, "minItems": n, "maxItems": n}
    if hint in (list, set, frozenset) or origin in (list, set, frozenset, Sequence):
        items = {"items": inner(args[0])} if args else {}
        unique = {"uniqueItems": True} if (origin or hint) in (set, frozenset) else {}
        return {"type": "array", **items, **unique}
    if hint is dict or origin in (dict, Mapping):
        if args and args[0] is not str:
            raise BadTool(f"{where}: the keys of a JSON object are strings, not {args[0]!r}")
        return {"type": "object", **({"additionalProperties": inner(args[1])} if args else {})}
    if typing.is_typeddict(hint) or (isinstance(hint, type) and is_dataclass(hint)):
        hints = type_hints(hint)
        return {
            "type": "object",
            "properties": {name: inner(of, f".{name}") for name, of in hints.items()},
            "required": _required(hint),
            "additionalProperties": False,
        }
    raise BadTool(f"{where} is a {hint!r}, which has no JSON Schema here")


def converted(value: Any, hint: Any) -> Any:
    """A JSON value, valid by schema_of(hint), as the hint says it: sets, enums, dataclasses."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return converted(value, args[0])
    if origin in (Union, types.UnionType):
        return converted(value, next((of for of in args if _fits(value, of)), Any))
    if hint is float:
        return float(value)
    if hint is int:
        return int(value)  # 2.0 is an integer in JSON
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    kind = origin or hint
    if kind is tuple and isinstance(value, list):
        of_each = [args[0]] * len(value) if args[-1:] == (...,) else args or [Any] * len(value)
        return tuple(map(converted, value, of_each))
    if kind in (list, set, frozenset, Sequence) and isinstance(value, list):
        made = [converted(item, args[0] if args else Any) for item in value]
        return made if kind is Sequence else kind(made)
    if kind in (dict, Mapping) and isinstance(value, dict):
        return {key: converted(item, args[1] if args else Any) for key, item in value.items()}
    if typing.is_typeddict(hint) or (isinstance(hint, type) and is_dataclass(hint)):
        hints = type_hints(hint)
        known = {key: converted(item, hints[key]) for key, item in value.items()}
        return hint(**known)
    return value


def _annotated(schema: dict[str, Any], notes: Sequence[Any]) -> dict[str, Any]:
    """A text describes it, a mapping is more of its schema; other notes are for others."""
    for note in notes:
        if isinstance(note, str):
            schema["description"] = note
        elif isinstance(note, Mapping):
            schema.update(note)
    return schema


def _required(hint: Any) -> list[str]:
    if typing.is_typeddict(hint):
        # __required_keys__ takes hints that are texts, as __future__'s are, for required.
        kinds = {name: get_origin(of) for name, of in type_hints(hint).items()}
        known = hint.__required_keys__
        return [n for n, kind in kinds.items() if n in known and kind is not NotRequired]
    return [f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING]


def _is_plain(hint: Any) -> bool:
    return hint is None or (isinstance(hint, type) and hint in _PLAIN)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant by this part of a union, as far as its kind shows."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, args[0])
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return any(value == member.value for member in hint)
    kind = origin or hint
    checks: dict[Any, Callable[[], bool]] = {
        str: lambda: isinstance(value, str),
        bool: lambda: isinstance(value, bool),
        int: lambda: isinstance(value, int) and not isinstance(value, bool),
        float: lambda: isinstance(value, (int, float)) and not isinstance(value, bool),
        type(None): lambda: value is None,
        dict: lambda: isinstance(value, dict),
        Mapping: lambda: isinstance(value, dict),
        Any: lambda: True,
        object: lambda: True,
    }
    if kind in (list, set, frozenset, tuple, Sequence):
        return isinstance(value, list)
    if typing.is_typeddict(hint) or (isinstance(hint, type) and is_dataclass(hint)):
        return isinstance(value, dict) and set(_required(hint)) <= set(value)
    return checks[kind]() if kind in checks else False
