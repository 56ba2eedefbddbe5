"""Messages -> the text to append to a context's log, by the model's own chat template.

Rule 1: only the template's own text makes control tokens.  What a message quotes of one, or of the
form in which the template has calls, goes into a segment that is tokenised with special tokens off;
other text stays whole, tokenised as usual (quoting.py).
Rule 2: a log is append-only.  delta() gives what to add, never a new version of what is there.
Rule 3: a template is an untrusted program (it comes with a model file): it runs in jinja2's sandbox
with a budget of steps and of characters, and whatever it raises is a TemplateError.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from aiosd.engine.base import ModelInfo
from aiosd.engine.call_forms import recognised
from aiosd.engine.calls import GENERIC, ID, ID_CHARS, Call, CallForm, Tool, to_json
from aiosd.engine.messages import Message, in_words, number_of, numbers_of
from aiosd.engine.quoting import Marker, Rendered, Segment
from aiosd.engine.template import Budget, CompiledTemplate, TemplateError

__all__ = [
    "ROLES",
    "ChatTemplate",
    "Limits",
    "Message",
    "Rendered",
    "Segment",
    "TemplateError",
]

ROLES = ("system", "user", "assistant", "tool")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one rendering.  The output may be output_factor times the messages' characters plus
    output_spare: templates repeat little (a system message, tool definitions), bombs do."""

    source_chars: int = 256 * 1024
    steps: int = 2_000_000  # loop rounds and calls; a second or two of a template's time
    output_factor: int = 4
    output_spare: int = 64 * 1024
    messages: int = 100_000


_SCHEMA_WORDS = frozenset(
    (
        *("type", "function", "name", "description", "parameters"),
        *("properties", "required", "items", "enum"),
        *("object", "string", "integer", "number", "boolean", "array", "null"),
    )
)


