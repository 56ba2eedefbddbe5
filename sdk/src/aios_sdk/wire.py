"""MessagePack-RPC as a value: bytes in, messages out, and back.  No socket, no clock, both ends.

Rule 1: nothing but WireError leaves feed(), for any bytes whatever.
Rule 2: the messages don't depend on how the stream was cut into pieces.
Rule 3: work is linear in the bytes, and a header that declares too much is refused when it is
read, before anything is waited for or allocated.

How: a scanner walks over headers only, resumes where it stopped, and counts; msgpack's C code
unpacks a frame once it is complete and known to be within the limits.  (msgpack's own streaming
Unpacker can't do it: it has no limit on nesting, and allocates arrays as their headers declare
them, so that 5 KB of nested headers cost a gigabyte.)
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import msgpack

PART_ITEMS = 256  # of a list that is encoded in parts; each of them at most a few dozen values
MAX_ID = 2**32 - 1  # MessagePack-RPC: msgid is a 32-bit unsigned integer


@dataclass(frozen=True, slots=True)
class Limits:
    """What one frame may be.

    frame_bytes  a context of 128k tokens as text or as an int array, twice over
    depth        of arrays and maps, the frame itself included: AnyMap's 64, and what is around it
    items        of one array or map, and of all of a frame's together: 128k tokens, twice over.  It
                 bounds memory too: a one-byte empty array becomes a 72-byte object
    containers   arrays and maps: they are what takes time to make; 4,096 messages, or a large JSON
                 Schema, have far fewer
    """

    frame_bytes: int = 8 * 1024 * 1024
    depth: int = 80
    items: int = 262_144
    containers: int = 65_536


SERVER_LIMITS = Limits()
CLIENT_LIMITS = Limits(frame_bytes=64 * 1024 * 1024, items=4_194_304, containers=4_194_304)
"""A client trusts its daemon further: logprobs of a long text are millions of values."""


class WireError(Exception):
    """The byte stream can't be used any more.

    messages  what was complete before the fault, in the same feed()
    """

    def __init__(self, message: str, messages: list[Message] | None = None) -> None:
        super().__init__(message)
        self.messages = messages or []


class EncodeError(ValueError):
    """A value that MessagePack can't carry: of another type, too deep, an integer past 64 bits."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call.  params is what the peer sent, {} if nothing; a map, its keys not checked.

    n_bytes  of its frame
    """

    id: int
    method: str
    params: dict[object, object]
    n_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Response:
    """The end of a call: error is None, or whatever the peer sent as one."""

    id: int
    error: object
    result: object


@dataclass(frozen=True, slots=True)
class Notification:
    """A message without an answer."""

    method: str
    params: dict[object, object]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A whole frame that is no message.

    id  of the request it was meant to be, if that is clear
    """

    id: int | None
    message: str


Message = Request | Response | Notification | Malformed


