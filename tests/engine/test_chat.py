"""The chat template: what is appended to a log, and who may write a control token."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.engine.chat import ChatTemplate, Limits, Message, Rendered, Segment, TemplateError
from tests.engine.chat_templates import CHATML_CONTROLS, FAMILIES, SMOLLM2

U, A, S, T = "user", "assistant", "system", "tool"


def template_of(family: str) -> ChatTemplate:
    source, controls, bos, eos = FAMILIES[family]
    return ChatTemplate(source, bos_text=bos, eos_text=eos, control_texts=controls)


def control_tokens(rendered: Rendered, controls: tuple[str, ...]) -> list[str]:
    """What a tokenizer would make of it: control texts, longest first, in special segments only."""
    pattern = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))))
    return [
        found
        for segment in rendered.segments
        if segment.special
        for found in pattern.findall(segment.text)
    ]


def append_all(template: ChatTemplate, messages: list[Message]) -> str:
    """A log written as the daemon does: assistants' words come from the model, without an end."""
    log, before, is_open = "", list[Message](), False
    for message in messages:
        if message.role == A:
            log += message.content
            before, is_open = [*before, message], True
        else:
            part = template.delta(before, is_open=is_open, new=[message], generate=True)
            log += part.text
            before, is_open = [*before, message], False
    return log


def test_smollm2_gets_its_default_system_message_once() -> None:
    template = template_of("smollm2")
    first = template.delta((), is_open=False, new=[Message(U, "Hi")], generate=True)
    assert first.text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    second = template.delta(
        [Message(U, "Hi"), Message(A, "Hello")],
        is_open=True,
        new=[Message(U, "Bye")],
        generate=True,
    )
    assert second.segments == (
        Segment(
            "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n", special=True
        ),
    )


def test_a_closed_turn_is_not_closed_again() -> None:
    template = template_of("smollm2")
    before = [Message(S, "Be brief."), Message(U, "Hi"), Message(A, "Hello")]
    part = template.delta(before, is_open=False, new=[Message(U, "Bye")], generate=False)
    assert part.text == "<|im_start|>user\nBye<|im_end|>\n"


def test_generating_with_nothing_new_only_opens_a_turn() -> None:
    template = template_of("smollm2")
    closed = template.delta([Message(U, "Hi")], is_open=False, new=[], generate=True)
    assert closed.text == "<|im_start|>assistant\n"
    nothing = template.delta([Message(U, "Hi")], is_open=False, new=[], generate=False)
    assert nothing.segments == ()


def test_an_open_turn_that_is_no_message_is_closed_too() -> None:
    part = template_of("smollm2").delta(
        [Message(U, "Hi")], is_open=True, new=[Message(U, "And?")], generate=False
    )
    assert part.text == "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"


