"""What calls take and give, typed: for the editor and the type checker, and Generation for use.

Rule 1: the shapes repeat syscalls.TABLE; a test compares the two.
Rule 2: a result of another shape than promised is ProtocolError, never a KeyError in user code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from aios_sdk.errors import InvalidParams, ProtocolError
from aios_sdk.types import shorten

Priority = Literal["interactive", "normal", "background"]
Residence = Literal["slot", "ram", "file", "tokens"]


class ToolSpec(TypedDict):
    """What the model may call.  parameters: JSON Schema of the arguments, an object."""

    name: str
    description: NotRequired[str]
    parameters: NotRequired[dict[str, object]]


class CallMessage(TypedDict):
    """A ToolCall as messages have it; ToolCall.to_wire() makes one."""

    id: str
    name: str
    arguments: dict[str, object]


class ChatMessage(TypedDict):
    """tool_calls: of an assistant; tool_call_id and name: of a tool's answer; tools: in what
    context.read gives, with the message that told the model of them."""

    role: str
    content: str
    tool_calls: NotRequired[list[CallMessage]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    tools: NotRequired[list[ToolSpec]]


What = str | Sequence[ChatMessage] | Sequence[int]
"""What to generate from: a prompt, messages, or tokens."""


class Recall(TypedDict, total=False):
    """What to recall before the last user message: k notes, with all the tags, of at least this
    similarity."""

    k: int
    tags: list[str]
    min_score: float


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of generate(); what is absent is the daemon's default."""

    model: str
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: list[str]
    schema: dict[str, object]
    grammar: str
    tools: Sequence[ToolSpec]
    tool_choice: str
    parallel_tool_calls: bool
    priority: Priority
    ignore_eos: bool
    logprobs: int
    keep_partial: bool
    recall: Recall
    detach: bool
    deadline_ms: int
    tag: str | int


class ContextOptions(TypedDict, total=False):
    """The keyword arguments of context()."""

    name: str
    model: str
    system: str
    messages: list[ChatMessage]
    tools: Sequence[ToolSpec]


class ModelInfo(TypedDict):
    name: str
    path: str
    n_params: NotRequired[int]
    n_ctx_train: NotRequired[int]
    weights: NotRequired[str]
    bytes: NotRequired[int]
    has_fast_kernels: NotRequired[bool]
    has_chat_template: NotRequired[bool]
    loaded: bool
    kind: str


class ContextInfo(TypedDict):
    context: str
    name: NotRequired[str]
    agent: str
    model: str
    n_tokens: int
    n_messages: int
    residence: Residence
    snapshot_bytes: int
    busy: bool
    parent: NotRequired[str]
    created_ms: int
    used_ms: int


class Embeddings(TypedDict):
    """embeddings: bytes of little-endian float32, n_dims each; truncated: the numbers of the texts
    that were cut to what the model reads."""

    embeddings: list[bytes]
    n_dims: int
    model: str
    truncated: list[int]


SearchMode = Literal["hybrid", "words", "vectors"]
Enrichment = Literal["none", "waiting", "done", "failed"]


class Note(TypedDict):
    """What an agent remembers; keywords and summary are the model's, of an agentic note."""

    memory: str
    content: str
    tags: list[str]
    metadata: dict[str, object]
    links: list[str]
    keywords: NotRequired[list[str]]
    summary: NotRequired[str]
    enrichment: Enrichment
    bytes: int
    created_ms: int
    updated_ms: int
    used_ms: int


Message = TypedDict(
    "Message", {"message": str, "from": str, "body": Any, "sent_ms": int, "deliveries": int}
)
"""What came into a mailbox, from which agent; deliveries: how often it was handed out."""


class Mailbox(TypedDict):
    """An agent's mailbox: what waits there, how much of it receivers have, how many calls wait for
    more; oldest_ms is absent while it is empty."""

    agent: str
    messages: int
    bytes: int
    leased: int
    receivers: int
    oldest_ms: NotRequired[int]


class ProcessInfo(TypedDict):
    """An agent's process.  exit_code or signal: of its last run that ended; ended_by and ended_ms
    when it has ended for good; reason: in words, where there is more to say."""

    process: str
    agent: str
    uid: int
    parent: NotRequired[str]
    pid: NotRequired[int]
    state: Literal["starting", "running", "stopped", "waiting", "ending", "ended"]
    connected: bool
    restart: Literal["no", "on_failure", "always"]
    restarts: int
    detached: bool
    started_ms: int
    ended_ms: NotRequired[int]
    exit_code: NotRequired[int]
    signal: NotRequired[str]
    ended_by: NotRequired[str]
    reason: NotRequired[str]
    tokens: int


