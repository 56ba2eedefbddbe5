"""Renders the syscall table as markdown: the part of PROTOCOL.md that is generated."""

from __future__ import annotations

from collections.abc import Mapping

from aios_sdk.errors import SyscallError
from aios_sdk.signature import ABSENT, Param, Syscall
from aios_sdk.types import Any, AnyMap, Bool, Bytes, Float, Int, List, Map, Str, Type, Union, Value


def markdown(table: Mapping[str, Syscall], errors: Mapping[str, type[SyscallError]]) -> str:
    """One section per call, then the errors."""
    parts = [_section(call) for call in table.values()]
    rows = [f"| `{code}` | {_cell(cls.summary)} |" for code, cls in errors.items()]
    parts.append("\n".join(["## Errors", "", "| code | when |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def says(type_: Type) -> str:
    """A type in a few words: `integer 1..20`, `array of string (at most 16)`."""
    match type_:
        case Int(min=0, max=max_) if max_ == 2**63 - 1:
            return "integer"
        case Int():
            return f"integer {_bound(type_.min)} to {_bound(type_.max)}"
        case Float():
            above = "above " if type_.is_min_excluded else ""
            return f"number {above}{type_.min:g} to {type_.max:g}"
        case Bool():
            return "bool"
        case Str():
            return _says_str(type_)
        case Bytes():
            return f"binary, at most {type_.max_bytes} bytes"
        case List():
            least = f"{type_.min_items} to " if type_.min_items else "at most "
            return f"array of {says(type_.of)} ({least}{type_.max_items})"
        case Map():
            keys = [f"{f.name}{'' if f.is_required else '?'}: {says(f.type)}" for f in type_.fields]
            return "{" + ", ".join(keys) + "}"
        case Any():
            return "any"
        case Value():
            return "any, also binary"
        case AnyMap():
            return "map"
        case Union():
            return " or ".join(says(option) for option in type_.options)
        case _:
            raise TypeError(f"no words for {type_!r}")


def _says_str(type_: Str) -> str:
    if type_.choices:
        return " \\| ".join(f'"{choice}"' for choice in type_.choices)
    if type_.pattern is not None:
        return f"string `{type_.pattern}`"
    if type_.max_chars == Str().max_chars:
        return "string" if not type_.min_chars else "string (not empty)"
    return f"string ({type_.min_chars} to {type_.max_chars} characters)"


def _bound(value: int) -> str:
    for power in (31, 32, 63):
        for offset in (-2, -1, 0):
            if value == 2**power + offset:
                return f"2^{power}" + (f" - {-offset}" if offset else "")
            if value == -(2**power) and offset == 0:
                return f"-2^{power}"
    return str(value)


def _section(call: Syscall) -> str:
    lines = [f"## {call.name}", "", _sentence(call.summary)]
    if call.right is not None:
        lines.append(f"Needs the right `{call.right}`.")
    lines += ["", "| param | type | default | |", "|---|---|---|---|"]
    lines += [_row(p) for p in call.params]
    for group in call.one_of:
        lines += ["", _sentence(f"give {group.says()}")]
    if call.chunk is not None:
        lines += ["", f"Chunk: `{_code(says(call.chunk))}`"]
    lines += ["", f"Result: `{_code(says(call.result))}`"]
    return "\n".join(lines)


def _row(p: Param) -> str:
    default = "required" if p.is_required else ""
    if p.default is not ABSENT:
        default = f"`{str(p.default).lower() if isinstance(p.default, bool) else p.default}`"
    return f"| `{p.name}` | {says(p.type)} | {default} | {_cell(p.summary)} |"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return text.replace("\\|", "|").replace("`", "")
