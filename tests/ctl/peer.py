"""A scripted daemon for the command line's tests: a real socket, the real wire, canned answers.

Rule: what it answers is checked against the syscall table, so that a test can't rest on a result
that the daemon would never give.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aios_sdk.errors import ERRORS, Internal, SyscallError
from aios_sdk.syscalls import PROTOCOL_VERSION, TABLE, describe
from aios_sdk.wire import (
    CLIENT_LIMITS,
    Decoder,
    Notification,
    Request,
    encode_notification,
    encode_response,
)

UID = 1000
WAIT_S = 10.0  # for what a test expects; never reached when it passes


@dataclass(slots=True)
class Call:
    """One request under way: what its script may look at and do."""

    request: Request
    connection: Connection
    params: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.params = dict(self.request.params)  # type: ignore[arg-type]  # keys are str here

    def chunk(self, **fields: object) -> None:
        self.connection.send(
            encode_notification("stream", {"id": self.request.id, "tag": None, **fields})
        )

    def say(self, text: str) -> None:
        self.chunk(text=text, tokens=[1])

    def wait_for_cancel(self) -> None:
        """Return when the client cancels this call."""
        message = self.connection.receive()
        if not isinstance(message, Notification) or message.method != "cancel":
            raise AssertionError(f"expected a cancel, got {message}")
        self.connection.peer.cancelled.put(message.params.get("id"))


Answer = Mapping[str, Any] | SyscallError | Callable[[Call], Mapping[str, Any]]


@dataclass(slots=True)
class Connection:
    """One client."""

    peer: Peer
    sock: socket.socket
    decoder: Decoder = field(default_factory=lambda: Decoder(CLIENT_LIMITS))
    inbox: list[Any] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> Any:
        """The next message, None when the client has gone."""
        while not self.inbox:
            data = self.sock.recv(65536)
            if not data:
                return None
            self.inbox += self.decoder.feed(data)
        return self.inbox.pop(0)

    def serve(self) -> None:
        try:
            while (message := self.receive()) is not None:
                if isinstance(message, Request):
                    self.answer(message)
        except OSError:
            pass  # the client went away in the middle, as some tests want it to
        finally:
            self.sock.close()
            self.peer.gone.put(None)

    def answer(self, request: Request) -> None:
        self.peer.requests.append((request.method, dict(request.params)))
        try:
            result: Any = self.peer.result(Call(request, self))
        except SyscallError as error:
            self.send(encode_response(request.id, error.to_wire(), None))
            return
        except OSError:
            raise
        except Exception as error:  # a test's script is wrong: the client must not wait for it
            self.peer.mistakes.append(error)
            self.send(encode_response(request.id, Internal(repr(error)).to_wire(), None))
            return
        self.send(encode_response(request.id, None, result))


class Peer:
    """Listens on path and answers as told; everything else as a small idle daemon would.

    requests   (method, params) in the order they came, hello included
    cancelled  ids of the calls that clients cancelled
    gone       one None for each connection that ended
    skips_check  for a daemon that doesn't keep to the table
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = dict(DEFAULTS)
        self.requests: list[tuple[str, dict[Any, Any]]] = []
        self.cancelled: queue.Queue[Any] = queue.Queue()
        self.gone: queue.Queue[None] = queue.Queue()
        self.mistakes: list[Exception] = []
        self.skips_check = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def result(self, call: Call) -> Mapping[str, Any]:
        method = call.request.method
        answer = self.answers.get(method, ERRORS["unknown_method"](f"no syscall {method!r}"))
        if isinstance(answer, SyscallError):
            raise answer
        if method in TABLE:
            TABLE[method].validate(call.params)
        result = answer(call) if callable(answer) else answer
        if method in TABLE and not self.skips_check:
            TABLE[method].result.check(dict(result), "result")
        return result

    def asked(self, method: str) -> list[dict[Any, Any]]:
        """The params of every call of that method."""
        return [params for name, params in self.requests if name == method]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(WAIT_S)
        if self.mistakes:
            raise self.mistakes[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            thread = threading.Thread(target=Connection(self, sock).serve)
            self._threads.append(thread)
            thread.start()


def _hello(call: Call) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL_VERSION,
        "server": {"name": "aiosd", "version": "0.1.0"},
        "uid": UID,
        "agent": call.params["agent"],
        "session": "s1",
        "limits": {},
        "rights": ["llm", "context"],
        "models": ["smollm2"],
    }


