"""Regular expressions of JSON Schema -> GBNF, for a subset that means the same everywhere.

The subset: ^…$ around the whole; characters, escaped punctuation, \\d \\w \\s (their ASCII
members), \\n \\r \\t \\xHH \\uHHHH, dot, classes with ranges and ^, groups ( ) and (?: ), |, the
quantifiers * + ? {n} {n,} {n,m}, also lazy.  All else is a PatternError.  What the grammar can
write is matched by the expression under Python's and ECMA-262's rules; of characters outside ASCII
it may write fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.engine.schema.text import (
    EVERYTHING,
    MAX_PATTERN_CHARS,
    MAX_PATTERN_DEPTH,
    MAX_PATTERN_WEIGHT,
    PatternError,
    Range,
    Ranges,
    repeated,
    string_char,
    without,
)

_NEWLINES: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x85, 0x85), (0x2028, 0x2029))
_SHORTHANDS: dict[str, Ranges] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20)),
}
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09}
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def pattern_rule(pattern: str) -> str:
    """The GBNF of a JSON string whose value matches.  PatternError says what is not supported."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise PatternError(f"has {len(pattern)} characters, limit is {MAX_PATTERN_CHARS}")
    body = pattern[1:-1]
    n_backslashes = len(body) - len(body.rstrip("\\"))
    if not (pattern.startswith("^") and pattern.endswith("$") and len(pattern) > 1):
        raise PatternError("matches anywhere in a string; anchor it with ^ and $")
    if n_backslashes % 2:
        raise PatternError("ends with an escaped $; anchor it with ^ and $")
    parser = _Parser(body)
    part = parser.alternatives(depth=0)
    if parser.position < len(body):
        raise PatternError("has a ) without its (")
    if parser.has_open_choice:
        raise PatternError("has | outside of a group, where ^ and $ bind to one side only")
    return rf'"\"" {part.gbnf} "\""'


@dataclass(frozen=True, slots=True)
class _Part:
    gbnf: str  # one item, or a sequence
    is_nullable: bool
    weight: int


