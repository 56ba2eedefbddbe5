"""llm.act: its options, its result, and its steps as they come, for both clients.

    with client.act_stream("What is 6 times 7?", tools=["calculator"]) as steps:
        for step in steps:
            match step:
                case str():
                    print(step, end="")
                case ToolCall():
                    print(step.name, step.arguments)
                case CallResult():
                    print(step.content)

Rule: leaving early cancels the act in the daemon, whatever it is at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict, cast

from aios_sdk.errors import InvalidParams, ProtocolError
from aios_sdk.results import (
    Priority,
    Recall,
    ToolCall,
    ToolSpec,
    Usage,
    What,
    said,
    usage_of,
    what_params,
)
from aios_sdk.types import shorten

if TYPE_CHECKING:
    from aios_sdk.aiostream import AsyncStream
    from aios_sdk.stream import Stream


class ActOptions(TypedDict, total=False):
    """The keyword arguments of act(); what is absent is the daemon's default."""

    model: str
    max_tokens: int
    max_total_tokens: int
    max_rounds: int
    max_calls: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: list[str]
    tool_choice: str
    parallel_tool_calls: bool
    priority: Priority
    recall: Recall
    deadline_ms: int
    tag: str | int


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call brought.  is_error: the tool failed, was refused, or says that it couldn't."""

    id: str
    name: str
    content: str
    is_error: bool
    duration_ms: int


@dataclass(frozen=True, slots=True)
class CallProgress:
    """How far a call is, as the tool tells it."""

    call: str
    progress: float
    total: float | None
    message: str | None


Step = str | ToolCall | CallResult | CallProgress
"""Words, a call that is made, how far it is, what it brought."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call that was made, in which round, and (the beginning of) what it brought."""

    call: ToolCall
    round: int
    content: str
    is_error: bool
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Acted:
    """What llm.act gave.

    finish      "stop": it has answered; "rounds": it had to, after max_rounds; "length";
                "stop_string"; "tool_calls": tool_calls are the caller's to make, and another act
                on the context goes on with their answers
    rounds      how often it called something
    calls       what it called, the newest; n_calls: how many there were
    usage       of all rounds; tools_ms: the time that tools took
    """

    text: str
    finish: str
    rounds: int
    calls: tuple[MadeCall, ...]
    n_calls: int
    seed: int
    job: str
    usage: Usage
    tools_ms: int = 0
    context: str | None = None
    stop_string: str | None = None
    recalled: list[str] | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def from_wire(result: dict[str, object]) -> Acted:
        match result:
            case {
                "text": str(text),
                "finish": str(finish),
                "rounds": int(rounds),
                "calls": list(calls),
                "n_calls": int(n_calls),
                "seed": int(seed),
                "job": str(job),
                "usage": dict(usage),
            }:
                context, stop = result.get("context"), result.get("stop_string")
                recalled, pending = result.get("recalled"), result.get("tool_calls")
                tools_ms = usage.get("tools_ms")
                return Acted(
                    text,
                    finish,
                    rounds,
                    tuple(map(_made, calls)),
                    n_calls,
                    seed,
                    job,
                    usage_of(usage),
                    tools_ms if isinstance(tools_ms, int) else 0,
                    context if isinstance(context, str) else None,
                    stop if isinstance(stop, str) else None,
                    recalled if isinstance(recalled, list) else None,
                    tuple(map(ToolCall.from_wire, pending)) if isinstance(pending, list) else (),
                )
        raise ProtocolError(f"the daemon gave {sorted(result)}, which is no result of llm.act")


class ActStream:
    """llm.act as an iterator of its steps."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __enter__(self) -> ActStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[Step]:
        for chunk in self.stream:
            yield from steps_in(chunk)

    @property
    def result(self) -> Acted:
        """Waits for the end; raises as Stream.result does."""
        return Acted.from_wire(self.stream.result)

    def cancel(self) -> None:
        """As Stream.cancel()."""
        self.stream.cancel()


class AsyncActStream:
    """The same, to be awaited."""

    def __init__(self, stream: AsyncStream) -> None:
        self.stream = stream

    async def __aenter__(self) -> AsyncActStream:
        await self.stream.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stream.close()

    def __aiter__(self) -> AsyncIterator[Step]:
        return _Steps(self.stream)

    async def result(self) -> Acted:
        """Waits for the end; raises as AsyncStream.result does."""
        return Acted.from_wire(await self.stream.result())

    def cancel(self) -> None:
        """As AsyncStream.cancel()."""
        self.stream.cancel()


class _Steps:
    """One loop over a stream; dropping it leaves the call, as with the loop over its chunks."""

    def __init__(self, stream: AsyncStream) -> None:
        self._chunks = aiter(stream)
        self._steps: list[Step] = []

    def __aiter__(self) -> _Steps:
        return self

    async def __anext__(self) -> Step:
        while not self._steps:
            self._steps = steps_in(await anext(self._chunks))
        return self._steps.pop(0)


def act_params(
    what: What | None,
    tools: Sequence[str | ToolSpec],
    context: str | None,
    options: ActOptions,
) -> dict[str, object]:
    """The params of llm.act; a string is what the user says."""
    given = what_params(said(what))
    if "tokens" in given:
        raise InvalidParams("an act begins with messages, not with tokens", field="messages")
    names = [tool for tool in tools if isinstance(tool, str)]
    own = [tool for tool in tools if not isinstance(tool, str)]
    return {
        **given,
        "context": context,
        "tools": names or None,
        "client_tools": own or None,
        **options,
    }


def act_options(defaults: Mapping[str, object], options: ActOptions) -> ActOptions:
    """An act's options, and those of an agent's defaults that an act takes."""
    fit = {name: value for name, value in defaults.items() if name in ActOptions.__optional_keys__}
    return cast(ActOptions, {**fit, **options})


def steps_in(chunk: dict[str, object]) -> list[Step]:
    """What a chunk of llm.act tells; of news of the job, nothing."""
    match chunk:
        case {"text": str(text)}:
            return [text] if text else []
        case {"tool_calls": list(calls)}:
            return [*map(ToolCall.from_wire, calls)]
        case {
            "tool_result": {
                "id": str(id_),
                "name": str(name),
                "content": str(content),
                "is_error": bool(is_error),
                "duration_ms": int(duration_ms),
            }
        }:
            return [CallResult(id_, name, content, is_error, duration_ms)]
        case {"call": str(call), "progress": int(progress) | float(progress)}:
            total, message = chunk.get("total"), chunk.get("message")
            return [
                CallProgress(
                    call,
                    progress,
                    total if isinstance(total, int | float) else None,
                    message if isinstance(message, str) else None,
                )
            ]
    return []


def _made(plain: object) -> MadeCall:
    match plain:
        case {
            "round": int(round_),
            "content": str(content),
            "is_error": bool(is_error),
            "duration_ms": int(duration_ms),
        }:
            return MadeCall(ToolCall.from_wire(plain), round_, content, is_error, duration_ms)
    raise ProtocolError(f"the daemon gave {shorten(plain)}, which is no call")
