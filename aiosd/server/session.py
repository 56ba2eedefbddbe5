"""One connection: bytes in, calls out, answers back.

Rule 1: everything a peer can get wrong becomes an error for that peer and nobody else.
Rule 2: nothing is buffered without bound.  Past unread_bytes the connection's streaming jobs stall
(a scheduling state); past HARD_FACTOR times that, its requests aren't read any more.
Rule 3: a call ends exactly once: with a result, an error, or its connection.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import structlog

from aios_sdk import wire
from aios_sdk.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ProtocolError,
    SyscallError,
    TooLarge,
    Unavailable,
    UnknownMethod,
)
from aios_sdk.syscalls import PROTOCOL_VERSION, TABLE, Syscall
from aiosd import __version__
from aiosd.kernel.model import AgentId, JobId, Outcome
from aiosd.server.calls.base import Result
from aiosd.services.access import Subject

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon

log = structlog.get_logger()

HARD_FACTOR = 16  # a stalled peer may still cancel; a peer that never reads may not flood
TURN_NS = 5_000_000  # a peer's requests hold up the others for no longer
LARGE_FRAME = 64 * 1024  # bytes; params of smaller ones are checked in a few milliseconds
HELLO_BYTES = 4096
FEED_BYTES = 16 * 1024  # of headers only, they take two milliseconds to go through
LAST_WORDS_S = 2.0
MAX_FAULTS = 64  # answers to what makes no sense cost more than it does: then the peer is closed

_OUTCOMES: dict[type[SyscallError], Outcome] = {
    DeadlineExceeded: Outcome.DEADLINE,
    Unavailable: Outcome.UNAVAILABLE,
}


class Call:
    """One request in flight."""

    __slots__ = (
        "arrived_ns",
        "deadline",
        "ended",
        "facts",
        "id",
        "is_gone",
        "job",
        "method",
        "n_bytes",
        "params",
        "session",
        "tag",
        "task",
    )

    def __init__(self, session: Session, request: wire.Request) -> None:
        self.session = session
        self.id = request.id
        self.method = request.method
        self.n_bytes = request.n_bytes
        self.params: dict[str, Any] = {}  # set when they have been checked
        self.tag = request.params.get("tag")  # also before that: a cancel may follow at once
        self.arrived_ns = time.monotonic_ns()
        self.job: JobId | None = None
        self.facts: dict[str, Any] = {}  # numbers and codes for its line in the log
        self.task: asyncio.Task[None] | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self.ended: SyscallError | None = None  # why it must end before its time
        self.is_gone = False  # nobody is left to answer

    @property
    def agent(self) -> AgentId:
        agent = self.session.agent
        assert agent is not None  # only sys.hello runs before hello
        return agent

    @property
    def subject(self) -> Subject:
        """The agent with the rights and groups it has now."""
        return self.session.daemon.access.subject(self.agent)

    @property
    def is_admin(self) -> bool:
        return self.subject.is_admin

    def emit(self, chunk: dict[str, Any]) -> None:
        """Send a stream notification of this call."""
        tagged = (
            {"id": self.id, **chunk}
            if self.tag is None
            else {"id": self.id, "tag": self.tag, **chunk}
        )
        self.session.notify("stream", tagged)

    def end(self, error: SyscallError) -> None:
        """End the call early with this error; its work is dropped within one step."""
        if self.ended is not None:
            return
        self.ended = error
        if self.job is not None:
            self.session.daemon.driver.cancel(
                self.job, _OUTCOMES.get(type(error), Outcome.CANCELLED)
            )
        elif self.task is not None:
            # Not at once: a task cancelled before its first step would never run its cleanup.
            self.session.daemon.loop.call_soon(self.task.cancel)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end of a connection that the daemon itself has made."""

    agent: AgentId
    pid: int