class OutputLine(TypedDict):
    """One line of a process; seq counts over stdout and stderr."""

    seq: int
    at_ms: int
    source: Literal["stdout", "stderr"]
    text: str


class NotePage(TypedDict):
    """next: where the next page begins; absent on the last."""

    notes: list[Note]
    next: NotRequired[str]


class FoundNote(TypedDict):
    """similarity: the cosine with the query, where the note has a vector."""

    memory: str
    content: str
    tags: list[str]
    metadata: dict[str, object]
    score: float
    similarity: NotRequired[float]


class FoundNotes(TypedDict):
    """mode: how it was really searched; reason: why not as asked."""

    results: list[FoundNote]
    mode: SearchMode
    reason: NotRequired[str]


class Written(TypedDict):
    """The version that a write, a rollback or a closed file made."""

    path: str
    version: int
    size: int
    sha256: str


class FileInfo(TypedDict):
    """A file or a directory.  Without version: a person put it there a moment ago."""

    path: str
    kind: Literal["file", "directory"]
    size: int
    modified_ms: int
    version: NotRequired[int]
    sha256: NotRequired[str]


class FilePage(TypedDict):
    entries: list[FileInfo]
    next: NotRequired[str]


class RootUsage(TypedDict):
    """What an agent stores, and may.  History is every earlier version."""

    bytes: int
    quota_bytes: int
    files: int
    quota_files: int
    history_bytes: int
    history_limit_bytes: int


class FileVersion(TypedDict):
    """Without sha256 it is the file's deletion.  by: the agent that made it."""

    version: int
    sha256: NotRequired[str]
    size: int
    created_ms: int
    op: str
    by: str


class FoundFile(TypedDict):
    """A text file's best part, which begins at that offset in bytes."""

    path: str
    version: int
    snippet: str
    offset: int
    score: float


class FoundFiles(TypedDict):
    """mode: how they were found; reason: why not as asked; pending: files not indexed yet."""

    results: list[FoundFile]
    mode: SearchMode
    reason: NotRequired[str]
    pending: int


class FileGrant(TypedDict):
    """agent lets holder (an agent, or "@group") at path and below."""

    grant: str
    path: str
    agent: str
    holder: str
    mode: Literal["read", "write"]
    expires_ms: NotRequired[int]


class FileGrants(TypedDict):
    given: list[FileGrant]
    held: list[FileGrant]


class ToolInfo(TypedDict):
    """A tool of the daemon's.  parameters: JSON Schema of its arguments; usual_ms: how long its
    calls have taken lately; ordered: of a list of calls its own run one after another."""

    name: str
    description: str
    parameters: dict[str, object]
    source: str
    irreversible: bool
    ordered: bool
    max_parallel: int
    timeout_s: float
    running: int
    waiting: int
    usual_ms: NotRequired[int]


class ToolSaid(TypedDict):
    """What a call brought: text, and the same as data where the tool has it.  is_error: the tool
    says that it could not; cut: there was more."""

    content: str
    structured: NotRequired[dict[str, object]]
    is_error: bool
    cut: NotRequired[bool]


class ToolResult(ToolSaid):
    duration_ms: int


class ToolError(TypedDict):
    code: str
    message: str
    data: NotRequired[dict[str, object]]


class ToolOutcome(TypedDict):
    """Of one of several calls: its result or its error."""

    id: str
    name: str
    result: NotRequired[ToolSaid]
    error: NotRequired[ToolError]


class MemoryStats(TypedDict):
    notes: int
    bytes: int
    quota_bytes: int
    hot_notes: int
    hot_bytes: int
    hot_limit_bytes: int
    hits: int
    faults: int
    evictions: int
    without_vector: int
    embedder: NotRequired[str]


class ContextText(TypedDict):
    messages: list[ChatMessage]
    tokens: NotRequired[list[int]]


class Rewound(TypedDict):
    """What is left of a context."""

    context: str
    n_tokens: int
    n_messages: int