def test_a_template_that_trims_still_closes_an_untrimmed_reply() -> None:
    part = template_of("llama3").delta(
        [Message(U, "Hi"), Message(A, "  Hello \n\n")],
        is_open=True,
        new=[Message(U, " Bye ")],
        generate=True,
    )
    assert part.text == (
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_reasoning_dropped_from_earlier_turns_stays_in_the_log() -> None:
    template = template_of("qwen3")
    before = [Message(U, "2+2?"), Message(A, "<think>\nsum\n</think>\n\n4")]
    for is_open, closing in ((True, "<|im_end|>\n"), (False, "")):
        part = template.delta(before, is_open=is_open, new=[Message(U, "3+3?")], generate=True)
        assert part.text == (closing + "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n")


def test_a_system_message_that_moves_with_the_last_user_is_no_obstacle() -> None:
    template = template_of("mistral")
    first = template.render([Message(S, "Be kind."), Message(U, "Hi")], True)
    assert first.text == "<s>[INST] Be kind.\n\nHi[/INST]"
    part = template.delta(
        [Message(S, "Be kind."), Message(U, "Hi"), Message(A, "Yo")],
        is_open=True,
        new=[Message(U, "Bye")],
        generate=True,
    )
    assert part.text == "</s>[INST] Be kind.\n\nBye[/INST]"


@pytest.mark.parametrize(
    ("family", "messages", "words"),
    [
        ("gemma", [Message(S, "x"), Message(U, "y")], "System role not supported"),
        ("gemma", [Message(U, "x"), Message(U, "y")], "roles must alternate"),
        ("qwen3", [Message(S, "x")], "No user query found in messages."),
        ("smollm2", [Message("robot", "x")], r"messages\[0\].role is 'robot', known are system"),
    ],
)
def test_what_a_template_refuses_is_said(family: str, messages: list[Message], words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        template_of(family).render(messages, True)


def test_a_refusal_quotes_the_message_as_it_was() -> None:
    template = ChatTemplate(
        "{{ raise_exception('no: ' + messages[0].content) }}", control_texts=CHATML_CONTROLS
    )
    with pytest.raises(TemplateError, match=re.escape("no: <|im_end|>")):
        template.render([Message(U, "<|im_end|>")], True)


def test_a_template_that_hides_earlier_turns_cannot_be_appended_to() -> None:
    template = ChatTemplate("{{ messages | length }}:{{ messages[-1].content }}")
    with pytest.raises(TemplateError, match="doesn't show the last message's content exactly once"):
        template.delta([Message(U, "a")], is_open=False, new=[Message(U, "b")], generate=False)


def test_without_a_template_the_vocabulary_decides() -> None:
    chatml = ChatTemplate(None, control_texts=CHATML_CONTROLS)
    plain = ChatTemplate(None, control_texts=["</s>"])
    messages = [Message(U, "Hi")]
    assert (chatml.kind, plain.kind, template_of("gemma").kind) == ("chatml", "plain", "model")
    assert chatml.render(messages, True).text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert plain.render(messages, True).text == "user: Hi\nassistant:"


def test_a_quoted_control_text_is_a_segment_of_its_own() -> None:
    rendered = ChatTemplate(None, control_texts=CHATML_CONTROLS).render(
        [Message(U, "say <|im_end|> now")], False
    )
    assert rendered.segments == (
        Segment("<|im_start|>user\nsay ", special=True),
        Segment("<|im_end|>", special=False),
        Segment(" now<|im_end|>\n", special=True),
    )


def test_parts_of_control_texts_that_form_none_stay_in_the_text() -> None:
    rendered = ChatTemplate(None, control_texts=CHATML_CONTROLS).render(
        [Message(U, "> quoted, a < b, <|im_"), Message(U, "start")], False
    )
    assert len(rendered.segments) == 1


def test_a_nested_control_text_does_not_make_one_of_its_shell() -> None:
    rendered = ChatTemplate(None, control_texts=CHATML_CONTROLS).render(
        [Message(U, "<|im_<|im_end|>start|>")], False
    )
    assert control_tokens(rendered, CHATML_CONTROLS) == ["<|im_start|>", "<|im_end|>"]
    assert rendered.text == "<|im_start|>user\n<|im_<|im_end|>start|><|im_end|>\n"


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("<{{ messages[0].content }}>", "|im_end|"),
        ("<|im_{{ messages[0].content }}", "end|>"),
        ("<|im_{{ messages[0].content | trim }}", "\n end|> and more"),
        ("{{ messages[0].content }}|>", "text <|im_end"),
        ("{{ messages[0].content }}{{ messages[1].content }}", "<|im"),
        ("{{ messages[0].content.strip() }}{{ messages[1].content }}", "<|im  "),
    ],
)
def test_a_message_cannot_complete_a_control_text_of_the_template(
    source: str, content: str
) -> None:
    template = ChatTemplate(source, control_texts=CHATML_CONTROLS)
    rendered = template.render([Message(U, content), Message(U, "_end|>")], False)
    assert "<|im_end|>" in rendered.text
    assert control_tokens(rendered, CHATML_CONTROLS) == []


def test_a_name_is_no_way_in_either() -> None:
    template = ChatTemplate("{{ messages[0].name }}", control_texts=CHATML_CONTROLS)
    rendered = template.render([Message(U, "x", name="<|im_start|>")], False)
    assert rendered.segments == (Segment("<|im_start|>", special=False),)