class Session(asyncio.Protocol):
    """The shell around one wire.Decoder: a peer, its agent, its calls.

    identity  of a process that the daemon started: it can't go by another name.  The credentials
              of its socket are no help: a socketpair's are those of who made it, the daemon.
    """

    def __init__(self, daemon: Daemon, identity: Identity | None = None) -> None:
        self.daemon = daemon
        self.identity = identity
        self.id = "s" + secrets.token_hex(4)
        self.uid = -1
        self.pid = 0
        self.agent: AgentId | None = None
        self.is_stalled = False
        self.calls: dict[int, Call] = {}
        self.transport: asyncio.Transport | None = None
        self.gone = asyncio.Event()  # the connection has ended
        self.drained = asyncio.Event()  # it isn't stalled
        self.drained.set()
        self._limits = daemon.config.limits
        self._decoder = wire.Decoder(daemon.wire_limits)
        self._timer: asyncio.TimerHandle | None = None
        self._is_reading_paused = False
        self._has_progress = False  # a frame was completed since the half-frame timer was looked at
        self._n_faults = 0
        self._unfed: deque[bytes | memoryview] = deque()  # came, and not taken apart yet
        self._inbox: deque[wire.Message | wire.WireError] = deque()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self.transport = transport = cast(asyncio.Transport, transport)
        if self.identity is None:
            self.pid, self.uid = peer_credentials(transport)
        else:
            self.pid, self.uid = self.identity.pid, self.identity.agent.uid
        if reason := self.daemon.refuses(self.uid):
            self.close_with(reason)
            return
        self.daemon.sessions_of(self.uid).add(self)
        transport.set_write_buffer_limits(high=self._limits.unread_bytes)
        if self.identity is None:  # else it is known, and may take its time, or never speak
            self._timer = self.daemon.loop.call_later(self._limits.hello_s, self._no_hello)

    def data_received(self, data: bytes) -> None:
        if len(data) <= FEED_BYTES:
            self._unfed.append(data)
        else:
            view = memoryview(data)
            self._unfed.extend(view[at : at + FEED_BYTES] for at in range(0, len(data), FEED_BYTES))
        self._work()

    def _feed(self, data: bytes | memoryview) -> None:
        """Take a piece apart that is small enough to do it at once, whatever is in it."""
        try:
            messages: list[wire.Message | wire.WireError] = list(self._decoder.feed(data))
        except wire.WireError as error:
            messages = [*error.messages, error]
        self._inbox.extend(messages)
        self._has_progress |= bool(messages)

    def _work(self) -> None:
        """Handle what has come, a few milliseconds at a time, as long as the peer reads answers."""
        until_ns = time.monotonic_ns() + TURN_NS
        while (self._inbox or self._unfed) and not self._is_flooded():
            if time.monotonic_ns() > until_ns:
                self.daemon.loop.call_soon(self._work)
                break
            if not self._inbox:
                self._feed(self._unfed.popleft())
                continue
            message = self._inbox.popleft()
            if isinstance(message, wire.WireError):
                kind = TooLarge if "limit" in str(message) else ProtocolError
                self.close_with(kind(str(message)))
            elif self._n_faults > MAX_FAULTS:
                self.close_with(
                    ProtocolError(f"{MAX_FAULTS} messages made no sense, that is enough")
                )
            else:
                self._on_message(message)
        self._read_or_wait()
        if not self._unfed:
            self._watch_half_frame(has_progress=self._has_progress)
            self._has_progress = False

    def _is_flooded(self) -> bool:
        """The peer is gone, or has far more unread than it may have."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self._inbox.clear()
            self._unfed.clear()
            return True
        limit = HARD_FACTOR * self._limits.unread_bytes
        return self.is_stalled and transport.get_write_buffer_size() > limit

    def _read_or_wait(self) -> None:
        """Requests are read while there is nothing left to answer."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        has_work = bool(self._inbox or self._unfed)
        if has_work and not self._is_reading_paused:
            self._is_reading_paused = True
            transport.pause_reading()
        elif not has_work and self._is_reading_paused:
            self._is_reading_paused = False
            transport.resume_reading()

    def pause_writing(self) -> None:
        self.is_stalled = True
        self.drained.clear()
        for call in self.calls.values():
            if call.job is not None and call.params.get("stream"):
                self.daemon.stall(call.job, is_stalled=True)

    def resume_writing(self) -> None:
        self.is_stalled = False
        self.drained.set()
        self.daemon.loop.call_soon(self._work)
        for call in self.calls.values():
            if call.job is not None and call.params.get("stream"):
                self.daemon.stall(call.job, is_stalled=False)

    def eof_received(self) -> bool:
        return False  # a client that shuts its writing side is gone

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        self.transport = None
        self.gone.set()
        if self._timer is not None:
            self._timer.cancel()
        self.daemon.sessions_of(self.uid).discard(self)
        for call in self.calls.values():
            call.is_gone = True
        self._end_calls(Cancelled("the connection is gone"))
        if self.agent is not None:
            self.daemon.session_left(self)
            log.debug("disconnected", session=self.id, uid=self.uid, agent=self.agent.name)

    # ------------------------------------------------------------ out

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self._write(wire.encode_notification(method, params))

    def close_with(self, error: SyscallError) -> None:
        """One error frame, if the peer still reads, and the end of the connection."""
        self.daemon.telemetry.connection_refused(self, error)
        self.notify("error", {"code": error.code, "message": error.message})
        self._end_calls(Cancelled("the connection was closed"))
        self.close()

    def _end_calls(self, error: SyscallError) -> None:
        """End them soon: with hundreds of jobs at once the others would wait."""
        self.daemon.chores.add(partial(call.end, error) for call in list(self.calls.values()))

    def close(self) -> None:
        """Close the connection; a peer that doesn't read its last words has a few seconds."""
        transport = self.transport
        if transport is not None:
            transport.close()
            self.daemon.loop.call_later(LAST_WORDS_S, transport.abort)

    def _write(self, data: bytes) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)

    # ------------------------------------------------------------ in

    def _no_hello(self) -> None:
        self._timer = None
        if self.agent is None:
            self.close_with(ProtocolError(f"no sys.hello within {self._limits.hello_s} s"))
        else:
            self._watch_half_frame()

    def _watch_half_frame(self, *, has_progress: bool = False) -> None:
        """A timer runs while, and only while, part of a frame is waiting for the rest."""
        if self.agent is None or self.transport is None:
            return  # the hello timer covers it; or the peer is gone
        if self._timer is not None and (has_progress or not self._decoder.buffered_bytes):
            self._timer.cancel()
            self._timer = None
        if self._decoder.buffered_bytes and self._timer is None:
            self._timer = self.daemon.loop.call_later(self._limits.half_frame_s, self._half_frame)

    def _half_frame(self) -> None:
        self._timer = None
        if self._decoder.buffered_bytes:
            self.close_with(
                ProtocolError(
                    f"a frame of which {self._decoder.buffered_bytes} bytes came was not finished "
                    f"within {self._limits.half_frame_s} s"
                )
            )

    def _on_message(self, message: wire.Message) -> None:
        match message:
            case wire.Request():
                self._on_request(message)
            case wire.Notification(method="cancel", params=params):
                self._on_cancel(params)
            case wire.Malformed(id=id_, message=words):
                self._on_fault(words, id_)
            case wire.Notification(method=method):
                self._on_fault(f"notification {method[:64]!r} means nothing here; 'cancel' does")
            case wire.Response(id=id_):
                self._on_fault(f"response to {id_}, which nobody asked for")

    def _on_fault(self, words: str, id_: int | None = None) -> None:
        """What makes no sense is answered by its id if it has one that is not in flight."""
        self._n_faults += 1
        if id_ is None or id_ in self.calls:
            self.notify("error", {"code": "protocol", "message": words})
        else:
            self._refuse(id_, ProtocolError(words))

    def _on_cancel(self, params: object) -> None:
        """A cancel that finds nothing is a race, not an error: its call has just ended."""
        if not isinstance(params, dict) or not ({"id", "tag"} & params.keys()):
            self._on_fault("cancel needs {id} or {tag}")
            return
        if "id" in params:
            id_ = params["id"]
            found = [self.calls[id_]] if isinstance(id_, int) and id_ in self.calls else []
        else:
            tag = params["tag"]
            found = [c for c in self.calls.values() if c.tag is not None and c.tag == tag]
        for call in found:
            call.end(Cancelled("cancelled by its caller"))

    def _on_request(self, request: wire.Request) -> None:
        id_, method = request.id, request.method
        if id_ in self.calls:
            self._on_fault(f"id {id_} is already in flight on this connection")
            return
        try:
            syscall = self._admit(request)
            call = Call(self, request)
            if request.n_bytes > LARGE_FRAME:
                result: Result | Awaitable[Result] = self._checked_aside(
                    call, syscall, request.params
                )
            else:
                result = self._begin(call, syscall.validate(request.params))
        except SyscallError as error:
            self._refuse(id_, error)
            self._ended(method, time.monotonic_ns(), error.code)
        except Exception:
            self._refuse(id_, _bug(method))
            self._ended(method, time.monotonic_ns(), "internal")
        else:
            if isinstance(result, dict) and not wire.is_large(result):
                self._write_answer(id_, wire.encode_response(id_, None, result))
                self._ended(method, call.arrived_ns, "ok")
            else:
                self.calls[id_] = call
                self.daemon.params_budget.take(self.uid, call.n_bytes)
                waiting = _ready(result) if isinstance(result, dict) else result
                call.task = self.daemon.tasks.create_task(self._run(call, waiting))

    def _admit(self, request: wire.Request) -> Syscall:
        """The table's entry, if the peer may make this call.  Raises what to answer otherwise."""
        method = request.method
        syscall = TABLE.get(method)
        if syscall is None:
            raise UnknownMethod(f"no syscall {method[:64]!r}; sys.describe lists them")
        if self.agent is None:
            if method != "sys.hello":
                raise ProtocolError("say sys.hello {protocol: 1, agent: NAME} first")
            if request.n_bytes > HELLO_BYTES:
                raise TooLarge(f"a sys.hello of {request.n_bytes} bytes, limit is {HELLO_BYTES}")
            _check_protocol(request.params)
        if self.daemon.is_stopping:
            raise Unavailable("the daemon is shutting down")
        if len(self.calls) >= self._limits.calls_per_connection:
            raise Busy(
                f"{len(self.calls)} calls in flight on this connection, "
                f"limit is {self._limits.calls_per_connection}",
                retry_after_ms=100,
                queue_depth=len(self.calls),
            )
        if syscall.right is not None and self.agent is not None:
            self.daemon.access.check_right(self.agent, syscall.right, method)
        self.daemon.params_budget.check(self.uid, request.n_bytes)
        return syscall

    def _begin(self, call: Call, params: dict[str, Any]) -> Result | Awaitable[Result]:
        """Hand the call, its params checked, to its handler."""
        call.params = params
        result = self.daemon.syscalls.handlers[call.method](call)
        if "deadline_ms" in params and not isinstance(result, dict):
            delay_ms = params["deadline_ms"]
            past_s = (time.monotonic_ns() - call.arrived_ns) / 1e9
            late = DeadlineExceeded(f"not done within its {delay_ms} ms", deadline_ms=delay_ms)
            call.deadline = self.daemon.loop.call_later(
                max(0.0, delay_ms / 1000 - past_s), call.end, late
            )
        return result

    async def _checked_aside(self, call: Call, syscall: Syscall, params: object) -> Result:
        """A call whose params take longer to check than the loop may be held up."""
        checked = await self.daemon.in_worker(
            lambda: syscall.validate(params), self.uid, call.n_bytes
        )
        result = self._begin(call, checked)
        return result if isinstance(result, dict) else await result

    async def _encoded(self, id_: int, result: Result) -> bytes:
        """The answer's bytes.  What takes long to encode is encoded in a worker."""
        if wire.is_large(result):
            return await self.daemon.in_worker(lambda: wire.encode_large(id_, result))
        return wire.encode_response(id_, None, result)

    async def _run(self, call: Call, result: Awaitable[Result]) -> None:
        """One asynchronous call, from its first await to its answer."""
        error: SyscallError | None = None
        answer: bytes | None = None
        try:
            answer = await self._encoded(call.id, await result)
        except asyncio.CancelledError:
            if call.ended is None:
                raise  # the daemon is going down
            error = call.ended
        except SyscallError as raised:
            error = raised
        except Exception:
            error = _bug(call.method)
        finally:
            if call.deadline is not None:
                call.deadline.cancel()
            self.calls.pop(call.id, None)
            self.daemon.params_budget.give_back(self.uid, call.n_bytes)
        if answer is None:
            assert error is not None
            answer = wire.encode_response(call.id, error.to_wire(), None)
        self._write_answer(call.id, answer)
        facts = call.facts if call.job is None else {"job": call.job, **call.facts}
        self._ended(call.method, call.arrived_ns, error.code if error else "ok", facts)

    def _refuse(self, id_: int, error: SyscallError) -> None:
        self._write_answer(id_, wire.encode_response(id_, error.to_wire(), None))

    def _write_answer(self, id_: int, data: bytes) -> None:
        if len(data) > self._limits.frame_bytes:
            words = f"the answer is {len(data)} bytes, limit is {self._limits.frame_bytes}"
            data = wire.encode_response(id_, TooLarge(words).to_wire(), None)
        self._write(data)

    def _ended(
        self, name: str, since_ns: int, outcome: str, facts: dict[str, Any] | None = None
    ) -> None:
        self.daemon.telemetry.call_ended(self, name, since_ns, outcome, facts or {})


