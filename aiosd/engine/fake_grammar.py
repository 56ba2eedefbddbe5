"""GBNF for the fake model: a parser, and a matcher that walks a grammar byte by byte.

Rule 1: the language is llama.cpp's (literals, classes, groups, alternatives, repetition); what it
would refuse is a GrammarError here: no root, an undefined rule, left recursion.
Rule 2: a state is a set of stacks of nodes, as in llama.cpp, but over bytes, so that a token may
end within a character.

A class of characters past ASCII may list at most 256 of them; a negated one takes all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aiosd.engine.base import EngineError, GrammarError, Logits

MAX_GBNF_BYTES = 65536
MAX_REPEAT = 2000
MAX_WIDE_CHARACTERS = 256
MAX_MEMO = 20000  # transitions remembered per grammar

Bytes = frozenset[int]
Element = Bytes | str  # a set of bytes, or the name of a rule
Sequence_ = tuple[Element, ...]
Rules = dict[str, list[Sequence_]]
Stack = tuple[Sequence_, int, Any] | None  # (sequence, place in it, the stack below); None: done

_NAME = re.compile(r"[A-Za-z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\n]*)*")
_SPACE_AND_NEWLINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_REPEAT = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}")
_ESCAPE = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[nrt\\\"\[\]\-^]")
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_TAIL = frozenset(range(0x80, 0xC0))
_WIDE = (  # any character past ASCII
    (frozenset(range(0xC2, 0xE0)), _TAIL),
    (frozenset(range(0xE0, 0xF0)), _TAIL, _TAIL),
    (frozenset(range(0xF0, 0xF5)), _TAIL, _TAIL, _TAIL),
)


@dataclass(slots=True)
class _Parser:
    text: str
    pos: int = 0
    rules: Rules = field(default_factory=dict)

    def fail(self, what: str) -> GrammarError:
        line = self.text.count("\n", 0, self.pos) + 1
        return GrammarError(f"grammar, line {line}: {what}")

    def skip(self, newlines: bool) -> None:
        match = (_SPACE_AND_NEWLINES if newlines else _SPACE).match(self.text, self.pos)
        self.pos = match.end() if match else self.pos

    def at(self, what: str) -> bool:
        return self.text.startswith(what, self.pos)

    def take(self, what: str) -> None:
        if not self.at(what):
            raise self.fail(f"expected {what!r}")
        self.pos += len(what)

    def name(self) -> str:
        match = _NAME.match(self.text, self.pos)
        if match is None:
            raise self.fail("expected a rule's name")
        self.pos = match.end()
        return match.group()

    def new_rule(self, alternatives: list[Sequence_]) -> str:
        name = f" {len(self.rules)}"  # a blank: no name from the text can be the same
        self.rules[name] = alternatives
        return name

    def parse(self) -> Rules:
        self.skip(True)
        while self.pos < len(self.text):
            name = self.name()
            self.skip(False)
            self.take("::=")
            self.skip(True)
            self.rules[name] = self.alternatives(False)
            if self.pos < len(self.text) and self.text[self.pos] not in "\r\n":
                raise self.fail("expected the end of the rule")
            self.skip(True)
        return self.rules

    def alternatives(self, nested: bool) -> list[Sequence_]:
        found = [self.sequence(nested)]
        while self.at("|"):
            self.pos += 1
            self.skip(True)
            found.append(self.sequence(nested))
        return found

    def sequence(self, nested: bool) -> Sequence_:
        elements: list[Element] = []
        while self.pos < len(self.text):
            item = self.item()
            if item is None:
                break
            elements.extend(self.repeated(item))
            self.skip(nested)
        return tuple(elements)

    def item(self) -> Sequence_ | None:
        if self.at('"'):
            return self.literal()
        if self.at("["):
            return self.character_class()
        if self.at("."):
            self.pos += 1
            return (self.new_rule([(frozenset(range(128)),), *_WIDE]),)
        if self.at("("):
            self.pos += 1
            self.skip(True)
            inner = self.new_rule(self.alternatives(True))
            self.take(")")
            return (inner,)
        return (self.name(),) if _NAME.match(self.text, self.pos) else None

    def repeated(self, item: Sequence_) -> Sequence_:
        low, high = 1, 1
        unbounded = False
        match = _REPEAT.match(self.text, self.pos)
        if match:
            low = int(match[1])
            unbounded = bool(match[2]) and not match[3]
            high = low if not match[2] or unbounded else int(match[3])
            self.pos = match.end()
        elif self.pos < len(self.text) and self.text[self.pos] in "*+?":
            low = 1 if self.at("+") else 0
            unbounded = not self.at("?")
            high = low if unbounded else 1
            self.pos += 1
        if not low <= high <= MAX_REPEAT:
            raise self.fail(f"repetition {low} to {high}, limit is {MAX_REPEAT}")
        tail: Sequence_ = ()
        if unbounded:
            name = self.new_rule([])
            self.rules[name] = [(*item, name), ()]
            tail = (name,)
        for _ in range(high - low):
            tail = (self.new_rule([(*item, *tail), ()]),)
        return item * low + tail

    def character(self) -> str:
        if self.pos >= len(self.text):
            raise self.fail("unexpected end")
        letter = self.text[self.pos]
        self.pos += 1
        if letter != "\\":
            return letter
        match = _ESCAPE.match(self.text, self.pos)
        if match is None:
            raise self.fail("unknown escape")
        self.pos = match.end()
        code = match.group()
        return chr(int(code[1:], 16)) if len(code) > 1 else _PLAIN_ESCAPES.get(code, code)

    def literal(self) -> Sequence_:
        self.pos += 1
        text = ""
        while not self.at('"'):
            text += self.character()
        self.pos += 1
        return tuple(frozenset({byte}) for byte in text.encode())

    def character_class(self) -> Sequence_:
        self.pos += 1
        negated = self.at("^")
        self.pos += negated
        ascii_: set[int] = set()
        wide: list[Sequence_] = []
        while not self.at("]"):
            low = high = self.character()
            if self.at("-") and not self.at("-]"):
                self.pos += 1
                high = self.character()
            ascii_.update(range(ord(low), min(ord(high), 127) + 1))
            first_wide = max(ord(low), 128)
            if ord(high) - first_wide >= MAX_WIDE_CHARACTERS and not negated:
                raise self.fail(f"class past {MAX_WIDE_CHARACTERS} characters beyond ASCII")
            if not negated:
                for code in range(first_wide, ord(high) + 1):
                    wide.append(tuple(frozenset({byte}) for byte in chr(code).encode()))
        self.pos += 1
        if negated:
            return (self.new_rule([(frozenset(range(128)) - ascii_,), *_WIDE]),)
        if not wide:
            return (frozenset(ascii_),)
        return (self.new_rule([(frozenset(ascii_),), *wide]),)


def compile_gbnf(text: str) -> Rules:
    """Parse and check.  GrammarError says what is wrong and in which line."""
    if len(text.encode()) > MAX_GBNF_BYTES:
        raise GrammarError(f"grammar of {len(text.encode())} bytes, limit is {MAX_GBNF_BYTES}")
    rules = _Parser(text).parse()
    if "root" not in rules:
        raise GrammarError("grammar has no rule named root")
    for name, alternatives in rules.items():
        for sequence in alternatives:
            for element in sequence:
                if isinstance(element, str) and element not in rules:
                    raise GrammarError(f"grammar uses {element!r}, which is not defined ({name!r})")
    _refuse_left_recursion(rules)
    return rules


def _refuse_left_recursion(rules: Rules) -> None:
    nullable: set[str] = set()
    while True:
        more = {
            name
            for name, alternatives in rules.items()
            if any(all(e in nullable for e in sequence) for sequence in alternatives)
        }
        if more == nullable:
            break
        nullable = more
    leftmost: dict[str, set[str]] = {name: set() for name in rules}
    for name, alternatives in rules.items():
        for sequence in alternatives:
            for element in sequence:
                if not isinstance(element, str):
                    break
                leftmost[name].add(element)
                if element not in nullable:
                    break
    while True:  # peel off the rules that lead to nothing left to check; what stays is a cycle
        done = [name for name, reached in leftmost.items() if not reached & leftmost.keys()]
        if not done:
            break
        for name in done:
            del leftmost[name]
    if leftmost:
        raise GrammarError(f"grammar is left-recursive: {', '.join(sorted(leftmost)).strip()}")


class FakeGrammar:
    """Where a job stands in its grammar; base.Grammar."""

    def __init__(
        self, rules: Rules, piece: Callable[[int], bytes], n_vocab: int, eog: Collection[int]
    ) -> None:
        self._rules = rules
        self._pieces = [piece(token) for token in range(n_vocab)]
        self._eog = eog
        self._memo: dict[tuple[frozenset[Stack], int], frozenset[Stack]] = {}
        self._has_ended = False
        states: set[Stack] = set()
        for sequence in rules["root"]:
            self._expand((sequence, 0, None), states)
        self._states = frozenset(states)

    def allows(self, token: int) -> bool:
        if self._has_ended:
            raise EngineError("the grammar has ended")
        if token in self._eog:
            return None in self._states
        return bool(self._after(token))

    def mask(self, logits: Logits) -> Logits:
        masked = np.full_like(logits, -np.inf)
        for token in range(len(self._pieces)):
            if self.allows(token):
                masked[token] = logits[token]
        return masked

    def accept(self, token: int) -> None:
        if not self.allows(token):
            raise EngineError(f"the grammar doesn't allow token {token} here")
        if token in self._eog:
            self._has_ended = True
        else:
            self._states = self._after(token)

    def close(self) -> None:
        self._memo.clear()

    def _after(self, token: int) -> frozenset[Stack]:
        states = self._states if self._pieces[token] else frozenset()
        for byte in self._pieces[token]:
            key = (states, byte)
            known = self._memo.get(key)
            if known is None:
                if len(self._memo) >= MAX_MEMO:
                    self._memo.clear()
                known = self._memo[key] = self._advance(states, byte)
            states = known
            if not states:
                break
        return states

    def _advance(self, states: frozenset[Stack], byte: int) -> frozenset[Stack]:
        found: set[Stack] = set()
        for stack in states:
            if stack is None:
                continue
            sequence, place, below = stack
            if byte in sequence[place]:
                self._expand((sequence, place + 1, below), found)
        return frozenset(found)

    def _expand(self, stack: Stack, found: set[Stack]) -> None:
        """Put in ``found`` the stacks that this one stands for, each with bytes on top."""
        while stack is not None and stack[1] == len(stack[0]):
            stack = stack[2]
        if stack is None:
            found.add(None)
            return
        sequence, place, below = stack
        element = sequence[place]
        if not isinstance(element, str):
            found.add(stack)
            return
        if place + 1 < len(sequence):  # else a tail call: the stack must not grow with a list
            below = (sequence, place + 1, below)
        for alternative in self._rules[element]:
            self._expand((alternative, 0, below), found)
