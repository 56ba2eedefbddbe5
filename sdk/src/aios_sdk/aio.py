"""The asyncio client: the blocking client's surface, with await.

    async with AsyncClient() as client:
        print(await client.ask("Say hello."))

Rule 1: one connection carries any number of calls at once; all on one event loop.
Rule 2: cancelling a task cancels its call in the daemon; so does leaving a stream early.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Unpack, cast

from aios_sdk.access import AsyncAccess
from aios_sdk.acting import Acted, ActOptions, AsyncActStream, act_params
from aios_sdk.aiolink import AsyncLink
from aios_sdk.aiostorage import AsyncStorage
from aios_sdk.aiostream import AsyncStream, AsyncTextStream
from aios_sdk.calls import Call, OnWaiting, hello_params, may_repeat
from aios_sdk.errors import ClientError, ConnectionLost
from aios_sdk.ipc import AsyncIpc
from aios_sdk.memory import AsyncMemory
from aios_sdk.paths import default_socket
from aios_sdk.process import AsyncProcess, SpawnOptions
from aios_sdk.results import (
    ContextInfo,
    ContextOptions,
    ContextText,
    Embeddings,
    GenerateOptions,
    Generation,
    ModelInfo,
    Prefetched,
    Rewound,
    Snapshot,
    ToolSpec,
    What,
    field,
    user_says,
    what_params,
)
from aios_sdk.tools import AsyncTools


class AsyncClient:
    """A connection to the daemon that mends itself; see Client for its arguments and errors.

    It connects at ``async with``, at connect(), or at the first call.
    """

    def __init__(
        self,
        socket: str | None = None,
        agent: str | None = None,
        timeout_s: float | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> None:
        self._socket = socket
        self._on_waiting = on_waiting
        self._hello_params = hello_params(agent, socket)
        self._timeout_s = timeout_s
        self._connecting = asyncio.Lock()
        self._is_closed = False
        self._link: AsyncLink | None = None

    @property
    def hello(self) -> dict[str, object]:
        """What the daemon answered to the last hello; empty before the first."""
        return {} if self._link is None else self._link.hello

    async def connect(self) -> None:
        """Connect now, if there is no connection.  Raises as Client() does."""
        await self._connected()

    async def call(self, method: str, /, **params: object) -> dict[str, object]:
        """Any syscall, as SYSCALLS name it.  Params that are None are left out."""
        try:
            return await self._call_once(method, params)
        except ConnectionLost as lost:
            if not may_repeat(method, lost) or self._is_closed:
                raise
        return await self._call_once(method, params)

    def stream(self, method: str, /, **params: object) -> AsyncStream:
        """A syscall that sends chunks; it begins at ``async with`` or at the first chunk."""
        params["stream"] = True
        return AsyncStream(lambda: self._started(method, params), self._timeout_s)

    async def close(self) -> None:
        """End the connection; what is under way is cancelled in the daemon."""
        self._is_closed = True
        if self._link is not None:
            self._link.close("the client was closed")
            await self._link.wait_closed()

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------ the calls, typed

    async def generate(
        self,
        what: What | None = None,
        *,
        context: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Let the model write: from a prompt (a string, as it is), messages or tokens.

        With detach=True the job goes on if we leave, or the connection ends; the ConnectionLost
        that this call then raises has the job to attach() to.
        """
        params = what_params(what) | {"context": context} | dict(options)
        if options.get("detach"):
            return await self._followed(self.stream("llm.generate", **params))
        return Generation.from_wire(await self.call("llm.generate", **params))

    def generate_stream(
        self,
        what: What | None = None,
        *,
        context: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream:
        """As generate(), but an async iterator of text; its result is the Generation."""
        params = what_params(what) | {"context": context} | dict(options)
        return AsyncTextStream(self.stream("llm.generate", **params))

    async def act(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        context: str | None = None,
        **options: Unpack[ActOptions],
    ) -> Acted:
        """Let the model work with tools until it answers what the user says (a string).

        tools: the daemon's by name ("*" for all), the caller's own as they are; when it calls one
        of those the act ends with finish "tool_calls", and an act with their answers goes on.
        """
        params = act_params(what, tools, context, options)
        return Acted.from_wire(await self.call("llm.act", **params))

    def act_stream(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        context: str | None = None,
        **options: Unpack[ActOptions],
    ) -> AsyncActStream:
        """As act(), but an iterator of its steps: words, calls, what they brought."""
        return AsyncActStream(self.stream("llm.act", **act_params(what, tools, context, options)))

    async def attach(self, job: str, from_token: int = 0) -> Generation:
        """A detached job's generation, from one of its tokens on; waits for its end."""
        result = await self.call("job.attach", job=job, from_token=from_token)
        return Generation.from_wire(result)

    def attach_stream(self, job: str, from_token: int = 0) -> AsyncTextStream:
        """As attach(), but an async iterator of text.  Leaving it early leaves the job as it is."""
        return AsyncTextStream(self.stream("job.attach", job=job, from_token=from_token))

    async def ask(self, text: str, **options: Unpack[GenerateOptions]) -> Generation:
        """One user message, through the model's chat template."""
        return await self.generate(user_says(text), **options)

    def ask_stream(self, text: str, **options: Unpack[GenerateOptions]) -> AsyncTextStream:
        """As ask(), but an async iterator of text."""
        return self.generate_stream(user_says(text), **options)

    async def embed(self, texts: Sequence[str], *, model: str | None = None) -> Embeddings:
        """A vector of unit length for each text: bytes of little-endian float32."""
        return cast(Embeddings, await self.call("llm.embed", texts=list(texts), model=model))

    async def tokenize(
        self, text: str, *, special: bool = False, model: str | None = None
    ) -> list[int]:
        result = await self.call("llm.tokenize", text=text, special=special, model=model)
        return cast(list[int], field(result, "tokens", list))

    async def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> str:
        result = await self.call("llm.detokenize", tokens=list(tokens), model=model)
        return cast(str, field(result, "text", str))

    async def models(self) -> list[ModelInfo]:
        return cast(list[ModelInfo], field(await self.call("llm.models"), "models", list))

    async def status(self) -> dict[str, object]:
        """sys.status: what the daemon is doing."""
        return await self.call("sys.status")

    async def metrics(self) -> str:
        """The daemon's figures in Prometheus' text format."""
        return cast(str, field(await self.call("sys.metrics"), "text", str))

    def events(self) -> AsyncStream:
        """As Client.events(), an async iterator."""
        return self.stream("sys.events")

    async def ping(self) -> None:
        await self.call("sys.ping")

    async def context(self, **options: Unpack[ContextOptions]) -> AsyncContext:
        """Start a conversation that the daemon keeps."""
        result = await self.call("context.create", **options)
        return AsyncContext(self, cast(str, field(result, "context", str)))

    def context_at(self, context: str) -> AsyncContext:
        """A handle of a context that exists, by its id.  Makes no call."""
        return AsyncContext(self, context)

    async def contexts(self, *, all: bool = False) -> list[ContextInfo]:  # noqa: A002 - the param's name
        result = await self.call("context.list", all=all)
        return cast(list[ContextInfo], field(result, "contexts", list))

    @property
    def access(self) -> AsyncAccess:
        """What this agent may do, and who may do what to its things."""
        return AsyncAccess(self)

    async def spawn(
        self, name: str, command: str, *args: str, **options: Unpack[SpawnOptions]
    ) -> AsyncProcess:
        """Run a program as an agent of its own, confined: an absolute path, or a name on the
        daemon's PATH, where `python` is one that has this SDK.  Needs the right spawn.

        Raises Denied, Exists, QuotaExceeded, InvalidParams (it could not be started, and why).
        """
        return await AsyncProcess.spawn(self, name, command, args, options)

    @property
    def ipc(self) -> AsyncIpc:
        """This agent's mailbox, and the way into those of others."""
        return AsyncIpc(self)

    @property
    def memory(self) -> AsyncMemory:
        """What this agent remembers."""
        return AsyncMemory(self)

    @property
    def storage(self) -> AsyncStorage:
        """This agent's files, and those that others share with it."""
        return AsyncStorage(self)

    @property
    def tools(self) -> AsyncTools:
        """The tools that this agent may use."""
        return AsyncTools(self)

    # ------------------------------------------------------------ inside

    async def _call_once(self, method: str, params: dict[str, object]) -> dict[str, object]:
        link = await self._connected()
        call = await link.start(method, params)
        try:
            await link.wait(call, lambda: call.is_done, self._timeout_s)
        except asyncio.CancelledError:
            link.abandon(call)
            raise
        return call.outcome()

    async def _followed(self, stream: AsyncStream) -> Generation:
        """A detached generation: as a stream, since that begins with the job's id."""
        try:
            async with stream:
                async for _ in stream:
                    pass
                return Generation.from_wire(await stream.result())
        except ConnectionLost as lost:
            lost.from_token = 0  # our caller has had none
            raise

    async def _started(self, method: str, params: dict[str, object]) -> tuple[AsyncLink, Call]:
        for _ in range(2):  # again only if the connection had ended while nobody looked
            link = await self._connected()
            call = await link.start(method, params, is_stream=True)
            if call.is_sent:
                return link, call
            await link.wait(call, lambda: call.is_done, self._timeout_s)  # noqa: B023 - used at once
        call.outcome()
        return link, call

    async def _connected(self) -> AsyncLink:
        link = self._link
        if link is None or link.is_lost or self._is_closed:
            async with self._connecting:
                link = self._link
                if self._is_closed:
                    raise ClientError("this client is closed")
                if link is None or link.is_lost:
                    path = self._socket or default_socket()
                    link = await AsyncLink.open(path, self._hello_params, self._timeout_s)
                    link.calls.on_waiting = self._on_waiting
                    self._link = link
        if link.pid != os.getpid():
            raise ClientError(
                f"this client belongs to process {link.pid}: a forked process makes its own"
            )
        return link


class AsyncContext:
    """A conversation in the daemon, by its id.  It outlives the client: delete() forgets it."""

    def __init__(self, client: AsyncClient, context: str) -> None:
        self._client = client
        self.id = context

    async def generate(
        self, what: What | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Append to the conversation and let the model go on; None: go on from where it stands."""
        return await self._client.generate(what, context=self.id, **options)

    def generate_stream(
        self, what: What | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """As generate(), but an async iterator of text."""
        return self._client.generate_stream(what, context=self.id, **options)

    async def ask(self, text: str, **options: Unpack[GenerateOptions]) -> Generation:
        """The user's next message, and the model's answer to it."""
        return await self.generate(user_says(text), **options)

    def ask_stream(self, text: str, **options: Unpack[GenerateOptions]) -> AsyncTextStream:
        """As ask(), but an async iterator of text."""
        return self.generate_stream(user_says(text), **options)

    async def act(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        **options: Unpack[ActOptions],
    ) -> Acted:
        """What the user says, and the model's work with tools until it answers."""
        return await self._client.act(what, tools=tools, context=self.id, **options)

    def act_stream(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        **options: Unpack[ActOptions],
    ) -> AsyncActStream:
        """As act(), but an iterator of its steps."""
        return self._client.act_stream(what, tools=tools, context=self.id, **options)

    async def append(self, what: What) -> int:
        """Add without generating; the number of tokens that are now in the conversation."""
        result = await self._client.call("context.append", context=self.id, **what_params(what))
        return cast(int, field(result, "n_tokens", int))

    async def info(self) -> ContextInfo:
        return cast(ContextInfo, await self._client.call("context.info", context=self.id))

    async def read(self, *, tokens: bool = False) -> ContextText:
        """What was said; with tokens=True the token ids too."""
        result = await self._client.call("context.read", context=self.id, tokens=tokens)
        return cast(ContextText, result)

    async def fork(self, n_tokens: int | None = None, name: str | None = None) -> AsyncContext:
        """A new context that starts as a copy of this one, or of its first n_tokens.

        Of a context that a job uses, it copies what was there before the job.
        """
        result = await self._client.call(
            "context.fork", context=self.id, n_tokens=n_tokens, name=name
        )
        return AsyncContext(self._client, cast(str, field(result, "context", str)))

    async def rewind(
        self, *, n_tokens: int | None = None, n_messages: int | None = None
    ) -> Rewound:
        """Go back to where it had so many tokens, or so many messages: give one of the two."""
        result = await self._client.call(
            "context.rewind", context=self.id, n_tokens=n_tokens, n_messages=n_messages
        )
        return cast(Rewound, result)

    async def snapshot(self, to: Literal["ram", "file"] = "ram") -> Snapshot:
        """Keep what has been read of it outside the model, so that it needn't be read again."""
        result = await self._client.call("context.snapshot", context=self.id, to=to)
        return cast(Snapshot, result)

    async def prefetch(self) -> Prefetched:
        """Read its tokens now, so that its next call, or its forks', needn't."""
        result = await self._client.call("context.prefetch", context=self.id)
        return cast(Prefetched, result)

    async def delete(self) -> None:
        await self._client.call("context.delete", context=self.id)
