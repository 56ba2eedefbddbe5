"""Tools as a caller of llm.generate offers them, and the calls that come of it.

Rule: an id is the job's and the call's number, so that a job which goes on after a restart, or is
followed by several, gives its calls the same ids.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aios_sdk.errors import InvalidParams
from aiosd.engine.base import GrammarError, Model
from aiosd.engine.calls import CallForm, CallReader, Tool, to_json
from aiosd.engine.calls_grammar import Literals, answer_grammar, loosened
from aiosd.engine.chat import ChatTemplate
from aiosd.engine.schema import SchemaError
from aiosd.kernel.model import JobId
from aiosd.server.prompts import as_told, tool_of

KEPT = 64  # grammars, of a few KiB: agents offer the same tools round after round
CHOICES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class Offer:
    """What an answer may call: the grammar it keeps to, and how calls in it are recognised."""

    grammar: str
    marker: str | int
    form: CallForm
    names: tuple[str, ...]
    hidden: tuple[str, ...]

    def reader(self, job: JobId) -> Calls:
        return Calls(job, CallReader(self.form, self.names, self.hidden))


class Calls:
    """The calls of one job, as they become whole."""

    def __init__(self, job: JobId, reader: CallReader) -> None:
        self._job = job
        self._reader = reader
        self._n_calls = 0

    def push(self, text: str) -> list[dict[str, Any]]:
        """Those that are whole with this piece, as tool_calls has them."""
        found = self._reader.push(text)
        first = self._n_calls
        self._n_calls += len(found)
        return [
            {"id": f"{self._job}.{number}", "name": name, "arguments": arguments}
            for number, (name, arguments) in enumerate(found, first)
        ]


class Offers:
    """Makes offers for one model.  Safe on any thread; takes milliseconds, unless it was made
    before."""

    def __init__(self, model: Model, template: ChatTemplate) -> None:
        self._model = model
        self._form = template.form
        self._hidden = _of_form(self._form, model.info.control_texts)
        self._literals = Literals(self._hidden, self._token_of)
        self._made = functools.lru_cache(KEPT)(self._make)

    def of(self, p: Mapping[str, Any]) -> Offer | None:
        """What these params of llm.generate offer; None if that is nothing.  InvalidParams."""
        check_choice(p)
        if not p.get("tools"):
            return None
        tools = to_json(as_told(p["tools"]))
        return self._made(tools, p["tool_choice"], p["parallel_tool_calls"])

    def _make(self, tools_json: str, choice: str, is_parallel: bool) -> Offer:
        tools = [tool_of(tool) for tool in json.loads(tools_json)]
        try:
            grammar = answer_grammar(
                tools, self._form, self._literals, choice=choice, is_parallel=is_parallel
            )
        except SchemaError as error:
            raise self._whose(tools, error) from error
        try:
            self._model.grammar(grammar).close()
        except GrammarError as error:
            raise InvalidParams(f"tools: {error}; offer fewer at once", field="tools") from error
        marker: str | int = self._form.marker
        if choice not in ("auto", "none"):
            marker = ""  # there is no text
        elif (token := self._literals.id_of(self._form.marker)) is not None:
            marker = token
        names = tuple(tool.name for tool in tools)
        return Offer(grammar, marker, self._form, names, self._hidden)

    def _whose(self, tools: Sequence[Tool], error: SchemaError) -> InvalidParams:
        for number, tool in enumerate(tools):
            try:
                loosened(tool)
            except SchemaError as own:
                field = f"tools[{number}].parameters"
                return InvalidParams(f"{field}, of {tool.name}: {own}", field=field)
        return InvalidParams(f"tools: {error}", field="tools")

    def _token_of(self, text: str) -> int | None:
        tokens = self._model.tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 else None


def check_choice(p: Mapping[str, Any]) -> None:
    """InvalidParams unless names are unique and tool_choice is among what can be chosen."""
    names = [tool["name"] for tool in p.get("tools", ())]
    for number, name in enumerate(names):
        field = f"tools[{number}].name"
        if name in CHOICES:
            raise InvalidParams(f"{field} is {name!r}, which tool_choice uses", field=field)
        if name in names[:number]:
            raise InvalidParams(f"{field} is {name!r}, as one before it is", field=field)
    choice = p["tool_choice"]
    if choice in ("auto", "none") or (choice == "required" and names) or choice in names:
        return
    known = ", ".join([*CHOICES, *names] if names else CHOICES[:2])
    raise InvalidParams(
        f"tool_choice is {choice!r}; with the tools given it can be {known}", field="tool_choice"
    )


def _of_form(form: CallForm, control_texts: Sequence[str]) -> tuple[str, ...]:
    whole = form.opening + form.middle + (form.joint or "") + form.closing
    return tuple(text for text in control_texts if text and text in whole)
