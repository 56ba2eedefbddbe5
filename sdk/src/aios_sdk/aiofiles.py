"""Files in parts, for asyncio: files.py, with await."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, cast

from aios_sdk.errors import AiosError
from aios_sdk.files import Data, Sending, WriteMode, part_bytes
from aios_sdk.results import Written, field

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient


class AsyncFileWriter:
    """As FileWriter, with await: ``async with client.storage.open(path, "wb") as file``."""

    def __init__(self, client: AsyncClient, path: str, mode: WriteMode) -> None:
        self.name = path
        self.written: Written | None = None
        self.closed = False
        self._client = client
        self._mode = mode
        self._sending: Sending | None = None
        self._answered = asyncio.Event()  # no part is under way
        self._answered.set()

    async def write(self, data: Data) -> int:
        if self.closed:
            raise ValueError(f"{self.name} is closed")
        try:
            sending = await self._begun()
            for params in sending.add(data):
                self._answered.clear()
                await asyncio.shield(self._send(sending, params))
        except BaseException:
            await self.abandon()
            raise
        return len(data)

    async def _send(self, sending: Sending, params: dict[str, object]) -> None:
        """To its end, also for a cancelled writer: the answer names what is to be abandoned."""
        try:
            sending.told(await self._client.call("storage.write", **params))
        finally:
            self._answered.set()

    async def close(self) -> None:
        """Make it a version.  Raises what the daemon says; then nothing was written."""
        if self.closed:
            return
        sending = await self._begun()
        self.closed = True
        self.written = cast(Written, await self._client.call("storage.write", **sending.last()))

    async def abandon(self) -> None:
        """Leave no trace.  Nothing to do after close()."""
        if self.closed:
            return
        self.closed = True
        await self._answered.wait()
        if self._sending is not None and self._sending.upload is not None:
            # If not, the daemon has forgotten it, or forgets it with the connection.
            with contextlib.suppress(AiosError):
                await self._client.call("storage.abandon", upload=self._sending.upload)

    async def __aenter__(self) -> AsyncFileWriter:
        await self._begun()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.abandon()

    async def _begun(self) -> Sending:
        if self._sending is None:
            await self._client.connect()
            self._sending = Sending(self.name, self._mode, self._client.hello)
        return self._sending


class AsyncFileReader:
    """As FileReader, with await; also an async iterator of its parts."""

    def __init__(self, client: AsyncClient, path: str, version: int | None) -> None:
        self.name = path
        self.version = version
        self.size: int | None = None
        self._client = client
        self._at = 0

    async def read(self, n_bytes: int = -1) -> bytes:
        """The next bytes, at most so many (-1: all the rest); none at the end."""
        parts: list[bytes] = []
        while n_bytes != 0 and (data := await self._part(n_bytes)):
            parts.append(data)
            n_bytes = max(0, n_bytes - len(data)) if n_bytes > 0 else n_bytes
        return b"".join(parts)

    def seek(self, offset: int) -> None:
        """Go on from there."""
        self._at = offset

    def tell(self) -> int:
        return self._at

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._part(-1):
            yield data

    async def __aenter__(self) -> AsyncFileReader:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Nothing is held open in the daemon."""

    async def _part(self, n_bytes: int) -> bytes:
        if self.size is not None and self._at >= self.size:
            return b""
        await self._client.connect()
        most = part_bytes(self._client.hello)
        result = await self._client.call(
            "storage.read",
            path=self.name,
            version=self.version,
            offset=self._at,
            length=most if n_bytes < 0 else min(n_bytes, most),
        )
        self.version = cast(int, field(result, "version", int))
        self.size = cast(int, field(result, "size", int))
        data = cast(bytes, field(result, "data", bytes))
        self._at += len(data)
        return data