async def _ready(result: Result) -> Result:
    """A result that is there already, for who waits for one."""
    return result


def _check_protocol(params: dict[object, object]) -> None:
    """Before the other params are looked at: another version's hello may have others."""
    asked = params.get("protocol")
    if type(asked) is not int or asked == PROTOCOL_VERSION:
        return
    advice = (
        "update the daemon (aiosd), or use a client as old as it is"
        if asked > PROTOCOL_VERSION
        else "update the client (aios-sdk, or what it came with)"
    )
    raise ProtocolError(
        f"the client speaks protocol {asked}, this daemon (aiosd {__version__}) speaks "
        f"{PROTOCOL_VERSION}: {advice}",
        protocol=PROTOCOL_VERSION,
        version=__version__,
    )


def _bug(method: str) -> Internal:
    """Log the exception being handled; what the caller gets is an id to find it by."""
    bug = secrets.token_hex(4)
    log.exception("bug", id=bug, name=method)
    return Internal(f"a bug of aiosd; its log has the details under id {bug}", id=bug)


def peer_credentials(transport: asyncio.BaseTransport) -> tuple[int, int]:
    """(pid, uid) of the peer when it connected.  Source: unix(7), SO_PEERCRED."""
    peer = transport.get_extra_info("socket")
    with socket.socket(fileno=socket.dup(peer.fileno())) as own:
        pid, uid, _gid = struct.unpack(
            "3i", own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
    return pid, uid
