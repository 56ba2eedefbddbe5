"""The wire's vocabulary of types: each checks a value and describes itself as a JSON Schema.

Rule 1: check() returns the value to use (a Float makes ints floats) or raises InvalidParams, whose
message says the field, the value and the limit, and whose data.field is the path.
Rule 2: every type bounds what it lets through: ranges, lengths, items, depth.
Rule 3: a bool is not a number, NaN and infinity are not numbers, a name has no control characters.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Protocol

from aios_sdk.errors import InvalidParams

MAX_TEXT_CHARS = 8 * 1024 * 1024  # a text is bounded by its frame; see wire.Limits.frame_bytes
MAX_DEPTH = 64  # of a JSON-like value: real schemas nest below 20, and walkers recurse safely
MAX_NODES = 262_144  # of a JSON-like value; as wire.Limits.elements

Schema = dict[str, object]


class Type(Protocol):
    """What a parameter or a result may be."""

    def check(self, value: object, path: str) -> object: ...
    def schema(self) -> Schema: ...


@dataclass(frozen=True, slots=True)
class Int:
    """An integer in [min, max]."""

    min: int = -(2**63)
    max: int = 2**63 - 1

    def check(self, value: object, path: str) -> int:
        if type(value) is not int:
            raise _wrong(path, value, "an integer")
        if value < self.min:
            raise InvalidParams(f"{path} is {shorten(value)}, the least is {self.min}", field=path)
        if value > self.max:
            raise InvalidParams(f"{path} is {shorten(value)}, the most is {self.max}", field=path)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.min, "maximum": self.max}


@dataclass(frozen=True, slots=True)
class Float:
    """A finite number in [min, max], or in (min, max] when the minimum itself is excluded."""

    min: float
    max: float
    is_min_excluded: bool = False

    def check(self, value: object, path: str) -> float:
        if type(value) is not float and type(value) is not int:
            raise _wrong(path, value, "a number")
        if type(value) is float and not math.isfinite(value):
            raise InvalidParams(f"{path} is {value}, it must be a finite number", field=path)
        if value < self.min or (self.is_min_excluded and value == self.min):
            limit = (
                f"it must be more than {self.min:g}"
                if self.is_min_excluded
                else (f"the least is {self.min:g}")
            )
            raise InvalidParams(f"{path} is {shorten(value)}, {limit}", field=path)
        if value > self.max:
            raise InvalidParams(f"{path} is {shorten(value)}, the most is {self.max:g}", field=path)
        return float(value)

    def schema(self) -> Schema:
        least = "exclusiveMinimum" if self.is_min_excluded else "minimum"
        return {"type": "number", least: self.min, "maximum": self.max}


@dataclass(frozen=True, slots=True)
class Bool:
    """true or false; 0 and 1 are not."""

    def check(self, value: object, path: str) -> bool:
        if type(value) is not bool:
            raise _wrong(path, value, "true or false")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Str:
    """A text: of bounded length, of a pattern (the whole of it), or one of a few."""

    max_chars: int = MAX_TEXT_CHARS
    min_chars: int = 0
    pattern: str | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: object, path: str) -> str:
        if type(value) is not str:
            raise _wrong(path, value, "a string")
        if self.choices:
            if value not in self.choices:
                known = ", ".join(self.choices)
                raise InvalidParams(f"{path} is {shorten(value)}, not one of {known}", field=path)
            return value
        if len(value) > self.max_chars:
            raise InvalidParams(
                f"{path} has {len(value)} characters, the most is {self.max_chars}", field=path
            )
        if len(value) < self.min_chars:
            raise InvalidParams(
                f"{path} has {len(value)} characters, the least is {self.min_chars}", field=path
            )
        # fullmatch, since $ would also match before a newline at the end.
        if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
            raise InvalidParams(
                f"{path} is {shorten(value)}, it must match {self.pattern}", field=path
            )
        return value

    def schema(self) -> Schema:
        if self.choices:
            return {"type": "string", "enum": list(self.choices)}
        schema: Schema = {"type": "string", "maxLength": self.max_chars}
        if self.min_chars:
            schema["minLength"] = self.min_chars
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$"
        return schema


@dataclass(frozen=True, slots=True)
class Bytes:
    """Binary data (msgpack bin)."""

    max_bytes: int

    def check(self, value: object, path: str) -> bytes:
        if type(value) is not bytes:
            raise _wrong(path, value, "binary data")
        if len(value) > self.max_bytes:
            raise InvalidParams(
                f"{path} has {len(value)} bytes, the most is {self.max_bytes}", field=path
            )
        return value

    def schema(self) -> Schema:
        return {"type": "string", "contentEncoding": "binary", "maxLength": self.max_bytes}


@dataclass(frozen=True, slots=True)
class List:
    """An array whose items are all of one type."""

    of: Type
    max_items: int
    min_items: int = 0

    def check(self, value: object, path: str) -> list[object]:
        if type(value) is not list:
            raise _wrong(path, value, "an array")
        if len(value) > self.max_items:
            raise InvalidParams(
                f"{path} has {len(value)} items, the most is {self.max_items}", field=path
            )
        if len(value) < self.min_items:
            raise InvalidParams(
                f"{path} has {len(value)} items, the least is {self.min_items}", field=path
            )
        # A hundred thousand tokens are checked at C speed; the loop is for finding the bad one.
        of = self.of
        if (
            type(of) is Int
            and value
            and set(map(type, value)) == {int}
            and min(value) >= of.min
            and max(value) <= of.max
        ):
            return value
        check = of.check
        return [check(item, f"{path}[{i}]") for i, item in enumerate(value)]

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "array",
            "items": self.of.schema(),
            "maxItems": self.max_items,
        }
        if self.min_items:
            schema["minItems"] = self.min_items
        return schema


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a Map."""

    name: str
    type: Type
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Map:
    """An object with known keys.  An open one (every result is) lets other keys pass unseen,
    since a later version may add some."""

    fields: tuple[Field, ...]
    is_open: bool = False
    _by_name: dict[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {f.name: f for f in self.fields})

    def check(self, value: object, path: str) -> dict[str, object]:
        if type(value) is not dict:
            raise _wrong(path, value, "a map")
        checked: dict[str, object] = {}
        for key, item in value.items():
            known = self._by_name.get(key)
            if known is not None:
                checked[key] = known.type.check(item, f"{path}.{key}")
            elif not self.is_open:
                names = ", ".join(self._by_name)
                raise InvalidParams(
                    f"{path} has an unknown key {shorten(key)}; it takes {names}", field=path
                )
        for f in self.fields:
            if f.is_required and f.name not in checked:
                raise InvalidParams(f"{path}.{f.name} is missing", field=f"{path}.{f.name}")
        return checked

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {f.name: f.type.schema() for f in self.fields},
            "required": [f.name for f in self.fields if f.is_required],
        }
        if not self.is_open:
            schema["additionalProperties"] = False
        return schema


