"""Every syscall as data: the one table that validation, sys.describe, the clients, aiosctl's
describe, PROTOCOL.md and the access checks read.

Rule 1: a name, a default or a limit is written here and nowhere else.
Rule 2: results and chunks are open maps: a later version may add keys, clients ignore unknown ones.

``python -m aios_sdk.syscalls`` prints the table as markdown.
"""

from __future__ import annotations

import functools
import sys

from aios_sdk.errors import ERRORS
from aios_sdk.reference import markdown
from aios_sdk.signature import ABSENT, Group, Param, Syscall
from aios_sdk.types import (
    Any,
    AnyMap,
    Bool,
    Bytes,
    Field,
    Float,
    Int,
    List,
    Map,
    Schema,
    Str,
    Type,
    Union,
    Value,
)

__all__ = ["ABSENT", "PROTOCOL_VERSION", "TABLE", "Group", "Param", "Syscall", "describe", "render"]

PROTOCOL_VERSION = 1

# ---------------------------------------------------------------- types that several calls share

MAX_TOKENS_IN_CALL = 131_072  # the longest context that models of this class are trained for
MAX_JOURNAL_BYTES = 2**30  # far above what a frame may have
MAX_FILE_DATA = 64 * 1024 * 1024  # what a frame could be set to hold; larger files go in parts
MAX_SEED = 2**32 - 2  # llama.cpp reads 2^32 - 1 as "random"

