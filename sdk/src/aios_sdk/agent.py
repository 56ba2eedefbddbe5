"""An agent: a connection, and one conversation that goes on from call to call.

    with Agent("poet", system="You are a poet of few words.", max_tokens=40) as agent:
        print(agent.generate("Write a line about rain."))

Rule 1: nothing here that Client can't do: it only knows which conversation is meant.
Rule 2: the conversation begins with the first call that needs it.  What an agent began, its forks
too, is forgotten when it closes, unless keep=True; what it was given by id stays.
Rule 3: forks may be used in threads of their own; a conversation serves one call at a time.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast, overload

from aios_sdk.access import Access
from aios_sdk.acting import Acted, ActOptions, ActStream, act_options
from aios_sdk.calls import OnWaiting
from aios_sdk.client import Client, Context
from aios_sdk.errors import AiosError
from aios_sdk.ipc import Ipc
from aios_sdk.memory import Memory
from aios_sdk.ownacts import Acting, ActSteps
from aios_sdk.owntools import Function, OwnTools
from aios_sdk.paths import given_agent
from aios_sdk.process import Process, SpawnOptions
from aios_sdk.results import (
    GenerateOptions,
    Generation,
    ToolSpec,
    What,
    conversation_options,
    said,
)
from aios_sdk.storage import Storage
from aios_sdk.stream import TextStream
from aios_sdk.tools import Tools

F = TypeVar("F", bound=Function)


class Agent:
    """Who acts: a name, a conversation, and what it remembers, stores and may use.

    name       letters, digits, '.', '_', '-', at most 64; absent: the process's.  One that the
               daemon started has the name it was given, whatever stands here
    system     what the model is told before anything else
    context    the id of a conversation to go on with, instead of a new one
    keep       the conversation outlives the agent; context().id finds it again
    defaults   options of every generation, such as max_tokens=40 or temperature=0

    socket, timeout_s and on_waiting are Client's, and so are the errors on connecting.
    """

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
        self._beginning = threading.Lock()
        self._begun: dict[str, Context] = {}  # what is to be forgotten, of the forks too
        self._is_fork = False
        self._own_tools = OwnTools(is_async=False)
        self.client = Client(socket, given_agent(socket) or name, timeout_s, on_waiting)
        self._context = None if context is None else self.client.context_at(context)

    @property
    def name(self) -> str:
        """As the daemon knows it."""
        return str(self.client.hello.get("agent"))

    @property
    def access(self) -> Access:
        """What this agent may do, and who may do what to its things."""
        return self.client.access

    @property
    def memory(self) -> Memory:
        """What this agent remembers."""
        return self.client.memory

    @property
    def storage(self) -> Storage:
        """This agent's files, and those that others share with it."""
        return self.client.storage

    @property
    def tools(self) -> Tools:
        """The daemon's tools, to call without the model."""
        return self.client.tools

    @property
    def ipc(self) -> Ipc:
        """This agent's mailbox, and the way into those of others."""
        return self.client.ipc

    def context(self) -> Context:
        """The conversation: to read it, go back in it, or have the model go on with plain text."""
        with self._beginning:
            if self._context is None:
                self._context = self._own(self.client.context(**self._begins), self._keeps)
            return self._context

    def generate(self, what: What | None = None, **options: Unpack[GenerateOptions]) -> Generation:
        """The model's answer to what the user says (a string), or to messages, or to tokens.

        None: it goes on from where the conversation stands.
        """
        return self.context().generate(said(what), **self._options(options))

    def generate_stream(
        self, what: What | None = None, **options: Unpack[GenerateOptions]
    ) -> TextStream:
        """As generate(), but an iterator of text; its result is the Generation."""
        return self.context().generate_stream(said(what), **self._options(options))

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

    def act(
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
        return self.act_stream(what, tools=tools, **options).result

    def act_stream(
        self,
        what: What | None = None,
        *,
        tools: Sequence[str | Function] = (),
        **options: Unpack[ActOptions],
    ) -> ActSteps:
        """As act(), but an iterator of its steps: words, calls, what these brought."""
        acting = Acting(self._own_tools, what, tools, act_options(self._defaults, options))
        return ActSteps(acting, self._act)

    def fork(self, *, keep: bool = False) -> Agent:
        """The same agent with a conversation of its own, which starts as a copy of this one."""
        twin = copy.copy(self)
        twin._context = self._own(self.context().fork(), keep)
        twin._is_fork = True
        twin._own_tools, _ = self._own_tools.with_more(())
        return twin

    def spawn(
        self, name: str, command: str, *args: str, **options: Unpack[SpawnOptions]
    ) -> Process:
        """An agent of its own, which the daemon runs as a confined process; see Client.spawn()."""
        return self.client.spawn(name, command, *args, **options)

    def close(self) -> None:
        """End the connection, and with it every fork; of a fork: forget its conversation."""
        if self._is_fork:
            if self._context is not None:
                self._forget(self._context)
            return
        try:
            self._forget(*self._begun.values())
        finally:
            self.client.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    def _options(self, options: GenerateOptions) -> GenerateOptions:
        return cast(GenerateOptions, {**self._defaults, **options})

    def _act(
        self, what: What | None, tools: Sequence[str | ToolSpec], options: ActOptions
    ) -> ActStream:
        return self.context().act_stream(what, tools=tools, **options)

    def _own(self, context: Context, keep: bool) -> Context:
        if not keep:
            self._begun[context.id] = context
        return context

    def _forget(self, *contexts: Context) -> None:
        for context in contexts:
            if self._begun.pop(context.id, None) is None:
                continue  # it is kept, or another thread is at it
            with contextlib.suppress(AiosError):  # gone already, or the daemon is: nothing to tell
                context.delete()