class Decoder:
    """Turns a peer's bytes into messages.  After a WireError it is dead."""

    def __init__(self, limits: Limits = SERVER_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._scan = _Scan()
        self._is_dead = False

    @property
    def buffered_bytes(self) -> int:
        """Of the frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages that these bytes complete.

        Raises WireError when the stream is unusable; its .messages are those before the fault.
        """
        if self._is_dead:
            raise WireError("the stream has failed before")
        if self._buffer:
            self._buffer += data
            source: bytes | bytearray = self._buffer
        else:
            source = data if type(data) is bytes else bytes(data)
        messages: list[Message] = []
        scan, start, end = self._scan, 0, len(source)
        try:
            while start < end and scan.advance(source, end, self._limits):
                stop = scan.position
                frame = source if start == 0 and stop == end else source[start:stop]
                messages.append(_message(frame, scan.has_extension))
                start = stop
                scan.restart(start)
        except WireError as error:
            self._is_dead = True
            self._buffer = bytearray()
            error.messages = messages
            raise
        if source is self._buffer:
            if start:
                del self._buffer[:start]
        elif start < end:
            self._buffer += source[start:] if start else source
        scan.shift(start)
        return messages


# ---------------------------------------------------------------- the scanner

_ARRAY, _MAP, _BLOB, _EXT, _BAD = -1, -2, -3, -4, -5


def _tables() -> tuple[list[int], list[int]]:
    """By first byte: the bytes of a value of fixed size, or else its kind; and for headers of
    other sizes how many bytes of length follow.  Source: the MessagePack specification, "Formats".
    """
    size, width = [1] * 256, [0] * 256  # the rest: fixint, nil, false, true
    for byte in range(0x80, 0x90):
        size[byte] = _MAP
    for byte in range(0x90, 0xA0):
        size[byte] = _ARRAY
    for byte in range(0xA0, 0xC0):
        size[byte] = 1 + (byte & 0x1F)  # fixstr
    size[0xC1] = _BAD  # never used
    for byte, n in zip(range(0xCA, 0xD4), (5, 9, 2, 3, 5, 9, 2, 3, 5, 9), strict=True):
        size[byte] = n  # floats, uints, ints
    for byte in range(0xD4, 0xD9):
        size[byte] = _EXT  # fixext
    for kind, first, widths in (
        (_BLOB, 0xC4, (1, 2, 4)),  # bin
        (_EXT, 0xC7, (1, 2, 4)),
        (_BLOB, 0xD9, (1, 2, 4)),  # str
        (_ARRAY, 0xDC, (2, 4)),
        (_MAP, 0xDE, (2, 4)),
    ):
        for i, n in enumerate(widths):
            size[first + i], width[first + i] = kind, n
    return size, width


_SIZE, _WIDTH = _tables()
_FIXED_COUNT = [2 * n for n in range(16)] + list(range(16))  # values in 0x80 fixmap … 0x9f fixarray


class _Scan:
    """Where the scanner stands in the frame: all it needs to go on when more bytes come.

    position   of the next header; may lie past the bytes there are, inside a long string
    left       values still to come in the innermost open container
    outer      the same of the containers around it
    items      values that the frame's headers have declared so far
    containers   arrays and maps, likewise
    """

    __slots__ = ("containers", "has_extension", "items", "left", "outer", "position", "start")

    def __init__(self) -> None:
        self.outer: list[int] = []
        self.restart(0)

    def restart(self, position: int) -> None:
        self.start = self.position = position
        self.left = 1
        self.outer.clear()
        self.items = self.containers = 0
        self.has_extension = False

    def shift(self, n_bytes: int) -> None:
        """The first n_bytes of the buffer are gone."""
        self.start -= n_bytes
        self.position -= n_bytes

    def advance(self, source: bytes | bytearray, end: int, limits: Limits) -> bool:
        """Go on as far as the bytes reach.  True: a frame ends at position.

        Every header is a few bytes, so one pass is bounded by what was fed; what headers declare
        is compared with the limits when the pass ends, whether or not the frame does.
        """
        position, left, outer, depth = self.position, self.left, self.outer, limits.depth
        if position == self.start and _SIZE[source[position]] != _ARRAY:
            raise WireError(
                f"a frame begins with byte {source[position]:#04x}; messages are arrays"
            )
        while left and position < end:
            byte = source[position]
            size = _SIZE[byte]
            if size > 0:
                position += size
                left -= 1
            else:
                if byte < 0xA0:
                    n = _FIXED_COUNT[byte - 0x80]
                    position += 1
                    self.containers += 1
                else:
                    header_end = position + 1 + _WIDTH[byte]
                    if header_end > end:
                        break
                    n = int.from_bytes(source[position + 1 : header_end], "big")
                    position = header_end
                    if size >= _MAP:
                        self.containers += 1
                    if size == _MAP:
                        n *= 2
                    elif size == _BLOB:
                        position += n
                        n = 0
                    elif size == _EXT:
                        position += 1 + (n if _WIDTH[byte] else 1 << (byte - 0xD4))
                        n = 0
                        self.has_extension = True
                    elif size == _BAD:
                        raise WireError("a byte 0xc1, which MessagePack never uses")
                if n:
                    outer.append(left - 1)
                    left = n
                    self.items += n
                    if len(outer) > depth:
                        raise WireError(f"a frame nested deeper than {depth}")
                else:
                    left -= 1
            while not left and outer:
                left = outer.pop()
        self.position, self.left = position, left
        if self.items > limits.items:
            raise WireError(f"a frame of {self.items} values or more, the limit is {limits.items}")
        if self.containers > limits.containers:
            raise WireError(
                f"a frame of {self.containers} arrays and maps or more, the limit is "
                f"{limits.containers}"
            )
        n_bytes = position - self.start
        if n_bytes > limits.frame_bytes:
            raise WireError(
                f"a frame of {n_bytes} bytes or more, the limit is {limits.frame_bytes}"
            )
        return not left and position <= end


# ---------------------------------------------------------------- from a frame to a message


def _message(frame: bytes | bytearray, has_extension: bool) -> Message:
    if has_extension:
        return Malformed(_request_id(frame), "the frame holds an extension type; none is in use")
    try:
        # Keys are str or bin, so they hash.  Of equal keys the last one counts.
        message = msgpack.unpackb(frame, strict_map_key=True)
    except UnicodeDecodeError as error:
        why = f"a string is not UTF-8: {error.reason} at its byte {error.start}"
        return Malformed(_request_id(frame), why)
    except ValueError as error:
        # A map key that is neither str nor bin.  The scanner has refused all else.
        return Malformed(_request_id(frame), f"not a message: {error}"[:200])
    # The scanner has seen that it is an array.  Ids and kinds: a bool is no integer.
    if len(message) == 4 and type(message[0]) is int and _is_id(message[1]):
        kind, id_, third, fourth = message
        if kind == 0 and type(third) is str:
            params = _named(fourth)
            if params is None:
                return Malformed(id_, _WRONG_PARAMS)
            return Request(id_, third, params, len(frame))
        if kind == 1:
            return Response(id_, third, fourth)
    elif len(message) == 3 and type(message[0]) is int:
        kind, method, third = message
        if kind == 2 and type(method) is str:
            params = _named(third)
            return (
                Malformed(None, _WRONG_PARAMS) if params is None else Notification(method, params)
            )
    return Malformed(_request_id(frame), _WRONG_SHAPE)


_WRONG_PARAMS = "params must be an array of one map, or empty"
_WRONG_SHAPE = (
    "not a message: [0, id, method, [params]], [1, id, error, result] or [2, method, [params]], "
    "where id is 0 to 2^32 - 1"
)


def _named(params: object) -> dict[object, object] | None:
    if type(params) is list:
        if not params:
            return {}
        if len(params) == 1 and type(params[0]) is dict:
            return params[0]
    return None


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _request_id(frame: bytes | bytearray) -> int | None:
    """The id of a frame that begins like a request, however its rest looks."""
    unpacker = msgpack.Unpacker(max_buffer_size=64)
    unpacker.feed(frame[:32])
    try:
        if unpacker.read_array_header() < 2:
            return None
        kind, id_ = unpacker.unpack(), unpacker.unpack()
    except (ValueError, msgpack.exceptions.UnpackException):
        return None
    return id_ if type(kind) is int and kind == 0 and _is_id(id_) else None


# ---------------------------------------------------------------- encoding


def encode_request(id_: int, method: str, params: dict[str, object]) -> bytes:
    """Raises EncodeError.  Lone surrogates (of undecodable file names, say) become '?'."""
    return _encode((0, id_, method, (params,) if params else ()))


def encode_response(id_: int, error: object, result: object) -> bytes:
    """As encode_request.  error: None, or SyscallError.to_wire()."""
    return _encode((1, id_, error, result))


def is_large(result: object) -> bool:
    """Whether a result takes longer to encode than an event loop may be held up."""
    return type(result) is dict and any(
        type(value) is list and len(value) > PART_ITEMS for value in result.values()
    )


def encode_large(id_: int, result: dict[str, object]) -> bytes:
    """The response as encode_response() gives it, made in parts: other threads get their turns
    between these, while a single part holds the interpreter until it is done."""
    head = msgpack.Packer()
    parts = [b"\x94\x01", _encode(id_), b"\xc0", head.pack_map_header(len(result))]
    for key, value in result.items():
        parts.append(_encode(key))
        if type(value) is not list:
            parts.append(_encode(value))
            continue
        parts.append(head.pack_array_header(len(value)))
        for at in range(0, len(value), PART_ITEMS):
            part = value[at : at + PART_ITEMS]
            size = len(head.pack_array_header(len(part)))
            parts.append(_encode(part)[size:])
    return b"".join(parts)


def encode_notification(method: str, params: dict[str, object]) -> bytes:
    """As encode_request."""
    return _encode((2, method, (params,)))


class _Packers(threading.local):
    """A Packer is reused, but never by two threads at once."""

    def __init__(self) -> None:
        self.strict = msgpack.Packer()
        self.lenient = msgpack.Packer(unicode_errors="replace")


_packers = _Packers()


def _encode(message: object) -> bytes:
    try:
        return _packers.strict.pack(message)  # type: ignore[no-any-return]  # msgpack has no types
    except UnicodeEncodeError:
        pass
    except (TypeError, ValueError, OverflowError) as error:
        raise EncodeError(str(error)[:200]) from None
    try:
        return _packers.lenient.pack(message)  # type: ignore[no-any-return]  # likewise
    except (TypeError, ValueError, OverflowError) as error:
        raise EncodeError(str(error)[:200]) from None