COUNT = Int(0, 2**63 - 1)
MS = Int(0, 2**63 - 1)
TEXT = Str()
PROMPT = Str(min_chars=1)
NAME = Str(max_chars=128, pattern=r"[^\x00-\x1f\x7f\ud800-\udfff]{1,128}")
AGENT = Str(max_chars=64, pattern=r"[A-Za-z0-9._-]{1,64}")
ID = Str(max_chars=64, pattern=r"[A-Za-z0-9._:-]{1,64}")
PATH = Str(max_chars=4096, pattern=r"/[^\x00\ud800-\udfff]{0,4095}")  # of Linux, in characters
MODEL_NAME = Str(max_chars=128, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
TOKEN = Int(0, 2**31 - 1)
TOKENS = List(TOKEN, max_items=MAX_TOKENS_IN_CALL, min_items=1)
ROLE = Str(choices=("system", "user", "assistant", "tool"))
TOOL_NAME = Str(max_chars=128, pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
TOOL_CALL = Map((Field("id", ID), Field("name", TOOL_NAME), Field("arguments", AnyMap())))
MAX_CALLS_IN_TURN = 32  # of one answer: a small model may go on and on
TOOL_CALLS = List(TOOL_CALL, max_items=MAX_CALLS_IN_TURN)
TOOL = Map(
    (
        Field("name", TOOL_NAME),
        Field("description", TEXT, False),
        Field("parameters", AnyMap(), False),
    )
)
TOOLS = List(TOOL, max_items=128)
MESSAGE_FIELDS = (
    Field("role", ROLE),
    Field("content", TEXT),
    Field("tool_calls", TOOL_CALLS, False),  # of an assistant: what it called
    Field("tool_call_id", ID, False),  # of a tool: which call this answers
    Field("name", TOOL_NAME, False),  # of a tool: which one
    Field("tools", TOOLS, False),  # those that the model was told of with it, as context.read says
)
MESSAGES = List(Map(MESSAGE_FIELDS), max_items=4096, min_items=1)
PRIORITY = Str(choices=("interactive", "normal", "background"))
POLICY = Str(choices=("fifo", "rr", "fair"))
TAG = Str(max_chars=64, min_chars=1)
TAGS = List(TAG, max_items=32)
NOTHING = Map((), is_open=True)


def _result(**fields: Type) -> Map:
    """An open map; a name that ends in an underscore is one that may be missing."""
    return Map(
        tuple(Field(k.removesuffix("_"), t, not k.endswith("_")) for k, t in fields.items()),
        is_open=True,
    )


def _many(of: Type) -> List:
    return List(of, max_items=MAX_TOKENS_IN_CALL)


_COMMON = (Param("deadline_ms", Int(1, 2**31), "from arrival; past it: deadline_exceeded"),)
_STREAMING = (
    Param(
        "tag",
        Union((Str(max_chars=128), Int()), "a string of at most 128 characters or an integer"),
        "echoed in the call's chunks; cancel takes it too",
    ),
)


def _syscall(
    name: str,
    summary: str,
    result: Type,
    *params: Param,
    chunk: Type | None = None,
    right: str | None = None,
    is_repeatable: bool = False,
    one_of: tuple[Group, ...] = (),
) -> Syscall:
    everywhere = _COMMON + (_STREAMING if chunk is not None else ())
    return Syscall(name, summary, params + everywhere, result, chunk, right, is_repeatable, one_of)


def _needs(name: str, type_: Type, summary: str) -> Param:
    return Param(name, type_, summary, is_required=True)


# ---------------------------------------------------------------- results with many fields

STATUS = _result(
    version=TEXT,
    pid=COUNT,
    uptime_s=COUNT,
    state=TEXT,
    agents=COUNT,
    cores=_many(
        _result(
            model=TEXT,
            policy=TEXT,
            quantum_tokens=COUNT,
            lanes=COUNT,
            n_slots=COUNT,
            slot_tokens=COUNT,
            slots_used_=COUNT,
            slots_=_many(
                _result(slot=COUNT, context=ID, uid=COUNT, agent=AGENT, running=Bool(), job_=ID)
            ),
            jobs=_result(ready=COUNT, running=COUNT, stalled=COUNT, paused=COUNT),
            steps=COUNT,
            tokens=_result(prompt=COUNT, cached=COUNT, output=COUNT),
            snapshots=_result(
                ram_bytes=COUNT,
                ram_limit_bytes_=COUNT,
                file_bytes=COUNT,
                file_limit_bytes_=COUNT,
            ),
        )
    ),
    contexts_=_result(n=COUNT, bytes=COUNT, limit_bytes=COUNT),
    rss_bytes=COUNT,
    disk_free_bytes_=COUNT,
    confinement_=_result(
        landlock_abi=COUNT, has_seccomp=Bool(), memory=TEXT, processes=TEXT, why_not=TEXT
    ),
)
RESIDENCE = Str(choices=("slot", "ram", "file", "tokens"))
USAGE = _result(
    prompt_tokens=COUNT,
    cached_tokens=COUNT,
    output_tokens=COUNT,
    queue_ms=MS,
    waited_ms=MS,
    ttft_ms=MS,
    total_ms=MS,
    slices=COUNT,
    parks=COUNT,
)
LOGPROBS = _many(_result(token=TOKEN, text=TEXT, logprob=Any(), top=_many(Any())))
GENERATION = _result(
    text=TEXT,
    tokens=_many(TOKEN),
    finish=Str(choices=("stop", "length", "stop_string", "tool_calls")),
    stop_string_=TEXT,
    tool_calls_=_many(TOOL_CALL),
    logprobs_=LOGPROBS,
    context_=ID,
    recalled_=_many(ID),
    job=ID,
    seed=Int(0, MAX_SEED),
    usage=USAGE,
)
WORDS = _result(id=COUNT, tag_=Any(), text=TEXT, tokens=_many(TOKEN), logprobs_=LOGPROBS)
CALLS = _result(id=COUNT, tag_=Any(), tool_calls=_many(TOOL_CALL))
NEWS = _result(
    id=COUNT,
    tag_=Any(),
    job=ID,
    state=Str(choices=("queued", "running", "paused", "resumed")),
    position_=COUNT,
)
EVENT = _result(
    id=COUNT,
    tag_=Any(),
    event=Str(max_chars=32),
    at_ms=MS,
    uid_=COUNT,
    agent_=AGENT,
    job_=ID,
    context_=ID,
    name_=TEXT,
    code_=TEXT,
    outcome_=TEXT,
    lost_=COUNT,
)
CONTEXT_INFO = _result(
    context=ID,
    name_=NAME,
    agent=AGENT,
    model=TEXT,
    n_tokens=COUNT,
    n_messages=COUNT,
    residence=RESIDENCE,
    snapshot_bytes=COUNT,
    busy=Bool(),
    parent_=ID,
    created_ms=MS,
    used_ms=MS,
)
JOB_INFO = _result(
    job=ID,
    agent=AGENT,
    uid=COUNT,
    context=ID,
    state=Str(
        choices=(
            "ready",
            "running",
            "stalled",
            "paused",
            "delayed",
            "cancelling",
            "saving",
            "calling",
        )
    ),
    priority=PRIORITY,
    n_output=COUNT,
    waited_ms=MS,
    slices=COUNT,
    parks=COUNT,
    waits_for_=_result(kind=TEXT, position_=COUNT, job_=ID, wait_ms_=MS),
)
AGENT_INFO = _result(
    agent=AGENT,
    uid=COUNT,
    connections=COUNT,
    contexts=COUNT,
    jobs=COUNT,
    tokens=COUNT,
    since_ms=MS,
    process_=ID,
)
PROCESS_FIELDS: dict[str, Type] = {
    "process": ID,
    "agent": AGENT,
    "uid": COUNT,
    "parent_": AGENT,
    "pid_": COUNT,
    "state": Str(choices=("starting", "running", "stopped", "waiting", "ending", "ended")),
    "connected": Bool(),
    "restart": Str(choices=("no", "on_failure", "always")),
    "restarts": COUNT,
    "detached": Bool(),
    "started_ms": MS,
    "ended_ms_": MS,
    "exit_code_": COUNT,
    "signal_": TEXT,
    "ended_by_": Str(
        choices=(
            "exit",
            "restarts",
            "signal",
            "kill",
            "parent",
            "wall_time",
            "daemon",
            "start",
        )
    ),
    "reason_": TEXT,
    "tokens": COUNT,
}
PROCESS_INFO = _result(**PROCESS_FIELDS)
SPAWN_LIMITS = (
    "tokens",
    "jobs",
    "wall_s",
    "memory_bytes",
    "cpu_s",
    "cpu_percent",
    "n_processes",
    "disk_bytes",
)
OUTPUT_LINES = _many(
    _result(seq=COUNT, at_ms=MS, source=Str(choices=("stdout", "stderr")), text=TEXT)
)
# The counts are absent while the model isn't loaded: they are in its file.
MODEL_INFO = _result(
    name=TEXT,
    path=TEXT,
    n_params_=COUNT,
    n_ctx_train_=COUNT,
    weights_=TEXT,
    bytes_=COUNT,
    has_fast_kernels_=Bool(),
    has_chat_template_=Bool(),
    loaded=Bool(),
    kind=TEXT,
)

NOTE: dict[str, Type] = {
    "memory": ID,
    "content": TEXT,
    "tags": _many(TEXT),
    "metadata": AnyMap(),
}
NOTE_INFO = _result(
    **NOTE,
    links=_many(ID),
    keywords_=_many(TEXT),
    summary_=TEXT,
    enrichment=Str(choices=("none", "waiting", "done", "failed")),
    bytes=COUNT,
    created_ms=MS,
    updated_ms=MS,
    used_ms=MS,
)
SEARCH_MODE = Str(choices=("hybrid", "words", "vectors"))
MEMORY_STATS = _result(
    notes=COUNT,
    bytes=COUNT,
    quota_bytes=COUNT,
    hot_notes=COUNT,
    hot_bytes=COUNT,
    hot_limit_bytes=COUNT,
    hits=COUNT,
    faults=COUNT,
    evictions=COUNT,
    without_vector=COUNT,
    embedder_=TEXT,
)
KIND = Str(choices=("file", "directory"))
FILE_FIELDS: dict[str, Type] = {
    "path": TEXT,
    "kind": KIND,
    "size": COUNT,
    "modified_ms": MS,
    "version_": COUNT,
    "sha256_": TEXT,
}
VERSION_INFO = _result(version=COUNT, sha256_=TEXT, size=COUNT, created_ms=MS, op=TEXT, by=AGENT)
FILE_GRANT = _result(
    grant=ID,
    path=TEXT,
    agent=AGENT,
    holder=TEXT,
    mode=Str(choices=("read", "write")),
    expires_ms_=MS,
)

MESSAGE = _needs("message", ID, "its id")
MAIL_FIELDS: dict[str, Type] = {
    "message": ID,
    "from": AGENT,
    "body": Value(),
    "sent_ms": MS,
    "deliveries": COUNT,
}

RIGHTS = ("llm", "context", "memory", "storage", "tool", "ipc", "spawn", "admin")
RIGHT = Str(choices=RIGHTS)
SOME_RIGHTS = List(RIGHT, max_items=len(RIGHTS))
ACCESS_MODE = Str(choices=("read", "write"))
GROUP_MODE = Str(choices=("none", "read", "write"))
HOLDER = Str(max_chars=65, pattern=r"@?[A-Za-z0-9._-]{1,64}")
UID = Int(0, 2**32 - 2)
THING = Str(max_chars=1300)  # a path and who has it
REQUEST_INFO = _result(
    request=ID,
    agent=AGENT,
    uid=UID,
    act=TEXT,
    kind=TEXT,
    owner_=AGENT,
    name=TEXT,
    method=TEXT,
    reason=TEXT,
    created_ms=MS,
    expires_ms=MS,
)
TOOL_NAME = Str(max_chars=128, pattern=r"[A-Za-z0-9._-]{1,128}")
ARGUMENTS = AnyMap()
SECONDS = Float(0, 1e9)
TOOL_INFO = _result(
    name=TOOL_NAME,
    description=TEXT,
    parameters=AnyMap(),
    source=TEXT,
    irreversible=Bool(),
    ordered=Bool(),
    max_parallel=COUNT,
    timeout_s=SECONDS,
    running=COUNT,
    waiting=COUNT,
    usual_ms_=MS,
)
TOOL_RESULT: dict[str, Type] = {
    "content": TEXT,
    "structured_": AnyMap(),
    "is_error": Bool(),
    "cut_": Bool(),
}
SERVER_NAME = Str(max_chars=32, pattern=r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
SERVER_TEXTS = List(Str(max_chars=4096), max_items=256)
MCP_SERVER = (
    Param("command", Str(max_chars=4096, min_chars=1), "the program, spoken with over its pipes"),
    Param("args", SERVER_TEXTS, "its arguments"),
    Param("env", AnyMap(), "its environment: texts by name"),
    Param("cwd", PATH, "its working directory; absent: a private one"),
    Param("url", Str(max_chars=2048, min_chars=1), "in place of a command: over streamable HTTP"),
    Param("headers", AnyMap(), "sent to the url: texts by name"),
    Param("read", SERVER_TEXTS, "paths that it may read, beside the system's"),
    Param("write", SERVER_TEXTS, "paths that it may read and change"),
    Param("network", Bool(), "whether it may use the network; absent: no"),
    Param("memory", COUNT, "bytes of memory for its processes; 0: not bounded"),
    Param("processes", COUNT, "its processes and threads; 0: not bounded"),
    Param("irreversible", SERVER_TEXTS, "tools that can't be undone: names or patterns"),
    Param("max_parallel", COUNT, "calls of one of its tools at once"),
    Param("timeout_s", COUNT, "the longest that a call may take"),
    Param("start_s", COUNT, "the longest that it may take to start"),
)
"""As in the [mcp.NAME] tables of the configuration, which knows their defaults and bounds."""
SERVER_INFO = _result(
    name=SERVER_NAME,
    state=Str(choices=("starting", "running", "restarting", "failed", "stopped")),
    over=Str(choices=("stdio", "http")),
    is_loaded=Bool(),
    pid_=COUNT,
    tools=COUNT,
    restarts=COUNT,
    last_error_=TEXT,
    left_out=_many(TEXT),
    log_=_many(TEXT),
)
ERROR = _result(code=TEXT, message=TEXT, data_=AnyMap())
PROGRESS = _result(
    id=COUNT,
    tag_=Any(),
    call_=ID,
    progress=Float(-1e18, 1e18),
    total_=Float(-1e18, 1e18),
    message_=TEXT,
)
GROUP_INFO = _result(
    name=AGENT,
    uid=UID,
    mode=GROUP_MODE,
    members=_many(AGENT),
    rights=_many(RIGHT),
    is_fixed=Bool(),
)
GRANT_INFO = _result(
    grant=ID,
    owner=AGENT,
    holder=HOLDER,
    kind=TEXT,
    name=TEXT,
    mode=ACCESS_MODE,
    expires_ms_=MS,
)
AUDIT_ENTRY = _result(
    seq_=COUNT,
    time_ms=MS,
    last_ms=MS,
    n=COUNT,
    event=TEXT,
    agent=TEXT,
    uid=Int(-1, 2**32 - 2),
    act=TEXT,
    kind=TEXT,
    owner_=TEXT,
    owner_uid_=UID,
    name=TEXT,
    by=TEXT,
)

# ---------------------------------------------------------------- params that several calls share

COMMAND = Str(max_chars=4096, pattern=r"/[^\x00\ud800-\udfff]{0,4095}|[A-Za-z0-9._+-]{1,255}")
ARGUMENT = Str(max_chars=131_071, pattern=r"[^\x00\ud800-\udfff]*")  # what execve takes of one
OF_PROCESS = (
    _needs("agent", AGENT, "the agent's name: its process, or its last one"),
    Param("process", ID, "exactly this one of its processes"),
)
CONTEXT = _needs("context", ID, "the context's id")
JOB = _needs("job", ID, "the job's id")
MODEL = Param("model", NAME, "a model's name; the default one if absent")
ALL = Param(
    "all", Bool(), "those of every agent of this uid; of every uid for an admin", False, False
)
WAYS = (
    Param("messages", MESSAGES, "turns of a conversation, through the model's chat template"),
    Param("prompt", PROMPT, "plain text, no template"),
    Param("tokens", TOKENS, "token ids as they are"),
)
WAY_NAMES = ("messages", "prompt", "tokens")

MEMORY = _needs("memory", ID, "the note's id")
OF_AGENT = Param(
    "agent", AGENT, "another agent of this uid, where a group or a grant allows; absent: oneself"
)
FILE_PATH = Str(max_chars=1200)  # services/storage/paths.py says what is allowed in it
FILE = _needs("path", FILE_PATH, "relative to the agent's root; name:/path is another agent's")
VERSION = Param("version", Int(1, 2**62), "one of storage.history; absent: the current one")
FILE_DATA = Union(
    (Bytes(MAX_FILE_DATA), Str(MAX_FILE_DATA)), "binary data, or text, which is kept as UTF-8"
)

STREAM = Param("stream", Bool(), "send chunks before the result", default=False)

TOOLS_PARAM = Param(
    "tools",
    TOOLS,
    "what the model may call: name, description, parameters (JSON Schema of an object); a context "
    "is told of them once",
)

GENERATE_PARAMS = (
    *WAYS,
    Param("context", ID, "go on from this context; absent: one of this call alone"),
    MODEL,
    Param("max_tokens", Int(1, 1_000_000), "stop after so many", default=256),
    Param("temperature", Float(0, 100), "0 is greedy", default=0.7),
    Param("top_k", Int(0, 1_000_000), "the k likeliest tokens; 0 is off", default=40),
    Param("top_p", Float(0, 1), "the likeliest tokens of this total probability", default=0.95),
    Param("min_p", Float(0, 1), "at least this share of the likeliest token's", default=0.05),
    Param(
        "repeat_penalty", Float(0, 10, is_min_excluded=True), "over the last 64 tokens", default=1.0
    ),
    Param("presence_penalty", Float(-10, 10), "over the last 64 tokens", default=0.0),
    Param("frequency_penalty", Float(-10, 10), "over the last 64 tokens", default=0.0),
    Param("seed", Int(0, MAX_SEED), "of the draws; chosen and reported if absent"),
    Param("stop", List(Str(256, 1), max_items=16), "end before any of these strings"),
    Param("schema", AnyMap(), "a JSON Schema that the text will satisfy, unless cut by length"),
    Param("grammar", PROMPT, "a GBNF grammar that the text will satisfy"),
    TOOLS_PARAM,
    Param(
        "tool_choice",
        TOOL_NAME,
        "auto: text, calls or both; none: text alone; required: a call or several; a tool's name: "
        "one call of it",
        default="auto",
    ),
    Param("parallel_tool_calls", Bool(), "several calls in one answer", default=True),
    Param("priority", PRIORITY, "the job's class", default="normal"),
    Param("ignore_eos", Bool(), "go on past the model's end token", default=False),
    Param("logprobs", Int(0, 20), "so many alternatives with each token", default=0),
    Param("keep_partial", Bool(), "a cancelled call's text stays in the context", default=False),
    Param(
        "recall",
        Map(
            (
                Field("k", Int(1, 16), False),
                Field("tags", TAGS, False),
                Field("min_score", Float(-1, 1), False),
            )
        ),
        "before the last user message, what the agent remembers of it: k notes (3), with all the "
        "tags, of at least this similarity",
    ),
    Param("detach", Bool(), "the job outlives its connection; see job.attach", default=False),
    STREAM,
)

_OF_ONE_ANSWER = frozenset(
    ("prompt", "tokens", "schema", "grammar", "tools", "ignore_eos", "logprobs", "keep_partial",
     "detach")
)  # fmt: skip
ACT_PARAMS = (
    *(param for param in GENERATE_PARAMS if param.name not in _OF_ONE_ANSWER | {"stream"}),
    Param(
        "tools",
        List(Str(128, pattern=r"[A-Za-z0-9._*-]{1,128}"), max_items=128),
        "names of tools of tool.list that the model may call, and patterns: git.*, or * for all",
    ),
    Param(
        "client_tools",
        TOOLS,
        "tools that the caller runs itself; when the model calls one, the act ends",
    ),
    Param("max_rounds", Int(1, 1000), "so often it may call; then it has to answer", default=8),
    Param("max_calls", Int(1, MAX_CALLS_IN_TURN), "of one round; more aren't made", default=16),
    Param("max_total_tokens", Int(1, 10**9), "of all rounds' output; past it: finish length"),
    STREAM,
)
ACT_CALL = _result(
    id=Str(max_chars=128),
    name=TOOL_NAME,
    arguments=AnyMap(),
    round=COUNT,
    content=TEXT,
    is_error=Bool(),
    duration_ms=MS,
)
ACT_RESULT = _result(
    text=TEXT,
    finish=Str(choices=("stop", "length", "stop_string", "rounds", "tool_calls")),
    stop_string_=TEXT,
    tool_calls_=_many(TOOL_CALL),
    rounds=COUNT,
    calls=_many(ACT_CALL),
    n_calls=COUNT,
    context_=ID,
    recalled_=_many(ID),
    job=ID,
    seed=Int(0, MAX_SEED),
    usage=_result(**{f.name: f.type for f in USAGE.fields}, tools_ms=MS),
)
CALL_RESULT = _result(
    id=COUNT,
    tag_=Any(),
    tool_result=_result(
        id=Str(max_chars=128), name=TOOL_NAME, content=TEXT, is_error=Bool(), duration_ms=MS
    ),
)
CALL_PROGRESS = _result(
    id=COUNT,
    tag_=Any(),
    call=Str(max_chars=128),
    progress=Float(-1e300, 1e300),
    total_=Float(-1e300, 1e300),
    message_=TEXT,
)

# ---------------------------------------------------------------- the table

TABLE: dict[str, Syscall] = {
    call.name: call
    for call in (
        _syscall(
            "sys.hello",
            "the first call on a connection: who the agent is, what the daemon offers",
            _result(
                protocol=COUNT,
                server=_result(name=TEXT, version=TEXT),
                uid=COUNT,
                agent=AGENT,
                session=ID,
                limits=_result(),
                rights=_many(TEXT),
                models=_many(TEXT),
            ),
            _needs("protocol", Int(0, 2**31), f"this table is version {PROTOCOL_VERSION}"),
            _needs("agent", AGENT, "the name the agent goes by"),
            Param("client", NAME, "the client's software, for the log"),
        ),
        _syscall("sys.ping", "is the daemon answering", NOTHING, is_repeatable=True),
        _syscall(
            "sys.describe",
            "every syscall and every error, as JSON Schemas",
            _result(protocol=COUNT, syscalls=_many(AnyMap()), errors=_many(AnyMap())),
            is_repeatable=True,
        ),
        _syscall("sys.status", "what the daemon is doing", STATUS, is_repeatable=True),
        _syscall(
            "sys.metrics",
            "the daemon's figures in Prometheus' text format; totals, nobody's in particular",
            _result(text=TEXT),
            is_repeatable=True,
        ),
        _syscall(
            "sys.events",
            "what happens from now on: jobs that start, park and end, refusals, changes of the "
            "daemon; of the caller's uid, of all for an admin; goes on until it is cancelled",
            NOTHING,
            STREAM,
            chunk=EVENT,
            is_repeatable=True,
        ),
        _syscall(
            "sys.trace",
            "what the slots did lately, in Chrome's trace-event form, a row per slot: the work of "
            "the caller's uid (an admin: of all), and how many lanes there were in total",
            _result(traceEvents=_many(AnyMap()), displayTimeUnit=TEXT, otherData_=_result()),
            Param("seconds", Float(0, 86_400), "how far back", default=60.0),
            is_repeatable=True,
        ),
        _syscall(
            "sys.journal",
            "the scheduler's last events, for a bug report; 'aiosd --replay FILE' replays them",
            _result(journal=Bytes(MAX_JOURNAL_BYTES), events=COUNT),
            right="admin",
            is_repeatable=True,
        ),
        _syscall(
            "sys.policy",
            "the scheduler's policy; giving a param sets it, which needs the right admin",
            _result(policy=POLICY, quantum_tokens=COUNT, lanes=COUNT),
            Param("policy", POLICY, "who runs next"),
            Param("quantum_tokens", Int(1, 1_000_000), "a slice, in tokens"),
            Param("lanes", Int(1, 4096), "how many jobs step together"),
        ),
        _syscall(
            "sys.backup",
            "a consistent copy of all that is kept, made while running",
            _result(path=PATH, bytes=COUNT),
            _needs("path", PATH, "the copy, as the daemon's user sees and may write it"),
            right="admin",
        ),
        _syscall(
            "llm.generate",
            "let the model write",
            GENERATION,
            *GENERATE_PARAMS,
            chunk=Union((WORDS, CALLS, NEWS), "words, calls of tools, or news of the job"),
            right="llm",
            one_of=(
                Group(WAY_NAMES),
                Group((*WAY_NAMES, "context"), is_required=True, is_exclusive=False),
                Group(("schema", "grammar", "ignore_eos", "tools")),
            ),
        ),
        _syscall(
            "llm.act",
            "let the model work: it calls tools, is told what came of it, and goes on until it "
            "answers",
            ACT_RESULT,
            *ACT_PARAMS,
            chunk=Union(
                (WORDS, CALLS, CALL_RESULT, CALL_PROGRESS, NEWS),
                "words, calls, what they brought, how far one is, or news of the job",
            ),
            right="llm",
            one_of=(Group(("messages", "context"), is_required=True, is_exclusive=False),),
        ),
        _syscall(
            "llm.embed",
            "texts to vectors of unit length; truncated: which were cut to what the model reads",
            _result(
                embeddings=_many(Bytes(max_bytes=2**20)),
                n_dims=COUNT,
                model=TEXT,
                truncated=_many(COUNT),
            ),
            _needs("texts", List(TEXT, max_items=1024, min_items=1), "each gets a vector"),
            Param("model", NAME, "an embedding model's name; the one there is if absent"),
            right="llm",
            is_repeatable=True,
        ),
        _syscall(
            "llm.tokenize",
            "text to token ids",
            _result(tokens=_many(TOKEN)),
            _needs("text", TEXT, "any text"),
            Param(
                "special", Bool(), "the texts of control tokens become these tokens", default=False
            ),
            MODEL,
            right="llm",
            is_repeatable=True,
        ),
        _syscall(
            "llm.detokenize",
            "token ids to text",
            _result(text=TEXT),
            _needs("tokens", List(TOKEN, max_items=MAX_TOKENS_IN_CALL), "token ids"),
            MODEL,
            right="llm",
            is_repeatable=True,
        ),
        _syscall(
            "llm.models",
            "the models there are",
            _result(models=_many(MODEL_INFO)),
            right="llm",
            is_repeatable=True,
        ),
        _syscall(
            "model.add",
            "copy a model's file into the daemon's models",
            _result(name=MODEL_NAME, path=PATH),
            _needs("path", PATH, "a GGUF file, as the daemon's user may read it"),
            Param("name", MODEL_NAME, "what to call it; absent: as its file"),
            right="admin",
        ),
        _syscall(
            "model.remove",
            "delete a model's file from the daemon's models",
            NOTHING,
            _needs("name", MODEL_NAME, "its name"),
            right="admin",
        ),
        _syscall(
            "context.create",
            "start a conversation that the daemon keeps",
            _result(context=ID),
            Param("name", NAME, "for people; need not be unique"),
            MODEL,
            Param("system", TEXT, "the system message"),
            Param("messages", MESSAGES, "what has been said so far"),
            TOOLS_PARAM,
            right="context",
        ),
        _syscall(
            "context.append",
            "add to a conversation without generating",
            _result(context=ID, n_tokens=COUNT),
            CONTEXT,
            *WAYS,
            right="context",
            one_of=(Group(WAY_NAMES, is_required=True),),
        ),
        _syscall(
            "context.info",
            "one context: its size, where its cells are, whether it is busy",
            CONTEXT_INFO,
            CONTEXT,
            right="context",
            is_repeatable=True,
        ),
        _syscall(
            "context.list",
            "the agent's contexts",
            _result(contexts=_many(CONTEXT_INFO)),
            ALL,
            right="context",
            is_repeatable=True,
        ),
        _syscall(
            "context.read",
            "what was said in a context",
            _result(
                messages=_many(Map(MESSAGE_FIELDS, is_open=True)),
                tokens_=_many(TOKEN),
            ),
            CONTEXT,
            Param("tokens", Bool(), "the token ids too", default=False),
            right="context",
            is_repeatable=True,
        ),
        _syscall(
            "context.fork",
            "a new context that starts as a copy; a busy one is copied as it was before the job",
            _result(context=ID),
            CONTEXT,
            Param("n_tokens", Int(0, MAX_TOKENS_IN_CALL), "copy so many of its tokens"),
            Param("name", NAME, "for people; need not be unique"),
            right="context",
        ),
        _syscall(
            "context.rewind",
            "go back to an earlier state of a context",
            _result(context=ID, n_tokens=COUNT, n_messages=COUNT),
            CONTEXT,
            Param("n_tokens", Int(0, MAX_TOKENS_IN_CALL), "keep so many tokens"),
            Param("n_messages", Int(0, 1_000_000), "keep so many messages"),
            right="context",
            one_of=(Group(("n_tokens", "n_messages"), is_required=True),),
        ),
        _syscall(
            "context.snapshot",
            "keep what a context has read, so that it needn't be read again",
            _result(context=ID, residence=RESIDENCE, snapshot_bytes=COUNT),
            CONTEXT,
            Param("to", Str(choices=("ram", "file")), "where", default="ram"),
            right="context",
            is_repeatable=True,
        ),
        _syscall(
            "context.prefetch",
            "read a context's tokens now, ahead of its next job",
            _result(context=ID, residence=RESIDENCE, cached_tokens=COUNT),
            CONTEXT,
            right="context",
            is_repeatable=True,
        ),
        _syscall("context.delete", "forget a context", NOTHING, CONTEXT, right="context"),
        _syscall(
            "job.list",
            "the jobs that have not ended",
            _result(jobs=_many(JOB_INFO)),
            ALL,
            is_repeatable=True,
        ),
        _syscall(
            "job.story",
            "what happened to a job, also an ended one, as far as the journal knows it",
            _result(
                job=ID,
                agent=AGENT,
                uid=COUNT,
                context=ID,
                whole=Bool(),
                events=_many(_result(at_us=COUNT, event=TEXT)),
            ),
            JOB,
            is_repeatable=True,
        ),
        _syscall("job.cancel", "end a job; its caller gets cancelled", NOTHING, JOB),
        _syscall("job.pause", "let a job wait until job.resume", NOTHING, JOB),
        _syscall("job.resume", "let a paused job go on", NOTHING, JOB),
        _syscall(
            "job.priority",
            "change a job's class",
            NOTHING,
            JOB,
            _needs("priority", PRIORITY, "the new class"),
        ),
        _syscall(
            "job.attach",
            "the rest of a detached job, as llm.generate gives it, from one of its tokens on",
            GENERATION,
            JOB,
            Param("from_token", Int(0, MAX_TOKENS_IN_CALL), "the first one wanted", default=0),
            STREAM,
            chunk=Union((WORDS, CALLS, NEWS), "words, calls of tools, or news of the job"),
            right="llm",
            is_repeatable=True,
        ),
        _syscall(
            "memory.add",
            "keep a note; it is found by its words at once, by its meaning soon",
            _result(memory=ID),
            _needs("content", PROMPT, "what to remember"),
            Param("tags", TAGS, "to filter by"),
            Param("metadata", AnyMap(), "anything that JSON can say, kept with it"),
            Param(
                "agentic",
                Bool(),
                "the model adds keywords, a summary, tags and links, later",
                default=False,
            ),
            OF_AGENT,
            right="memory",
        ),
        _syscall(
            "memory.get",
            "one note; it counts as used",
            NOTE_INFO,
            MEMORY,
            right="memory",
            is_repeatable=True,
        ),
        _syscall(
            "memory.update",
            "change what is given of a note",
            NOTHING,
            MEMORY,
            Param("content", PROMPT, "what to remember instead"),
            Param("tags", TAGS, "all its tags from now on"),
            Param("metadata", AnyMap(), "all its metadata from now on"),
            right="memory",
            is_repeatable=True,
            one_of=(Group(("content", "tags", "metadata"), is_required=True, is_exclusive=False),),
        ),
        _syscall("memory.delete", "forget a note", NOTHING, MEMORY, right="memory"),
        _syscall(
            "memory.list",
            "notes in the order they were made; next: give it as after for the next page",
            _result(notes=_many(NOTE_INFO), next_=ID),
            Param("limit", Int(1, 1000), "so many at most", default=100),
            Param("after", ID, "those that come after this id"),
            OF_AGENT,
            right="memory",
            is_repeatable=True,
        ),
        _syscall(
            "memory.search",
            "the notes that fit best; mode says how they were found, reason why not as asked",
            _result(
                results=_many(
                    _result(**NOTE, score=Float(-1e9, 1e9), similarity_=Float(-1.1, 1.1))
                ),
                mode=SEARCH_MODE,
                reason_=TEXT,
            ),
            _needs("query", PROMPT, "words, or a sentence"),
            Param("k", Int(1, 100), "so many at most", default=5),
            Param(
                "mode",
                SEARCH_MODE,
                "by words (BM25), by vectors (cosine), or both fused by rank",
                default="hybrid",
            ),
            Param("tags", TAGS, "only notes with all of these"),
            OF_AGENT,
            right="memory",
            is_repeatable=True,
        ),
        _syscall(
            "memory.stats",
            "an agent's notes in figures: on the disk, and hot in RAM",
            MEMORY_STATS,
            OF_AGENT,
            right="memory",
            is_repeatable=True,
        ),
        _syscall(
            "storage.write",
            "make a new version of a file; a large one in parts, seen when the last has come",
            _result(path=TEXT, version_=COUNT, size=COUNT, sha256_=TEXT, upload_=ID),
            FILE,
            _needs("data", FILE_DATA, "what to write"),
            Param(
                "mode",
                Str(choices=("replace", "create", "append")),
                "create: it must not be there yet",
                default="replace",
            ),
            Param("more", Bool(), "more parts follow; the result has the upload", default=False),
            Param("upload", ID, "a part of this upload, which began on this connection"),
            right="storage",
        ),
        _syscall(
            "storage.abandon",
            "forget a file that was coming in parts",
            NOTHING,
            _needs("upload", ID, "of storage.write with more"),
            right="storage",
        ),
        _syscall(
            "storage.read",
            "what is in a file, or a part of it",
            _result(data=Bytes(MAX_FILE_DATA), version=COUNT, size=COUNT, sha256=TEXT),
            FILE,
            VERSION,
            Param("offset", COUNT, "begin there", default=0),
            Param("length", COUNT, "so many bytes at most; absent: all the rest, in one frame"),
            right="storage",
            is_repeatable=True,
        ),
        _syscall(
            "storage.list",
            "what is in a directory, by path",
            _result(entries=_many(_result(**FILE_FIELDS)), next_=TEXT),
            Param("path", FILE_PATH, "the directory; absent: the root", default=""),
            Param("recursive", Bool(), "what is below its directories too", default=False),
            Param("limit", Int(1, 10_000), "so many at most", default=1000),
            Param("after", FILE_PATH, "go on after this one: the next of an earlier result"),
            right="storage",
            is_repeatable=True,
        ),
        _syscall(
            "storage.stat",
            "one file or directory; of a root also what is used of its quotas",
            _result(
                **FILE_FIELDS,
                usage_=_result(
                    bytes=COUNT,
                    quota_bytes=COUNT,
                    files=COUNT,
                    quota_files=COUNT,
                    history_bytes=COUNT,
                    history_limit_bytes=COUNT,
                ),
            ),
            Param("path", FILE_PATH, "absent: the root", default=""),
            right="storage",
            is_repeatable=True,
        ),
        _syscall(
            "storage.mkdir",
            "make a directory, and those above it",
            NOTHING,
            FILE,
            right="storage",
        ),
        _syscall(
            "storage.delete",
            "delete a file or a directory; files' history stays for storage.rollback",
            NOTHING,
            FILE,
            Param("recursive", Bool(), "a directory with all in it", default=False),
            right="storage",
        ),
        _syscall(
            "storage.rename",
            "move a file, with its history, or a directory",
            NOTHING,
            FILE,
            _needs("to", FILE_PATH, "its new path, in the same root"),
            Param("replace", Bool(), "a file that is there is replaced", default=False),
            right="storage",
        ),
        _syscall(
            "storage.history",
            "the versions of a file that are kept, newest first; deleted files' too",
            _result(versions=_many(VERSION_INFO)),
            FILE,
            right="storage",
            is_repeatable=True,
        ),
        _syscall(
            "storage.rollback",
            "what an earlier version held becomes a new one; brings a deleted file back",
            _result(path=TEXT, version=COUNT, size=COUNT, sha256=TEXT),
            FILE,
            Param("version", Int(1, 2**62), "the version to go back to"),
            Param("steps", Int(1, 10**6), "so many versions back; absent: one"),
            right="storage",
            one_of=(Group(("version", "steps")),),
        ),
        _syscall(
            "storage.search",
            "find text files by words, by meaning or both; says how it was really done",
            _result(
                results=_many(
                    _result(path=TEXT, version=COUNT, snippet=TEXT, offset=COUNT, score=Any())
                ),
                mode=Str(choices=("hybrid", "words", "vectors")),
                reason_=TEXT,
                pending=COUNT,
            ),
            _needs("query", PROMPT, "what to look for"),
            Param("k", Int(1, 100), "so many at most", default=5),
            Param(
                "mode",
                Str(choices=("hybrid", "words", "vectors")),
                "both, by words, or by meaning",
                default="hybrid",
            ),
            Param("path", FILE_PATH, "only below this directory", default=""),
            right="storage",
            is_repeatable=True,
        ),
        _syscall(
            "storage.share",
            "let another agent of this uid at a file, or at a directory with all below it",
            _result(grant=ID, expires_ms_=MS),
            Param("path", FILE_PATH, "absent: the whole root", default=""),
            _needs(
                "with",
                Str(max_chars=65, pattern=r"@?[A-Za-z0-9._-]{1,64}"),
                "an agent's name, or @ and a group's",
            ),
            Param("mode", Str(choices=("read", "write")), "what it may do", default="read"),
            Param("expires_s", Int(1, 10**10), "for so long; absent: until it is revoked"),
            right="storage",
        ),
        _syscall(
            "storage.grants",
            "what this agent shares, and what is shared with it",
            _result(given=_many(FILE_GRANT), held=_many(FILE_GRANT)),
            right="storage",
            is_repeatable=True,
        ),
        _syscall(
            "storage.revoke",
            "end a grant of this agent's",
            NOTHING,
            _needs("grant", ID, "its id, of storage.grants"),
            right="storage",
        ),
        _syscall(
            "ipc.send",
            "put a message into the mailbox of an agent of this uid: of a common group, one it "
            "spawned or was spawned by, or where the uid's agents reach each other; it waits there "
            "until it is acknowledged",
            _result(message=ID),
            _needs("to", AGENT, "whose mailbox; the agent may be yet to come"),
            Param("body", Value(), "anything that MessagePack can say", default=None),
            Param("key", Str(128, 1), "sent again with the same key, it is one message"),
            right="ipc",
        ),
        _syscall(
            "ipc.receive",
            "the oldest messages of the agent's mailbox, each handed out again if it isn't "
            "acknowledged in time, or if this connection ends; none: nothing came in time",
            _result(messages=_many(_result(**MAIL_FIELDS))),
            Param("timeout_ms", Int(0, 2**31), "wait so long for the first", default=0),
            Param("limit", Int(1, 256), "so many at most", default=1),
            Param("lease_ms", Int(1, 86_400_000), "the time to acknowledge; absent: ipc.lease_s"),
            right="ipc",
            is_repeatable=True,
        ),
        _syscall(
            "ipc.ack",
            "a message has been dealt with and isn't handed out again; acked: it was there",
            _result(acked=Bool()),
            MESSAGE,
            right="ipc",
            is_repeatable=True,
        ),
        _syscall(
            "ipc.list",
            "the agent's mailbox in figures, or those of the uid that hold something",
            _result(
                mailboxes=_many(
                    _result(
                        agent=AGENT,
                        messages=COUNT,
                        bytes=COUNT,
                        leased=COUNT,
                        receivers=COUNT,
                        oldest_ms_=MS,
                    )
                ),
                next_=AGENT,
            ),
            Param("all", Bool(), "those of agents whom this one may write to, too", default=False),
            Param("limit", Int(1, 1000), "so many at most", default=100),
            Param("after", AGENT, "go on after this one: the next of an earlier result"),
            right="ipc",
            is_repeatable=True,
        ),
        _syscall(
            "ipc.clear",
            "forget all that waits in a mailbox",
            _result(messages=COUNT),
            Param("agent", AGENT, "another agent's, for operators"),
            right="ipc",
        ),
        _syscall(
            "agent.list",
            "the agents that are connected or own contexts",
            _result(agents=_many(AGENT_INFO)),
            is_repeatable=True,
        ),
        _syscall(
            "agent.info",
            "one agent",
            AGENT_INFO,
            _needs("agent", AGENT, "its name"),
            is_repeatable=True,
        ),
        _syscall(
            "agent.kill",
            "end an agent's connections and jobs; its contexts stay",
            NOTHING,
            _needs("agent", AGENT, "its name"),
        ),
        _syscall(
            "agent.limits",
            "what an agent may use, and its share; without a limit to set it only tells",
            _result(
                agent=AGENT,
                uid=Int(0, 2**32 - 1),
                max_jobs=COUNT,
                tokens_per_minute=COUNT,
                weight=COUNT,
                memory_bytes=COUNT,
                storage_bytes=COUNT,
            ),
            _needs("agent", AGENT, "its name; it may be yet to come"),
            Param("max_jobs", Int(0, 10**6), "queued and running; past it: busy. 0: the default"),
            Param(
                "tokens_per_minute",
                Int(0, 10**9),
                "read and generated; over it its jobs wait. 0: no limit",
            ),
            Param("weight", Int(1, 1000), "its share of what its uid gets, under fair; usually 1"),
            Param("memory_bytes", Int(0, 2**50), "its notes; past it: quota_exceeded. 0: default"),
            Param("storage_bytes", Int(0, 2**50), "its files; past it: quota_exceeded. 0: default"),
        ),
        _syscall(
            "agent.spawn",
            "run an agent as a confined process, which gets a connection of its own that nobody "
            "else can use; of a spawned agent it is one below its own name: parent.name",
            _result(agent=AGENT, process=ID, pid=COUNT),
            _needs("name", AGENT, "the agent's name; one that nobody goes by now"),
            _needs("command", COMMAND, "a program: an absolute path, or a name on the PATH"),
            Param("args", List(ARGUMENT, max_items=1024), "its arguments"),
            Param("env", AnyMap(), "its environment, as texts; nothing is inherited"),
            Param("cwd", PATH, "where it starts; absent: its private directory"),
            Param(
                "limits",
                Map(tuple(Field(name, Int(1, 2**53), False) for name in SPAWN_LIMITS)),
                "at most what the configuration says, and what a spawner that is a process itself "
                "has left; tokens of its jobs and of those it spawns in all, jobs at once; the "
                "others are its process's",
            ),
            Param(
                "grants",
                Map(
                    (
                        Field("read", List(PATH, max_items=256), False),
                        Field("write", List(PATH, max_items=256), False),
                        Field("network", Bool(), False),
                    )
                ),
                "what it may touch beside what every program needs and its private directory",
            ),
            Param(
                "rights",
                SOME_RIGHTS,
                "at most these; absent: at most its spawner's; admin never",
            ),
            Param(
                "restart",
                Str(choices=("no", "on_failure", "always")),
                "start it again when it has ended",
                default="no",
            ),
            Param(
                "detach",
                Bool(),
                "it outlives the connection that spawned it; with restart always, the daemon too",
                default=False,
            ),
            right="spawn",
        ),
        _syscall(
            "agent.wait",
            "wait until an agent's process has ended for good, or for some time",
            PROCESS_INFO,
            *OF_PROCESS,
            Param("timeout_ms", Int(0, 2**31), "answer then, with how it stands"),
            is_repeatable=True,
        ),
        _syscall(
            "agent.signal",
            "stop an agent's process, let it go on, ask it to end, or kill it; the last two also "
            "end its restarts",
            NOTHING,
            *OF_PROCESS,
            _needs("signal", Str(choices=("stop", "cont", "term", "kill")), "what to send"),
        ),
        _syscall(
            "agent.logs",
            "what an agent's process wrote to stdout and stderr, as far as it is kept",
            _result(lines=OUTPUT_LINES, next=COUNT, dropped=COUNT, state=PROCESS_FIELDS["state"]),
            *OF_PROCESS,
            Param("lines", Int(0, 10_000), "the last so many", default=1000),
            Param("after", COUNT, "those after this one instead: next of an earlier result"),
            Param("stream", Bool(), "follow it until it has ended", default=False),
            chunk=_result(id=COUNT, tag_=Any(), lines=OUTPUT_LINES),
            is_repeatable=True,
        ),
        _syscall(
            "agent.processes",
            "the agents that run as processes, parents before their children",
            _result(processes=_many(PROCESS_INFO)),
            Param("all", Bool(), "of every uid, for an admin", default=False),
            Param("ended", Bool(), "those that have ended too", default=False),
            is_repeatable=True,
        ),
        _syscall(
            "agent.inspect",
            "all about an agent's process: what it was asked to be, may touch, may use",
            _result(
                **PROCESS_FIELDS,
                children=_many(AGENT),
                command=_many(TEXT),
                env=_many(TEXT),
                cwd_=TEXT,
                rights=_many(RIGHT),
                grants=_result(read=_many(TEXT), write=_many(TEXT), network=Bool()),
                limits=_result(),
                confinement=_result(
                    read=_many(TEXT),
                    write=_many(TEXT),
                    network=TEXT,
                    kept=AnyMap(),
                    not_kept=AnyMap(),
                ),
            ),
            *OF_PROCESS,
            is_repeatable=True,
        ),
        _syscall(
            "tool.list",
            "the tools that the caller may use; usual_ms: how long calls have taken lately",
            _result(tools=_many(TOOL_INFO)),
            right="tool",
            is_repeatable=True,
        ),
        _syscall(
            "tool.check",
            "what a tool may touch, which bounds are kept here and how, which aren't and why; "
            "asks: a person must confirm the caller's calls",
            _result(
                name=TOOL_NAME,
                source=TEXT,
                irreversible=Bool(),
                asks=Bool(),
                confined=Bool(),
                read=_many(TEXT),
                write=_many(TEXT),
                network=TEXT,
                kept=AnyMap(),
                not_kept=AnyMap(),
            ),
            _needs("name", TOOL_NAME, "as tool.list has it"),
            right="tool",
            is_repeatable=True,
        ),
        _syscall(
            "tool.call",
            "run a tool; is_error: it ran and says that it could not do it; cut: there was more",
            _result(**TOOL_RESULT, duration_ms=MS),
            _needs("name", TOOL_NAME, "as tool.list has it"),
            Param("arguments", ARGUMENTS, "by the tool's parameters, a JSON Schema", default={}),
            STREAM,
            chunk=PROGRESS,
            right="tool",
        ),
        _syscall(
            "tool.call_all",
            "run several tools: those of ordered ones one after another, others beside them; each "
            "has its own result or error",
            _result(
                results=_many(
                    _result(id=ID, name=TOOL_NAME, result_=_result(**TOOL_RESULT), error_=ERROR)
                )
            ),
            _needs(
                "calls",
                List(
                    Map(
                        (
                            Field("id", ID, is_required=False),
                            Field("name", TOOL_NAME),
                            Field("arguments", ARGUMENTS),
                        )
                    ),
                    max_items=128,
                    min_items=1,
                ),
                "what to call; id: to tell results apart, else the place in the list",
            ),
            STREAM,
            chunk=PROGRESS,
            right="tool",
        ),
        _syscall(
            "tool.load",
            "start an MCP server, or reach one, and offer its tools as NAME.tool until the daemon "
            "ends; fails if it doesn't start",
            _result(name=SERVER_NAME, tools=_many(TOOL_NAME), left_out=_many(TEXT)),
            _needs("name", SERVER_NAME, "what to call it"),
            *MCP_SERVER,
            right="admin",
        ),
        _syscall(
            "tool.unload",
            "end an MCP server that tool.load has started, and take its tools away",
            NOTHING,
            _needs("name", SERVER_NAME, "its name"),
            right="admin",
        ),
        _syscall(
            "tool.servers",
            "the MCP servers: what they do, what has gone wrong, which tools were left out and why",
            _result(servers=_many(SERVER_INFO)),
            Param("name", SERVER_NAME, "this one alone"),
            Param("logs", Bool(), "with the newest that each said on its stderr", default=False),
            right="admin",
            is_repeatable=True,
        ),
        _syscall(
            "access.check",
            "whether the caller might do something; changes nothing and asks nobody",
            _result(allowed=Bool(), reason=TEXT, asks=Bool()),
            _needs(
                "action",
                Str(max_chars=64, pattern=r"[a-z]+(\.[a-z]+)?"),
                "a syscall, a right, or see, read, write, delete, replace, use, send, steer, admin",
            ),
            Param("target", THING, "KIND:ID, storage:AGENT:/PATH, memory:AGENT, AGENT", default=""),
            is_repeatable=True,
        ),
        _syscall(
            "access.request",
            "ask a person for a right; with a target: to read or write what is another agent's",
            _result(request=ID, state=Str(choices=("pending", "approved"))),
            _needs("right", Str(choices=(*RIGHTS, "read", "write")), "what is wanted"),
            Param("target", THING, "on what: context:ID, memory:AGENT, storage:AGENT:/PATH"),
            _needs("reason", Str(max_chars=500, min_chars=1), "why, for the person who decides"),
            Param("wait", Bool(), "answer when it is approved; denied otherwise", default=False),
        ),
        _syscall(
            "access.pending",
            "what waits for a person: one's own, of one's uid for an operator, all for an admin",
            _result(requests=_many(REQUEST_INFO)),
            Param("stream", Bool(), "tell it at every change, until cancelled", default=False),
            chunk=_result(id=COUNT, tag_=Any(), requests=_many(REQUEST_INFO)),
            is_repeatable=True,
        ),
        _syscall(
            "access.approve",
            "say yes to what waits; never to one's own, unless a person at the shell",
            NOTHING,
            _needs("request", ID, "the request's id"),
            Param(
                "remember", Bool(), "from now on, not this once (a right: a while)", default=False
            ),
        ),
        _syscall(
            "access.deny",
            "say no to what waits, or take one's own request back",
            NOTHING,
            _needs("request", ID, "the request's id"),
        ),
        _syscall(
            "access.groups",
            "the privilege groups of the caller's uid",
            _result(groups=_many(GROUP_INFO)),
            is_repeatable=True,
        ),
        _syscall(
            "access.group",
            "make a group, change it, or (without its last member) end it; for operators and admin",
            GROUP_INFO,
            _needs("name", AGENT, "the group's name"),
            Param("add", List(AGENT, max_items=1024), "agents that join it"),
            Param("remove", List(AGENT, max_items=1024), "agents that leave it"),
            Param("mode", GROUP_MODE, "what members may do to each other's things; read at first"),
            Param("rights", SOME_RIGHTS, "what its members hold too; for admin"),
            Param("uid", UID, "of another user; for admin"),
            is_repeatable=True,
        ),
        _syscall(
            "access.rights",
            "what an agent holds; to change it takes the right admin",
            _result(
                agent=AGENT,
                uid=UID,
                rights=_many(RIGHT),
                groups=_many(AGENT),
                changes=_many(_result(right=RIGHT, is_held=Bool(), expires_ms_=MS)),
            ),
            _needs("agent", AGENT, "its name; it may be yet to come"),
            Param("uid", UID, "of another user; for admin"),
            Param("add", SOME_RIGHTS, "rights it gets"),
            Param("remove", SOME_RIGHTS, "rights it loses, whatever gave them"),
            Param(
                "reset",
                SOME_RIGHTS,
                "rights that the configuration decides again",
            ),
            Param("expires_s", Int(1, 10**9), "what is added or removed lasts so long"),
            is_repeatable=True,
        ),
        _syscall(
            "access.grant",
            "let another agent of one's uid at one's contexts, memory or files",
            _result(grant=ID),
            _needs("kind", Str(choices=("context", "memory", "storage")), "of what kind"),
            _needs("with", HOLDER, "an agent, or @GROUP"),
            Param(
                "name",
                THING,
                "a context's or note's id, a path and all below; empty: all",
                default="",
            ),
            Param("mode", ACCESS_MODE, "how far", default="read"),
            Param("expires_s", Int(1, 10**9), "for how long; absent: until revoked"),
        ),
        _syscall(
            "access.grants",
            "what one has granted, and what one was granted",
            _result(given=_many(GRANT_INFO), held=_many(GRANT_INFO)),
            is_repeatable=True,
        ),
        _syscall(
            "access.revoke",
            "end one of one's grants",
            NOTHING,
            _needs("grant", ID, "its id"),
        ),
        _syscall(
            "access.rules",
            "what was approved for good, of the caller's agent; of its uid for operators and admin",
            _result(
                rules=_many(
                    _result(
                        rule=ID, agent=AGENT, uid=UID, act=TEXT, kind=TEXT, owner_=AGENT, name=TEXT
                    )
                )
            ),
            is_repeatable=True,
        ),
        _syscall(
            "access.forget",
            "have it asked again; for operators and admin",
            NOTHING,
            _needs("rule", ID, "its id"),
        ),
        _syscall(
            "access.audit",
            "what was denied, asked, approved and done as admin: of the caller's agent, of its uid "
            "for an operator, all for an admin",
            _result(
                entries=_many(AUDIT_ENTRY),
                chain_=_result(
                    is_whole=Bool(), problem_=TEXT, first=COUNT, last=COUNT, head=COUNT, hash=TEXT
                ),
            ),
            Param("since_ms", MS, "from then on", default=0),
            Param("limit", Int(1, 10_000), "the newest so many", default=100),
            Param("before", COUNT, "those before this seq; for admin"),
            Param("agent", AGENT, "of this agent"),
            Param("uid", UID, "of this uid"),
            Param("event", Str(max_chars=32, pattern=r"[a-z]{1,32}"), "denied, asked, approved, …"),
            Param("verify", Bool(), "walk along the chain too; for admin", default=False),
            Param(
                "head",
                Str(max_chars=85, pattern=r"[0-9]{1,19}:[0-9a-f]{64}"),
                "with verify: SEQ:HASH as noted before, which the chain must still hold",
            ),
            is_repeatable=True,
        ),
    )
}


@functools.cache
def describe() -> dict[str, object]:
    """The result of sys.describe.  One shared object: don't change it."""
    return {
        "protocol": PROTOCOL_VERSION,
        "syscalls": [_described(call) for call in TABLE.values()],
        "errors": [{"code": code, "summary": cls.summary} for code, cls in ERRORS.items()],
    }


def _described(call: Syscall) -> Schema:
    return {
        "name": call.name,
        "summary": call.summary,
        "params": call.params_schema(),
        "chunk": None if call.chunk is None else call.chunk.schema(),
        "result": call.result.schema(),
        "right": call.right,
    }


def render() -> str:
    """The table as markdown, for PROTOCOL.md."""
    return markdown(TABLE, ERRORS)


if __name__ == "__main__":
    sys.stdout.write(render())
