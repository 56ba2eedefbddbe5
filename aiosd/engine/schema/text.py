"""GBNF for JSON's words: literals, numbers in a range, strings by length, format or pattern.

Rule 1: what a rule here can produce is JSON, is UTF-8, and meets the keyword it stands for.  It may
be less than JSON allows (fewer digits, one spelling of a character), never more.
Rule 2: nothing is unbounded but the length of strings; white space is one space at most.
Source: llama.cpp, src/llama-grammar.cpp: parse_char for the escapes, parse_sequence for repetition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

MAX_DIGITS = 15  # integers a double holds exactly
MAX_INTEGER = 10**MAX_DIGITS - 1
MAX_PATTERN_CHARS = 256
MAX_PATTERN_WEIGHT = 256  # places a pattern's automaton can be in, about; llama.cpp's limit: 2000
MAX_PATTERN_DEPTH = 16

Range = tuple[int, int]
Ranges = tuple[Range, ...]

EVERYTHING: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
# Characters that stand for themselves in a JSON string.
RAW: Ranges = (
    (0x20, 0x21),
    (0x23, 0x5B),
    (0x5D, 0x7E),
    (0x80, 0xD7FF),
    (0xE000, 0x10FFFF),
)
_ESCAPED = {0x22: '\\"', 0x5C: "\\\\", 0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}

_HEX = "[0-9a-fA-F]"
_NO_SURROGATE = f"([0-9a-cA-CefEF] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}})"
_DAY = '("0" [1-9] | [12] [0-9])'
# No 29 February: whether a year has one is not for a grammar.
_DATE = (
    '("000" [1-9] | "00" [1-9] [0-9] | "0" [1-9] [0-9]{2} | [1-9] [0-9]{3}) "-" '
    f'(("0" [13578] | "10" | "12") "-" ({_DAY} | "3" [01]) | '
    f'("0" [469] | "11") "-" ({_DAY} | "30") | '
    '"02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_CLOCK})'
_UUID = ' "-" '.join(f"{_HEX}{{{n}}}" for n in (8, 4, 4, 4, 12))

FORMATS = {
    "date": rf'"\"" {_DATE} "\""',
    "time": rf'"\"" {_TIME} "\""',
    "date-time": rf'"\"" {_DATE} "T" {_TIME} "\""',
    "uuid": rf'"\"" {_UUID} "\""',
}

# A \u escape is never half of a surrogate pair: every char is one character of the value.
BUILTIN = {
    "space": '" "?',
    "raw": r"[ !#-\[\]-~\u0080-\uD7FF\uE000-\U0010FFFF]",
    "char": rf'raw | "\\" (["\\/bfnrt] | "u" {_NO_SURROGATE})',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}


class PatternError(ValueError):
    """A regular expression outside of the subset, or too large; str() says what."""


def literal(text: str) -> str:
    """A GBNF literal of a text without control characters (JSON has none)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def json_literal(value: object) -> str:
    return literal(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def repeated(item: str, least: int, most: int | None) -> str:
    """item{least,most}; item is one name, class or group; nothing if it can't occur."""
    if most == 0:
        return ""
    if (least, most) == (1, 1):
        return item
    if least == most:
        return f"{item}{{{least}}}"
    return f"{item}{{{least},{'' if most is None else most}}}"


def integer_between(low: float | None, high: float | None) -> str:
    """Every integer of at most MAX_DIGITS digits in the closed range.  ValueError if none."""
    least = -MAX_INTEGER if low is None else max(math.ceil(low), -MAX_INTEGER)
    most = MAX_INTEGER if high is None else min(math.floor(high), MAX_INTEGER)
    if least > most:
        raise ValueError(f"no integer of up to {MAX_DIGITS} digits is in the range")
    parts: list[str] = []
    if least < 0:
        parts += [f'"-" ({part})' for part in _naturals(max(1, -most), -least)]
    if most >= 0:
        parts += _naturals(max(0, least), most)
    return " | ".join(parts)


def _naturals(low: int, high: int) -> list[str]:
    parts = []
    for n_digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (n_digits - 1) if n_digits > 1 else 0)
        last = min(high, 10**n_digits - 1)
        parts.append(_digits(str(first), str(last)))
    return parts