JOBS: list[dict[str, Any]] = [
    {
        "job": "j1", "agent": "alice", "uid": UID, "context": "c1", "state": "running",
        "priority": "normal", "n_output": 41, "waited_ms": 3200, "slices": 10, "parks": 2,
    },
    {
        "job": "j2", "agent": "bob", "uid": UID, "context": "c2", "state": "paused",
        "priority": "background", "n_output": 0, "waited_ms": 15, "slices": 0, "parks": 0,
    },
    {
        "job": "j3", "agent": "carol", "uid": 1001, "context": "c3", "state": "ready",
        "priority": "interactive", "n_output": 7, "waited_ms": 0, "slices": 1, "parks": 0,
    },
]  # fmt: skip

USAGE = {
    "prompt_tokens": 12, "cached_tokens": 30, "output_tokens": 5, "queue_ms": 3, "ttft_ms": 120,
    "total_ms": 1500, "waited_ms": 40, "slices": 2, "parks": 1,
}  # fmt: skip


def generation(text: str, **fields: Any) -> dict[str, Any]:
    """A result of llm.generate."""
    result = {"text": text, "tokens": [1], "finish": "stop", "job": "j1", "seed": 7}
    return {**result, "usage": USAGE, **fields}


def spoken(*parts: str, **fields: Any) -> Callable[[Call], dict[str, Any]]:
    """A script for llm.generate that streams the parts."""

    def answer(call: Call) -> dict[str, Any]:
        if call.params.get("stream"):
            for part in parts:
                call.say(part)
        return generation("".join(parts), **fields)

    return answer


CALL = {"id": "j1.0", "name": "calculator", "arguments": {"expression": "6*7"}}
BROUGHT = {"content": "42", "is_error": False, "duration_ms": 12}


def acted(call: Call) -> dict[str, Any]:
    """A script for llm.act: words, a call, what it brought, the answer."""
    if call.params.get("stream"):
        call.say("Let me see. ")
        call.chunk(tool_calls=[CALL])
        call.chunk(call="j1.0", progress=1, total=2, message="half")
        call.chunk(tool_result={"id": "j1.0", "name": "calculator", **BROUGHT})
        call.say("It is 42.")
    return {
        "text": "It is 42.", "finish": "stop", "rounds": 1,
        "calls": [{**CALL, **BROUGHT, "round": 1}], "n_calls": 1,
        "job": "j2", "seed": 7, "usage": {**USAGE, "tools_ms": 12},
    }  # fmt: skip


def context_info(context: str, **fields: Any) -> dict[str, Any]:
    info = {
        "context": context, "agent": "alice", "model": "smollm2", "n_tokens": 52, "n_messages": 2,
        "residence": "ram", "snapshot_bytes": 1572864, "busy": False,
        "created_ms": 0, "used_ms": 0,
    }  # fmt: skip
    return {**info, **fields}


AGENT = {
    "agent": "alice", "uid": UID, "connections": 1, "contexts": 2, "jobs": 1, "tokens": 900,
    "since_ms": 0,
}  # fmt: skip

CORE = {
    "model": "smollm2", "policy": "rr", "quantum_tokens": 16, "lanes": 4, "n_slots": 8,
    "slot_tokens": 2048, "jobs": {"ready": 1, "running": 2, "stalled": 0, "paused": 1},
    "steps": 77, "tokens": {"prompt": 300, "cached": 100, "output": 48},
    "snapshots": {"ram_bytes": 1572864, "file_bytes": 0},
}  # fmt: skip
STATUS = {
    "version": "0.1.0", "pid": 4242, "uptime_s": 3725, "state": "serving", "agents": 3,
    "cores": [CORE], "rss_bytes": 268435456,
}  # fmt: skip