class Snapshot(TypedDict):
    """Where a context is now, and the size of what is kept of it."""

    context: str
    residence: Residence
    snapshot_bytes: int


class Prefetched(TypedDict):
    """Where a context is now, and how many of its tokens needn't be read again."""

    context: str
    residence: Residence
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost.  prompt_tokens: what it appended; cached_tokens: what needed no reading."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_ms: int
    waited_ms: int
    ttft_ms: int
    total_ms: int
    slices: int
    parks: int


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wants made; the arguments are valid by the tool's schema."""

    id: str
    name: str
    arguments: dict[str, object]

    def to_wire(self) -> CallMessage:
        return CallMessage(id=self.id, name=self.name, arguments=self.arguments)

    def answer(self, content: str) -> ChatMessage:
        """The message that tells the model what the call brought."""
        return ChatMessage(role="tool", content=content, tool_call_id=self.id, name=self.name)

    @staticmethod
    def from_wire(plain: object) -> ToolCall:
        match plain:
            case {"id": str(id_), "name": str(name), "arguments": dict(arguments)}:
                return ToolCall(id_, name, arguments)
        raise ProtocolError(f"the daemon gave {shorten(plain)}, which is no tool call")


@dataclass(frozen=True, slots=True)
class Generation:
    """What llm.generate gave.  finish: "stop", "length", "stop_string" or "tool_calls"; tool_calls:
    what the model calls, beside the text; recalled: the ids of the notes that recall put before the
    last user message."""

    text: str
    tokens: list[int]
    finish: str
    seed: int
    job: str
    usage: Usage
    context: str | None = None
    stop_string: str | None = None
    logprobs: list[dict[str, object]] | None = None
    recalled: list[str] | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def from_wire(result: dict[str, object]) -> Generation:
        match result:
            case {
                "text": str(text),
                "tokens": list(tokens),
                "finish": str(finish),
                "seed": int(seed),
                "job": str(job),
                "usage": dict(usage),
            }:
                context, stop = result.get("context"), result.get("stop_string")
                logprobs = result.get("logprobs")
                recalled, calls = result.get("recalled"), result.get("tool_calls")
                return Generation(
                    text,
                    tokens,
                    finish,
                    seed,
                    job,
                    usage_of(usage),
                    context if isinstance(context, str) else None,
                    stop if isinstance(stop, str) else None,
                    logprobs if isinstance(logprobs, list) else None,
                    recalled if isinstance(recalled, list) else None,
                    tuple(map(ToolCall.from_wire, calls)) if isinstance(calls, list) else (),
                )
        raise ProtocolError(f"the daemon gave {sorted(result)}, which is no generation")


def usage_of(usage: dict[str, object]) -> Usage:
    """What the daemon says that a call cost."""

    def count(name: str) -> int:
        value = usage.get(name, 0)
        return value if isinstance(value, int) else 0

    return Usage(*[count(name) for name in Usage.__slots__])


def what_params(what: What | None) -> dict[str, object]:
    """{prompt} for a string, {messages} for a list of maps, {tokens} for a list of integers.

    None: nothing, to go on from a context as it stands.
    """
    if what is None:
        return {}
    if isinstance(what, str):
        return {"prompt": what}
    items = list(what)
    if items and isinstance(items[0], int):
        return {"tokens": items}
    if items and isinstance(items[0], dict):
        return {"messages": items}
    raise InvalidParams(
        f"nothing to generate from in {shorten(what)}: give a string, messages or token ids",
        field="prompt",
    )


def user_says(text: str) -> list[ChatMessage]:
    """One turn of a conversation, the user's."""
    return [ChatMessage(role="user", content=text)]


def said(what: What | None) -> What | None:
    """What an agent is given: a plain string is what the user says."""
    return user_says(what) if isinstance(what, str) else what


def conversation_options(system: str | None, defaults: GenerateOptions) -> ContextOptions:
    """How an agent's conversation begins; the model is chosen here, so defaults loses it."""
    options = ContextOptions()
    if system is not None:
        options["system"] = system
    if "model" in defaults:
        options["model"] = defaults.pop("model")
    return options


def field(result: dict[str, object], name: str, kind: type) -> object:
    """A key that the result of a call must have."""
    value = result.get(name)
    if not isinstance(value, kind):
        raise ProtocolError(f"the result has no {name} of type {kind.__name__}: {sorted(result)}")
    return value
