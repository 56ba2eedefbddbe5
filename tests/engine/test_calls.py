"""Calls of tools: whatever the grammar lets through is text and calls of offered tools, whole."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.engine.calls import GENERIC, ID, Call, CallForm, CallReader, Tool, told
from aiosd.engine.calls_grammar import Literals, answer_grammar, loosened
from aiosd.engine.fake import FakeModel
from aiosd.engine.schema import SchemaError
from aiosd.engine.text import TextStream

MODEL = FakeModel()
MISTRAL = CallForm(
    opening='<repo_name>[{"name": "',
    middle='", "arguments": ',
    joint=f', "id": "{ID}"}}, {{"name": "',
    closing=f', "id": "{ID}"}}]',
)
"""In the manner of Mistral's: the marker is a control token, and calls carry ids."""
LLAMA = CallForm(opening='{"name": "', middle='", "parameters": ', joint=None, closing="}")
FORMS = {"generic": GENERIC, "mistral": MISTRAL, "llama": LLAMA}

SCHEMAS: dict[str, dict[str, Any]] = {
    "nothing": {"type": "object", "properties": {}},
    "nested": {
        "type": "object",
        "properties": {
            "where": {
                "type": "object",
                "properties": {"x": {"type": "integer", "maximum": 9}, "on": {"type": "boolean"}},
                "required": ["x"],
            },
            "tags": {"type": "array", "items": {"enum": ["a", 'q"\\', "<tool_call>", "é"]}},
        },
        "required": ["where"],
    },
    "texts": {
        "type": "object",
        "properties": {"say": {"type": "string", "maxLength": 6}, "é\n": {"const": "}\n"}},
        "required": ["say", "é\n"],
    },
    "referring": {
        "$defs": {"n": {"type": ["integer", "null"]}},
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/n"}},
    },
}
TOOLS = [Tool(f"do.{name}", f"does {name}", schema) for name, schema in SCHEMAS.items()]


def literals(form: CallForm) -> Literals:
    def token_of(text: str) -> int | None:
        tokens = MODEL.tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 else None

    return Literals([t for t in MODEL.info.control_texts if t in form.opening], token_of)


def gbnf(form: CallForm, choice: str, *, is_parallel: bool = True) -> str:
    return answer_grammar(TOOLS, form, literals(form), choice=choice, is_parallel=is_parallel)


def marker_of(form: CallForm) -> str | int:
    token = literals(form).id_of(form.marker)
    return form.marker if token is None else token


def reader(form: CallForm) -> CallReader:
    return CallReader(form, [tool.name for tool in TOOLS], ["<repo_name>"])


def walk(grammar: str, seed: int, nudge: str = "", n_most: int = 500) -> tuple[list[int], bool]:
    """A random way through the grammar, after the nudge as far as that is allowed, and whether it
    came to its end.  Ends and quotes are likely, so that it does."""
    rng = np.random.default_rng(seed)
    at = MODEL.grammar(grammar)
    said: list[int] = []
    wished = list(MODEL.tokenize(nudge, special=True))
    while not at.is_complete and len(said) < n_most:
        token = wished.pop(0) if wished else -1
        if token < 0 or not at.allows(token):
            wished.clear()
            row = rng.normal(size=MODEL.info.n_vocab).astype(np.float32)
            row[[ord(char) for char in '"}']] += 2
            token = int(at.mask(row).argmax())
        at.accept(token)
        if token in MODEL.info.eog:
            return said, True
        said.append(token)
    return said, at.is_complete


def read(form: CallForm, tokens: list[int]) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """What a caller gets of these tokens."""
    stream, calls = TextStream(MODEL, (), marker_of(form)), reader(form)
    text, found = "", []
    parts = [*(stream.push(token) for token in tokens), stream.finish()]
    for words in parts:
        if words is not None:
            text += words.text
            found += calls.push(words.calls)
    return text, found