def _slice(name: str, slot: int, ts: int, dur: int, **args: Any) -> dict[str, Any]:
    category = "stay" if name == args["agent"] else name
    who = {"uid": UID, **args}
    return {
        "name": name, "cat": category, "ph": "X", "ts": ts, "dur": dur, "pid": 1, "tid": slot + 1,
        "args": who,
    }  # fmt: skip


TRACE: dict[str, Any] = {
    "traceEvents": [
        {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "aiosd"}},
        {"name": "lanes in use", "ph": "C", "ts": 1_000_000, "pid": 1, "args": {"lanes": 1.5}},
        _slice("alice", 0, 1_000_000, 800_000, agent="alice", prompt_tokens=30, output_tokens=9),
        _slice(
            "prefill", 0, 1_000_000, 300_000,
            agent="alice", job="j1", prompt_tokens=30, output_tokens=1,
        ),
        _slice(
            "decode", 0, 1_300_000, 495_000,
            agent="alice", job="j1", prompt_tokens=0, output_tokens=8,
        ),
        _slice("park", 0, 1_795_000, 5_000, agent="alice"),
        _slice("bob", 1, 1_500_000, 200_000, agent="bob", prompt_tokens=10, output_tokens=1),
        _slice(
            "prefill", 1, 1_500_000, 200_000,
            agent="bob", job="j2", prompt_tokens=10, output_tokens=1,
        ),
    ],
    "displayTimeUnit": "ms",
    "otherData": {"began_us": 1_000_000, "ended_us": 2_000_000, "n_slots": 2, "n_dropped": 0},
}  # fmt: skip

SERVER = {
    "name": "time", "state": "running", "over": "stdio", "is_loaded": True, "pid": 4242, "tools": 2,
    "restarts": 1, "last_error": "it ended the connection (exit code 7)",
    "left_out": ["'a b': its name is not like it"],
}  # fmt: skip
METRICS = """# HELP aiosd_connections Open connections.
# TYPE aiosd_connections gauge
aiosd_connections 3.0
"""


SHA = "66a045b452102c59d840ec097d59d9467e13a3f34f6494e539ffd32c1bb35f18"
VERSION = {"version": 4, "sha256": SHA}


def happened(call: Call) -> dict[str, Any]:
    """A stream of events that ends, as the daemon's does only when it is stopped."""
    call.chunk(event="listening", at_ms=1_700_000_000_000)
    call.chunk(
        event="started", at_ms=1_700_000_001_500, uid=UID, agent="alice", job="j1", context="c1",
        priority="normal",
    )  # fmt: skip
    call.chunk(event="lost", at_ms=1_700_000_002_000, lost=7)
    call.chunk(
        event="refused", at_ms=1_700_000_003_001, uid=1001, agent="carol", name="llm.generate",
        code="busy",
    )  # fmt: skip
    call.chunk(event="reloaded", at_ms=1_700_000_004_000, applied=["quantum"], needs_restart=[])
    return {}


STORY: dict[str, Any] = {
    "job": "j1", "agent": "alice", "uid": UID, "context": "c1", "whole": True,
    "events": [
        {"at_us": 10_000_000, "event": "submitted", "agent": "alice", "context": "c1",
         "priority": "normal"},
        {"at_us": 10_000_000, "event": "told", "state": "queued", "position": 2},
        {"at_us": 10_250_000, "event": "run", "slot": 3, "lanes": 2, "max_tokens": 16},
        {"at_us": 11_000_000, "event": "ran", "prompt_tokens": 12, "output_tokens": 4},
        {"at_us": 11_000_400, "event": "park", "slot": 3},
        {"at_us": 12_000_400, "event": "dreamt", "of": "sheep"},
        {"at_us": 12_500_000, "event": "ended", "outcome": "done", "prompt_tokens": 12,
         "output_tokens": 4, "slices": 1, "parks": 1, "queue_ms": 250, "waited_ms": 1250,
         "total_ms": 2500},
    ],
}  # fmt: skip

