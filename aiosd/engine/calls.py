"""Calls of tools as a model writes them: the form, its words, and reading it back.

Rule 1: pure; what is read here was let through by the grammar (calls_grammar.py), or it is no call.
Rule 2: a form is four texts around names and arguments, so any template's form that has these in
this order is one; another one is not recognised, and the generic form is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ID_CHARS = 9  # Mistral's templates take ids of nine letters and digits only
ID = "\U0010fffd"  # in the texts of a form: where an id stands

_TAG = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may call; parameters is a JSON Schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_wire(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }


@dataclass(frozen=True, slots=True)
class Call:
    """One call.  id: which answer belongs to it; "" where nobody has given it one yet."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallForm:
    """opening NAME middle ARGUMENTS (joint NAME middle ARGUMENTS)* closing

    joint             None: the form has one call only
    is_argument_text  the template wants arguments as JSON text, not as data
    """

    opening: str
    middle: str
    joint: str | None
    closing: str
    is_argument_text: bool = False

    @property
    def marker(self) -> str:
        """With what a text can't go on but as a call: the tag that the form begins with, if any."""
        opening = self.opening.lstrip()
        tag = _TAG.match(opening)
        return opening if tag is None else tag[0]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it is made of, which some vocabularies have as tokens."""
        whole = self.opening + self.middle + (self.joint or "") + self.closing
        return tuple(dict.fromkeys(_TAG.findall(whole)))

    def write(self, calls: Sequence[Call]) -> str:
        """The calls in this form, as far as it has room for them."""
        joint = self.joint
        if joint is None:
            calls, joint = calls[:1], ""
        texts = [f"{call.name}{self.middle}{to_json(call.arguments)}" for call in calls]
        return (self.opening + joint.join(texts) + self.closing).replace(ID, "0" * ID_CHARS)


GENERIC = CallForm(
    opening='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    joint='}\n</tool_call>\n<tool_call>\n{"name": "',
    closing="}\n</tool_call>",
)
"""As Hermes, Qwen and many others were taught."""


def to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def told(tools: Sequence[Tool], form: CallForm | None) -> str:
    """The words that tell a model of its tools.  form: to be explained to it; None: it knows."""
    if not tools:
        return "There are no functions to call any more."
    words = ["You may call these functions, and no others:"]
    words += [to_json(tool.to_wire()) for tool in tools]
    if form is not None:
        example = form.write([Call("", "NAME", {"ARGUMENT": "VALUE"})])
        words += ["", "To call one, write its name and its arguments as JSON, like this:", example]
    return "\n".join(words)


def answered(content: str) -> str:
    """What a tool said, for a template that doesn't know the role."""
    return f"<tool_response>\n{content}\n</tool_response>"


class CallReader:
    """Takes what a model writes from the marker on, piece by piece, and gives the calls in it.

    A call counts once its arguments are whole: nothing after them could change it.
    hidden: texts of control tokens, which are in the form and not in the text.
    """

    def __init__(self, form: CallForm, names: Iterable[str], hidden: Sequence[str] = ()) -> None:
        def shown(text: str) -> str:
            for control in hidden:
                text = text.replace(control, "")
            return re.escape(text).replace(re.escape(ID), f"[a-zA-Z0-9]{{{ID_CHARS}}}")

        name = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        heads = f"({name}){shown(form.middle)}"
        self._head = re.compile(r"\s*" + shown(form.opening.lstrip()) + heads)
        self._next = None if form.joint is None else re.compile(shown(form.joint) + heads)
        self._text = ""
        self._place = 0
        self._n_calls = 0

    def push(self, text: str) -> list[tuple[str, dict[str, Any]]]:
        """The calls, (name, arguments), that are whole with this piece."""
        self._text += text
        found: list[tuple[str, dict[str, Any]]] = []
        if "}" not in text:
            return found
        while (call := self._call()) is not None:
            found.append(call)
        return found

    def _call(self) -> tuple[str, dict[str, Any]] | None:
        pattern = self._head if self._n_calls == 0 else self._next
        match = None if pattern is None else pattern.match(self._text, self._place)
        if match is None:
            return None
        try:
            arguments, end = _decode(self._text, match.end())
        except ValueError:
            return None  # it is not whole yet
        if not isinstance(arguments, dict):
            return None
        self._place, self._n_calls = end, self._n_calls + 1
        return match[1], arguments
