"""Files in parts: what `client.storage.open()` gives.

Rule 1: a part is far below the limit on frames; no more than one is in memory.
Rule 2: what is written is seen when it is closed, at once and whole; a with-block that ends with an
exception leaves no trace.  What is read is one version from the first byte to the last.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast

from aios_sdk.errors import AiosError, ClientError, InvalidParams
from aios_sdk.results import Written, field

if TYPE_CHECKING:
    from aios_sdk.client import Client

Data = bytes | bytearray | memoryview
WriteMode = Literal["replace", "create", "append"]
PART_BYTES = 1024 * 1024  # far below a frame, and long enough to be quick
_WRITE_MODES: dict[str, WriteMode] = {"wb": "replace", "xb": "create", "ab": "append"}


def write_mode(mode: str) -> WriteMode:
    """What open()'s mode means for storage.write."""
    if mode not in _WRITE_MODES:
        known = ", ".join(["rb", *_WRITE_MODES])
        raise InvalidParams(f"mode is {mode!r}, not one of {known}", field="mode")
    return _WRITE_MODES[mode]


class Sending:
    """A file on its way in parts, without I/O: data in, the params of storage.write out."""

    def __init__(self, path: str, mode: WriteMode, hello: dict[str, object]) -> None:
        self.upload: str | None = None
        self.size = 0
        self._path = path
        self._mode = mode
        self._part_bytes = part_bytes(hello)
        self._held = bytearray()

    def add(self, data: Data) -> Iterator[dict[str, object]]:
        """The parts that are full now; told() comes after each."""
        left = bytes(data)
        at = 0
        while at < len(left):
            if len(self._held) == self._part_bytes:
                yield self._params() | {"more": True}
                self._held.clear()
            part = left[at : at + self._part_bytes - len(self._held)]
            self._held += part
            at += len(part)
        self.size += len(left)

    def told(self, result: dict[str, object]) -> None:
        """What the daemon said to a part."""
        self.upload = cast(str, field(result, "upload", str))

    def last(self) -> dict[str, object]:
        """The params of the last call, which makes it a version."""
        return self._params()

    def _params(self) -> dict[str, object]:
        return {
            "path": self._path,
            "data": bytes(self._held),
            "mode": self._mode,
            "upload": self.upload,
        }


def part_bytes(hello: dict[str, object]) -> int:
    """How much of a file goes in one call, by what the daemon said of its frames."""
    limits = hello.get("limits")
    frame = limits.get("frame_bytes") if isinstance(limits, dict) else None
    return min(PART_BYTES, frame // 2) if isinstance(frame, int) and frame > 1 else PART_BYTES


class FileWriter(io.RawIOBase):
    """A file being written.  written: what close() made of it."""

    def __init__(self, client: Client, path: str, mode: WriteMode) -> None:
        super().__init__()
        self.name = path
        self.written: Written | None = None
        self._client = client
        self._sending = Sending(path, mode, client.hello)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        """How much has been written."""
        return self._sending.size

    def write(self, data: Data) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12's
        self._check_open()
        try:
            for params in self._sending.add(data):
                self._sending.told(self._client.call("storage.write", **params))
        except BaseException:
            self.abandon()
            raise
        return len(data)

    def close(self) -> None:
        """Make it a version.  Raises what the daemon says; then nothing was written."""
        if self.closed:
            return
        super().close()
        result = self._client.call("storage.write", **self._sending.last())
        self.written = cast(Written, result)

    def abandon(self) -> None:
        """Leave no trace.  Nothing to do after close()."""
        if self.closed:
            return
        super().close()
        if self._sending.upload is not None:
            # If not, the daemon has forgotten it, or forgets it with the connection.
            with contextlib.suppress(AiosError):
                self._client.call("storage.abandon", upload=self._sending.upload)

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def __del__(self) -> None:
        """A writer that nobody closed leaves no trace: half a file is no version."""
        if not self.closed:
            io.RawIOBase.close(self)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.name} is closed")


class FileReader(io.RawIOBase):
    """A version of a file, to be read and sought in."""

    def __init__(self, client: Client, path: str, version: int | None) -> None:
        super().__init__()
        self.name = path
        self._client = client
        self._part_bytes = part_bytes(client.hello)
        self._at = 0
        self._held, self._held_at = b"", 0
        result = client.call(
            "storage.read", path=path, version=version, offset=0, length=self._part_bytes
        )
        self._held = cast(bytes, field(result, "data", bytes))
        self.version = cast(int, field(result, "version", int))
        self.size = cast(int, field(result, "size", int))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # as above
        data = self._part(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        parts = []
        while data := self._part(self._part_bytes):
            parts.append(data)
            self._at += len(data)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"can't seek to {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def __enter__(self) -> FileReader:
        return self

    def _part(self, n_bytes: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        if self.closed:
            raise ValueError(f"{self.name} is closed")
        if self._at >= self.size or n_bytes == 0:
            return b""
        if not self._held_at <= self._at < self._held_at + len(self._held):
            result = self._client.call(
                "storage.read",
                path=self.name,
                version=self.version,
                offset=self._at,
                length=self._part_bytes,
            )
            self._held, self._held_at = cast(bytes, field(result, "data", bytes)), self._at
            if not self._held:
                raise ClientError(f"{self.name} ends at {self._at}, it should at {self.size}")
        begin = self._at - self._held_at
        return self._held[begin : begin + n_bytes]
