"""A GBNF reader that writes random texts of a grammar.  Independent of the code under test."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class Chars:
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Choice:
    branches: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Repeat:
    node: Node
    least: int
    most: int | None


Node = Chars | Name | Choice | Repeat

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<name>[a-zA-Z0-9-]+)"""
    r"""|(?P<count>\{\d+(?:,\d*)?\})|(?P<mark>[()|*+?]))"""
)
CHAR = re.compile(
    r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|(.)", re.DOTALL
)
MARKS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def code_points(text: str) -> list[tuple[int, bool]]:
    """Each character, and whether it was written with a backslash."""
    found = []
    for match in CHAR.finditer(text):
        digits = match[1] or match[2] or match[3]
        escape, plain = match[4], match[5]
        point = int(digits, 16) if digits else ord(ESCAPES.get(escape, escape) if escape else plain)
        found.append((point, plain is None))
    return found


class Grammar:
    def __init__(self, text: str) -> None:
        self.rules: dict[str, Choice] = {}
        for line in text.strip().split("\n"):
            name, _, body = line.partition(" ::= ")
            assert name not in self.rules, f"{name} is defined twice"
            tokens = [(m.lastgroup or "", m[m.lastgroup or 0]) for m in TOKEN.finditer(body)]
            assert "".join(t for _, t in tokens).replace(" ", "") == body.replace(" ", ""), body
            self.rules[name], rest = self._choice(tokens)
            assert not rest, rest
        self.costs: dict[str, int] = {}
        for _ in range(len(self.rules) + 1):
            for name, rule in self.rules.items():
                cost = self._cost(rule) + 1
                if cost < self.costs.get(name, 10**9):
                    self.costs[name] = cost

    def _choice(self, tokens: list[tuple[str, str]]) -> tuple[Choice, list[tuple[str, str]]]:
        branches: list[tuple[Node, ...]] = []
        items: list[Node] = []
        while tokens and tokens[0][1] != ")":
            kind, text = tokens[0]
            tokens = tokens[1:]
            if kind == "string":
                chars = tuple(Chars(((p, p),)) for p, _ in code_points(text[1:-1]))
                items.append(Choice((chars,)))
            elif kind == "set":
                items.append(self._set(text[1:-1]))
            elif kind == "name":
                items.append(Name(text))
            elif kind == "count":
                first, comma, last = text[1:-1].partition(",")
                assert int(last or first) <= 2000
                most = int(last) if last else None if comma else int(first)
                items[-1] = Repeat(items[-1], int(first), most)
            elif text == "(":
                node, tokens = self._choice(tokens)
                assert tokens[0][1] == ")"
                tokens = tokens[1:]
                items.append(node)
            elif text == "|":
                branches.append(tuple(items))
                items = []
            else:
                items[-1] = Repeat(items[-1], *MARKS[text])
        return Choice((*branches, tuple(items))), tokens

    @staticmethod
    def _set(text: str) -> Chars:
        assert not text.startswith("^"), "negated sets let surrogates through"
        points = code_points(text)
        ranges: Ranges = []
        i = 0
        while i < len(points):
            low = points[i][0]
            if i + 2 < len(points) and points[i + 1] == (ord("-"), False):
                ranges.append((low, points[i + 2][0]))
                i += 3
            else:
                ranges.append((low, low))
                i += 1
        assert ranges
        return Chars(tuple(ranges))

    def _cost(self, node: Node) -> int:
        match node:
            case Chars():
                return 0
            case Name():
                assert node.name in self.rules, f"{node.name} is not defined"
                return self.costs.get(node.name, 10**9)
            case Choice():
                return min(max(map(self._cost, branch), default=0) for branch in node.branches)
            case Repeat():
                return self._cost(node.node) if node.least else 0

    def text(self, rng: random.Random, budget: int = 40) -> str:
        """A random text; the shortest way out once about `budget` rules were used."""
        self._budget = budget
        pieces: list[str] = []
        self._write(Name("root"), rng, pieces)
        return "".join(pieces)

    def _write(self, node: Node, rng: random.Random, pieces: list[str]) -> None:
        match node:
            case Chars():
                low, high = rng.choice(node.ranges)
                pieces.append(chr(rng.choice([low, high, rng.randint(low, high)])))
            case Name():
                self._budget -= 1
                self._write(self.rules[node.name], rng, pieces)
            case Choice():
                branches = list(node.branches)
                if self._budget < 0:
                    best = min(max(map(self._cost, b), default=0) for b in branches)
                    branches = [b for b in branches if max(map(self._cost, b), default=0) == best]
                for item in rng.choice(branches):
                    self._write(item, rng, pieces)
            case Repeat():
                most = node.least + 3 if node.most is None else node.most
                count = rng.choice([node.least, min(most, node.least + 1), most])
                if self._budget < 0:
                    count = node.least
                for _ in range(count):
                    self._write(node.node, rng, pieces)
