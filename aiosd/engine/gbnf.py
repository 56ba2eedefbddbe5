"""Parses a grammar in llama.cpp's GBNF into rules over bytes.

Rule 1: the language is llama.cpp's (llama-grammar.cpp, llama_grammar_parser), so its documentation
and its JSON-schema converter apply.  Where it silently gives up (a repetition past 2000 becomes
endless) or dies (deep nesting, some left recursion), this says GrammarError with the limit.
Rule 2: characters become the byte sequences of UTF-8, so that a token may end within a character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiosd.engine.base import GrammarError

MAX_GBNF_BYTES = 65536
MAX_NESTING = 64  # of parentheses; each is a call deeper here
MAX_REPEAT = 2000  # as llama.cpp's MAX_REPETITION_THRESHOLD
MAX_RULES = 20_000  # after repetitions are written out
MAX_ELEMENTS = 200_000  # likewise
MAX_CLASS_RANGES = 1_000

TokenOfText = Callable[[str], int | None]
"""The token that a text such as <|im_start|> is, None if it isn't exactly one."""


class ByteSet:
    """Which bytes may stand here; compared by identity, made once per set."""

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        self.bits = bits  # bit n for byte n


@dataclass(frozen=True, slots=True)
class TokenSet:
    """One token (or any but that one), by its id and not by its text."""

    token: int
    is_negated: bool

    def __contains__(self, token: object) -> bool:
        return (token == self.token) is not self.is_negated


Element = ByteSet | TokenSet | int  # an int is a rule's place in Rules
Alternative = tuple[Element, ...]
Rules = list[list[Alternative]]


@dataclass(frozen=True, slots=True)
class ParsedGrammar:
    """Every alternative of every rule; every rule that is named exists."""

    rules: Rules
    root: int


_NAME = re.compile(r"[A-Za-z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_NEWLINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_REPEAT = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(?:(,)[ \t]*(\d{1,9})?[ \t]*)?\}")
_ESCAPE = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[nrt\\\"\[\]\-]")
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_TOKEN = re.compile(r"(!?)<(?:\[(\d{1,9})\]|([^>\n]*))>")
_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


def parse(text: str, token_of_text: TokenOfText, n_vocab: int) -> ParsedGrammar:
    """GrammarError says what is wrong and in which line, or which limit is passed."""
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise GrammarError(f"grammar has a lone surrogate at {error.start}") from None
    if n_bytes > MAX_GBNF_BYTES:
        raise GrammarError(f"grammar of {n_bytes} bytes, limit is {MAX_GBNF_BYTES}")
    parser = _Parser(text, token_of_text, n_vocab)
    parser.parse()
    if "root" not in parser.ids:
        raise GrammarError("grammar has no rule named root")
    for name, rule in parser.ids.items():
        if rule not in parser.defined:
            raise GrammarError(f"grammar uses {name!r}, which is not defined")
    refuse_left_recursion(parser.rules, {rule: name for name, rule in parser.ids.items()})
    return ParsedGrammar(parser.rules, parser.ids["root"])


