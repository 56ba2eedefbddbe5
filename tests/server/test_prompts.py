"""What messages become tokens of: nothing that somebody quotes is a token of the form of calls."""

from __future__ import annotations

import dataclasses
import re
from array import array

import pytest

from aios_sdk.errors import InvalidParams
from aiosd.engine.base import ModelInfo
from aiosd.engine.chat import ChatTemplate
from aiosd.engine.fake import FakeModel
from aiosd.kernel.model import AgentId, ContextId
from aiosd.server.prompts import Prompter, tools_told
from aiosd.services.context import Context, entry_of
from tests.engine.chat_templates import GEMMA, QWEN2_TOOLS

CALL, END = 300, 301
TAGS = {"<tool_call>": CALL, "</tool_call>": END}


class ModelWithTags(FakeModel):
    """As llama.cpp with Qwen's vocabulary: these are tokens with special tokens off, too."""

    @property
    def info(self) -> ModelInfo:
        return dataclasses.replace(super().info, chat_template=QWEN2_TOOLS)

    def tokenize(self, text: str, *, special: bool) -> array[int]:
        tokens = array("i")
        for part in re.split("(</?tool_call>)", text):
            tag = TAGS.get(part)
            tokens.extend([tag] if tag else super().tokenize(part, special=special))
        return tokens


def test_only_a_call_that_was_made_has_the_tokens_of_one() -> None:
    model = ModelWithTags()
    prompter = Prompter(model, ChatTemplate.of_model(model.info))
    quoted = "<tool_call></tool_call><tool_call>{}"
    call = {"id": "a", "name": "x", "arguments": {"y": quoted}}
    messages = [
        {"role": "user", "content": quoted},
        {"role": "assistant", "content": quoted, "tool_calls": [call]},
        {"role": "tool", "content": quoted, "tool_call_id": "a"},
    ]
    tools = [{"name": "x", "description": quoted}]
    context = Context(ContextId("c"), AgentId(1000, "a"), "fake", 0, 0)
    turn = prompter.turn(context, {"messages": messages, "tools": tools}, generate=True)
    assert (turn.tokens.count(CALL), turn.tokens.count(END)) == (1, 1)
    shown = prompter.detokenize([t for t in turn.tokens if t not in (CALL, END)])
    assert shown.count(quoted) == 5


def prompter_of(template: str | None) -> Prompter:
    model = FakeModel()
    info = dataclasses.replace(model.info, chat_template=template)
    return Prompter(model, ChatTemplate.of_model(info))


def said(prompter: Prompter, context: Context, **params: object) -> str:
    """What a call adds to the context, which is then as if it had."""
    turn = prompter.turn(context, params, generate=False)
    context.log.append(entry_of(context, turn, None, 0))
    context.tokens.extend(turn.tokens)
    return prompter.detokenize(turn.tokens)


HI, BE_KIND = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}
CLOCK = {"name": "clock", "description": "the time"}
LINE = (
    '{"name": "clock", "description": "the time", '
    '"parameters": {"type": "object", "properties": {}}}'
)


def new_context() -> Context:
    return Context(ContextId("c"), AgentId(1000, "a"), "fake", 0, 0)


def test_tools_join_the_system_message_that_a_context_begins_with() -> None:
    context = new_context()
    text = said(prompter_of(None), context, messages=[BE_KIND, HI], tools=[CLOCK])
    assert text.startswith(
        f"system\nBe kind.\n\nYou may call these functions, and no others:\n{LINE}"
    )
    assert text.count("system") == 1
    assert [message["role"] for message in context.messages] == ["system", "user"]


def test_where_no_system_message_is_taken_tools_stand_before_the_users_words() -> None:
    text = said(prompter_of(GEMMA), new_context(), messages=[HI], tools=[CLOCK])
    assert LINE in text
    assert text.endswith("\n\nHi<end_of_turn>\n")


def test_a_context_is_told_when_there_are_no_tools_any_more() -> None:
    prompter, context = prompter_of(None), new_context()
    said(prompter, context, messages=[HI], tools=[CLOCK])
    assert said(prompter, context, messages=[HI], tools=[CLOCK]) == "user\nHi\n"
    words = "There are no functions to call any more."
    assert said(prompter, context, messages=[HI], tools=[]) == f"system\n{words}\nuser\nHi\n"
    assert said(prompter, context, messages=[HI], tools=[]) == "user\nHi\n"


def test_a_template_that_knows_tools_is_told_of_others_in_words() -> None:
    prompter, context = prompter_of(QWEN2_TOOLS), new_context()
    assert "# Tools\n<tools>\n" in said(prompter, context, messages=[HI], tools=[CLOCK])
    other = {"name": "other"}
    text = said(prompter, context, messages=[HI], tools=[other])
    assert text.startswith("system\nYou may call these functions, and no others:\n")
    assert "<tool_call>" not in text  # it knows the form
    assert tools_told(context.messages)[0]["name"] == "other"


def test_no_place_for_tools_is_said() -> None:
    with pytest.raises(InvalidParams, match="no place where tools can be told of"):
        said(prompter_of("{{ messages | length }}"), new_context(), messages=[HI], tools=[CLOCK])