class ChatTemplate:
    """A compiled chat template.  Safe on any thread; raises TemplateError, also when made.

    kind is "model" for the given source, else which stand-in is used: "chatml" where the
    vocabulary has <|im_start|> and <|im_end|>, "plain" ("role: content" lines) otherwise.
    knows_tools: the template shows tools, calls and their answers by itself, in the form `form`;
    else they are put in words, in the generic form.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_text: str = "",
        eos_text: str = "",
        control_texts: Sequence[str] = (),
        limits: Limits | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._limits = limits or Limits()
        self._marker = Marker(control_texts)
        self._now = now
        self._bos_text = bos_text
        self._eos_text = eos_text
        if source is not None:
            self.kind = "model"
        elif {"<|im_start|>", "<|im_end|>"} <= set(control_texts):
            self.kind, source = "chatml", CHATML
        else:
            self.kind, source = "plain", PLAIN
        if len(source) > self._limits.source_chars:
            raise TemplateError(
                f"chat template of {len(source)} characters, limit is {self._limits.source_chars}"
            )
        self._source = source
        self._compiled = CompiledTemplate(source)
        self.form: CallForm = recognised(self._shown) or GENERIC
        self.knows_tools = self.form is not GENERIC
        if self.knows_tools and not self._can_go_on_from_calls():
            self.form, self.knows_tools = GENERIC, False
        if self.knows_tools:  # what messages quote of the form's tags is cut out, too
            self._marker = Marker((*control_texts, *self.form.tags))

    @classmethod
    def of_model(cls, info: ModelInfo, limits: Limits | None = None) -> ChatTemplate:
        return cls(
            info.chat_template,
            bos_text=info.bos_text,
            eos_text=info.eos_text,
            control_texts=info.control_texts,
            limits=limits,
        )

    def _shown(self, messages: Sequence[object], tools: Sequence[object], generate: bool) -> str:
        """One rendering of fixed messages, to see what the template makes of them."""
        return self._compiled.render(
            Budget(self._limits.steps, self._limits.output_spare),
            datetime(2000, 1, 1),
            messages=messages,
            add_generation_prompt=generate,
            bos_token=self._bos_text,
            eos_token=self._eos_text,
            **({"tools": tools} if tools else {}),
        )

    def _can_go_on_from_calls(self) -> bool:
        """Whether the form can be watched for, and answers be appended after it."""
        controls, marker = self._marker.texts, self.form.marker
        if marker not in controls and any(text in marker for text in controls):
            return False  # half text, half tokens
        tool = Tool("probe", "a probe", {"type": "object", "properties": {}})
        before = [Message("user", "?"), Message("assistant", "", calls=(Call("0", "probe", {}),))]
        answer = Message("tool", "probe answer", "probe", call_id="0")
        try:
            part = self.delta(before, is_open=True, new=[answer], generate=True, tools=[tool])
        except TemplateError:
            return False
        return answer.content in part.text

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> Rendered:
        """The whole list at once.  Begins with BOS if the template writes it."""
        return self.delta((), is_open=False, new=messages, generate=add_generation_prompt)

    def delta(
        self,
        before: Sequence[Message],
        *,
        is_open: bool,
        new: Sequence[Message],
        generate: bool,
        tools: Sequence[Tool] = (),
    ) -> Rendered:
        """What to append to a log that holds `before`, for it to hold `new` as well.

        tools: those that the template was, or is, to show from the beginning of the log.
        is_open: the log ends inside an assistant turn, the last of `before` (or, if that is not
        an assistant's, one that is not in the list).  It is closed first, with the template's text.
        generate: end with the words that open an assistant turn.

        Three ways, in this order.  (1) Closed: what the rendering of all has after the rendering
        of `before`.  (2) Open, or the template changed earlier text because of the new messages
        (as those do that drop earlier reasoning): a stand-in takes the place of the last
        message's content, and what follows it is taken; the log keeps its earlier text.
        (3) The template doesn't show the stand-in exactly once: TemplateError.
        """
        self._check((*before, *new))
        if not self.knows_tools:
            before, new, tools = in_words(before), in_words(new), ()
        messages = (*before, *new)
        run = _Run(self, messages, tools)
        if not is_open:
            full = run.render(messages, generate)
            base = run.render(before, False) if before else ""
            if full.startswith(base):
                return run.segments(full[len(base) :])
        stand_in = _fresh_digits(messages, self._source)
        last = before[-1] if before else Message("assistant", "")
        head = before[:-1]
        if is_open and last.role != "assistant":
            last, head = Message("assistant", ""), before
        marked = (*head, self._with_stand_in(last, stand_in))
        after = _after(stand_in, run.render((*marked, *new), generate))
        closing = "" if is_open else _after(stand_in, run.render(marked, False))
        if is_open and last.calls:
            after = _after_form(self.form, after)
        if not after.startswith(closing):
            raise TemplateError(
                "the chat template rewrites earlier messages when new ones come, "
                "so nothing can be appended to this context"
            )
        return run.segments(after[len(closing) :])

    def _with_stand_in(self, last: Message, stand_in: str) -> Message:
        """The message with the stand-in at its end: as its content, or in its last call, since
        templates look at who has called something."""
        if not last.calls:
            return replace(last, content=stand_in)
        call = replace(last.calls[-1], arguments={"": stand_in})
        return replace(last, calls=(*last.calls[:-1], call))

    def _check(self, messages: Sequence[Message]) -> None:
        if len(messages) > self._limits.messages:
            raise TemplateError(f"{len(messages)} messages, limit is {self._limits.messages}")
        for index, message in enumerate(messages):
            if message.role not in ROLES:
                raise TemplateError(
                    f"messages[{index}].role is {message.role!r}, known are {', '.join(ROLES)}"
                )


class _Run:
    """One call: its renderings share one set of marks, so that they can be compared."""

    def __init__(
        self, template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> None:
        self._template = template
        texts = [text for message in messages for text in message.texts()]
        texts += [to_json(tool.to_wire()) for tool in tools]
        self._marks = template._marker.marks(texts, template._source)
        self._now = template._now()
        limits = template._limits
        self._limit_chars = limits.output_factor * sum(map(len, texts)) + limits.output_spare
        functions = [{"type": "function", "function": tool.to_wire()} for tool in tools]
        self._tools = [self._marked(function) for function in functions]

    def render(self, messages: Sequence[Message], generate: bool) -> str:
        template = self._template
        numbers = numbers_of(messages)
        shown = [self._shown(message, numbers) for message in messages]
        try:
            return template._compiled.render(
                Budget(template._limits.steps, self._limit_chars),
                self._now,
                messages=shown,
                add_generation_prompt=generate,
                bos_token=template._bos_text,
                eos_token=template._eos_text,
                **({"tools": self._tools} if self._tools else {}),
            )
        except TemplateError as error:  # its words may quote a message
            raise TemplateError(self._marks.unmark(str(error))) from error

    def _shown(self, message: Message, numbers: dict[str, str]) -> dict[str, Any]:
        """The message as templates know them."""
        item: dict[str, Any] = {
            "role": message.role,
            "content": self._marks.mark(message.content),
        }
        if message.name is not None:
            item["name"] = self._marks.mark(message.name)
        if message.call_id is not None:
            item["tool_call_id"] = numbers.get(message.call_id) or number_of(message.call_id)
        if message.calls:
            item["tool_calls"] = [
                {
                    "id": numbers[call.id],
                    "type": "function",
                    "function": {
                        "name": self._marks.mark(call.name),
                        "arguments": self._arguments(call),
                    },
                }
                for call in message.calls
            ]
        return item

    def _arguments(self, call: Call) -> Any:
        marked = self._marked(call.arguments)
        return to_json(marked) if self._template.form.is_argument_text else marked

    def _marked(self, value: Any) -> Any:
        """A JSON value whose texts are marked, keys too, but for the words of JSON Schema: there
        are templates that look at these."""
        match value:
            case str() if value not in _SCHEMA_WORDS:
                return self._marks.mark(value)
            case dict():
                return {self._marked(key): self._marked(item) for key, item in value.items()}
            case list():
                return [self._marked(item) for item in value]
        return value

    def segments(self, marked_text: str) -> Rendered:
        return Rendered(tuple(self._marks.segments(marked_text)))


def _fresh_digits(messages: Sequence[Message], source: str) -> str:
    """A stand-in content: digits, which no template trims or changes, and nobody can foresee."""
    while True:
        digits = str(10**23 + secrets.randbelow(9 * 10**23))
        used = (text for message in messages for text in message.texts())
        if digits not in source and not any(digits in text for text in used):
            return digits


def _after(stand_in: str, text: str) -> str:
    if text.count(stand_in) != 1:
        raise TemplateError(
            "the chat template doesn't show the last message's content exactly once, "
            "so the end of its turn can't be found"
        )
    return text.partition(stand_in)[2]


def _after_form(form: CallForm, after: str) -> str:
    """What follows the end of a call, given what follows the end of its only argument."""
    after = after.removeprefix('"}')
    closing = re.escape(form.closing).replace(re.escape(ID), f"[0-9]{{{ID_CHARS}}}")
    match = re.match(closing, after)
    if match is None:
        raise TemplateError(
            "the chat template ends a turn that calls tools in another way than expected, "
            "so the end of its turn can't be found"
        )
    return after[match.end() :]
