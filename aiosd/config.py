"""The configuration: defaults, then a TOML file, then flags, each bound checked once.

Rule 1: an unknown key or a value past its bound is a ConfigError that names key, value and limit.
Rule 2: every field of Config says what it is for; docs/CONFIG.md is made from here.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aios_sdk.paths import default_socket
from aiosd.access_config import Access
from aiosd.mailbox_config import MailboxConfig
from aiosd.mcp_config import SERVER_NAME, McpConfig
from aiosd.mcp_config import complete as _complete_server
from aiosd.metrics_config import Metrics
from aiosd.settings import GIB, KIB, MIB, Bounds, ConfigError, checked, keys, parse_bytes, toml
from aiosd.settings import key as _key
from aiosd.settings import reference as _reference
from aiosd.spawn_config import SpawnConfig
from aiosd.storage_config import StorageConfig
from aiosd.tools_config import Tools

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "TABLES",
    "Access",
    "Bounds",
    "Config",
    "ConfigError",
    "Limits",
    "MailboxConfig",
    "Metrics",
    "SpawnConfig",
    "StorageConfig",
    "Tools",
    "keys",
    "load",
    "parse_bytes",
    "reference",
    "to_toml",
]


def _data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


@dataclass(frozen=True, slots=True)
class Limits:
    """The [limits] table: how much of anything a peer may ask for."""

    connections_per_uid: int = _key(
        2048,
        "Connections one uid may hold; past it the connection is refused.",
        low=1,
        high=65536,
        reloads=True,
    )
    calls_per_connection: int = _key(
        256,
        "Calls in flight on one connection; past it a call is `busy`.",
        low=1,
        high=65536,
        reloads=True,
    )
    jobs_per_agent: int = _key(
        4096,
        "Jobs one agent may have queued or running, unless agent.limits says else; past it `busy`.",
        low=1,
        high=1_000_000,
        reloads=True,
    )
    jobs_per_uid: int = _key(
        4096,
        "Jobs one uid may have queued or running; past it `busy`.",
        low=1,
        high=1_000_000,
        reloads=True,
    )
    jobs: int = _key(
        16384, "Jobs of all uids together; past it `busy`.", low=1, high=1_000_000, reloads=True
    )
    contexts_per_agent: int = _key(
        1024,
        "Contexts one agent may keep; past it `quota_exceeded`.",
        low=1,
        high=1_000_000,
        reloads=True,
    )
    contexts_per_uid: int = _key(
        16384,
        "Contexts of all agents of one uid; past it `quota_exceeded`.",
        low=1,
        high=10**7,
        reloads=True,
    )
    context_idle_s: int = _key(
        30 * 86400, "A context not used for so long is let go.", low=1, high=10**10, reloads=True
    )
    contexts_bytes: int = _key(
        GIB,
        "All contexts' logs together; past it the least recently used are let go.",
        low=1,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    detached_per_uid: int = _key(
        64,
        "Detached jobs one uid may have running; past it `quota_exceeded`.",
        low=0,
        high=10**6,
        reloads=True,
    )
    detached_ended: int = _key(
        1024, "Ended detached jobs that are kept for job.attach.", low=0, high=10**7, reloads=True
    )
    detached_keep_s: int = _key(
        86400, "How long an ended detached job is kept.", low=1, high=10**10, reloads=True
    )
    detached_bytes: int = _key(
        256 * MIB,
        "All detached jobs' prompts and outputs together; past it ended ones are let go.",
        low=0,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    detached_result_bytes: int = _key(
        8 * MIB,
        "The result of one detached job.",
        low=4 * KIB,
        high=GIB,
        is_bytes=True,
        reloads=True,
    )
    memory_bytes: int = _key(
        64 * MIB,
        "The notes of one agent, each counted with 128 bytes beside its text; past it "
        "`quota_exceeded`.",
        low=0,
        high=1024**5,
        is_bytes=True,
    )
    memory_bytes_per_uid: int = _key(
        GIB,
        "The notes of all agents of one uid; past it `quota_exceeded`.",
        low=0,
        high=1024**5,
        is_bytes=True,
    )
    memory_waiting_per_uid: int = _key(
        1024,
        "Agentic notes of one uid that wait for the model; past it `busy`.",
        low=0,
        high=1_000_000,
    )
    memory_note_bytes: int = _key(
        256 * KIB, "One note; past it `too_large`.", low=KIB, high=GIB, is_bytes=True
    )
    frame_bytes: int = _key(
        8 * MIB,
        "One MessagePack frame: room for a long prompt, not for filling the memory.",
        low=4 * KIB,
        high=GIB,
        is_bytes=True,
        reloads=True,
    )
    params_bytes_per_uid: int = _key(
        256 * MIB,
        "Params of all calls in flight of one uid together; past it `busy`.",
        low=4 * KIB,
        high=1024**5,
        is_bytes=True,
    )
    unread_bytes: int = _key(
        256 * KIB,
        "Unread output of one connection at which its streaming jobs stall.",
        low=4 * KIB,
        high=GIB,
        is_bytes=True,
        reloads=True,
    )
    half_frame_s: int = _key(
        30, "Time a peer may take to finish a frame it began.", low=1, high=86400, reloads=True
    )
    hello_s: int = _key(
        30,
        "Time a new connection may take before it says sys.hello.",
        low=1,
        high=86400,
        reloads=True,
    )
    max_tokens: int = _key(
        65536, "The largest max_tokens of one call.", low=1, high=10**7, reloads=True
    )
    event_streams_per_uid: int = _key(
        16, "Streams of sys.events of one uid; past it `quota_exceeded`.", low=0, high=65536
    )
    events_waiting: int = _key(
        1024, "Events kept for a stream that isn't read; past it they are lost.", low=1, high=10**6
    )
    journal_events: int = _key(10_000, "Scheduler events kept for a bug report.", low=0, high=10**7)


@dataclass(frozen=True, slots=True)
class Config:
    """All there is to set.  Field names are the keys of the TOML file; flags have dashes."""

    socket: str = _key(
        "",
        "The Unix socket to serve on; its mode decides who may connect.",
        is_path=True,
        metavar="PATH",
        default_text="$XDG_RUNTIME_DIR/aiosd/aiosd.sock",
    )
    socket_mode: int = _key(0o600, "The socket's file mode (0660 for a group).", low=0, high=0o777)
    state_dir: str = _key(
        "",
        "Where the daemon keeps what it must not lose; one daemon per directory.",
        is_path=True,
        metavar="DIR",
        default_text="$XDG_STATE_HOME/aiosd",
    )
    models_dir: str = _key(
        "",
        "Where models named without a path are looked for, before the ones that came along.",
        is_path=True,
        metavar="DIR",
        default_text="$XDG_DATA_HOME/aiosd/models",
    )
    model: str = _key(
        "smollm2-135m-instruct",
        "A GGUF file by path (used unchanged), or a model by name.",
        metavar="PATH|NAME",
    )
    embedder: str = _key(
        "all-minilm-l6-v2",
        "The model that turns texts into vectors: a GGUF file by path, a model by name, or `none`.",
        metavar="PATH|NAME|none",
    )
    slots: int = _key(
        8,
        "Contexts the model has room for at once (llama.cpp sequences).",
        low=1,
        high=256,
        metavar="N",
    )
    slot_tokens: int = _key(
        2048, "Tokens one slot holds: the context window.", low=64, high=1_048_576, metavar="N"
    )
    lanes: int = _key(
        0,
        "Jobs that step together; 0 means as many as there are slots.",
        low=0,
        high=256,
        metavar="N",
        reloads=True,
    )
    policy: str = _key(
        "fair",
        "Who runs next: the first that came (`fifo`), each in turn (`rr`), or who has been given "
        "the least so far (`fair`, in classes and by weight).",
        choices=("fifo", "rr", "fair"),
        reloads=True,
    )
    quantum: int = _key(
        16,
        "Tokens a job may take before the next in line (rr, fair).",
        low=1,
        high=1_000_000,
        metavar="N",
        reloads=True,
    )
    prefill_tokens: int = _key(
        256,
        "Most prompt tokens read in one step; how many it is depends on `step_ms`.",
        low=1,
        high=65536,
        metavar="N",
    )
    step_ms: int = _key(
        250,
        "Time one step should take while anyone talks: prompts are read in pieces that fit into "
        "it. Less is smoother, more reads long prompts a little faster. 0: as long as it takes.",
        low=0,
        high=60_000,
        metavar="MS",
    )
    threads: int = _key(
        0,
        "Most threads llama.cpp may use; 0 means one per core. Fewer while neighbours are busy.",
        low=0,
        high=1024,
        metavar="N",
    )
    kv: str = _key(
        "exact",
        "KV cache: `exact` (bf16, results never depend on the schedule), `small` (q8_0, exact "
        "too), `fast` (f16, quicker on very long prompts), `unified` (for GPUs); the last two "
        "aren't exact.",
        choices=("exact", "small", "fast", "unified"),
    )
    snapshot_ram: int = _key(
        GIB,
        "Memory for parked contexts; past it the least recently used are read again when needed.",
        low=0,
        high=1024**5,
        is_bytes=True,
        metavar="BYTES",
    )
    prefix_ram: int = _key(
        256 * MIB,
        "Memory for what several contexts began with, a system prompt for example; past it the "
        "least recently used is let go.",
        low=0,
        high=1024**5,
        is_bytes=True,
        metavar="BYTES",
    )
    snapshot_files: int = _key(
        2 * GIB,
        "Disk space for parked contexts, under the state directory; 0 keeps them in RAM alone.",
        low=0,
        high=1024**5,
        is_bytes=True,
        metavar="BYTES",
    )
    memory_hot: int = _key(
        4 * MIB,
        "RAM for one agent's notes; at 80 % of it those that LRU-K chooses are on the disk alone.",
        low=0,
        high=1024**4,
        is_bytes=True,
        metavar="BYTES",
    )
    memory_ram: int = _key(
        256 * MIB,
        "RAM for all agents' notes; past it the least recently used agents' are on the disk alone.",
        low=0,
        high=1024**5,
        is_bytes=True,
        metavar="BYTES",
    )
    memory_k: int = _key(
        2, "The K of LRU-K: which use from the last counts; 1 is LRU.", low=1, high=16, metavar="K"
    )
    search_ram: int = _key(
        256 * MIB,
        "Memory for vectors that are searched; past it the least recently used owners' are read "
        "from the disk again.",
        low=0,
        high=1024**5,
        is_bytes=True,
        metavar="BYTES",
    )
    log_level: str = _key(
        "info", "What is logged.", choices=("debug", "info", "warning", "error"), reloads=True
    )
    log_format: str = _key(
        "auto",
        "How: for people (`console`), for machines (`json`), with fields for the journal "
        "(`journal`); `auto` looks where stderr leads.",
        choices=("auto", "console", "json", "journal"),
    )
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    metrics: Metrics = field(default_factory=Metrics)
    storage: StorageConfig = field(default_factory=StorageConfig)
    spawn: SpawnConfig = field(default_factory=SpawnConfig)
    tools: Tools = field(default_factory=Tools)
    ipc: MailboxConfig = field(default_factory=MailboxConfig)
    mcp: Mapping[str, McpConfig] = _key(
        {},
        "MCP servers; their tools are called NAME.tool. On a reload those whose table has changed "
        "are started anew.",
        table=McpConfig,
        name_pattern=SERVER_NAME,
        reloads=True,
    )

    @property
    def n_lanes(self) -> int:
        """Lanes in force: at most one per slot."""
        return min(self.lanes or self.slots, self.slots)

    @property
    def n_threads(self) -> int:
        """The most threads llama.cpp may use."""
        return self.threads or len(os.sched_getaffinity(0))


TABLES: dict[str, type[Any]] = {
    "limits": Limits,
    "access": Access,
    "metrics": Metrics,
    "storage": StorageConfig,
    "spawn": SpawnConfig,
    "tools": Tools,
    "ipc": MailboxConfig,
}
"""The tables beside the first one, each the field of Config of that name."""


def load(file: str | None, flags: Mapping[str, Any]) -> Config:
    """What is in force: defaults, then the file's keys, then flags (None means not given).

    Raises ConfigError for a missing or broken file, an unknown key, a wrong type, a value past
    its bound, or lanes that outnumber slots.
    """
    table: dict[str, Any] = {}
    if file is not None:
        table = _read(Path(file))
    where = f"{file}: " if file else ""
    tables = {}
    for name, of in TABLES.items():
        part = table.pop(name, {})
        if not isinstance(part, dict):
            raise ConfigError(f"{where}{name} is {part!r}, expected a table [{name}]")
        tables[name] = of(**checked(of, part, f"{where}{name}."))
    values = checked(Config, table, where, TABLES)
    values.update(checked(Config, {k: v for k, v in flags.items() if v is not None}, "--"))
    config = Config(**tables, **values)
    config.metrics.address()  # ConfigError if it may not be
    for name, server in config.mcp.items():
        _complete_server(server, f"{where}mcp.{name}.")
    if config.lanes > config.slots:
        raise ConfigError(f"lanes is {config.lanes}, limit is the number of slots, {config.slots}")
    return dataclasses.replace(
        config,
        socket=str(Path(config.socket or default_socket()).expanduser().absolute()),
        state_dir=str(Path(config.state_dir or _state_home() / "aiosd").expanduser().absolute()),
        models_dir=str(
            Path(config.models_dir or _data_home() / "aiosd" / "models").expanduser().absolute()
        ),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return {key.replace("-", "_"): value for key, value in table.items()}


def to_toml(config: Config) -> str:
    """What is in force, as a TOML file that load() reads back to the same Config."""
    lines = [f"{key} = {toml(getattr(config, key), key)}" for key in keys(Config)]
    for name, of in TABLES.items():
        table = getattr(config, name)
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {toml(getattr(table, key), key)}" for key in keys(of)]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """docs/CONFIG.md: every key with its default, bounds and meaning."""
    out = [
        "# Configuration",
        "",
        "`aiosd --config FILE` reads TOML. The keys of the first table are flags too, with dashes",
        "for underscores (but `socket_mode`); flags win over the file. `aiosd --check-config`",
        'checks it all and prints what is in force. Sizes are bytes, or text such as `"512M"`.',
        "SIGHUP (`systemctl reload aiosd`) reads the file again and puts the keys marked `live`",
        "into force; for the others it says that they need a restart.",
        "",
    ]
    out += [*_reference("## Keys", Config), ""]
    for name, of in TABLES.items():
        out += [*_reference(f"## [{name}]", of), ""]
    return "\n".join(out)
