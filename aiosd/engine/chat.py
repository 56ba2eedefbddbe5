"""Messages -> the text to append to a context's log, by the model's own chat template.

Rule 1: only the template's own text makes control tokens.  What a message quotes of one, or of the
form in which the template has calls, goes into a segment that is tokenised with special tokens off;
other text stays whole, tokenised as usual.
Rule 2: a log is append-only.  delta() gives what to add, never a new version of what is there.
Rule 3: a template is an untrusted program (it comes with a model file): it runs in jinja2's sandbox
with a budget of steps and of characters, and whatever it raises is a TemplateError.

How rule 1 is kept: characters of a message that could be part of a control token's text (it is in
there, or its beginning or end touches the template's text) are replaced one to one by private-use
characters before rendering, so that each says where it came from, and put back afterwards.  Not
covered: a template that rewrites the inside of messages (lower(), replace()) into a control text.
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from aiosd.engine.base import ModelInfo
from aiosd.engine.call_forms import recognised
from aiosd.engine.calls import GENERIC, ID, ID_CHARS, Call, CallForm, Tool, answered, to_json
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
class Message:
    """One message of a conversation.

    name     of a tool: which one
    calls    of an assistant: what it called
    call_id  of a tool: which call it answers
    """

    role: str
    content: str
    name: str | None = None
    calls: tuple[Call, ...] = ()
    call_id: str | None = None

    def texts(self) -> list[str]:
        """All that somebody wrote in it."""
        calls = [text for call in self.calls for text in (call.name, to_json(call.arguments))]
        return [self.content, self.name or "", *calls]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text and whether texts of control tokens in it become them."""

    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """What to tokenise, segment by segment, in order."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one rendering.  The output may be output_factor times the messages' characters plus
    output_spare: templates repeat little (a system message, tool definitions), bombs do."""

    source_chars: int = 256 * 1024
    steps: int = 2_000_000  # loop rounds and calls; a second or two of a template's time
    output_factor: int = 4
    output_spare: int = 64 * 1024
    messages: int = 100_000


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
        self._marker = _Marker(control_texts)
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
            self._marker = _Marker((*control_texts, *self.form.tags))

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
            before, new, tools = _in_words(before), _in_words(new), ()
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
        numbers = _numbers(messages)
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
            item["tool_call_id"] = numbers.get(message.call_id) or _number(message.call_id)
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


class _Marker:
    """Knows the control texts, and which parts of a text could become part of one."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        texts = sorted({text for text in control_texts if text}, key=lambda t: (-len(t), t))
        self.texts = frozenset(texts)
        self.alphabet = sorted(set("".join(texts)))
        whole = "|".join(map(re.escape, texts)) or r"(?!)"
        self.overlapping = re.compile(f"(?=({whole}))", re.DOTALL)
        self.beginnings = {text[:n] for text in texts for n in range(1, len(text))}
        self.endings = {text[n:] for text in texts for n in range(1, len(text))}
        self.insides = "\0".join(texts)  # no text holds NUL: it ends C strings
        self.longest = max(map(len, texts), default=0)

    def spans(self, content: str) -> list[tuple[int, int]]:
        """The parts that are a control text, or could complete one with what is beside them."""
        spans = [match.span(1) for match in self.overlapping.finditer(content)]
        # Templates trim: what may come to stand at the edge counts as the edge too.
        start = len(content) - len(content.lstrip())
        end = len(content.rstrip())
        for low, high in {(0, len(content)), (start, end)}:
            size = high - low
            if size <= 0:
                continue
            if size < self.longest and content[low:high] in self.insides:
                spans.append((low, high))
            for n in range(min(size, self.longest - 1), 0, -1):
                if content[high - n : high] in self.beginnings:
                    spans.append((high - n, high))
                    break
            for n in range(min(size, self.longest - 1), 0, -1):
                if content[low : low + n] in self.endings:
                    spans.append((low, low + n))
                    break
        return spans

    def marks(self, texts: Sequence[str], source: str) -> _Marks:
        """A block of private-use characters that neither the messages nor the template use."""
        private = re.compile("[\U000f0000-\U0010fffd]")
        used = set(private.findall(source))
        for text in texts:
            used.update(private.findall(text))
        size = len(self.alphabet)
        first, last = 0xF0000, 0xFFFFD - size
        free = (
            [
                base
                for base in range(first, last, max(size, 1))
                if not any(chr(point) in used for point in range(base, base + size))
            ]
            if used
            else [first]
        )
        if not free:
            raise TemplateError("the messages use the whole private-use plane U+F0000 of Unicode")
        return _Marks(self, free[0])


class _Marks:
    """A reversible disguise for the characters of control texts."""

    def __init__(self, marker: _Marker, base: int) -> None:
        self._marker = marker
        self._to = {ord(c): base + i for i, c in enumerate(marker.alphabet)}
        self._back = {point: char for char, point in self._to.items()}
        size = len(marker.alphabet)
        self._marked = re.compile(f"[{chr(base)}-{chr(base + size - 1)}]+" if size else r"(?!)")

    def mark(self, content: str) -> str:
        spans = self._marker.spans(content)
        if not spans:
            return content
        chars = list(content)
        for low, high in spans:
            chars[low:high] = content[low:high].translate(self._to)
        return "".join(chars)

    def unmark(self, marked_text: str) -> str:
        return marked_text.translate(self._back)

    def segments(self, marked_text: str) -> list[Segment]:
        """Put the characters back, and cut where a message's would have made a control token."""
        text = self.unmark(marked_text)
        from_messages = [match.span() for match in self._marked.finditer(marked_text)]
        cuts: list[tuple[int, int]] = []
        if from_messages:
            is_marked = bytearray(len(text))
            for low, high in from_messages:
                is_marked[low:high] = b"\1" * (high - low)
            is_quoted = bytearray(len(text))
            for match in self._marker.overlapping.finditer(text):
                low, high = match.span(1)
                for i in range(low, high):
                    is_quoted[i] |= is_marked[i]
            cuts = [match.span() for match in re.finditer(b"\1+", is_quoted)]
        segments: list[Segment] = []
        position = 0
        for low, high in cuts:
            segments.append(Segment(text[position:low], special=True))
            segments.append(Segment(text[low:high], special=False))
            position = high
        segments.append(Segment(text[position:], special=True))
        return [segment for segment in segments if segment.text]


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


_SCHEMA_WORDS = frozenset(
    (
        *("type", "function", "name", "description", "parameters"),
        *("properties", "required", "items", "enum"),
        *("object", "string", "integer", "number", "boolean", "array", "null"),
    )
)


def _numbers(messages: Sequence[Message]) -> dict[str, str]:
    """Ids of calls as templates see them: numbers by their order, so that the same conversation
    gives the same tokens whatever its ids are."""
    ids = dict.fromkeys(call.id for message in messages for call in message.calls)
    return {id_: str(number).zfill(ID_CHARS) for number, id_ in enumerate(ids)}


def _number(call_id: str) -> str:
    """For the id of a call that isn't there."""
    return str(zlib.crc32(call_id.encode()) % 10**ID_CHARS).zfill(ID_CHARS)


def _in_words(messages: Sequence[Message]) -> list[Message]:
    """For a template that knows no tools: what was called is among the assistant's words, and
    answers are the user's."""

    def words(message: Message) -> Message:
        if message.role == "tool":
            return Message("user", answered(message.content))
        if message.calls:
            gap = "" if not message.content or message.content.endswith("\n") else "\n"
            return Message(message.role, message.content + gap + GENERIC.write(message.calls))
        return message

    return [words(message) for message in messages]


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
