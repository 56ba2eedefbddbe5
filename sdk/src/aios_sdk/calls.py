"""The client half without I/O: ids, calls under way, their chunks, hello.  Both clients run on it.

Rule 1: no socket, no clock, no waiting; bytes to send gather in outbox, and feed() takes bytes in.
Rule 2: a call ends exactly once: by its response, by fail(), or by overflowing its chunks.
Rule 3: an abandoned call stays known until its response comes, so that its id is not reused and
a later call on its context can wait for it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from aios_sdk import __version__
from aios_sdk.errors import (
    AiosError,
    ConnectionLost,
    DeadlineExceeded,
    InvalidParams,
    ProtocolError,
    SyscallError,
    TooLarge,
    VersionMismatch,
    from_wire,
)
from aios_sdk.paths import given_agent
from aios_sdk.syscalls import PROTOCOL_VERSION, TABLE
from aios_sdk.types import shorten
from aios_sdk.wire import (
    CLIENT_LIMITS,
    MAX_ID,
    Decoder,
    EncodeError,
    Malformed,
    Notification,
    Response,
    WireError,
    encode_notification,
    encode_request,
)

MAX_CHUNKS = 65_536  # buffered for a stream that isn't read while other calls go on

CONNECT_DELAYS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *[0.1] * 50)
"""Between attempts while the daemon's accept backlog is full: five seconds in all."""


class Call:
    """One call under way, or ended: then error or result is set."""

    __slots__ = (
        "chunks",
        "error",
        "id",
        "is_abandoned",
        "is_cancelling",
        "is_done",
        "is_sent",
        "is_stream",
        "job",
        "method",
        "n_tokens",
        "params",
        "result",
    )

    def __init__(
        self, id_: int, method: str, params: dict[str, object], *, is_stream: bool
    ) -> None:
        self.id = id_
        self.method = method
        self.params = params
        self.is_stream = is_stream
        self.is_sent = False  # whether all of its bytes left
        self.is_done = False
        self.is_cancelling = False
        self.is_abandoned = False  # nobody waits for it any more
        self.job = _job_in(params)  # once the daemon has told it
        self.n_tokens = _first_token(params)  # of the job, up to the last one that came
        self.chunks: deque[dict[str, object]] = deque()
        self.error: AiosError | None = None
        self.result: dict[str, object] = {}

    def outcome(self) -> dict[str, object]:
        """The result of a call that is done; raises its error."""
        if self.error is not None:
            raise self.error
        return self.result

    def job_told(self) -> str:
        """The job of a call that is done, or whose job is known; raises the call's error."""
        if self.job is None:
            raise self.error or ProtocolError(f"{self.method} has ended without naming its job")
        return self.job

    @property
    def is_detached(self) -> bool:
        """Whether its job goes on without it."""
        return self.params.get("detach") is True


OnWaiting = Callable[[dict[str, object]], object]


