"""The handler of every name in the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aios_sdk.syscalls import TABLE
from aiosd.server.calls.access import Accesses
from aiosd.server.calls.agent import Agents
from aiosd.server.calls.base import Result
from aiosd.server.calls.context import Contexts
from aiosd.server.calls.ipc import Mail
from aiosd.server.calls.job import Jobs
from aiosd.server.calls.llm import Llm
from aiosd.server.calls.memory import Memories
from aiosd.server.calls.model import ModelFiles
from aiosd.server.calls.storage import StorageCalls
from aiosd.server.calls.system import System
from aiosd.server.calls.tool import ToolCalls

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call

Handler = Callable[["Call"], "Result | Awaitable[Result]"]

NOUNS = {
    "access": Accesses,
    "agent": Agents,
    "context": Contexts,
    "ipc": Mail,
    "job": Jobs,
    "llm": Llm,
    "memory": Memories,
    "model": ModelFiles,
    "storage": StorageCalls,
    "sys": System,
    "tool": ToolCalls,
}


class Syscalls:
    """The handlers, over the daemon's parts."""

    def __init__(self, daemon: Daemon) -> None:
        nouns = {noun: make(daemon) for noun, make in NOUNS.items()}
        self.handlers: dict[str, Handler] = {
            name: getattr(nouns[name.partition(".")[0]], name.replace(".", "_")) for name in TABLE
        }
