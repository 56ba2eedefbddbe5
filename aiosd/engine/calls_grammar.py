"""The grammar of an answer that may call tools: GBNF from a form of calls and the tools' schemas.

Rule 1: what it lets through reads back (calls.CallReader) as calls of offered tools.
Rule 2: a text goes on as it would without a grammar until the form's marker is there, which then
begins a call and nothing else; where no call may come, the marker can't be written.

The text is an automaton that knows how much of the marker has just been said (Knuth, Morris and
Pratt), written as rules that each end in the next: the grammar stays in one state while the model
talks, so that testing its token costs microseconds, and a mask is needed but where it fails.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

from aiosd.engine.calls import ID, ID_CHARS, CallForm, Tool
from aiosd.engine.schema import SchemaError, to_grammar
from aiosd.engine.schema.errors import refuse
from aiosd.engine.schema.text import BUILTIN

MAX_CALLS = 32  # of one answer, as MAX_CALLS_IN_TURN of the table
MAX_LOOSENED = 100  # keywords of one schema

TokenOf = Callable[[str], int | None]
"""The control token that a text is, if it is one."""

_WORD = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[A-Za-z][A-Za-z0-9-]*')


class Literals:
    """Texts of a form as GBNF: control tokens by their ids, all else as it is."""

    def __init__(self, control_texts: Sequence[str], token_of: TokenOf) -> None:
        found = {text: token_of(text) for text in control_texts}
        self._ids = {text: token for text, token in found.items() if token is not None}
        longest_first = sorted([*self._ids, ID], key=len, reverse=True)
        self._parts = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def id_of(self, text: str) -> int | None:
        """The control token that exactly this text is."""
        return self._ids.get(text)

    def gbnf(self, text: str) -> str:
        parts = [self._part(part) for part in self._parts.split(text) if part]
        return " ".join(parts) or '""'

    def _part(self, part: str) -> str:
        if part == ID:
            return f"[a-zA-Z0-9]{{{ID_CHARS}}}"
        token = self._ids.get(part)
        return quoted(part) if token is None else f"<[{token}]>"


def answer_grammar(
    tools: Sequence[Tool], form: CallForm, literals: Literals, *, choice: str, is_parallel: bool
) -> str:
    """choice: auto, none, required, or the name of one of the tools.

    SchemaError: a tool's parameters are no schema that a grammar could be made of.
    """
    offered = [tool for tool in tools if choice in ("auto", "none", "required", tool.name)]
    opening = form.opening.lstrip()
    rest = literals.gbnf(opening[len(form.marker) :])
    rules = {"root": f"{literals.gbnf(form.opening)} calls"}
    if choice in ("auto", "none"):
        rules = _text(form.marker, literals, None if choice == "none" or not tools else "marked")
        rules["marked"] = f"{rest} calls"
    if choice == "none" or not offered:
        rules.pop("marked", None)
        return _joined(rules)
    n_more = MAX_CALLS - 1 if is_parallel and form.joint is not None else 0
    if choice not in ("auto", "required"):
        n_more = 0
    again = f" again{{0,{n_more}}}" if n_more else ""
    rules["calls"] = f"call{again} {literals.gbnf(form.closing)}"
    if n_more:
        rules["again"] = f"{literals.gbnf(form.joint or '')} call"
    rules["call"] = " | ".join(f"call-{number}" for number in range(len(offered)))
    middle = literals.gbnf(form.middle)
    for number, tool in enumerate(offered):
        prefix = f"arguments-{number}-"
        rules |= _renamed(to_grammar(loosened(tool)), prefix)
        rules[f"call-{number}"] = f"{quoted(tool.name)} {middle} {prefix}root"
    return _joined(rules)


def loosened(tool: Tool) -> dict[str, Any]:
    """The tool's schema without what a grammar can't enforce; whoever carries out a call checks
    the arguments by the whole of it.  SchemaError where that doesn't help."""
    schema: dict[str, Any] = copy.deepcopy(dict(tool.parameters))
    if not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf"}:
        schema["type"] = "object"
    if schema.get("type", "object") != "object":
        raise refuse("type", "", "arguments are an object")
    for _ in range(MAX_LOOSENED):
        try:
            to_grammar(schema)
        except SchemaError as error:
            # What stands beside a format or pattern can be enforced once that is gone.
            problems = sorted(error.problems, key=lambda p: p.keyword not in ("format", "pattern"))
            if not any(_drop(schema, problem.keyword, problem.path) for problem in problems):
                raise
            continue
        return schema
    to_grammar(schema)
    return schema


def _drop(schema: dict[str, Any], keyword: str, path: str) -> bool:
    """Remove a keyword from the subschema at that path, or make it one that is enforced; False if
    it isn't there."""
    place: Any = schema
    for name in path.split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict):
            place = place.get(key)
        elif isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        else:
            return False
    if not isinstance(place, dict) or keyword not in place:
        return False
    value = place.pop(keyword)
    if keyword == "oneOf" and "anyOf" not in place:
        place["anyOf"] = value
    return True


def _text(marker: str, literals: Literals, after: str | None) -> dict[str, str]:
    """Rules for any text without the marker; after: the rule that goes on once it is there."""
    token = literals.id_of(marker)
    if token is not None:
        begins = [] if after is None else [f"<[{token}]> {after}"]
        return {"root": " | ".join([". root", *begins, '""'])}
    rules: dict[str, str] = {}
    names = ["root", *(f"text-{n}" for n in range(1, len(marker)))]
    others = "[^" + "".join(_in_class(char) for char in dict.fromkeys(marker)) + "]"
    for said, name in enumerate(names):
        ways = [f"{others} root"]
        for char in dict.fromkeys(marker):
            n_now = _overlap(marker, marker[:said] + char)
            if n_now < len(marker):
                ways.append(f"{quoted(char)} {names[n_now]}")
            elif after is not None:
                ways.append(f"{quoted(char)} {after}")
        rules[name] = " | ".join([*ways, '""'])
    return rules


def _overlap(marker: str, said: str) -> int:
    """How much of the marker the text ends with."""
    return next(n for n in range(len(said), -1, -1) if said.endswith(marker[:n]))


def _renamed(gbnf: str, prefix: str) -> dict[str, str]:
    """The rules of a schema's grammar under names of their own, beside those that all share."""

    def name(match: re.Match[str]) -> str:
        word = match[0]
        return word if word[0] in '"[' or word in BUILTIN else prefix + word

    rules: dict[str, str] = {}
    for line in gbnf.splitlines():
        own, _, rule = line.partition(" ::= ")
        rules[own if own in BUILTIN else prefix + own] = _WORD.sub(name, rule)
    return rules


def _joined(rules: dict[str, str]) -> str:
    return "".join(f"{name} ::= {rule}\n" for name, rule in rules.items())


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def quoted(text: str) -> str:
    """Any text as a GBNF literal."""
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'


def _in_class(char: str) -> str:
    return f"\\{char}" if char in "]^-[\\" else _ESCAPES.get(char, char)
