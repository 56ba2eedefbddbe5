"""An agent with await: Agent's surface on the asyncio client.

    async with AsyncAgent("poet", system="You are a poet of few words.") as agent:
        print(await agent.generate("Write a line about rain."))

Rule 1: as Agent's: it only knows which conversation is meant, and forgets what it began.
Rule 2: forks share the connection, so any number of them may generate at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast, overload

from aios_sdk.access import AsyncAccess
from aios_sdk.acting import Acted, ActOptions, AsyncActStream, act_options, act_params
from aios_sdk.aio import AsyncClient, AsyncContext
from aios_sdk.aiolink import AsyncLink
from aios_sdk.aioownacts import AsyncActSteps
from aios_sdk.aiostorage import AsyncStorage
from aios_sdk.aiostream import AsyncStream, AsyncTextStream
from aios_sdk.calls import Call, OnWaiting
from aios_sdk.errors import AiosError
from aios_sdk.ipc import AsyncIpc
from aios_sdk.memory import AsyncMemory
from aios_sdk.ownacts import Acting
from aios_sdk.owntools import Function, OwnTools
from aios_sdk.paths import given_agent
from aios_sdk.process import AsyncProcess, SpawnOptions
from aios_sdk.results import (
    GenerateOptions,
    Generation,
    ToolSpec,
    What,
    conversation_options,
    said,
    what_params,
)
from aios_sdk.tools import AsyncTools

F = TypeVar("F", bound=Function)


class AsyncAgent:
    """Who acts; see Agent for its arguments.  It connects at ``async with``, or when first used."""

    def __init__(
        self,
        name: str | None = None,
        *,
        system: str | None = None,
        context: str | None = None,
        keep: bool = False,
        socket: str | None = None,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
        **defaults: Unpack[GenerateOptions],
    ) -> None:
        self._begins = conversation_options(system, defaults)
        self._defaults = defaults
        self._keeps = keep
        self._beginning = asyncio.Lock()
        self._begun: dict[str, AsyncContext] = {}  # what is to be forgotten, of the forks too
        self._is_fork = False
        self._own_tools = OwnTools(is_async=True)
        self.client = AsyncClient(socket, given_agent(socket) or name, timeout_s, on_waiting)
        self._timeout_s = timeout_s
        self._context = None if context is None else self.client.context_at(context)

    @property
    def name(self) -> str:
        """As the daemon knows it; empty before the first call."""
        return str(self.client.hello.get("agent", ""))

    @property
    def access(self) -> AsyncAccess:
        """What this agent may do, and who may do what to its things."""
        return self.client.access

    @property
    def memory(self) -> AsyncMemory:
        """What this agent remembers."""
        return self.client.memory

    @property
    def storage(self) -> AsyncStorage:
        """This agent's files, and those that others share with it."""
        return self.client.storage

    @property
    def tools(self) -> AsyncTools:
        """The daemon's tools, to call without the model."""
        return self.client.tools

    @property
    def ipc(self) -> AsyncIpc:
        """This agent's mailbox, and the way into those of others."""
        return self.client.ipc

    async def context(self) -> AsyncContext:
        """The conversation: to read it, go back in it, or have the model go on with plain text."""
        async with self._beginning:
            if self._context is None:
                self._context = self._own(await self.client.context(**self._begins), self._keeps)
            return self._context

    async def generate(
        self, what: What | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """The model's answer to what the user says (a string), or to messages, or to tokens.

        None: it goes on from where the conversation stands.
        """
        context = await self.context()
        return await context.generate(said(what), **self._options(options))

    def generate_stream(
        self, what: What | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """As generate(), but an async iterator of text; its result is the Generation."""
        params = what_params(said(what)) | dict(self._options(options))
        return AsyncTextStream(self._stream("llm.generate", params))

    @overload
    def tool(self, function: F, /) -> F: ...
    @overload
    def tool(
        self, /, *, name: str | None = None, description: str | None = None
    ) -> Callable[[F], F]: ...
    def tool(self, function: Any = None, /, **marks: str | None) -> Any:
        """Offer a function to the model: it runs here, when act() has the model call it.

        What the model is told are its name, docstring and type hints; see toolbox.tool.
        """
        return self._own_tools.decorate(function, marks)

    async def act(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | Function] = (),
        **options: Unpack[ActOptions],
    ) -> Acted:
        """The model's answer to what the user says, for which it may call tools before it answers.

        tools are names of the daemon's, patterns of such (`git.*`, `*`), and functions; those of
        @agent.tool may be called anyhow.  After max_rounds (8) of calls it has to answer.
        """
        return await self.act_stream(what, tools=tools, **options).result()

    def act_stream(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | Function] = (),
        **options: Unpack[ActOptions],
    ) -> AsyncActSteps:
        """As act(), but an async iterator of its steps: words, calls, what these brought."""
        acting = Acting(self._own_tools, what, tools, act_options(self._defaults, options))
        return AsyncActSteps(acting, self._act)

    async def fork(self, *, keep: bool = False) -> AsyncAgent:
        """The same agent with a conversation of its own, which starts as a copy of this one."""
        twin = copy.copy(self)
        twin._context = self._own(await (await self.context()).fork(), keep)
        twin._is_fork = True
        twin._own_tools, _ = self._own_tools.with_more(())
        return twin

    async def spawn(
        self, name: str, command: str, *args: str, **options: Unpack[SpawnOptions]
    ) -> AsyncProcess:
        """An agent of its own, which the daemon runs as a confined process; see Client.spawn()."""
        return await self.client.spawn(name, command, *args, **options)

    async def close(self) -> None:
        """End the connection, and with it every fork; of a fork: forget its conversation."""
        if self._is_fork:
            if self._context is not None:
                await self._forget(self._context)
            return
        try:
            await self._forget(*self._begun.values())
        finally:
            await self.client.close()

    async def __aenter__(self) -> AsyncAgent:
        await self.client.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------ inside

    def _options(self, options: GenerateOptions) -> GenerateOptions:
        return cast(GenerateOptions, {**self._defaults, **options})

    def _stream(self, method: str, params: dict[str, object]) -> AsyncStream:
        """A call on the conversation, which begins no earlier than the stream does."""

        async def start() -> tuple[AsyncLink, Call]:
            context = (await self.context()).id
            return await self.client._started(
                method, {**params, "context": context, "stream": True}
            )

        return AsyncStream(start, self._timeout_s)

    def _act(
        self, what: What | None, tools: Sequence[str | ToolSpec], options: ActOptions
    ) -> AsyncActStream:
        return AsyncActStream(self._stream("llm.act", act_params(what, tools, None, options)))

    def _own(self, context: AsyncContext, keep: bool) -> AsyncContext:
        if not keep:
            self._begun[context.id] = context
        return context

    async def _forget(self, *contexts: AsyncContext) -> None:
        for context in contexts:
            if self._begun.pop(context.id, None) is None:
                continue  # it is kept, or another task is at it
            with contextlib.suppress(AiosError):  # gone already, or the daemon is: nothing to tell
                await context.delete()
