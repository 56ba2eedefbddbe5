"""An agent's act: llm.act, with the agent's own tools run in between.

The daemon runs the loop and its own tools.  When the model calls one of the agent's, llm.act ends;
the agent runs the function, and another llm.act goes on with what it gave.  Acting is this without
I/O; ActSteps and (in aioownacts.py) AsyncActSteps are its shells.

Rule: leaving the steps early cancels what is under way in the daemon, as with every stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import fields, replace
from types import TracebackType
from typing import TypeVar

from aios_sdk.acting import Acted, ActOptions, ActStream, CallResult, MadeCall, Step
from aios_sdk.errors import Cancelled
from aios_sdk.owntools import Function, OwnTools, is_failure
from aios_sdk.results import ChatMessage, ToolCall, ToolSpec, Usage, What

MAX_ROUNDS = 8  # as llm.act has it

S = TypeVar("S")
Start = Callable[[What | None, Sequence[str | ToolSpec], ActOptions], S]
"""client.act_stream on the agent's conversation."""


class Acting:
    """What the next llm.act is given, the calls that are to be run here before it, and, once it is
    done, the result."""

    def __init__(
        self,
        own: OwnTools,
        what: What | None,
        tools: Sequence[str | Function],
        options: ActOptions,
    ) -> None:
        self.own, names = own.with_more(tools)
        self.what: What | None = what
        self.tools: list[str | ToolSpec] = [*names, *self.own.specs()]
        self.options: ActOptions = {**options}
        self.pending: list[ToolCall] = []
        self.result: Acted | None = None
        self._n_rounds_left = options.get("max_rounds", MAX_ROUNDS)
        self._so_far: Acted | None = None
        self._mine: list[MadeCall] = []
        self._answers: list[ChatMessage] = []

    def end(self, acted: Acted) -> None:
        """An llm.act has ended: with an answer, or with calls that are to be run here."""
        self._n_rounds_left -= acted.rounds
        self._so_far = so_far = _sum(self._so_far, acted)
        if acted.finish == "tool_calls":
            self.pending = [*acted.tool_calls]
        elif acted.finish == "stop" and self._n_rounds_left <= 0:
            self.result = replace(so_far, finish="rounds")
        else:
            self.result = so_far

    def begin(self) -> tuple[ToolCall, int]:
        """The first of the pending calls, and when it began."""
        return self.pending[0], time.monotonic_ns()

    def answer(self, call: ToolCall, began_ns: int, answer: ChatMessage) -> CallResult:
        """It has been run.  After the last, llm.act goes on with what they gave."""
        assert self._so_far is not None  # a call is pending only after an llm.act
        ms = (time.monotonic_ns() - began_ns) // 10**6
        content, is_error = answer["content"], is_failure(answer)
        made = MadeCall(call, self._so_far.rounds, content, is_error, ms)
        self._so_far = replace(
            self._so_far,
            calls=(*self._so_far.calls, made),
            tools_ms=self._so_far.tools_ms + ms,
        )
        self.pending.remove(call)
        self._answers.append(answer)
        if not self.pending:
            self._go_on()
        return CallResult(call.id, call.name, content, is_error, ms)

    def _go_on(self) -> None:
        self.what, self._answers = self._answers, []
        self.options.pop("recall", None)
        self.options.pop("tool_choice", None)  # of the first round
        if self._n_rounds_left <= 0:
            self.options["tool_choice"] = "none"
        self.options["max_rounds"] = max(1, self._n_rounds_left)


class ActSteps:
    """The steps of an act, as they happen: words, calls, what these brought.  Its result waits for
    the end."""

    def __init__(self, acting: Acting, start: Start[ActStream]) -> None:
        self._acting = acting
        self._start = start
        self._steps = self._go()

    def __enter__(self) -> ActSteps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Step]:
        try:
            yield from self._steps
        finally:
            self.close()

    @property
    def result(self) -> Acted:
        """Goes on to the end, if it isn't reached yet.  Cancelled, if it was left."""
        for _ in self._steps:
            pass
        if self._acting.result is None:
            raise Cancelled("this act was left before its end")
        return self._acting.result

    def close(self) -> None:
        """Leave: what is under way is cancelled in the daemon."""
        self._steps.close()

    def _go(self) -> Generator[Step]:
        acting = self._acting
        while acting.result is None:
            with self._start(acting.what, acting.tools, acting.options) as stream:
                yield from stream
                acting.end(stream.result)
            while acting.pending:
                call, began_ns = acting.begin()
                yield acting.answer(call, began_ns, acting.own.run(call))


def _sum(before: Acted | None, now: Acted) -> Acted:
    """Of two acts that are one: the second's end, and what both took."""
    if before is None:
        return now
    names = [field.name for field in fields(Usage)]
    both = {name: getattr(before.usage, name) + getattr(now.usage, name) for name in names}
    later = tuple(replace(made, round=made.round + before.rounds) for made in now.calls)
    return replace(
        now,
        rounds=before.rounds + now.rounds,
        calls=before.calls + later,
        usage=Usage(**{**both, "ttft_ms": before.usage.ttft_ms}),
        tools_ms=before.tools_ms + now.tools_ms,
        seed=before.seed,
        recalled=before.recalled,
    )
