"""What a syscall's entry in the table is made of, and the one place where params are checked.

Rule 1: validate() is total: any object goes in, checked params or InvalidParams come out.
Rule 2: what the entry can't say as data (schema() couldn't show it) is not checked here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aios_sdk.errors import InvalidParams
from aios_sdk.types import Schema, Type, shorten


class Absent:
    """The type of ABSENT: a parameter without a default, which None could be."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.  Optional without a default: its key is missing when it wasn't given."""

    name: str
    type: Type
    summary: str
    is_required: bool = False
    default: object = ABSENT


ON: Final[Schema] = {"not": {"const": False}}


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that depend on each other: at most one of them, at least one, or both.

    A flag that is false counts as not given.
    """

    names: tuple[str, ...]
    is_required: bool = False  # at least one
    is_exclusive: bool = True  # at most one

    def check(self, given: dict[str, object]) -> None:
        present = [name for name in self.names if given.get(name, False) is not False]
        if len(present) > 1 and self.is_exclusive:
            raise InvalidParams(
                f"{' and '.join(present)} exclude each other: give {self.says()}", field=present[1]
            )
        if not present and self.is_required:
            raise InvalidParams(f"nothing to go on: give {self.says()}", field=self.names[0])

    def says(self) -> str:
        many = {
            (True, True): "exactly one of",
            (True, False): "at least one of",
            (False, True): "at most one of",
            (False, False): "any of",
        }
        return f"{many[self.is_required, self.is_exclusive]} {', '.join(self.names)}"

    def schemas(self) -> list[Schema]:
        schemas: list[Schema] = []
        if self.is_required:
            schemas.append({"anyOf": [{"required": [name]} for name in self.names]})
        if self.is_exclusive:
            schemas += [
                {"not": {"required": [one, other], "properties": {one: ON, other: ON}}}
                for i, one in enumerate(self.names)
                for other in self.names[i + 1 :]
            ]
        return schemas


Check = Callable[[object, str], object]


@dataclass(frozen=True, slots=True)
class Syscall:
    """One syscall as data.

    params         all of them, with those that every call takes
    chunk          what its stream notifications carry, or None: it doesn't stream
    right          what the agent must hold, or None: the handler decides, or nobody is refused
    is_repeatable  a second time does no harm, so the SDK may repeat it after a lost connection
    """

    name: str
    summary: str
    params: tuple[Param, ...]
    result: Type
    chunk: Type | None = None
    right: str | None = None
    is_repeatable: bool = False
    one_of: tuple[Group, ...] = ()
    _checks: dict[str, Check] = field(init=False, repr=False, compare=False)
    _defaults: dict[str, object] = field(init=False, repr=False, compare=False)
    _required: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks: dict[str, Check] = {p.name: p.type.check for p in self.params}
        defaults = {p.name: p.default for p in self.params if p.default is not ABSENT}
        object.__setattr__(self, "_checks", checks)
        object.__setattr__(self, "_defaults", defaults)
        object.__setattr__(self, "_required", tuple(p.name for p in self.params if p.is_required))

    def validate(self, params: object) -> dict[str, object]:
        """The params to work with: checked, defaults filled in.  None stands for no params.

        Raises InvalidParams that names what is unknown, missing, of the wrong type or out of range.
        """
        checked = self._defaults.copy()
        if params is None:
            params = {}
        elif type(params) is not dict:
            raise InvalidParams(f"params is {shorten(params)}, it must be a map", field="params")
        for name, value in params.items():
            check = self._checks.get(name)
            if check is None:
                raise self._unknown(params)
            checked[name] = check(value, name)
        for name in self._required:
            if name not in params:
                raise InvalidParams(f"{self.name} needs {name}, which is missing", field=name)
        for group in self.one_of:
            group.check(params)
        return checked

    def params_schema(self) -> Schema:
        """The params as a JSON Schema, descriptions and defaults included."""
        properties: Schema = {}
        for p in self.params:
            about: Schema = {"description": p.summary}
            if p.default is not ABSENT:
                about["default"] = p.default
            properties[p.name] = p.type.schema() | about
        schema: Schema = {
            "type": "object",
            "properties": properties,
            "required": list(self._required),
            "additionalProperties": False,
        }
        groups = [part for group in self.one_of for part in group.schemas()]
        if groups:
            schema["allOf"] = groups
        return schema

    def _unknown(self, params: dict[object, object]) -> InvalidParams:
        unknown = [name for name in params if name not in self._checks]
        shown: list[str] = []
        for name in unknown[:8]:
            says = shorten(name)
            if isinstance(name, str):
                near = difflib.get_close_matches(name[:64], self._checks, n=1)
                says += f" (did you mean {near[0]}?)" if near else ""
            shown.append(says)
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        first = unknown[0]
        return InvalidParams(
            f"{self.name} doesn't know {', '.join(shown)}{more}",
            field=first[:128] if isinstance(first, str) else shorten(first),
        )