class _Parser:
    def __init__(self, text: str, token_of_text: TokenOfText, n_vocab: int) -> None:
        self.text = text
        self.pos = 0
        self.rules: Rules = []
        self.ids: dict[str, int] = {}
        self.defined: set[int] = set()
        self._token_of_text = token_of_text
        self._n_vocab = n_vocab
        self._n_elements = 0
        self._nesting = 0
        self._byte_sets: dict[int, ByteSet] = {}
        self._classes: dict[tuple[tuple[int, int], ...], Element] = {}

    # ---------------------------------------------------------------- text

    def _fail(self, what: str) -> GrammarError:
        line = self.text.count("\n", 0, self.pos) + 1
        return GrammarError(f"grammar, line {line}: {what}")

    def _skip(self, newlines: bool) -> None:
        match = (_SPACE_AND_NEWLINES if newlines else _SPACE).match(self.text, self.pos)
        self.pos = match.end() if match else self.pos

    def _at(self, what: str) -> bool:
        return self.text.startswith(what, self.pos)

    def _take(self, what: str) -> None:
        if not self._at(what):
            raise self._fail(f"expected {what!r}")
        self.pos += len(what)

    # ---------------------------------------------------------------- rules

    def _new_rule(self) -> int:
        if len(self.rules) >= MAX_RULES:
            raise self._fail(f"more than {MAX_RULES} rules, repetitions written out")
        self.rules.append([])
        return len(self.rules) - 1

    def _rule(self, name: str) -> int:
        rule = self.ids.get(name)
        if rule is None:
            rule = self.ids[name] = self._new_rule()
        return rule

    def _count(self, n_elements: int) -> None:
        self._n_elements += n_elements
        if self._n_elements > MAX_ELEMENTS:
            raise self._fail(f"more than {MAX_ELEMENTS} elements, repetitions written out")

    def _synthesize(self, alternatives: list[Alternative]) -> int:
        rule = self._new_rule()
        self._count(sum(len(alternative) for alternative in alternatives))
        self.rules[rule] = alternatives
        return rule

    def parse(self) -> None:
        self._skip(True)
        while self.pos < len(self.text):
            match = _NAME.match(self.text, self.pos)
            if match is None:
                raise self._fail("expected a rule's name")
            self.pos = match.end()
            rule = self._rule(match.group())
            self._skip(False)
            self._take("::=")
            self._skip(True)
            self.rules[rule] = self._alternatives(False)
            self.defined.add(rule)
            if self.pos < len(self.text) and self.text[self.pos] not in "\r\n":
                raise self._fail(f"unexpected {self.text[self.pos]!r}")
            self._skip(True)

    def _alternatives(self, nested: bool) -> list[Alternative]:
        found = [self._sequence(nested)]
        while self._at("|"):
            self.pos += 1
            self._skip(True)
            found.append(self._sequence(nested))
        return found

    def _sequence(self, nested: bool) -> Alternative:
        elements: list[Element] = []
        while (item := self._item()) is not None:
            self._skip(nested)
            while (bounds := self._repeat()) is not None:
                item = self._repeated(item, *bounds)
                self._skip(nested)
            self._count(len(item))
            elements.extend(item)
        return tuple(elements)

    def _item(self) -> Alternative | None:
        """The next thing that a repetition would apply to; None where the sequence ends."""
        letter = self.text[self.pos : self.pos + 1]
        if letter == '"':
            return self._literal()
        if letter == "[":
            return self._character_class()
        if letter == ".":
            self.pos += 1
            return (self._class_element(((0, _LAST),)),)
        if letter == "(":
            return self._group()
        if letter and letter in "<!":
            return (self._token(),)
        match = _NAME.match(self.text, self.pos)
        if match is None:
            return None
        self.pos = match.end()
        return (self._rule(match.group()),)

    def _group(self) -> Alternative:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._fail(f"parentheses nested deeper than {MAX_NESTING}")
        self.pos += 1
        self._skip(True)
        alternatives = self._alternatives(True)
        self._take(")")
        self._nesting -= 1
        if len(alternatives) == 1 and len(alternatives[0]) == 1:
            return alternatives[0]
        return (self._synthesize(alternatives),)

    def _token(self) -> TokenSet:
        match = _TOKEN.match(self.text, self.pos)
        if match is None:
            raise self._fail("expected <[id]> or <text>")
        token = int(match[2]) if match[2] else self._token_of_text(f"<{match[3]}>")
        if token is None:
            raise self._fail(f"<{match[3]}> is not one token of this model")
        if token >= self._n_vocab:
            raise self._fail(f"token {token} is out of range, the vocabulary has {self._n_vocab}")
        self.pos = match.end()
        return TokenSet(token, match[1] == "!")

    # ---------------------------------------------------------------- repetition

    def _repeat(self) -> tuple[int, int | None] | None:
        """Least and most (None: no end) of the repetition that stands here, if one does."""
        letter = self.text[self.pos : self.pos + 1]
        if letter and letter in "*+?":
            self.pos += 1
            return (1 if letter == "+" else 0), (1 if letter == "?" else None)
        if letter != "{":
            return None
        match = _REPEAT.match(self.text, self.pos)
        if match is None:
            raise self._fail("expected {n}, {n,} or {n,m}")
        least = int(match[1])
        most = least if not match[2] else int(match[3]) if match[3] else None
        if max(least, most or 0) > MAX_REPEAT:
            raise self._fail(f"repetition {match.group()}, limit is {MAX_REPEAT}")
        if most is not None and most < least:
            raise self._fail(f"repetition {match.group()} ends before it begins")
        self.pos = match.end()
        return least, most

    def _repeated(self, item: Alternative, least: int, most: int | None) -> Alternative:
        """Source: llama-grammar.cpp, handle_repetitions: S{m,n} is S m times, then n-m nested
        options; S{m,} is S m times, then a rule that ends or goes on with itself."""
        if not item:
            raise self._fail("nothing here that could be repeated")
        tail: Alternative = ()
        if most is None:
            rule = self._new_rule()
            self._count(len(item) + 1)
            self.rules[rule] = [(*item, rule), ()]
            tail = (rule,)
        else:
            for _ in range(most - least):
                tail = (self._synthesize([(*item, *tail), ()]),)
        if len(item) * least > MAX_ELEMENTS:  # before the memory is taken
            self._count(len(item) * least)
        return item * least + tail

    # ---------------------------------------------------------------- characters

    def _character(self) -> int:
        if self.pos >= len(self.text):
            raise self._fail("unexpected end")
        letter = self.text[self.pos]
        self.pos += 1
        if letter != "\\":
            return ord(letter)
        match = _ESCAPE.match(self.text, self.pos)
        if match is None:
            raise self._fail(f"unknown escape \\{self.text[self.pos : self.pos + 1]}")
        self.pos = match.end()
        code = match.group()
        value = int(code[1:], 16) if len(code) > 1 else ord(_PLAIN_ESCAPES.get(code, code))
        if value > _LAST:
            raise self._fail(f"\\{code} is past the last character, U+10FFFF")
        return value

    def _literal(self) -> Alternative:
        self.pos += 1
        codes: list[int] = []
        while not self._at('"'):
            code = self._character()
            if _SURROGATES[0] <= code <= _SURROGATES[1]:
                raise self._fail(f"U+{code:04X} is a surrogate, no text can contain it")
            codes.append(code)
        self.pos += 1
        data = "".join(map(chr, codes)).encode()
        return tuple(self._byte_set(1 << byte) for byte in data)

    def _character_class(self) -> Alternative:
        self.pos += 1
        is_negated = self._at("^")
        self.pos += is_negated
        ranges: list[tuple[int, int]] = []
        while not self._at("]"):
            low = high = self._character()
            if self._at("-") and not self._at("-]"):
                self.pos += 1
                high = self._character()
            if low <= high:
                ranges.append((low, high))
            if len(ranges) > MAX_CLASS_RANGES:
                raise self._fail(f"class of more than {MAX_CLASS_RANGES} ranges")
        self.pos += 1
        merged = _merged(ranges)
        return (self._class_element(tuple(_complement(merged) if is_negated else merged)),)

    def _class_element(self, ranges: tuple[tuple[int, int], ...]) -> Element:
        known = self._classes.get(ranges)
        if known is not None:
            return known
        # Sequences with the same tail are one: a class has a handful of them, not hundreds.
        leads: dict[Alternative, int] = {}
        for byte_ranges in _byte_sequences(ranges):
            first, *rest = byte_ranges
            tail = tuple(self._byte_set(_bits(*r)) for r in rest)
            leads[tail] = leads.get(tail, 0) | _bits(*first)
        if list(leads) == [()] or not leads:
            element: Element = self._byte_set(leads.get((), 0))
        else:
            element = self._synthesize([(self._byte_set(b), *tail) for tail, b in leads.items()])
        self._classes[ranges] = element
        return element

    def _byte_set(self, bits: int) -> ByteSet:
        found = self._byte_sets.get(bits)
        if found is None:
            found = self._byte_sets[bits] = ByteSet(bits)
        return found