class Calls:
    """All calls of one connection.

    outbox    bytes to send, in order, each with the call it begins (None: a cancel)
    n_chunks  received and not yet taken, over all calls
    on_waiting  is told, of any call, that it waits for a person: with the call's chunk
    """

    def __init__(self) -> None:
        self.on_waiting: OnWaiting | None = None
        self.outbox: deque[tuple[bytes, Call | None]] = deque()
        self.n_chunks = 0
        self._open: dict[int, Call] = {}
        self._decoder = Decoder(CLIENT_LIMITS)
        self._last_id = 0
        self._parting: SyscallError | None = None  # what the daemon said to no call in particular

    def start(self, method: str, params: dict[str, object], *, is_stream: bool = False) -> Call:
        """A new call; its request is in the outbox.  Params that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        id_ = self._last_id + 1
        while id_ in self._open or id_ > MAX_ID:
            id_ = id_ + 1 if id_ < MAX_ID else 1
        try:
            data = encode_request(id_, method, given)
        except EncodeError as error:
            raise InvalidParams(f"{method}: {error}", field="params") from None
        self._last_id = id_
        call = Call(id_, method, given, is_stream=is_stream)
        self._open[id_] = call
        self.outbox.append((data, call))
        return call

    def cancel(self, call: Call) -> None:
        """Ask the daemon to end the call; its response still comes, most likely Cancelled."""
        if not call.is_done and not call.is_cancelling:
            call.is_cancelling = True
            self.outbox.append((encode_notification("cancel", {"id": call.id}), None))

    def abandon(self, call: Call) -> None:
        """Cancel, unless it is done or detached, and forget its chunks, now and from now on."""
        call.is_abandoned = True
        self.n_chunks -= len(call.chunks)
        call.chunks.clear()
        if not call.is_detached:  # a cancel would end its job, which is to go on without us
            self.cancel(call)

    def in_the_way(self, params: dict[str, object]) -> Call | None:
        """An abandoned call that still holds the context these params name: until its response
        the daemon would answer busy."""
        context = params.get("context")
        if context is None:
            return None
        for call in list(self._open.values()):
            is_ending = call.is_abandoned and (call.is_cancelling or not call.is_detached)
            if is_ending and call.params.get("context") == context:
                return call
        return None

    def take(self, call: Call) -> dict[str, object]:
        """The oldest chunk of a call that has some."""
        self.n_chunks -= 1
        return call.chunks.popleft()

    def feed(self, data: bytes) -> list[Call]:
        """The calls that these bytes changed.  Raises WireError when the daemon talks nonsense."""
        changed: list[Call] = []
        fault: WireError | None = None
        try:
            messages = self._decoder.feed(data)
        except WireError as error:
            messages, fault = error.messages, error
        for message in messages:
            match message:
                case Response(id_, error_, result):
                    call = self._open.pop(id_, None)
                    if call is not None and not call.is_done:
                        self._end(call, error_, result)
                        changed.append(call)
                case Notification("stream", params):
                    call = self._add_chunk(params)
                    if call is not None:
                        changed.append(call)
                case Notification("error", params):
                    self._parting = from_wire(params)
                case Malformed(_, why):
                    fault = fault or WireError(why)
                case _:
                    pass  # a later version may notify of more
        if fault is not None:
            raise fault
        return changed

    def fail(self, path: str, reason: str) -> list[Call]:
        """The connection is gone: every call under way ends with ConnectionLost."""
        failed = [call for call in self._open.values() if not call.is_done]
        self._open.clear()
        self.outbox.clear()
        if self._parting is not None:
            reason = f"the daemon said {self._parting.code}: {self._parting.message}"
        for call in failed:
            if call.method == "sys.hello" and self._parting is not None:
                call.error = self._parting
            elif call.is_sent:
                call.error = _lost(call, f"the connection to {path} ended during", reason)
            else:
                call.error = ConnectionLost(
                    f"the connection to {path} ended before {call.method} was sent ({reason})",
                    may_have_happened=False,
                )
            call.is_done = True
        return failed

    def _end(self, call: Call, error: object, result: object) -> None:
        call.is_done = True
        if error is not None:
            call.error = from_wire(error)
        elif type(result) is dict:
            call.result = result
            call.job = call.job or _job_in(result)
        elif result is not None:
            call.error = ProtocolError(
                f"the daemon's result of {call.method} is {shorten(result)}, it must be a map"
            )

    def _add_chunk(self, params: dict[object, object]) -> Call | None:
        id_ = params.get("id")
        call = self._open.get(id_) if type(id_) is int else None
        if call is None or call.is_abandoned:
            return None
        if self.on_waiting is not None and params.get("state") == "waiting_approval":
            self.on_waiting(cast(dict[str, object], params))
        if not call.is_stream:
            return None
        if len(call.chunks) >= MAX_CHUNKS:
            self.abandon(call)
            call.is_done = True
            call.error = TooLarge(
                f"{call.method} has {MAX_CHUNKS} chunks waiting to be read, which is the limit: "
                f"read the stream, or leave it",
                limit=MAX_CHUNKS,
            )
            return call
        call.job = call.job or _job_in(params)
        tokens = params.get("tokens")
        call.n_tokens += len(tokens) if type(tokens) is list else 0
        call.chunks.append(params)  # type: ignore[arg-type]  # keys of our daemon are strings
        self.n_chunks += 1
        return call


def _job_in(fields: Mapping[Any, object]) -> str | None:
    job = fields.get("job")
    return job if isinstance(job, str) else None


def _first_token(params: dict[str, object]) -> int:
    first = params.get("from_token")
    return first if isinstance(first, int) else 0


def _lost(call: Call, ended: str, reason: str) -> ConnectionLost:
    """What to raise for a call that was under way."""
    if call.job is None or not (call.is_detached or call.method == "job.attach"):
        return ConnectionLost(
            f"{ended} {call.method} ({reason}); whether it took effect is unknown",
            may_have_happened=True,
        )
    return ConnectionLost(
        f"{ended} {call.method} ({reason}); its job {call.job} is detached: attach to it",
        may_have_happened=True,
        job=call.job,
        from_token=call.n_tokens,
    )


def hello_params(agent: str | None, socket: str | None = None) -> dict[str, object]:
    """Params of sys.hello, checked here so that a bad name is found before there is a socket."""
    params: dict[str, object] = {
        "protocol": PROTOCOL_VERSION,
        "agent": (given_agent(socket) or f"agent-{os.getpid()}") if agent is None else agent,
        "client": f"aios-sdk {__version__}",
    }
    TABLE["sys.hello"].validate(params)
    return params


def hello_result(call: Call, path: str) -> dict[str, object]:
    """What a hello that is done gave; raises VersionMismatch if the daemon speaks another one.

    A daemon of another version either says so in its result, or refuses with the error protocol
    and its own version in data.protocol.
    """
    if isinstance(call.error, ProtocolError) and "protocol" in call.error.data:
        told = call.error.data
        raise VersionMismatch(
            path, PROTOCOL_VERSION, told["protocol"], told.get("version")
        ) from call.error
    result = call.outcome()
    if result.get("protocol") != PROTOCOL_VERSION:
        server = result.get("server")
        version = server.get("version") if type(server) is dict else None
        raise VersionMismatch(path, PROTOCOL_VERSION, result.get("protocol"), version)
    return result


def may_repeat(method: str, lost: ConnectionLost) -> bool:
    """Whether doing it again does no harm: it never left, or a second time changes nothing."""
    known = TABLE.get(method)
    return not lost.may_have_happened or (known is not None and known.is_repeatable)


def timed_out(call: Call, timeout_s: float) -> DeadlineExceeded:
    now = "its job goes on" if call.is_detached else "it is cancelled"
    return DeadlineExceeded(
        f"no word from the daemon on {call.method} for {timeout_s:g} s (the client's timeout_s); "
        f"{now}",
        timeout_s=timeout_s,
    )
