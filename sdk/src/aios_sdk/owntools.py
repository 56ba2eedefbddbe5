"""An agent's own tools: functions that run in its process when the model calls them.

Rule 1: what a function raises is an answer, which the model may read and do better; what ends the
agent (Ctrl-C, a cancelled task) isn't.
Rule 2: an answer has a limit: what is over it is cut, and the model is told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aios_sdk.errors import InvalidParams
from aios_sdk.results import ChatMessage, ToolCall, ToolSpec
from aios_sdk.toolbox import BadTool, arguments_of, outcome_of, spec_of, tool

MAX_ANSWER_CHARS = 65_536  # some 16,000 tokens: more than most contexts have
FAILED = "error: "  # how such an answer begins

Function = Callable[..., Any]


class OwnTools:
    """The functions by name.  is_async: functions may be coroutines, which run() awaits."""

    def __init__(self, *, is_async: bool) -> None:
        self._is_async = is_async
        self._functions: dict[str, Function] = {}
        self._specs: dict[str, ToolSpec] = {}

    def add(self, function: Function) -> None:
        """Raises BadTool if it can't be one, or if there is one of this name."""
        spec = spec_of(function)
        if spec.name in self._functions:
            raise BadTool(f"there is a tool {spec.name} already")
        if inspect.iscoroutinefunction(function) and not self._is_async:
            raise BadTool(f"{spec.name} is a coroutine, which takes an AsyncAgent")
        self._functions[spec.name] = function
        self._specs[spec.name] = ToolSpec(
            name=spec.name, description=spec.description, parameters=spec.parameters
        )

    def decorate(self, function: Function | None, marks: Mapping[str, Any]) -> Any:
        """@agent.tool, and @agent.tool(name="…")."""

        def add(marked: Function) -> Function:
            if marks:
                tool(**marks)(marked)
            self.add(marked)
            return marked

        return add if function is None else add(function)

    def specs(self) -> list[ToolSpec]:
        """What the daemon is told of them."""
        return [*self._specs.values()]

    def with_more(self, tools: Sequence[str | Function]) -> tuple[OwnTools, list[str]]:
        """These and the functions among tools; the names among them that aren't one of these, and
        so are the daemon's."""
        more = OwnTools(is_async=self._is_async)
        more._functions, more._specs = {**self._functions}, {**self._specs}
        names = []
        for each in tools:
            if isinstance(each, str):
                names.append(each)
            elif not callable(each):
                raise InvalidParams(
                    f"{each!r} is no tool: name one, or give a function", field="tools"
                )
            elif each not in more._functions.values():
                more.add(each)
        return more, [name for name in names if name not in more._functions]

    def run(self, call: ToolCall) -> ChatMessage:
        """Carry out a call of the model's; the message that tells it what came of it."""
        try:
            return _answer(call, self._begun(call))
        except Exception as error:  # whatever the function's author let happen
            return _failure(call, error)

    async def run_async(self, call: ToolCall) -> ChatMessage:
        """As run(), for functions that may be coroutines."""
        try:
            value = self._begun(call)
            return _answer(call, await value if inspect.isawaitable(value) else value)
        except Exception as error:  # whatever the function's author let happen
            return _failure(call, error)

    def _begun(self, call: ToolCall) -> object:
        function = self._functions.get(call.name)
        if function is None:
            raise LookupError(f"this agent has no tool {call.name}")
        value: object = function(**arguments_of(function, call.arguments))
        return value


def is_failure(answer: ChatMessage) -> bool:
    """Whether the function raised."""
    return answer["content"].startswith(FAILED)


def _answer(call: ToolCall, value: object) -> ChatMessage:
    content = outcome_of(value).content
    if len(content) > MAX_ANSWER_CHARS:
        content = f"{content[:MAX_ANSWER_CHARS]} (cut: it had {len(content)} characters)"
    return call.answer(content)


def _failure(call: ToolCall, error: Exception) -> ChatMessage:
    return call.answer(f"{FAILED}{type(error).__name__}: {error}"[:MAX_ANSWER_CHARS])