NOTE = {
    "memory": "m1", "content": "The user likes tea.", "tags": ["user"], "metadata": {},
    "links": ["m2"], "enrichment": "none", "bytes": 151, "created_ms": 0, "updated_ms": 0,
    "used_ms": 0,
}  # fmt: skip
FOUND_NOTE = {
    "memory": "m1", "content": "The user likes tea.", "tags": ["user"], "metadata": {},
    "score": 0.91234,
}  # fmt: skip
MEMORY_STATS = {
    "notes": 2, "bytes": 300, "quota_bytes": 67108864, "hot_notes": 2, "hot_bytes": 300,
    "hot_limit_bytes": 4194304, "hits": 5, "faults": 1, "evictions": 0, "without_vector": 1,
}  # fmt: skip
MESSAGE = {"message": "e1", "from": "bob", "body": {"n": [1]}, "sent_ms": 0, "deliveries": 2}
MAILBOX = {
    "agent": "ada", "messages": 3, "bytes": 2048, "leased": 1, "receivers": 0, "oldest_ms": 0,
}  # fmt: skip

REQUEST = {
    "request": "q1", "agent": "bob", "uid": UID, "act": "delete", "kind": "storage",
    "owner": "alice", "name": "docs/plan.txt", "method": "storage.delete", "reason": "",
    "created_ms": 0, "expires_ms": 300_000,
}  # fmt: skip
GROUP = {
    "name": "team", "uid": UID, "mode": "read", "members": ["alice", "bob"], "rights": [],
    "is_fixed": False,
}  # fmt: skip
GRANT = {
    "grant": "g1", "owner": "alice", "holder": "bob", "kind": "storage", "name": "docs",
    "mode": "read",
}  # fmt: skip
RULE = {
    "rule": "r1", "agent": "bob", "uid": UID, "act": "delete", "kind": "storage", "owner": "alice",
    "name": "docs/plan.txt",
}  # fmt: skip
ENTRY = {
    "seq": 7, "time_ms": 1_000, "last_ms": 61_000, "n": 3, "event": "denied", "agent": "bob",
    "uid": UID, "act": "read", "kind": "memory", "owner": "alice", "owner_uid": UID, "name": "m1",
    "by": "owner",
}  # fmt: skip
CHAIN = {"is_whole": True, "first": 1, "last": 7, "head": 7, "hash": "ab" * 32}