class _Parser:
    def __init__(self, body: str) -> None:
        self._body = body
        self.position = 0
        self.has_open_choice = False

    def alternatives(self, depth: int) -> _Part:
        if depth > MAX_PATTERN_DEPTH:
            raise PatternError(f"nests deeper than {MAX_PATTERN_DEPTH} groups")
        parts = [self._sequence(depth)]
        while self._take("|"):
            self.has_open_choice |= depth == 0
            parts.append(self._sequence(depth))
        return _weighed(
            " | ".join(part.gbnf for part in parts),
            any(part.is_nullable for part in parts),
            sum(part.weight for part in parts),
        )

    def _sequence(self, depth: int) -> _Part:
        parts: list[_Part] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._quantified(self._atom(depth)))
        return _weighed(
            " ".join(part.gbnf for part in parts if part.gbnf) or '""',
            all(part.is_nullable for part in parts),
            sum(part.weight for part in parts),
        )

    def _atom(self, depth: int) -> _Part:
        char = self._next()
        match char:
            case "(":
                if self._take("?") and not self._take(":"):
                    raise PatternError("has a group of the kind (?…), only (?:…) is supported")
                inner = self.alternatives(depth + 1)
                if not self._take(")"):
                    raise PatternError("has a ( without its )")
                return _weighed(f"({inner.gbnf})", inner.is_nullable, inner.weight + 1)
            case "[":
                ranges = self._class()
            case ".":
                ranges = without(EVERYTHING, _NEWLINES)
            case "\\":
                ranges = self._escape()
            case "^" | "$":
                raise PatternError(f"has {char} inside")
            case "*" | "+" | "?" | "{" | "}" | "]":
                raise PatternError(f"has {char} where a character is expected; escape it")
            case _:
                ranges = _one(char)
        return _Part(string_char(ranges), is_nullable=False, weight=1)

    def _quantified(self, part: _Part) -> _Part:
        match self._peek():
            case "*":
                least, most = 0, None
            case "+":
                least, most = 1, None
            case "?":
                least, most = 0, 1
            case "{":
                least, most = self._counts()
            case _:
                return part
        self.position += 1
        self._take("?")  # lazy: the same strings
        if self._peek() in ("*", "+", "?", "{"):
            raise PatternError("has a quantifier after a quantifier")
        if most is None and part.is_nullable:
            raise PatternError("repeats without end what can be empty")
        weight = part.weight * max(least, 1 if most is None else most) + 1
        return _weighed(repeated(part.gbnf, least, most), part.is_nullable or least == 0, weight)

    def _counts(self) -> tuple[int, int | None]:
        """{n}, {n,} or {n,m}; leaves the position at the closing brace."""
        self.position += 1
        least = self._number()
        most: int | None = least
        if self._take(","):
            most = None if self._peek() == "}" else self._number()
        if self._peek() != "}" or (most is not None and most < least):
            raise PatternError("has a { that begins no quantifier; escape it")
        return least, most

    def _number(self) -> int:
        digits = ""
        while self._peek() in tuple("0123456789"):
            digits += self._next()
        if not digits:
            raise PatternError("has a { that begins no quantifier; escape it")
        if len(digits) > 4:
            raise PatternError(f"repeats {digits} times, limit is {MAX_PATTERN_WEIGHT}")
        return int(digits)

    def _escape(self) -> Ranges:
        char = self._next()
        if char in _SHORTHANDS:
            return _SHORTHANDS[char]
        if char in _CONTROLS:
            return ((_CONTROLS[char], _CONTROLS[char]),)
        if char in _PUNCTUATION:
            return _one(char)
        if char in ("x", "u"):
            n_digits = 2 if char == "x" else 4
            digits = self._body[self.position : self.position + n_digits]
            self.position += n_digits
            if len(digits) == n_digits and all(c in "0123456789abcdefABCDEF" for c in digits):
                return _one(chr(int(digits, 16)))
        raise PatternError(f"has the escape \\{char}")

    def _class(self) -> Ranges:
        is_negated = self._take("^")
        ranges: list[Range] = []
        while not self._take("]"):
            item = self._class_item(is_negated)
            if self._peek() == "-" and self._body[self.position + 1 : self.position + 2] != "]":
                self.position += 1
                item = _between(item, self._class_item(is_negated))
            ranges.extend(item)
        if not ranges:
            raise PatternError("has an empty class")
        return without(EVERYTHING, ranges) if is_negated else tuple(ranges)

    def _class_item(self, is_negated: bool) -> Ranges:
        char = self._next()
        if char == "[" or (char in "&|~-" and self._peek() == char):
            raise PatternError(f"has {char} in a class; escape it")
        if char != "\\":
            return _one(char)
        if is_negated and self._peek() in _SHORTHANDS:
            raise PatternError(f"has \\{self._peek()} in a negated class")
        return self._escape()

    def _peek(self) -> str:
        return self._body[self.position : self.position + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise PatternError("ends too early")
        self.position += 1
        return char

    def _take(self, char: str) -> bool:
        found = self._peek() == char
        self.position += found
        return found


def _weighed(gbnf: str, is_nullable: bool, weight: int) -> _Part:
    if weight > MAX_PATTERN_WEIGHT:
        raise PatternError(f"is as large as {weight} characters, limit is {MAX_PATTERN_WEIGHT}")
    return _Part(gbnf, is_nullable, weight)


def _one(char: str) -> Ranges:
    point = ord(char)
    if 0xD800 <= point <= 0xDFFF:
        raise PatternError("has half of a surrogate pair")
    return ((point, point),)


def _between(low: Ranges, high: Ranges) -> Ranges:
    (first, last), (start, end) = low[0], high[-1]
    if len(low) != 1 or len(high) != 1 or first != last or start != end or end < first:
        raise PatternError("has a range in a class that is none")
    return without(((first, end),), ((0xD800, 0xDFFF),))
