"""An agent's files, for asyncio: storage.py, with await."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Literal, cast, overload

from aios_sdk.aiofiles import AsyncFileReader, AsyncFileWriter
from aios_sdk.files import WriteMode, write_mode
from aios_sdk.results import (
    FileGrants,
    FileInfo,
    FilePage,
    FileVersion,
    FoundFiles,
    RootUsage,
    SearchMode,
    Written,
    field,
)
from aios_sdk.storage import root_path

if TYPE_CHECKING:
    from aios_sdk.aio import AsyncClient


class AsyncStorage:
    """As Storage, with await."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def write(self, path: str, data: bytes | str, mode: WriteMode = "replace") -> Written:
        """A new version of a file; text is kept as UTF-8.  Large data goes in parts."""
        async with AsyncFileWriter(self._client, path, mode) as file:
            await file.write(data.encode() if isinstance(data, str) else data)
        assert file.written is not None  # or close() had raised
        return file.written

    async def read(self, path: str, version: int | None = None) -> bytes:
        """All of a file, or of an earlier version of it."""
        async with self.open(path, version=version) as file:
            return await file.read()

    @overload
    def open(
        self, path: str, mode: Literal["rb"] = "rb", *, version: int | None = None
    ) -> AsyncFileReader: ...
    @overload
    def open(self, path: str, mode: Literal["wb", "xb", "ab"]) -> AsyncFileWriter: ...
    def open(
        self, path: str, mode: str = "rb", *, version: int | None = None
    ) -> AsyncFileReader | AsyncFileWriter:
        """A file to read ("rb"), or to write: anew ("wb"), if there is none ("xb"), on ("ab").

        Use it in an ``async with``.
        """
        if mode == "rb":
            return AsyncFileReader(self._client, path, version)
        return AsyncFileWriter(self._client, path, write_mode(mode))

    async def list(self, path: str = "", *, recursive: bool = False) -> AsyncIterator[FileInfo]:
        """What is in a directory, by path, asked for page by page."""
        after: str | None = None
        while True:
            result = await self._client.call(
                "storage.list", path=path, recursive=recursive, after=after
            )
            page = cast(FilePage, result)
            for entry in page["entries"]:
                yield entry
            after = page.get("next")
            if after is None:
                return

    async def stat(self, path: str) -> FileInfo:
        return cast(FileInfo, await self._client.call("storage.stat", path=path))

    async def usage(self, agent: str | None = None) -> RootUsage:
        """What is stored, and what may be."""
        result = await self._client.call("storage.stat", path=root_path(agent))
        return cast(RootUsage, field(result, "usage", dict))

    async def mkdir(self, path: str) -> None:
        """With those above it."""
        await self._client.call("storage.mkdir", path=path)

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """A file's history stays: rollback() brings it back."""
        await self._client.call("storage.delete", path=path, recursive=recursive)

    async def rename(self, path: str, to: str, *, replace: bool = False) -> None:
        await self._client.call("storage.rename", path=path, to=to, replace=replace)

    async def history(self, path: str) -> Sequence[FileVersion]:
        """The versions that are kept, newest first; a deleted file's too."""
        result = await self._client.call("storage.history", path=path)
        return cast(Sequence[FileVersion], field(result, "versions", list))

    async def rollback(
        self, path: str, *, version: int | None = None, steps: int | None = None
    ) -> Written:
        """Go back to a version, or so many back (by default one); that is a new version."""
        result = await self._client.call(
            "storage.rollback", path=path, version=version, steps=steps
        )
        return cast(Written, result)

    async def search(
        self, query: str, k: int = 5, *, mode: SearchMode = "hybrid", path: str = ""
    ) -> FoundFiles:
        """Text files that fit best, below path.  Its "mode" says how they were found."""
        result = await self._client.call("storage.search", query=query, k=k, mode=mode, path=path)
        return cast(FoundFiles, result)

    async def share(
        self,
        path: str,
        with_: str,
        mode: Literal["read", "write"] = "read",
        *,
        expires_s: int | None = None,
    ) -> str:
        """Let an agent of this uid, or "@group", at a file or a directory; the grant's id."""
        given = {"path": path, "with": with_, "mode": mode, "expires_s": expires_s}
        result = await self._client.call("storage.share", **given)
        return cast(str, field(result, "grant", str))

    async def grants(self) -> FileGrants:
        """What this agent shares ("given"), and what is shared with it ("held")."""
        return cast(FileGrants, await self._client.call("storage.grants"))

    async def revoke(self, grant: str) -> None:
        await self._client.call("storage.revoke", grant=grant)