TOOL = {
    "name": "calculator", "description": "Work out an expression.",
    "parameters": {
        "type": "object", "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
    "source": "builtin", "irreversible": False, "ordered": False, "max_parallel": 4,
    "timeout_s": 10.0, "running": 0, "waiting": 0, "usual_ms": 12,
}  # fmt: skip
TOOL_RESULT = {"content": "42", "structured": {"result": 42}, "is_error": False}

EXITED = {"state": "ended", "connected": False, "ended_ms": 0, "exit_code": 3, "ended_by": "exit"}


def process(agent: str, **fields: Any) -> dict[str, Any]:
    """One of agent.processes."""
    known = {
        "process": "p1", "agent": agent, "uid": UID, "parent": "aiosctl", "state": "running",
        "connected": True, "restart": "no", "restarts": 0, "detached": False, "started_ms": 0,
        "tokens": 52,
    }  # fmt: skip
    if fields.get("state") != "ended":
        known["pid"] = 4243
    return {**known, **fields}


OUTPUT = [
    {"seq": 1, "at_ms": 0, "source": "stdout", "text": "hello"},
    {"seq": 2, "at_ms": 0, "source": "stderr", "text": "oh no"},
]


def logged(call: Call) -> dict[str, Any]:
    """An agent's output, in chunks where they are wanted."""
    if call.params.get("stream"):
        for line in OUTPUT:
            call.chunk(lines=[line])
        return {"lines": [], "next": 2, "dropped": 0, "state": "ended"}
    return {"lines": OUTPUT, "next": 2, "dropped": 0, "state": "running"}


DEFAULTS: dict[str, Answer] = {
    "sys.hello": _hello,
    "sys.ping": {},
    "sys.describe": lambda _call: describe(),
    "sys.status": STATUS,
    "sys.trace": TRACE,
    "sys.metrics": {"text": METRICS},
    "sys.events": happened,
    "sys.journal": {"journal": b"\x1f\x8bsaved", "events": 3},
    "sys.policy": {"policy": "rr", "quantum_tokens": 16, "lanes": 4},
    "llm.generate": spoken("Hello", " there", "."),
    "llm.act": acted,
    "llm.embed": {"embeddings": [bytes(8)], "n_dims": 2, "model": "minilm", "truncated": []},
    "llm.tokenize": {"tokens": [19556, 665]},
    "llm.detokenize": {"text": "Hello there"},
    "llm.models": {
        "models": [
            {
                "name": "smollm2", "path": "/models/smollm2.gguf", "n_params": 134515008,
                "n_ctx_train": 8192, "loaded": True, "kind": "llm",
            }
        ]
    },
    "context.create": {"context": "c9"},
    "context.info": lambda call: context_info(call.params["context"]),
    "context.list": {"contexts": [context_info("c1", name="my first one"), context_info("c2")]},
    "context.read": {
        "messages": [
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello, Ada."},
        ]
    },
    "context.fork": {"context": "c10"},
    "context.rewind": {"context": "c1", "n_tokens": 30, "n_messages": 1},
    "context.snapshot": lambda call: {
        "context": call.params["context"], "residence": call.params.get("to", "ram"),
        "snapshot_bytes": 1572864,
    },
    "context.prefetch": {"context": "c1", "residence": "slot", "cached_tokens": 52},
    "context.delete": {},
    "job.list": lambda call: {"jobs": JOBS if call.params.get("all") else []},
    "job.story": STORY,
    "job.cancel": {},
    "job.pause": {},
    "job.resume": {},
    "job.priority": {},
    "job.attach": spoken("Hello", " there", "."),
    "sys.backup": lambda call: {"path": call.params["path"], "bytes": 1572864},
    "model.add": lambda call: {
        "name": call.params.get("name", "m"), "path": "/models/" + call.params.get("name", "m"),
    },
    "model.remove": {},
    "memory.add": {"memory": "m9"},
    "memory.get": lambda call: {**NOTE, "memory": call.params["memory"]},
    "memory.update": {},
    "memory.delete": {},
    "memory.list": {"notes": [NOTE, {**NOTE, "memory": "m2", "tags": []}]},
    "memory.search": {"results": [FOUND_NOTE], "mode": "hybrid"},
    "memory.stats": MEMORY_STATS,
    "ipc.send": {"message": "e9"},
    "ipc.receive": {"messages": [MESSAGE]},
    "ipc.ack": {"acked": True},
    "ipc.list": {"mailboxes": [MAILBOX]},
    "ipc.clear": {"messages": 3},
    "storage.write": lambda call: (
        {"path": call.params["path"], "upload": "u1", "size": len(call.params["data"])}
        if call.params.get("more")
        else {**VERSION, "path": call.params["path"], "size": len(call.params["data"])}
    ),
    "storage.abandon": {},
    "storage.read": {"data": b"Hello\n", "version": 3, "size": 6, "sha256": SHA},
    "storage.list": {
        "entries": [
            {"path": "notes", "kind": "directory", "size": 0, "modified_ms": 0},
            {
                "path": "to do.txt", "kind": "file", "size": 6, "modified_ms": 0, "version": 3,
                "sha256": SHA,
            },
        ]
    },
    "storage.stat": lambda call: {
        "path": call.params.get("path", ""), "kind": "file", "size": 6, "modified_ms": 0,
        "version": 3, "sha256": SHA,
    },
    "storage.mkdir": {},
    "storage.delete": {},
    "storage.rename": {},
    "storage.history": {
        "versions": [
            {
                "version": 3, "size": 6, "created_ms": 0, "op": "replace", "by": "alice",
                "sha256": SHA,
            },
            {"version": 2, "size": 0, "created_ms": 0, "op": "delete", "by": "bob"},
        ]
    },
    "storage.rollback": lambda call: {**VERSION, "path": call.params["path"], "size": 6},
    "storage.search": {
        "results": [
            {
                "path": "notes/a.txt", "version": 2, "snippet": "the harbour at night",
                "offset": 0, "score": 0.83,
            }
        ],
        "mode": "words", "reason": "no embedder is loaded", "pending": 0,
    },
    "storage.share": {"grant": "g1", "expires_ms": 0},
    "storage.grants": {
        "given": [
            {"grant": "g1", "agent": "alice", "path": "notes", "holder": "@team", "mode": "read"}
        ],
        "held": [
            {
                "grant": "g2", "agent": "bob", "path": "", "holder": "alice", "mode": "write",
                "expires_ms": 0,
            }
        ],
    },
    "storage.revoke": {},
    "agent.list": {"agents": [AGENT]},
    "agent.info": lambda call: {**AGENT, "agent": call.params["agent"]},
    "agent.kill": {},
    "agent.spawn": lambda call: {"agent": call.params["name"], "process": "p1", "pid": 4243},
    "agent.wait": lambda call: process(call.params["agent"], **EXITED),
    "agent.signal": {},
    "agent.logs": logged,
    "agent.processes": lambda call: {
        "processes": [
            process("boss"), process("boss.worker", parent="boss", restarts=2, connected=False),
            process("poet", state="stopped"),
            *([process("old", **EXITED)] if call.params.get("ended") else []),
        ]
    },
    "agent.inspect": lambda call: {
        **process(call.params["agent"]), "children": ["boss.worker"], "env": ["TOPIC"],
        "command": ["/usr/bin/python3", "agent.py"], "rights": ["llm", "context"],
        "grants": {"read": ["/srv/data"], "write": [], "network": False},
        "limits": {"tokens": 1000}, "confinement": {
            "read": ["/srv/data"], "write": ["a private directory"], "network": "none",
            "kept": {"memory": "2 GiB of each process"}, "not_kept": {"disk": "no look"},
        },
    },
    "tool.list": {"tools": [TOOL]},
    "tool.check": lambda call: {
        "name": call.params["name"], "source": "builtin", "irreversible": False, "asks": True,
        "confined": True, "read": ["/usr and /lib"], "write": ["a private directory"],
        "network": "none", "kept": {"time": "10 s for a call"},
        "not_kept": {"processes": "no cgroup"},
    },
    "tool.call": {**TOOL_RESULT, "duration_ms": 12},
    "tool.call_all": lambda call: {
        "results": [
            {"id": str(i), "name": one["name"], "result": TOOL_RESULT}
            for i, one in enumerate(call.params["calls"])
        ]
    },
    "tool.load": lambda call: {
        "name": call.params["name"], "tools": [call.params["name"] + ".now"], "left_out": [],
    },
    "tool.unload": {},
    "tool.servers": lambda call: {
        "servers": [SERVER | ({"log": ["it began"]} if call.params["logs"] else {})]
    },
    "access.check": {"allowed": True, "reason": "allowed: own", "asks": False},
    "access.request": {"request": "q1", "state": "pending"},
    "access.pending": {"requests": [REQUEST]},
    "access.approve": {},
    "access.deny": {},
    "access.groups": {"groups": [GROUP]},
    "access.group": GROUP,
    "access.rights": lambda call: {
        "agent": call.params["agent"], "uid": UID, "rights": ["llm", "context"],
        "groups": ["team"], "changes": [{"right": "tool", "is_held": False}],
    },
    "access.grant": {"grant": "g1"},
    "access.grants": {"given": [GRANT], "held": []},
    "access.revoke": {},
    "access.rules": {"rules": [RULE]},
    "access.forget": {},
    "access.audit": lambda call: {
        "entries": [ENTRY], **({"chain": CHAIN} if call.params.get("verify") else {}),
    },
    "agent.limits": {
        "agent": "alice",
        "uid": 1000,
        "max_jobs": 4096,
        "tokens_per_minute": 0,
        "weight": 1,
        "memory_bytes": 0,
        "storage_bytes": 0,
    },
}  # fmt: skip