def _bits(low: int, high: int) -> int:
    return (1 << high + 1) - (1 << low)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


def _complement(merged: list[tuple[int, int]]) -> list[tuple[int, int]]:
    starts = [0, *(high + 1 for _, high in merged)]
    ends = [*(low - 1 for low, _ in merged), _LAST]
    return [(low, high) for low, high in zip(starts, ends, strict=True) if low <= high]


def _byte_sequences(ranges: tuple[tuple[int, int], ...]) -> Iterator[list[tuple[int, int]]]:
    """The UTF-8 forms of characters in ranges, as sequences of byte ranges.

    Each range is cut until all its characters have the same length, and until every byte but the
    first that differs runs over all of 80 to BF.
    """
    todo = list(reversed(ranges))
    while todo:
        low, high = todo.pop()
        for last in (0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF):
            if low <= last < high:
                todo.append((last + 1, high))
                high = last
        if low >= _SURROGATES[0] and high <= _SURROGATES[1]:
            continue
        cut = _cut(low, high)
        if cut is not None:
            todo += [(cut, high), (low, cut - 1)]
            continue
        yield list(zip(chr(low).encode(), chr(high).encode(), strict=True))


def _cut(low: int, high: int) -> int | None:
    """Where to split a range of characters of one length so that its parts are products of byte
    ranges; None if it is one."""
    for n_tail in (1, 2, 3):
        mask = (1 << 6 * n_tail) - 1
        if high <= 0x7F or low & ~mask == high & ~mask:
            return None
        if low & mask:
            return (low | mask) + 1
        if high & mask != mask:
            return high & ~mask
    return None


