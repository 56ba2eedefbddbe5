"""The error tree: one class per code of the protocol, and what a client meets before any code.

Rule 1: code <-> class is one-to-one; ERRORS is the whole map.
Rule 2: from_wire() accepts anything: a peer's bad error must not hide that there was an error.
"""

# ruff: noqa: N818 - the names are the protocol's codes (not_found -> NotFound), written as they read

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE_CHARS = 4096  # of a message that came over the wire; ours are one or two sentences


class AiosError(Exception):
    """Anything this package raises on purpose."""


class SyscallError(AiosError):
    """A call that the daemon did not serve.  str() says what happened, the value and the limit."""

    code: str = "internal"
    summary: ClassVar[str] = "an error with a code that this version doesn't know"

    def __init__(self, message: str, /, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, object] = data

    def to_wire(self) -> dict[str, object]:
        """{code, message, data}, data only when there is some."""
        if self.data:
            return {"code": self.code, "message": self.message, "data": self.data}
        return {"code": self.code, "message": self.message}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code!r}, {self.message!r}, data={self.data!r})"


class InvalidParams(SyscallError):
    code = "invalid_params"
    summary = (
        "a parameter is missing, unknown, of the wrong type or out of range; data.field names it"
    )


class UnknownMethod(SyscallError):
    code = "unknown_method"
    summary = "there is no syscall of that name"


class ProtocolError(SyscallError):
    code = "protocol"
    summary = "the call breaks a rule of the protocol: no hello yet, an id in flight, a bad frame"


class NotFound(SyscallError):
    code = "not_found"
    summary = "no such thing, or not yours to see"


class Exists(SyscallError):
    code = "exists"
    summary = "a thing of that name exists already"


class Denied(SyscallError):
    code = "denied"
    summary = "the agent lacks the right; data.right names it"


class Busy(SyscallError):
    code = "busy"
    summary = "try again: data.retry_after_ms, data.queue_depth; on a busy context data.job"


class QuotaExceeded(SyscallError):
    code = "quota_exceeded"
    summary = "a limit of this agent or uid is reached: data.limit, data.used"


class TooLarge(SyscallError):
    code = "too_large"
    summary = "one value or frame is past its limit: data.limit"


class ContextFull(SyscallError):
    code = "context_full"
    summary = "the tokens don't fit in the context: data.limit_tokens, data.n_tokens"


class Cancelled(SyscallError):
    code = "cancelled"
    summary = "the call was cancelled, by its caller or by someone who may"


class DeadlineExceeded(SyscallError):
    code = "deadline_exceeded"
    summary = "the call's deadline_ms passed; its work is dropped"


class EngineFailed(SyscallError):
    code = "engine_failed"
    summary = "the model failed at this job; the context is as it was before the call"


class ToolFailed(SyscallError):
    code = "tool_failed"
    summary = "the tool ended in an error"


class Unavailable(SyscallError):
    code = "unavailable"
    summary = "shutting down, or the model is not loaded"


class Internal(SyscallError):
    code = "internal"
    summary = "a bug of ours; data.id finds it in the daemon's log"


ERRORS: dict[str, type[SyscallError]] = {
    cls.code: cls
    for cls in (
        InvalidParams,
        UnknownMethod,
        ProtocolError,
        NotFound,
        Exists,
        Denied,
        Busy,
        QuotaExceeded,
        TooLarge,
        ContextFull,
        Cancelled,
        DeadlineExceeded,
        EngineFailed,
        ToolFailed,
        Unavailable,
        Internal,
    )
}
"""Every code of the protocol; cls.summary is its line in sys.describe."""


def from_wire(obj: object) -> SyscallError:
    """The exception that a response's error stands for.

    Never raises.  A code that this version doesn't know is kept on a plain SyscallError.
    """
    if not isinstance(obj, dict):
        # Other MessagePack-RPC servers send a string, or a pair of them.
        return SyscallError(_text(obj))
    code, data = obj.get("code"), obj.get("data")
    message = _text(obj["message"]) if "message" in obj else "(the error carried no message)"
    error = ERRORS.get(code, SyscallError)(message) if isinstance(code, str) else Internal(message)
    if isinstance(code, str) and code not in ERRORS:
        error.code = code[:128]
    if isinstance(data, dict):
        error.data = {key: value for key, value in data.items() if isinstance(key, str)}
    return error


def _text(value: object) -> str:
    if isinstance(value, str):
        return value[:MAX_MESSAGE_CHARS]
    try:
        return repr(value)[:MAX_MESSAGE_CHARS]
    except Exception:  # a repr may raise anything, e.g. RecursionError on a deep list
        return f"(an error of type {type(value).__name__})"


# ---------------------------------------------------------------- what a client meets itself


class ClientError(AiosError):
    """The call never reached the daemon, or its answer never came back."""


class NoDaemon(ClientError):
    """Nobody listens on the socket."""

    def __init__(self, path: str, reason: str) -> None:
        advice = ": start aiosd, or name its socket in AIOSD_SOCKET"
        super().__init__(
            f"no daemon at {path} ({reason}){'' if path.startswith('fd:') else advice}"
        )
        self.path = path
        self.reason = reason


class SocketDenied(ClientError):
    """The socket is there, but its mode doesn't let this user connect."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"permission denied at {path}: the system's daemon admits members of the group aiosd "
            f"(sudo usermod -aG aiosd $USER, then log in again); your own listens on a socket "
            f"that AIOSD_SOCKET names"
        )
        self.path = path


class ConnectionLost(ClientError):
    """The connection ended before the answer came.

    may_have_happened  whether the daemon may have carried the call out; if False it never left
    job                the detached job that goes on without us, if the daemon has told its id
    from_token         where to attach to it: so many of its tokens have come
    """

    def __init__(
        self, message: str, *, may_have_happened: bool, job: str | None = None, from_token: int = 0
    ) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened
        self.job = job
        self.from_token = from_token


class VersionMismatch(ClientError):
    """The daemon speaks another version of the protocol; the message says which end to update."""

    def __init__(self, path: str, ours: int, theirs: object, version: object = None) -> None:
        """version: of the daemon's software, if it said so."""
        daemon = f"the daemon at {path}" + (f" (aiosd {version})" if type(version) is str else "")
        match theirs:
            case int() if theirs > ours:
                advice = "update this client (aios-sdk, or what it came with)"
            case int():
                advice = "update the daemon (aiosd), or use a client as old as it is"
            case _:
                advice = "is it an aiosd?"
        super().__init__(
            f"{daemon} speaks protocol {theirs!r}, this client speaks {ours}: {advice}"
        )
        self.ours = ours
        self.theirs = theirs