def _digits(low: str, high: str) -> str:
    """All digit strings from low to high, which are equally long."""
    n_more = len(low) - 1
    if not n_more:
        return _digit(low, high)
    if low[1:] == "0" * n_more and high[1:] == "9" * n_more:
        return f"{_digit(low[0], high[0])} {repeated('[0-9]', n_more, n_more)}"
    if low[0] == high[0]:
        return f'"{low[0]}" ({_digits(low[1:], high[1:])})'
    parts = [f'"{low[0]}" ({_digits(low[1:], "9" * n_more)})']
    if int(high[0]) - int(low[0]) > 1:
        middle = _digit(str(int(low[0]) + 1), str(int(high[0]) - 1))
        parts.append(f"{middle} {repeated('[0-9]', n_more, n_more)}")
    parts.append(f'"{high[0]}" ({_digits("0" * n_more, high[1:])})')
    return " | ".join(parts)


def _digit(low: str, high: str) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"


# ---------------------------------------------------------------- sets of characters


def without(ranges: Iterable[Range], removed: Iterable[Range]) -> Ranges:
    kept = list(ranges)
    for low, high in removed:
        kept = [
            part
            for a, b in kept
            for part in ((a, min(b, low - 1)), (max(a, high + 1), b))
            if part[0] <= part[1]
        ]
    return tuple(sorted(set(kept)))


def char_class(ranges: Sequence[Range]) -> str:
    """A GBNF class; all but letters and digits as numbers."""
    return (
        "["
        + "".join(_point(low) + (f"-{_point(high)}" if high > low else "") for low, high in ranges)
        + "]"
    )


def _point(point: int) -> str:
    char = chr(point)
    if char.isascii() and char.isalnum():
        return char
    if point <= 0xFF:
        return f"\\x{point:02X}"
    return f"\\u{point:04X}" if point <= 0xFFFF else f"\\U{point:08X}"


def string_char(ranges: Sequence[Range]) -> str:
    """One character of a JSON string out of the set.  Control characters: tab, newline, return."""
    outside_raw = without(EVERYTHING, RAW)
    parts = [literal(text) for point, text in _ESCAPED.items() if _holds(ranges, point)]
    raw = without(ranges, outside_raw)
    if raw:
        parts.insert(0, char_class(raw))
    if not parts:
        raise PatternError("has a class without any character that can be written")
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _holds(ranges: Iterable[Range], point: int) -> bool:
    return any(low <= point <= high for low, high in ranges)


def key_outside(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Rules for the inside of a JSON key that is none of the names; prefix-0 is the start.

    Such a key is written without escapes, so that it has one spelling.
    """
    tree = _Tree()
    for name in names:
        if all(_holds(RAW, ord(char)) for char in name):
            tree.add(name)
    rules: dict[str, str] = {}
    others: dict[str, str] = {}  # class -> rule: most places of a tree have one way on
    todo = [tree]
    n_known = 1
    for index, node in enumerate(todo):  # grows while it is walked
        other = char_class(without(RAW, [(ord(char), ord(char)) for char in node.children]))
        if other not in others:
            others[other] = f"{prefix}-other-{len(others)}"
            rules[others[other]] = f"{other} raw*"
        parts = [others[other]]
        for char, child in node.children.items():
            parts.append(f"{literal(char)} {prefix}-{n_known}")
            n_known += 1
            todo.append(child)
        if not node.is_name:
            parts.append('""')
        rules[f"{prefix}-{index}"] = " | ".join(parts)
    return rules


class _Tree:
    """Names by their characters."""

    def __init__(self) -> None:
        self.children: dict[str, _Tree] = {}
        self.is_name = False

    def add(self, name: str) -> None:
        node = self
        for char in name:
            node = node.children.setdefault(char, _Tree())
        node.is_name = True