@dataclass(frozen=True, slots=True)
class Any:
    """Any JSON-like value: null, bools, finite numbers, strings, arrays, maps with string keys."""

    def check(self, value: object, path: str) -> object:
        _check_json(value, path)
        return value

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class Value:
    """Whatever MessagePack can say: binary data too, and keys of bytes.  The frame bounds it but
    for its depth: what came in one frame must fit into another one, deeper inside."""

    def check(self, value: object, path: str) -> object:
        level = [value]
        for _ in range(MAX_DEPTH + 1):
            below: list[object] = []
            for one in level:
                if type(one) is list:
                    below += one
                elif type(one) is dict:
                    below += one.values()
            if not below:
                return value
            level = below
        raise InvalidParams(f"{path} is nested deeper than {MAX_DEPTH}", field=path)

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class AnyMap:
    """A map of any JSON-like values, such as a JSON Schema."""

    def check(self, value: object, path: str) -> dict[str, object]:
        if type(value) is not dict:
            raise _wrong(path, value, "a map")
        _check_json(value, path)
        return value

    def schema(self) -> Schema:
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class Union:
    """A value of one of several types; the first that takes it counts."""

    options: tuple[Type, ...]
    says: str  # what the value must be, for the error: "a string or an integer"

    def check(self, value: object, path: str) -> object:
        for option in self.options:
            try:
                return option.check(value, path)
            except InvalidParams:
                continue
        raise InvalidParams(f"{path} is {shorten(value)}, it must be {self.says}", field=path)

    def schema(self) -> Schema:
        return {"anyOf": [option.schema() for option in self.options]}


def shorten(value: object, max_chars: int = 60) -> str:
    """A value as it may appear in an error message: never long, never slow, never raising."""
    if isinstance(value, (str, bytes)):
        cut = value[:max_chars]
        return ascii(cut) + ("…" if len(value) > len(cut) else "")
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value)} items"
    if isinstance(value, dict):
        return f"a map of {len(value)} keys"
    return f"a {type(value).__name__}"


def _wrong(path: str, value: object, expected: str) -> InvalidParams:
    return InvalidParams(f"{path} is {shorten(value)}, it must be {expected}", field=path)


def _check_json(root: object, path: str) -> None:
    """Walk without recursion, so that depth is an error and not a crash."""
    level: list[object] = [root]
    depth = n_nodes = 0
    while level:
        depth += 1
        n_nodes += len(level)
        if n_nodes > MAX_NODES:
            raise InvalidParams(f"{path} has more than {MAX_NODES} values", field=path)
        below: list[object] = []
        for value in level:
            match value:
                case None | bool() | str() | int():
                    pass
                case float():
                    if not math.isfinite(value):
                        raise InvalidParams(f"{path} holds {value}, which JSON lacks", field=path)
                case list():
                    below += value
                case dict():
                    for key in value:
                        if type(key) is not str:
                            raise InvalidParams(
                                f"{path} has a key {shorten(key)}, keys must be strings", field=path
                            )
                    below += value.values()
                case _:
                    raise InvalidParams(
                        f"{path} holds {shorten(value)}, which JSON lacks", field=path
                    )
        if depth > MAX_DEPTH and below:
            raise InvalidParams(f"{path} is nested deeper than {MAX_DEPTH}", field=path)
        level = below
