"""A kernel as plain data for JSON, and back: where a journal that has lost its beginning begins.

Rule 1: generic.  Every object of the kernel's classes is written with all its fields, whatever they
are called, so that what is added to the kernel comes along by itself.
Rule 2: exact.  What is one object in the kernel is one object again: mutable things are numbered
and referred to by number, values (frozen ones, enums, tuples) are written where they are.
Rule 3: decode() takes nothing on trust: it makes objects of the kernel's classes only, with the
fields that these have, and what comes out must pass Kernel.check().
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import pkgutil
from collections import deque
from typing import Any

import aiosd.kernel
from aiosd.kernel.kernel import Kernel

_PLAIN = (type(None), bool, int, float, str)
_CONTAINERS = {"list": list, "dict": dict, "set": set, "deque": deque}


def encode(kernel: Kernel) -> dict[str, object]:
    """Raises TypeError if the kernel holds something that isn't data, e.g. a function."""
    writer = _Writer()
    root = writer.value(kernel)
    return {"root": root, "objects": writer.objects}


def decode(plain: object) -> Kernel:
    """Raises ValueError for anything that isn't a kernel's checkpoint."""
    match plain:
        case {"root": root, "objects": list(objects)}:
            pass
        case _:
            raise ValueError("not a checkpoint: it has no root and no objects")
    try:
        kernel = _Reader(objects).value(root)
        if not isinstance(kernel, Kernel):
            raise ValueError(f"not a checkpoint of a kernel, but of {type(kernel).__name__}")
        kernel.check()
    except ValueError:
        raise
    except Exception as error:  # a kernel that isn't whole can fail in any way
        raise ValueError(f"not a sound checkpoint: {type(error).__name__}: {error}") from error
    return kernel


class _Writer:
    def __init__(self) -> None:
        self.objects: list[object] = []
        self._numbers: dict[int, int] = {}  # of each object by its id()

    def value(self, value: Any) -> object:
        """Plain values as they are, all else as [kind, ...]."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is tuple or kind is frozenset:
            items = sorted(value) if kind is frozenset else value
            return [kind.__name__, [self.value(item) for item in items]]
        name = kind.__name__
        if _classes().get(name) is kind:
            if isinstance(value, enum.Enum):
                return ["enum", name, value.name]
            if isinstance(value, tuple):
                return ["named", name, [self.value(item) for item in value]]
            if _is_frozen(kind):
                return ["value", name, self._fields(value)]
        elif name not in _CONTAINERS or _CONTAINERS[name] is not kind:
            raise TypeError(f"{value!r} can't be kept in a checkpoint")
        return ["object", self._number(value)]

    def _number(self, value: Any) -> int:
        known = self._numbers.get(id(value))
        if known is not None:
            return known
        number = self._numbers[id(value)] = len(self.objects)
        self.objects.append(None)  # what it holds may refer to it
        name = type(value).__name__
        if isinstance(value, dict):
            pairs = [[self.value(key), self.value(item)] for key, item in value.items()]
            self.objects[number] = [name, pairs]
        elif name in _CONTAINERS:
            items = sorted(value) if isinstance(value, set) else value
            self.objects[number] = [name, [self.value(item) for item in items]]
        else:
            self.objects[number] = [name, self._fields(value)]
        return number

    def _fields(self, value: Any) -> dict[str, object]:
        return {
            name: self.value(getattr(value, name))
            for name in _field_names(type(value), value)
            if hasattr(value, name)
        }


class _Reader:
    def __init__(self, plain: list[object]) -> None:
        self._plain = plain
        self._objects = [_empty(entry) for entry in plain]
        for entry, made in zip(plain, self._objects, strict=True):
            self._fill(made, entry)

    def value(self, plain: object) -> Any:
        match plain:
            case None | bool() | int() | float() | str():
                return plain
            case ["tuple", list(items)]:
                return tuple(self.value(item) for item in items)
            case ["frozenset", list(items)]:
                return frozenset(self.value(item) for item in items)
            case ["enum", str(name), str(member)]:
                return _class(name)[member]  # an enum, or no checkpoint
            case ["named", str(name), list(items)]:
                return _class(name)(*(self.value(item) for item in items))
            case ["value", str(name), dict(fields)]:
                cls = _class(name)
                made = object.__new__(cls)
                self._set(made, fields)
                return made
            case ["object", int(number)] if 0 <= number < len(self._objects):
                return self._objects[number]
        raise ValueError(f"not a value of a checkpoint: {str(plain)[:200]}")

    def _fill(self, made: Any, entry: object) -> None:
        match made, entry:
            case dict(), [_, list(pairs)]:
                for key, item in pairs:
                    made[self.value(key)] = self.value(item)
            case list() | deque(), [_, list(items)]:
                made.extend(self.value(item) for item in items)
            case set(), [_, list(items)]:
                made.update(self.value(item) for item in items)
            case _, [_, dict(fields)]:
                self._set(made, fields)
            case _:
                raise ValueError(f"not an object of a checkpoint: {str(entry)[:200]}")

    def _set(self, made: Any, fields: dict[object, object]) -> None:
        known = _field_names(type(made), None)
        for name, value in fields.items():
            if not isinstance(name, str) or name.startswith("__") or (known and name not in known):
                raise ValueError(f"{type(made).__name__} has no field {name!r}; another version?")
            object.__setattr__(made, name, self.value(value))


def _empty(entry: object) -> Any:
    match entry:
        case [str(name), *_] if name in _CONTAINERS:
            return _CONTAINERS[name]()
        case [str(name), dict()]:
            return object.__new__(_class(name))
    raise ValueError(f"not an object of a checkpoint: {str(entry)[:200]}")


def _field_names(cls: type, value: object) -> list[str]:
    """Its slots; and, of an object that has no slots, what it has."""
    slots = [name for base in cls.__mro__ for name in getattr(base, "__slots__", ())]
    return slots + list(getattr(value, "__dict__", ()))


def _is_frozen(cls: type) -> bool:
    params: Any = getattr(cls, "__dataclass_params__", None)
    return dataclasses.is_dataclass(cls) and params.frozen


def _class(name: str) -> Any:
    try:
        return _classes()[name]
    except KeyError:
        raise ValueError(f"the kernel has no class {name!r}; another version?") from None


@functools.cache
def _classes() -> dict[str, type]:
    """All classes of the kernel's modules by name."""
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(aiosd.kernel.__path__, "aiosd.kernel."):
        for value in vars(importlib.import_module(module.name)).values():
            if not isinstance(value, type) or value.__module__ != module.name:
                continue  # no class, or one that another module lent
            if found.setdefault(value.__name__, value) is not value:
                raise TypeError(f"two classes of the kernel are called {value.__name__}")
    return found
