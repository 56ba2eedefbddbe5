"""What one table of settings is made of: keys with bounds, read from TOML, checked, written back.

Rule: a table is a frozen dataclass whose fields are made by key(); everything about a key that a
check, a flag, a page or a reload needs is in its Bounds.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MAX_NAMED = 4096  # entries of one table of tables: far more than a person writes
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ConfigError(Exception):
    """A configuration nobody can serve; str() says which key, what value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a key may hold, and what a person should know of it."""

    summary: str
    low: int | float | None = None
    high: int | float | None = None
    choices: tuple[str, ...] = ()
    is_bytes: bool = False
    is_path: bool = False
    metavar: str = ""
    default_text: str = ""  # where the default is worked out at start
    reloads: bool = False  # SIGHUP puts a new value into force; the others need a restart
    pattern: str = ""  # what a text, and each of several, must look like
    table: type[Any] | None = None  # several tables of this kind: listed, or each with a name
    name_pattern: str = ""  # what such a name, or one of a Mapping[str, str], must look like


def key(default: Any, summary: str, **bounds: Any) -> Any:
    """A field with its bounds.  A list's default is a tuple, a table of tables' a dict."""
    metadata = {"bounds": Bounds(summary, **bounds)}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def keys(of: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], Bounds]]:
    """The settable keys of a table, in order."""
    return {
        f.name: (f, f.metadata["bounds"]) for f in dataclasses.fields(of) if "bounds" in f.metadata
    }


def default_of(of: dataclasses.Field[Any]) -> Any:
    """What a key holds where nobody has set it."""
    return {} if of.default is dataclasses.MISSING else of.default


_SUFFIXES = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024**4}


def parse_bytes(text: str) -> int:
    """``"512M"``, ``"1.5GiB"``, ``"4096"`` -> bytes.  ConfigError if it is none of these."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if not match:
        raise ConfigError(f"{text!r} is not a size; write a number of bytes, or 512M, 2G")
    return int(float(match[1]) * _SUFFIXES[match[2].lower()])


def checked(
    of: type[Any], table: Mapping[str, Any], where: str, tables: Iterable[str] = ()
) -> dict[str, Any]:
    """The table's values, each within its bounds.  where: what comes before a key in an error;
    tables: names that stand beside the keys."""
    known = keys(of)
    values = {}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, (*known, *tables), 1)
            hint = f", did you mean {near[0]}?" if near else ""
            kind = "table" if isinstance(value, dict) and tables else "key"
            raise ConfigError(f"{where}{name}: no such {kind}{hint}")
        f, bounds = known[name]
        values[name] = _check(f"{where}{name}", value, f.type, bounds)
    return values


def _check(name: str, value: Any, type_name: Any, bounds: Bounds) -> Any:
    if bounds.table is not None:
        return _check_tables(name, value, bounds)
    if type_name == "tuple[str, ...]":
        if not isinstance(value, list) or len(value) > MAX_NAMED:
            raise ConfigError(f"{name} is {value!r}, expected a list of texts")
        return tuple(_check(f"{name}[{i}]", one, "str", bounds) for i, one in enumerate(value))
    if type_name == "Mapping[str, str]":
        return _check_pairs(name, value, bounds)
    if bounds.is_bytes and isinstance(value, str):
        value = parse_bytes(value)
    if type_name == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}, expected true or false")
        return value
    if type_name == "int":
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} is {value!r}, expected a whole number")
        if bounds.low is not None and value < bounds.low:
            raise ConfigError(f"{name} is {value}, the least is {bounds.low}")
        if bounds.high is not None and value > bounds.high:
            raise ConfigError(f"{name} is {value}, the limit is {bounds.high}")
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}, expected text in quotes")
    if "\0" in value:
        raise ConfigError(f"{name} holds a NUL character")
    if bounds.choices and value not in bounds.choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(bounds.choices)}")
    if bounds.pattern and not re.fullmatch(bounds.pattern, value):
        raise ConfigError(f"{name} is {value!r}, expected a text like {bounds.pattern}")
    return value


