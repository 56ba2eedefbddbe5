"""The blocking client: a system call is a method call.

    with Client() as client:
        print(client.ask("Say hello."))

Rule 1: a client may be used by many threads at once; a stream by one.
Rule 2: leaving a stream early, or an exception in a call, cancels the call in the daemon.
Rule 3: a stream that nobody reads doesn't read the socket, so the daemon stops generating.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Unpack, cast

from aios_sdk.access import Access
from aios_sdk.acting import Acted, ActOptions, ActStream, act_params
from aios_sdk.calls import OnWaiting, hello_params, may_repeat
from aios_sdk.errors import ClientError, ConnectionLost
from aios_sdk.ipc import Ipc
from aios_sdk.link import Link
from aios_sdk.memory import Memory
from aios_sdk.paths import default_socket
from aios_sdk.process import Process, SpawnOptions
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
from aios_sdk.storage import Storage
from aios_sdk.stream import Stream, TextStream
from aios_sdk.tools import Tools


class Client:
    """A connection to the daemon that mends itself.

    socket     its path; by default $AIOSD_SOCKET, the user's own daemon, or the system's; fd:N is
               the one connection of a process that the daemon started
    agent      the name to go by: letters, digits, '.', '_', '-', at most 64; a process that the
               daemon started has its name from it
    timeout_s  how long a call may go without a word from the daemon; None: for ever
    on_waiting is told when a call waits for a person, with {"request": id, …}; it makes no calls

    When the connection is lost, the next call makes another.  A call under way then is repeated
    once if it never left or a second time does no harm; else it raises ConnectionLost.
    Raises NoDaemon, SocketDenied, VersionMismatch on connecting.
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
        self._connecting = threading.Lock()
        self._is_closed = False
        self._link: Link | None = None
        self._link = self._connected()

    @property
    def hello(self) -> dict[str, object]:
        """What the daemon answered to hello: versions, limits, rights, models."""
        return self._connected().hello

    def call(self, method: str, /, **params: object) -> dict[str, object]:
        """Any syscall, as SYSCALLS name it.  Params that are None are left out."""
        try:
            return self._call_once(method, params)
        except ConnectionLost as lost:
            if not may_repeat(method, lost) or self._is_closed:
                raise
        return self._call_once(method, params)

    def stream(self, method: str, /, **params: object) -> Stream:
        """A syscall that sends chunks.  Iterate it, in a with-block or not."""
        params["stream"] = True
        stream = self._started(method, params)
        if stream is None:  # the connection had ended while nobody looked; the call never left
            stream = self._started(method, params)
        if stream is None:
            raise ConnectionLost(f"{method} could not be sent", may_have_happened=False)
        return stream

    def close(self) -> None:
        """End the connection; what is under way is cancelled in the daemon."""
        self._is_closed = True
        if self._link is not None:
            self._link.close("the client was closed")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ the calls, typed

    def generate(
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
            return self._followed(self.stream("llm.generate", **params))
        return Generation.from_wire(self.call("llm.generate", **params))

    def generate_stream(
        self,
        what: What | None = None,
        *,
        context: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> TextStream:
        """As generate(), but an iterator of text; its result is the Generation."""
        params = what_params(what) | {"context": context} | dict(options)
        return TextStream(self.stream("llm.generate", **params))

    def act(
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
        return Acted.from_wire(self.call("llm.act", **params))

    def act_stream(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        context: str | None = None,
        **options: Unpack[ActOptions],
    ) -> ActStream:
        """As act(), but an iterator of its steps: words, calls, what they brought."""
        return ActStream(self.stream("llm.act", **act_params(what, tools, context, options)))

    def attach(self, job: str, from_token: int = 0) -> Generation:
        """A detached job's generation, from one of its tokens on; waits for its end."""
        result = self.call("job.attach", job=job, from_token=from_token)
        return Generation.from_wire(result)

    def attach_stream(self, job: str, from_token: int = 0) -> TextStream:
        """As attach(), but an iterator of text.  Leaving it early leaves the job as it is."""
        return TextStream(self.stream("job.attach", job=job, from_token=from_token))

    def ask(self, text: str, **options: Unpack[GenerateOptions]) -> Generation:
        """One user message, through the model's chat template."""
        return self.generate(user_says(text), **options)

    def ask_stream(self, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
        """As ask(), but an iterator of text."""
        return self.generate_stream(user_says(text), **options)

    def embed(self, texts: Sequence[str], *, model: str | None = None) -> Embeddings:
        """A vector of unit length for each text: bytes of little-endian float32."""
        return cast(Embeddings, self.call("llm.embed", texts=list(texts), model=model))

    def tokenize(self, text: str, *, special: bool = False, model: str | None = None) -> list[int]:
        result = self.call("llm.tokenize", text=text, special=special, model=model)
        return cast(list[int], field(result, "tokens", list))

    def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> str:
        result = self.call("llm.detokenize", tokens=list(tokens), model=model)
        return cast(str, field(result, "text", str))

    def models(self) -> list[ModelInfo]:
        return cast(list[ModelInfo], field(self.call("llm.models"), "models", list))

    def status(self) -> dict[str, object]:
        """sys.status: what the daemon is doing."""
        return self.call("sys.status")

    def metrics(self) -> str:
        """The daemon's figures in Prometheus' text format."""
        return cast(str, field(self.call("sys.metrics"), "text", str))

    def events(self) -> Stream:
        """What happens from now on, as maps with the keys event and at_ms and more.

        The first says "listening".  It goes on until it is left; one that says "lost" tells how
        many were missed by reading too slowly.
        """
        return self.stream("sys.events")

    def ping(self) -> None:
        self.call("sys.ping")

    def context(self, **options: Unpack[ContextOptions]) -> Context:
        """Start a conversation that the daemon keeps."""
        result = self.call("context.create", **options)
        return Context(self, cast(str, field(result, "context", str)))

    def context_at(self, context: str) -> Context:
        """A handle of a context that exists, by its id.  Makes no call."""
        return Context(self, context)

    def contexts(self, *, all: bool = False) -> list[ContextInfo]:  # noqa: A002 - the param's name
        result = self.call("context.list", all=all)
        return cast(list[ContextInfo], field(result, "contexts", list))

    @property
    def access(self) -> Access:
        """What this agent may do, and who may do what to its things."""
        return Access(self)

    def spawn(
        self, name: str, command: str, *args: str, **options: Unpack[SpawnOptions]
    ) -> Process:
        """Run a program as an agent of its own, confined: an absolute path, or a name on the
        daemon's PATH, where `python` is one that has this SDK.  Needs the right spawn.

        Raises Denied, Exists, QuotaExceeded, InvalidParams (it could not be started, and why).
        """
        return Process.spawn(self, name, command, args, options)

    @property
    def ipc(self) -> Ipc:
        """This agent's mailbox, and the way into those of others."""
        return Ipc(self)

    @property
    def memory(self) -> Memory:
        """What this agent remembers."""
        return Memory(self)

    @property
    def storage(self) -> Storage:
        """This agent's files, and those that others share with it."""
        return Storage(self)

    @property
    def tools(self) -> Tools:
        """The tools that this agent may use."""
        return Tools(self)

    # ------------------------------------------------------------ inside

    def _call_once(self, method: str, params: dict[str, object]) -> dict[str, object]:
        link = self._connected()
        call = link.start(method, params)
        try:
            link.wait(call, lambda: call.is_done, self._timeout_s)
        except BaseException:  # KeyboardInterrupt above all
            link.abandon(call)
            raise
        return call.outcome()

    def _followed(self, stream: Stream) -> Generation:
        """A detached generation: as a stream, since that begins with the job's id."""
        try:
            with stream:
                for _ in stream:
                    pass
                return Generation.from_wire(stream.result)
        except ConnectionLost as lost:
            lost.from_token = 0  # our caller has had none
            raise

    def _started(self, method: str, params: dict[str, object]) -> Stream | None:
        link = self._connected()
        call = link.start(method, params, is_stream=True)
        link.wait(call, lambda: call.is_sent or call.is_done, self._timeout_s)
        has_left = call.is_sent or not isinstance(call.error, ConnectionLost)
        return Stream(link, call, self._timeout_s) if has_left else None

    def _connected(self) -> Link:
        link = self._link
        if link is None or link.is_lost or self._is_closed:
            with self._connecting:
                link = self._link
                if self._is_closed:
                    raise ClientError("this client is closed")
                if link is None or link.is_lost:
                    path = self._socket or default_socket()
                    link = self._link = Link.open(path, self._hello_params, self._timeout_s)
                    link.calls.on_waiting = self._on_waiting
        if link.pid != os.getpid():
            raise ClientError(
                f"this client belongs to process {link.pid}: a forked process makes its own"
            )
        return link


class Context:
    """A conversation in the daemon, by its id.  It outlives the client: delete() forgets it."""

    def __init__(self, client: Client, context: str) -> None:
        self._client = client
        self.id = context

    def generate(self, what: What | None = None, **options: Unpack[GenerateOptions]) -> Generation:
        """Append to the conversation and let the model go on; None: go on from where it stands."""
        return self._client.generate(what, context=self.id, **options)

    def generate_stream(
        self, what: What | None = None, **options: Unpack[GenerateOptions]
    ) -> TextStream:
        """As generate(), but an iterator of text."""
        return self._client.generate_stream(what, context=self.id, **options)

    def ask(self, text: str, **options: Unpack[GenerateOptions]) -> Generation:
        """The user's next message, and the model's answer to it."""
        return self.generate(user_says(text), **options)

    def ask_stream(self, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
        """As ask(), but an iterator of text."""
        return self.generate_stream(user_says(text), **options)

    def act(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        **options: Unpack[ActOptions],
    ) -> Acted:
        """What the user says, and the model's work with tools until it answers."""
        return self._client.act(what, tools=tools, context=self.id, **options)

    def act_stream(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | ToolSpec] = (),
        **options: Unpack[ActOptions],
    ) -> ActStream:
        """As act(), but an iterator of its steps."""
        return self._client.act_stream(what, tools=tools, context=self.id, **options)

    def append(self, what: What) -> int:
        """Add without generating; the number of tokens that are now in the conversation."""
        result = self._client.call("context.append", context=self.id, **what_params(what))
        return cast(int, field(result, "n_tokens", int))

    def info(self) -> ContextInfo:
        return cast(ContextInfo, self._client.call("context.info", context=self.id))

    def read(self, *, tokens: bool = False) -> ContextText:
        """What was said; with tokens=True the token ids too."""
        return cast(ContextText, self._client.call("context.read", context=self.id, tokens=tokens))

    def fork(self, n_tokens: int | None = None, name: str | None = None) -> Context:
        """A new context that starts as a copy of this one, or of its first n_tokens.

        Of a context that a job uses, it copies what was there before the job.
        """
        result = self._client.call("context.fork", context=self.id, n_tokens=n_tokens, name=name)
        return Context(self._client, cast(str, field(result, "context", str)))

    def rewind(self, *, n_tokens: int | None = None, n_messages: int | None = None) -> Rewound:
        """Go back to where it had so many tokens, or so many messages: give one of the two."""
        result = self._client.call(
            "context.rewind", context=self.id, n_tokens=n_tokens, n_messages=n_messages
        )
        return cast(Rewound, result)

    def snapshot(self, to: Literal["ram", "file"] = "ram") -> Snapshot:
        """Keep what has been read of it outside the model, so that it needn't be read again."""
        result = self._client.call("context.snapshot", context=self.id, to=to)
        return cast(Snapshot, result)

    def prefetch(self) -> Prefetched:
        """Read its tokens now, so that its next call, or its forks', needn't."""
        result = self._client.call("context.prefetch", context=self.id)
        return cast(Prefetched, result)

    def delete(self) -> None:
        self._client.call("context.delete", context=self.id)
