"""The client of aiosd, the operating system for LLM agents.

    from aios_sdk import Agent

    with Agent("poet", system="You are a poet of few words.") as agent:
        for text in agent.generate_stream("Write a line about rain."):
            print(text, end="")

Agent has a conversation and what it remembers, stores and may use; Client makes any syscall.

Names are loaded when they are first used: importing this package is cheap, and the blocking
client never loads asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aios_sdk.access import Access, AsyncAccess
    from aios_sdk.acting import (
        Acted,
        ActOptions,
        ActStream,
        AsyncActStream,
        CallProgress,
        CallResult,
        MadeCall,
        Step,
    )
    from aios_sdk.agent import Agent
    from aios_sdk.aio import AsyncClient, AsyncContext
    from aios_sdk.aioagent import AsyncAgent
    from aios_sdk.aiofiles import AsyncFileReader, AsyncFileWriter
    from aios_sdk.aioownacts import AsyncActSteps
    from aios_sdk.aiostorage import AsyncStorage
    from aios_sdk.aiostream import AsyncStream, AsyncTextStream
    from aios_sdk.client import Client, Context
    from aios_sdk.errors import (
        ERRORS,
        AiosError,
        Busy,
        Cancelled,
        ClientError,
        ConnectionLost,
        ContextFull,
        DeadlineExceeded,
        Denied,
        EngineFailed,
        Exists,
        Internal,
        InvalidParams,
        NoDaemon,
        NotFound,
        ProtocolError,
        QuotaExceeded,
        SocketDenied,
        SyscallError,
        TooLarge,
        ToolFailed,
        Unavailable,
        UnknownMethod,
        VersionMismatch,
    )
    from aios_sdk.files import FileReader, FileWriter
    from aios_sdk.ipc import AsyncIpc, Ipc
    from aios_sdk.memory import AsyncMemory, Memory
    from aios_sdk.ownacts import ActSteps
    from aios_sdk.paths import default_socket
    from aios_sdk.process import AsyncProcess, Process
    from aios_sdk.results import (
        ChatMessage,
        ContextInfo,
        ContextText,
        Embeddings,
        FileGrant,
        FileGrants,
        FileInfo,
        FileVersion,
        FoundFile,
        FoundFiles,
        FoundNote,
        FoundNotes,
        GenerateOptions,
        Generation,
        Mailbox,
        MemoryStats,
        Message,
        ModelInfo,
        Note,
        NotePage,
        OutputLine,
        Prefetched,
        ProcessInfo,
        Recall,
        Rewound,
        RootUsage,
        Snapshot,
        ToolCall,
        ToolInfo,
        ToolOutcome,
        ToolResult,
        ToolSpec,
        Usage,
        Written,
    )
    from aios_sdk.storage import Storage
    from aios_sdk.stream import Stream, TextStream
    from aios_sdk.syscalls import PROTOCOL_VERSION, TABLE
    from aios_sdk.toolbox import BadTool
    from aios_sdk.tools import AsyncTools, Tools

__version__ = "0.1.0"

__all__ = [
    "ERRORS",
    "PROTOCOL_VERSION",
    "TABLE",
    "Access",
    "ActOptions",
    "ActSteps",
    "ActStream",
    "Acted",
    "Agent",
    "AiosError",
    "AsyncAccess",
    "AsyncActSteps",
    "AsyncActStream",
    "AsyncAgent",
    "AsyncClient",
    "AsyncContext",
    "AsyncFileReader",
    "AsyncFileWriter",
    "AsyncIpc",
    "AsyncMemory",
    "AsyncProcess",
    "AsyncStorage",
    "AsyncStream",
    "AsyncTextStream",
    "AsyncTools",
    "BadTool",
    "Busy",
    "CallProgress",
    "CallResult",
    "Cancelled",
    "ChatMessage",
    "Client",
    "ClientError",
    "ConnectionLost",
    "Context",
    "ContextFull",
    "ContextInfo",
    "ContextText",
    "DeadlineExceeded",
    "Denied",
    "Embeddings",
    "EngineFailed",
    "Exists",
    "FileGrant",
    "FileGrants",
    "FileInfo",
    "FileReader",
    "FileVersion",
    "FileWriter",
    "FoundFile",
    "FoundFiles",
    "FoundNote",
    "FoundNotes",
    "GenerateOptions",
    "Generation",
    "Internal",
    "InvalidParams",
    "Ipc",
    "MadeCall",
    "Mailbox",
    "Memory",
    "MemoryStats",
    "Message",
    "ModelInfo",
    "NoDaemon",
    "NotFound",
    "Note",
    "NotePage",
    "OutputLine",
    "Prefetched",
    "Process",
    "ProcessInfo",
    "ProtocolError",
    "QuotaExceeded",
    "Recall",
    "Rewound",
    "RootUsage",
    "Snapshot",
    "SocketDenied",
    "Step",
    "Storage",
    "Stream",
    "SyscallError",
    "TextStream",
    "TooLarge",
    "ToolCall",
    "ToolFailed",
    "ToolInfo",
    "ToolOutcome",
    "ToolResult",
    "ToolSpec",
    "Tools",
    "Unavailable",
    "UnknownMethod",
    "Usage",
    "VersionMismatch",
    "Written",
    "__version__",
    "default_socket",
]

_HOMES = {
    "acting": (
        "ActOptions",
        "ActStream",
        "Acted",
        "AsyncActStream",
        "CallProgress",
        "CallResult",
        "MadeCall",
        "Step",
    ),
    "access": ("Access", "AsyncAccess"),
    "agent": ("Agent",),
    "aio": ("AsyncClient", "AsyncContext"),
    "aioagent": ("AsyncAgent",),
    "aiofiles": ("AsyncFileReader", "AsyncFileWriter"),
    "aioownacts": ("AsyncActSteps",),
    "aiostorage": ("AsyncStorage",),
    "aiostream": ("AsyncStream", "AsyncTextStream"),
    "client": ("Client", "Context"),
    "files": ("FileReader", "FileWriter"),
    "ipc": ("AsyncIpc", "Ipc"),
    "memory": ("AsyncMemory", "Memory"),
    "process": ("AsyncProcess", "Process"),
    "ownacts": ("ActSteps",),
    "paths": ("default_socket",),
    "results": (
        "ChatMessage",
        "ContextInfo",
        "ContextText",
        "Embeddings",
        "FileInfo",
        "FileVersion",
        "FoundFile",
        "FoundFiles",
        "FoundNote",
        "FoundNotes",
        "GenerateOptions",
        "Generation",
        "FileGrant",
        "FileGrants",
        "Mailbox",
        "MemoryStats",
        "Message",
        "ModelInfo",
        "Note",
        "NotePage",
        "OutputLine",
        "Prefetched",
        "ProcessInfo",
        "Recall",
        "Rewound",
        "RootUsage",
        "Snapshot",
        "ToolCall",
        "ToolInfo",
        "ToolOutcome",
        "ToolResult",
        "ToolSpec",
        "Usage",
        "Written",
    ),
    "storage": ("Storage",),
    "stream": ("Stream", "TextStream"),
    "syscalls": ("PROTOCOL_VERSION", "TABLE"),
    "toolbox": ("BadTool",),
    "tools": ("AsyncTools", "Tools"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker sees the imports above, and no name that isn't there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}")
        value: object = getattr(home, name)
        globals()[name] = value  # found directly from now on
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