def _check_pairs(name: str, value: Any, bounds: Bounds) -> dict[str, str]:
    """Texts with names."""
    if not isinstance(value, dict) or len(value) > MAX_NAMED:
        raise ConfigError(f"{name} is {value!r}, expected texts with names")
    for part in value:
        if not re.fullmatch(bounds.name_pattern, part):
            raise ConfigError(f"{name}: the name {part!r} isn't like {bounds.name_pattern}")
    return {part: _check(f"{name}.{part}", text, "str", bounds) for part, text in value.items()}


def _check_tables(name: str, value: Any, bounds: Bounds) -> Any:
    """A list of tables, or tables with names."""
    assert bounds.table is not None
    of = bounds.table
    if not bounds.name_pattern:
        if not isinstance(value, list) or len(value) > MAX_NAMED:
            raise ConfigError(f"{name} is {value!r}, expected a list of tables")
        parts = [(f"{name}[{i}]", part) for i, part in enumerate(value)]
    else:
        if not isinstance(value, dict) or len(value) > MAX_NAMED:
            raise ConfigError(f"{name} is {value!r}, expected tables with names")
        parts = [(f"{name}.{part}", value[part]) for part in value]
        for part in value:
            if not re.fullmatch(bounds.name_pattern, part):
                raise ConfigError(f"{name}: the name {part!r} isn't like {bounds.name_pattern}")
    made = []
    for where, part in parts:
        if not isinstance(part, dict):
            raise ConfigError(f"{where} is {part!r}, expected a table")
        made.append(of(**checked(of, part, f"{where}.")))
    return tuple(made) if not bounds.name_pattern else dict(zip(value, made, strict=True))


def toml(value: Any, name: str = "") -> str:
    """A value as TOML says it, on one line."""
    if name == "socket_mode":
        return f"0o{value:03o}"
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'
        case tuple():
            return f"[{', '.join(toml(one) for one in value)}]"
        case Mapping():
            pairs = (f"{_toml_key(k)} = {toml(v)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
    return toml({k: getattr(value, k) for k in keys(type(value))})  # a table's dataclass


def _toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml(name)


def reference(title: str, of: type[Any], summary: str = "", *, reloads: bool = False) -> list[str]:
    """A table's section of docs/CONFIG.md, and those of the tables in it.

    reloads: the tables in a table are live where their key is.
    """
    out = [title, "", *([summary, ""] if summary else [])]
    out += ["| key | default | allowed | reload | meaning |", "|---|---|---|---|---|"]
    inner: list[str] = []
    for name, (f, b) in keys(of).items():
        if b.table is not None:
            outer = f"{title.strip('# []')}.{name}" if "[" in title else name
            heading = f"### [{outer}.NAME]" if b.name_pattern else f"### [[{outer}]]"
            inner += ["", *reference(heading, b.table, b.summary, reloads=b.reloads)]
            continue
        default = b.default_text or toml(default_of(f), name)
        reload = "live" if b.reloads or reloads else "restart"
        out.append(f"| `{name}` | `{default}` | {_allowed(f, b)} | {reload} | {b.summary} |")
    return [*out, *inner]


def _allowed(f: dataclasses.Field[Any], b: Bounds) -> str:
    if b.choices:
        words = ", ".join(f"`{c}`" for c in b.choices)
        return f"several of {words}" if f.type == "tuple[str, ...]" else words
    if b.low is not None:
        return f"{b.low} to {b.high}" + (" bytes" if b.is_bytes else "")
    if f.type == "bool":
        return "`true`, `false`"
    if f.type == "tuple[str, ...]":
        return "several texts"
    if f.type == "Mapping[str, str]":
        return "texts with names"
    return "a path" if b.is_path else "text"