# ---------------------------------------------------------------- left recursion


def refuse_left_recursion(rules: Rules, names: dict[int, str]) -> None:
    """GrammarError if a rule can come back to itself with more on the stack and nothing read: the
    stacks would grow for ever.  Coming back with the same stack, as (a?)* does, is harmless."""
    nullable = _nullable(rules)
    leads: list[list[int]] = [[] for _ in rules]  # what a rule may begin with
    growing: list[tuple[int, int]] = []
    for rule, alternatives in enumerate(rules):
        for alternative in alternatives:
            for place, element in enumerate(alternative):
                if not isinstance(element, int):
                    break
                leads[rule].append(element)
                if place + 1 < len(alternative):
                    growing.append((rule, element))
                if element not in nullable:
                    break
    component = _components(leads)
    for rule, element in growing:
        if component[rule] == component[element]:
            name = names.get(rule) or names.get(element) or "a repetition"
            raise GrammarError(f"grammar is left-recursive: {name} can begin with itself")


def _nullable(rules: Rules) -> set[int]:
    """The rules that can be nothing at all."""
    waiting: dict[int, list[tuple[int, Alternative]]] = {}
    nullable: set[int] = set()
    todo = [
        (rule, alternative)
        for rule, alternatives in enumerate(rules)
        for alternative in alternatives
        if all(isinstance(element, int) for element in alternative)
    ]
    while todo:
        rule, alternative = todo.pop()
        missing = next((e for e in alternative if e not in nullable), None)
        if isinstance(missing, int):
            waiting.setdefault(missing, []).append((rule, alternative))
        elif rule not in nullable:
            nullable.add(rule)
            todo += waiting.pop(rule, [])
    return nullable


def _components(edges: list[list[int]]) -> list[int]:
    """Strongly connected components (Kosaraju), without recursion: a number per node."""
    reverse: list[list[int]] = [[] for _ in edges]
    for node, targets in enumerate(edges):
        for target in targets:
            reverse[target].append(node)
    order: list[int] = []
    seen = [False] * len(edges)
    for start in range(len(edges)):
        stack = [] if seen[start] else [(start, iter(edges[start]))]
        seen[start] = True
        while stack:
            node, targets_left = stack[-1]
            following = next((t for t in targets_left if not seen[t]), None)
            if following is None:
                order.append(node)
                stack.pop()
            else:
                seen[following] = True
                stack.append((following, iter(edges[following])))
    component = [-1] * len(edges)
    for root in reversed(order):
        todo = [root] if component[root] < 0 else []
        while todo:
            node = todo.pop()
            if component[node] < 0:
                component[node] = root
                todo += [n for n in reverse[node] if component[n] < 0]
    return component
