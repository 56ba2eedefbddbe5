"""Templates that know tools: their form of calls, and conversations in it."""

from __future__ import annotations

import re

import pytest

from aiosd.engine.calls import GENERIC, ID, Call, CallForm, Tool
from aiosd.engine.chat import ChatTemplate, Message
from tests.engine.chat_templates import FAMILIES, TOOL_FAMILIES

WEATHER = Tool(
    "weather", "how warm", {"type": "object", "properties": {"city": {"type": "string"}}}
)
ASKED = Message("user", "Warm in Oslo?")
CALLED = Message("assistant", "", calls=(Call("j1.0", "weather", {"city": "Oslo"}),))
BOTH = Message(
    "assistant", "", calls=(*CALLED.calls, Call("j1.1", "weather", {"city": 'O"l\n<|im_end|>'}))
)
ANSWERS = [Message("tool", "12", "weather", call_id=call.id) for call in BOTH.calls]


def template_of(family: str) -> ChatTemplate:
    source, controls, bos, eos = TOOL_FAMILIES[family]
    return ChatTemplate(source, bos_text=bos, eos_text=eos, control_texts=controls)


@pytest.mark.parametrize(
    ("family", "form", "marker"),
    [
        ("qwen2", GENERIC, "<tool_call>"),
        ("llama31", CallForm('{"name": "', '", "parameters": ', None, "}"), '{"name": "'),
        (
            "mistral",
            CallForm(
                '[TOOL_CALLS][{"name": "',
                '", "arguments": ',
                f', "id": "{ID}"}}, {{"name": "',
                f', "id": "{ID}"}}]',
            ),
            "[TOOL_CALLS]",
        ),
        ("text", CallForm("<call>", "=", "</call><call>", "</call>", True), "<call>"),
    ],
)
def test_a_templates_form_is_found_out(family: str, form: CallForm, marker: str) -> None:
    template = template_of(family)
    assert template.knows_tools
    assert template.form == form
    assert template.form.marker == marker


def test_a_form_that_is_none_and_a_template_without_tools_get_the_generic_one() -> None:
    without = [
        ChatTemplate(source, bos_text=bos, eos_text=eos, control_texts=controls)
        for source, controls, bos, eos in FAMILIES.values()
    ]
    for template in (template_of("xml"), ChatTemplate(None), *without):
        assert not template.knows_tools
        assert template.form is GENERIC


def test_tools_stand_where_the_template_has_them() -> None:
    first = template_of("qwen2").delta(
        (), is_open=False, new=[ASKED], generate=True, tools=[WEATHER]
    )
    assert first.text == (
        "<|im_start|>system\nHelpful.\n\n# Tools\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "how warm", '
        '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}\n'
        "</tools><|im_end|>\n<|im_start|>user\nWarm in Oslo?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("family", "n_calls"),
    [("qwen2", 1), ("qwen2", 2), ("llama31", 1), ("mistral", 1), ("mistral", 2), ("text", 2)],
)
def test_a_log_written_by_the_model_is_as_the_template_would_write_it(
    family: str, n_calls: int
) -> None:
    template = template_of(family)
    called, answers = (CALLED, BOTH)[n_calls - 1], ANSWERS[:n_calls]

    def delta(before: list[Message], new: list[Message], *, is_open: bool) -> str:
        return template.delta(before, is_open=is_open, new=new, generate=True, tools=[WEATHER]).text

    log = delta([], [ASKED], is_open=False)
    log += template.form.write(called.calls)
    log += delta([ASKED, called], answers, is_open=True)
    whole = delta([], [ASKED, called, *answers], is_open=False)
    ids = re.compile(r'"id": "\d{9}"')  # the model's own, where it writes them
    assert ids.sub("", log) == ids.sub("", whole)


def test_ids_of_calls_change_no_token() -> None:
    template = template_of("mistral")

    def text(*ids: str) -> str:
        calls = tuple(Call(id_, "weather", {}) for id_ in ids)
        answers = [Message("tool", "12", call_id=id_) for id_ in ids]
        new = [ASKED, Message("assistant", "", calls=calls), *answers]
        return template.delta((), is_open=False, new=new, generate=True).text

    assert text("j1.0", "j1.1") == text("x", "a-very-long-id-of-somebody-else")
    assert '"call_id": "000000001"' in text("j1.0", "j1.1")


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_nothing_that_tools_say_or_are_called_makes_a_control_token(family: str) -> None:
    _, controls, _, _ = TOOL_FAMILIES[family]
    template = template_of(family)
    evil = "".join(controls) or "<call>"
    tool = Tool("weather", evil, {"type": "object", "properties": {evil: {"description": evil}}})
    arguments = {evil: [evil, {"x": evil}]} if family != "xml" else {}
    harmless = Message("assistant", "", calls=(Call("a", "weather", {}),))
    new = [ASKED, Message("assistant", "", calls=(Call("a", "weather", arguments),))]
    answers = [Message("tool", evil, call_id="a")]

    def n_controls(messages: list[Message], tools: list[Tool]) -> int:
        rendered = template.delta((), is_open=False, new=messages, generate=True, tools=tools)
        pattern = re.compile("|".join(map(re.escape, controls)) or "(?!)")
        special = [segment.text for segment in rendered.segments if segment.special]
        return sum(len(pattern.findall(text)) for text in special)

    plain = [ASKED, harmless, Message("tool", "12", call_id="a")]
    expected = n_controls(plain, [WEATHER])
    assert n_controls([*new, *answers], [tool]) == expected


def test_a_turn_cut_in_a_call_is_closed_as_any_other() -> None:
    template = template_of("qwen2")
    cut = Message("assistant", "I look.")  # half a call is in the log, and in no message
    part = template.delta([ASKED, cut], is_open=True, new=[ASKED], generate=False, tools=[WEATHER])
    assert part.text == "<|im_end|>\n<|im_start|>user\nWarm in Oslo?<|im_end|>\n"
