"""From what a caller gives (messages, prompt, tokens or nothing) to the tokens a turn adds.

Runs in a worker thread: rendering and tokenising take milliseconds and read only the context and
the vocabulary.  The context is not changed; what comes back is a Turn to commit.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aios_sdk.errors import InvalidParams
from aiosd.engine import chat
from aiosd.engine.base import Model
from aiosd.engine.chat import ChatTemplate, TemplateError
from aiosd.services import entries
from aiosd.services.context import Context, Turn
from aiosd.services.entries import Message


class Prompter:
    """Makes turns for one model."""

    def __init__(self, model: Model, template: ChatTemplate) -> None:
        self._model = model
        self._template = template
        self._info = model.info

    def turn(self, context: Context, params: Mapping[str, Any], *, generate: bool) -> Turn:
        """The turn that these params add to the context.

        generate: the assistant speaks next.  Raises InvalidParams naming the field for a message
        the template refuses, a token out of range, or a call with nothing to go on from.
        """
        if "messages" in params:
            return self._from_messages(context, params["messages"], generate=generate)
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
            rendered = self._template.delta(
                [chat.Message(m["role"], m["content"]) for m in context.messages],
                is_open=context.is_open,
                new=[chat.Message(m["role"], m["content"]) for m in new],
                generate=generate,
            )
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

    def _raw(self, context: Context, tokens: array[int]) -> Turn:
        return Turn(self._with_bos(context, tokens), is_open=context.is_open)

    def _tokenized(self, context: Context, rendered: chat.Rendered) -> array[int]:
        tokens: array[int] = array("i")
        for segment in rendered.segments:
            tokens.extend(self._model.tokenize(segment.text, special=segment.special))
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

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of the tokens as shown to a person; bytes that aren't UTF-8 become U+FFFD."""
        checked = self._checked(tokens)
        return b"".join(map(self._model.piece, checked)).decode("utf-8", "replace")
