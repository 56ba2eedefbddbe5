"""From what a caller gives (messages, prompt, tokens or nothing) to the tokens a turn adds.

A context is told of tools once: where it begins, and again where others are offered.  The log has
them with the message that told, so that a fork or a rewound context knows what it was told.

Runs in a worker thread: rendering and tokenising take milliseconds and read only the context and
the vocabulary.  The context is not changed; what comes back is a Turn to commit.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aios_sdk.errors import InvalidParams
from aiosd.engine import chat
from aiosd.engine.base import Model
from aiosd.engine.calls import Call, Tool, told
from aiosd.engine.chat import ChatTemplate, TemplateError
from aiosd.services import entries
from aiosd.services.context import Context, Turn
from aiosd.services.entries import Message

MAX_CHARS_PER_TOKEN = 64  # far more than text has; runs of blanks come near it
CUT_TOKENS = 16  # what is said about a cut takes


class Prompter:
    """Makes turns for one model."""

    def __init__(self, model: Model, template: ChatTemplate) -> None:
        self._model = model
        self._template = template
        self._info = model.info
        tags = (model.tokenize(tag, special=False) for tag in template.form.tags)
        self._tags = frozenset(tokens[0] for tokens in tags if len(tokens) == 1)

    def turn(self, context: Context, params: Mapping[str, Any], *, generate: bool) -> Turn:
        """The turn that these params add to the context.

        generate: the assistant speaks next.  Raises InvalidParams naming the field for a message
        the template refuses, a token out of range, or a call with nothing to go on from.
        """
        if "messages" in params:
            check_messages(params["messages"])
        tools = params.get("tools")
        if "messages" in params or (tools is not None and generate and context.wants_reply):
            new = [_normal(message) for message in params.get("messages", ())]
            told_of = tools_told([*context.messages, *new])
            if tools is None or told_of == as_told(tools):
                return self._from_messages(context, new, generate=generate)
            return self._telling(context, new, as_told(tools), generate=generate)
        if "prompt" in params:
            return self._raw(context, self._model.tokenize(params["prompt"], special=True))
        if "tokens" in params:
            return self._raw(context, self._checked(params["tokens"]))
        if not generate:
            raise InvalidParams("give one of messages, prompt, tokens", field="messages")
        if context.wants_reply:
            return self._from_messages(context, [], generate=True)
        if not context.tokens:
            raise InvalidParams(
                "nothing to go on from: give one of messages, prompt, tokens, "
                "or a context that has tokens",
                field="messages",
            )
        return Turn(array("i"), is_open=context.is_open)

    def _from_messages(self, context: Context, new: Sequence[Message], *, generate: bool) -> Turn:
        try:
            rendered = self._rendered(context, new, generate=generate)
        except TemplateError as error:
            raise InvalidParams(
                f"the model's chat template refuses these messages: {error}", field="messages"
            ) from error
        last_role = new[-1]["role"] if new else None
        return Turn(
            self._tokenized(context, rendered),
            tuple(new),
            is_open=generate,
            wants_reply=not generate and last_role != "assistant",
        )

    def _telling(
        self, context: Context, new: list[Message], tools: list[Message], *, generate: bool
    ) -> Turn:
        """The same, and the model is told what it may call from now on: by the template, where it
        knows tools and nothing has been said yet; else in words, since the log is append-only.

        Where the template has no system message there, the words go before the user's.
        """
        is_start = not context.tokens
        if is_start and new and self._template.knows_tools:
            new[0] = new[0] | {"tools": tools}
            return self._from_messages(context, new, generate=generate)
        form = None if self._template.knows_tools else self._template.form
        words = told([tool_of(tool) for tool in tools], form)
        problem: InvalidParams | None = None
        for messages in _with_words(new, words, tools, is_start=is_start):
            try:
                turn = self._from_messages(context, messages, generate=generate)
            except InvalidParams as error:
                problem = problem or error
                continue
            if words in self.detokenize(turn.tokens):
                return turn
        raise problem or InvalidParams(
            "the model's chat template has no place where tools can be told of", field="tools"
        )

    def _rendered(
        self, context: Context, new: Sequence[Message], *, generate: bool
    ) -> chat.Rendered:
        before = context.messages
        first = (before or new or [{}])[0]
        return self._template.delta(
            [_message(m) for m in before],
            is_open=context.is_open,
            new=[_message(m) for m in new],
            generate=generate,
            tools=[tool_of(one) for one in first.get("tools", ())],
        )

    def _raw(self, context: Context, tokens: array[int]) -> Turn:
        return Turn(self._with_bos(context, tokens), is_open=context.is_open)

    def _tokenized(self, context: Context, rendered: chat.Rendered) -> array[int]:
        tokens: array[int] = array("i")
        for segment in rendered.segments:
            found = self._model.tokenize(segment.text, special=segment.special)
            if not segment.special and not self._tags.isdisjoint(found):
                # There are tokens that a tokenizer makes of their text wherever it stands.
                found = array("i")
                for char in segment.text:
                    found.extend(self._model.tokenize(char, special=False))
            tokens.extend(found)
        return self._with_bos(context, tokens)

    def _with_bos(self, context: Context, tokens: array[int]) -> array[int]:
        """BOS first, once, where the tokenizer wants it and the text hasn't brought it."""
        if context.tokens or not self._info.adds_bos or not self._info.bos_text:
            return tokens
        bos = self._model.tokenize(self._info.bos_text, special=True)
        return tokens if tokens[: len(bos)] == bos else bos + tokens

    def _checked(self, tokens: Sequence[int]) -> array[int]:
        n_vocab = self._info.n_vocab
        bad = next((t for t in tokens if not 0 <= t < n_vocab), None)
        if bad is not None:
            raise InvalidParams(
                f"token {bad} is not in the vocabulary; ids go from 0 to {n_vocab - 1}",
                field="tokens",
                limit=n_vocab - 1,
            )
        return array("i", tokens)

    def text_of(self, context: Context) -> Callable[[int, int], str]:
        """The words of some of the context's tokens, by their offsets."""
        return lambda first, end: self.detokenize(context.tokens[first:end])

    def place_of_message(self, context: Context, n_messages: int) -> entries.Place:
        """Where in the log the first n_messages end.  InvalidParams if there is no such place."""
        log = list(context.log)
        try:
            at = entries.place_of_message(log, n_messages)
        except ValueError as error:
            raise InvalidParams(str(error), field="n_messages") from error
        if isinstance(at, entries.Place):
            return at
        turn, part = at
        before = Context(context.id, context.agent, context.model, 0, 0, log=log[:turn])
        new = [p.message for p in log[turn].parts[: part + 1]]
        rendered = self._from_messages(before, new, generate=False).tokens
        first = sum(entry.n_tokens for entry in log[:turn])
        found = context.tokens[first : first + len(rendered)]
        if found != rendered:
            raise InvalidParams(
                f"the log has no place where its first {n_messages} messages end; "
                "the model's chat template joins them with what follows",
                field="n_messages",
            )
        log[turn] = entries.with_end(log[turn], part, len(rendered))
        context.log[turn] = log[turn]
        return entries.Place(turn, len(rendered))

    def shortened(self, text: str, n_tokens: int) -> str:
        """The text, or of a longer one the beginning of so many tokens and a word about the rest.

        So much of it is tokenised as could be that many tokens, whatever it says.
        """
        tokens = self._model.tokenize(text[: MAX_CHARS_PER_TOKEN * n_tokens], special=False)
        if len(tokens) <= n_tokens and len(text) <= MAX_CHARS_PER_TOKEN * n_tokens:
            return text
        kept = self.detokenize(tokens[: max(0, n_tokens - CUT_TOKENS)])
        return f"{kept} [cut: it had {len(text)} characters]"

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of the tokens as shown to a person; bytes that aren't UTF-8 become U+FFFD."""
        checked = self._checked(tokens)
        return b"".join(map(self._model.piece, checked)).decode("utf-8", "replace")


