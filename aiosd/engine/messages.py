"""Messages of a conversation as templates are given them.

Rule: what a template sees of calls depends on the conversation alone, never on the ids in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from aiosd.engine.calls import GENERIC, ID_CHARS, Call, answered, to_json


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


def numbers_of(messages: Sequence[Message]) -> dict[str, str]:
    """Ids of calls as templates see them: numbers by their order, so that the same conversation
    gives the same tokens whatever its ids are."""
    ids = dict.fromkeys(call.id for message in messages for call in message.calls)
    return {id_: str(number).zfill(ID_CHARS) for number, id_ in enumerate(ids)}


def number_of(call_id: str) -> str:
    """For the id of a call that isn't there."""
    return str(zlib.crc32(call_id.encode()) % 10**ID_CHARS).zfill(ID_CHARS)


def in_words(messages: Sequence[Message]) -> list[Message]:
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