def check_calls(calls: list[tuple[str, dict[str, Any]]]) -> None:
    for name, arguments in calls:
        assert name.removeprefix("do.") in SCHEMAS
        jsonschema.validate(arguments, SCHEMAS[name.removeprefix("do.")])


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_what_is_required_is_calls_that_validate_and_nothing_else(form: str, seed: int) -> None:
    said, has_ended = walk(gbnf(FORMS[form], "required"), seed)
    text, calls = read(FORMS[form], said)
    assert text == ""
    assert calls or not has_ended
    check_calls(calls)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_text_goes_over_into_calls_where_the_marker_is(form: str, seed: int) -> None:
    marker = FORMS[form].marker
    nudge = f"so {marker[:3]} I {marker[:-1]}{marker}"
    said, has_ended = walk(gbnf(FORMS[form], "auto"), seed, nudge)
    text, calls = read(FORMS[form], said)
    assert text == f"so {marker[:3]} I {marker[:-1]}"
    assert calls or not has_ended
    check_calls(calls)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_where_no_call_may_come_the_marker_cannot_be_said(form: str, seed: int) -> None:
    said, _ = walk(gbnf(FORMS[form], "none"), seed, f"so {FORMS[form].marker}")
    text, calls = read(FORMS[form], said)
    assert text.startswith("so ")
    assert FORMS[form].marker not in text
    assert not calls
    assert marker_of(FORMS[form]) not in said


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_name_is_one_call_of_that_tool(seed: int) -> None:
    said, has_ended = walk(gbnf(GENERIC, "do.nested"), seed)
    _, calls = read(GENERIC, said)
    assert [name for name, _ in calls] == ["do.nested"][: len(calls)]
    assert len(calls) == 1 or not has_ended


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_without_parallel_calls_there_is_one(seed: int) -> None:
    said, has_ended = walk(gbnf(MISTRAL, "required", is_parallel=False), seed)
    assert len(read(MISTRAL, said)[1]) == 1 or not has_ended


@pytest.mark.parametrize("form", [GENERIC, MISTRAL])
def test_several_calls_are_read_as_written(form: CallForm) -> None:
    calls = [
        Call("", "do.texts", {"say": '"}\\', "é\n": "}\n"}),
        Call("", "do.nothing", {}),
        Call("", "do.nested", {"where": {"x": -3}, "tags": ["<tool_call>", "é"]}),
    ]
    tokens = list(MODEL.tokenize(form.write(calls), special=True))
    at = MODEL.grammar(gbnf(form, "required"))
    for token in tokens:
        at.accept(token)
    assert read(form, tokens) == ("", [(call.name, dict(call.arguments)) for call in calls])


def test_a_call_is_told_once_it_is_whole_and_not_before() -> None:
    text = GENERIC.write([Call("", "do.texts", {"say": "}"}), Call("", "do.nothing", {})])
    calls = reader(GENERIC)
    found = [(len(text[: n + 1]), calls.push(char)) for n, char in enumerate(text)]
    assert [(text[:n][-2:], new) for n, new in found if new] == [
        ('"}', [("do.texts", {"say": "}"})]),
        ("{}", [("do.nothing", {})]),
    ]


def test_calls_end_with_the_last_that_an_answer_has_room_for() -> None:
    calls = [Call("", "do.nothing", {})] * 33
    at = MODEL.grammar(gbnf(GENERIC, "required"))
    for token in MODEL.tokenize(GENERIC.write(calls[:32]), special=True):
        at.accept(token)
    assert at.is_complete


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        (
            {"type": "object", "properties": {"u": {"type": "string", "format": "uri"}}},
            {"u": {"type": "string"}},
        ),
        ({"properties": {"n": {"type": "number", "multipleOf": 2}}}, {"n": {"type": "number"}}),
        (
            {"properties": {"a": {"type": "array", "uniqueItems": True, "items": {"minimum": 1}}}},
            {"a": {"type": "array", "items": {}}},
        ),
    ],
)
def test_what_a_grammar_cannot_enforce_is_left_to_whoever_carries_out_the_call(
    schema: dict[str, Any], left: dict[str, Any]
) -> None:
    before = json.dumps(schema)
    assert loosened(Tool("t", "", schema))["properties"] == left
    assert json.dumps(schema) == before


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "nonsense"}, {"properties": 5}])
def test_what_is_no_schema_of_arguments_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        loosened(Tool("t", "", schema))


def test_the_form_is_explained_only_to_whom_it_is_new() -> None:
    tools = [Tool("clock", "the time", {"type": "object"})]
    line = '{"name": "clock", "description": "the time", "parameters": {"type": "object"}}'
    assert told(tools, None) == f"You may call these functions, and no others:\n{line}"
    assert told(tools, GENERIC).endswith(
        '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>'
    )