def as_told(tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Tools as a log has them."""
    return [tool_of(tool).to_wire() for tool in tools]


def _normal(message: Message) -> Message:
    return message | {"tools": as_told(message["tools"])} if "tools" in message else message


def tools_told(messages: Sequence[Message]) -> list[Message]:
    """Those that the model was told of last."""
    for message in reversed(messages):
        if "tools" in message:
            return list(message["tools"])
    return []


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """InvalidParams where a field is not of the message's role."""
    of_roles = {"tool_calls": "assistant", "tool_call_id": "tool", "name": "tool"}
    for index, message in enumerate(messages):
        for field, role in of_roles.items():
            if field in message and message["role"] != role:
                raise InvalidParams(
                    f"messages[{index}].{field} belongs to a message of role {role}, "
                    f"this one's is {message['role']}",
                    field=f"messages[{index}].{field}",
                )


def _with_words(
    new: Sequence[Message], words: str, tools: list[Message], *, is_start: bool
) -> Iterator[list[Message]]:
    """The messages with the words in one of the places where they could be."""
    extra = {"tools": tools}
    if is_start and new and new[0]["role"] == "system":
        content = f"{new[0]['content']}\n\n{words}"
        yield [new[0] | {"content": content} | extra, *new[1:]]
    yield [{"role": "system", "content": words} | extra, *new]
    for place, message in enumerate(new):
        if message["role"] == "user":
            said = message | {"content": f"{words}\n\n{message['content']}"} | extra
            yield [*new[:place], said, *new[place + 1 :]]
            return


def _message(plain: Message) -> chat.Message:
    return chat.Message(
        plain["role"],
        plain["content"],
        plain.get("name"),
        tuple(Call(c["id"], c["name"], c["arguments"]) for c in plain.get("tool_calls", ())),
        plain.get("tool_call_id"),
    )


def tool_of(plain: Mapping[str, Any]) -> Tool:
    """A tool as a caller offers it."""
    parameters = plain.get("parameters") or {"type": "object", "properties": {}}
    return Tool(plain["name"], plain.get("description", ""), parameters)