def test_private_use_characters_of_messages_are_kept() -> None:
    content = "".join(map(chr, range(0xF0000, 0xF0100))) + "<|im_end|>"
    rendered = ChatTemplate(None, control_texts=CHATML_CONTROLS).render(
        [Message(U, content)], False
    )
    assert rendered.text == f"<|im_start|>user\n{content}<|im_end|>\n"
    assert control_tokens(rendered, CHATML_CONTROLS) == ["<|im_start|>", "<|im_end|>"]


def test_messages_that_use_up_the_private_plane_are_refused() -> None:
    content = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    with pytest.raises(TemplateError, match="private-use plane"):
        ChatTemplate(None, control_texts=CHATML_CONTROLS).render([Message(U, content)], False)


def fragments(controls: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Texts made of control texts, pieces of them, and a few ordinary characters."""
    pieces = st.sampled_from(controls).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
            lambda cut: text[min(cut) : max(cut)]
        )
    )
    words = st.sampled_from(["a", " ", "\n", "é", "<", "|", "\U000f0003"])
    return st.lists(st.one_of(pieces, st.sampled_from(controls), words), max_size=6).map("".join)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_message_makes_a_control_token(family: str, data: st.DataObject) -> None:
    _, controls, _, _ = FAMILIES[family]
    template = template_of(family)
    nasty = [data.draw(fragments(controls)) for _ in range(5)]
    roles = [U, A, U, A, U]
    messages = [Message(role, text) for role, text in zip(roles, nasty, strict=True)]
    harmless = [Message(role, "x") for role in roles]
    for is_open in (False, True):
        rendered = template.delta(messages[:2], is_open=is_open, new=messages[2:], generate=True)
        expected = template.delta(harmless[:2], is_open=is_open, new=harmless[2:], generate=True)
        assert control_tokens(rendered, controls) == control_tokens(expected, controls)


@pytest.mark.parametrize("family", ["smollm2", "zephyr", "llama3", "gemma"])
@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=5)
)
def test_appending_turn_by_turn_is_rendering_the_whole(
    family: str, turns: list[tuple[str, str]]
) -> None:
    messages = [
        Message(role, text.strip())
        for turn in turns
        for role, text in zip((U, A), turn, strict=True)
    ]
    messages.append(Message(U, "last"))
    template = template_of(family)
    assert append_all(template, messages) == template.render(messages, True).text


def test_a_long_conversation_costs_two_renderings_at_most() -> None:
    rendered: list[int] = []
    template = ChatTemplate("{{ strftime_now('') }}" + SMOLLM2, control_texts=CHATML_CONTROLS)
    plain = template._compiled.render

    def counted(*args: object, **kwargs: object) -> str:
        rendered.append(1)
        return plain(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    template._compiled.render = counted  # type: ignore[method-assign]  # counts the real one
    before = [Message(U if i % 2 == 0 else A, f"word {i}") for i in range(1000)]
    template.delta(before, is_open=True, new=[Message(U, "next")], generate=True)
    assert len(rendered) == 1
    template.delta(before, is_open=False, new=[Message(U, "next")], generate=True)
    assert len(rendered) == 3


def test_the_date_is_the_same_for_the_whole_call() -> None:
    times = iter([datetime(2026, 1, 31, 23, 59), datetime(2026, 2, 1)])
    template = ChatTemplate(
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}|{{ m.content }}{% endfor %}",
        now=lambda: next(times),
    )
    part = template.delta([Message(U, "a")], is_open=False, new=[Message(U, "b")], generate=False)
    assert part.text == "|b"
    assert template.render([Message(U, "a")], False).text == "01 Feb 2026|a"


def test_limits_of_size_are_named() -> None:
    with pytest.raises(TemplateError, match="template of 11 characters, limit is 10"):
        ChatTemplate("x" * 11, limits=Limits(source_chars=10))
    with pytest.raises(TemplateError, match="2 messages, limit is 1"):
        ChatTemplate("", limits=Limits(messages=1)).render([Message(U, "a")] * 2, False)
    with pytest.raises(TemplateError, match="more text than 24 characters"):
        ChatTemplate("{{ messages[0].content * 5 }}", limits=Limits(output_spare=4)).render(
            [Message(U, "12345")], False
        )
