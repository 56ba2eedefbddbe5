"""An agent's files: `client.storage`.  aiostorage.py is the same with await.

    with Client(agent="ada") as client:
        client.storage.write("notes/today.txt", "Met Charles.")
        with client.storage.open("big.bin", "wb") as file:
            shutil.copyfileobj(source, file)

Rule 1: `name:/path` is another agent's, where a grant or a group allows.
Rule 2: large files travel in parts (see files.py); path and mode mean what storage.write says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, cast, overload

from aios_sdk.files import (
    FileReader,
    FileWriter,
    WriteMode,
    write_mode,
)
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

if TYPE_CHECKING:
    from aios_sdk.client import Client


class Storage:
    """The files of the client's agent, and those that others share with it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def write(self, path: str, data: bytes | str, mode: WriteMode = "replace") -> Written:
        """A new version of a file; text is kept as UTF-8.  Large data goes in parts."""
        with FileWriter(self._client, path, mode) as file:
            file.write(data.encode() if isinstance(data, str) else data)
        assert file.written is not None  # or close() had raised
        return file.written

    def read(self, path: str, version: int | None = None) -> bytes:
        """All of a file, or of an earlier version of it."""
        with self.open(path, version=version) as file:
            return file.readall()

    @overload
    def open(
        self, path: str, mode: Literal["rb"] = "rb", *, version: int | None = None
    ) -> FileReader: ...
    @overload
    def open(self, path: str, mode: Literal["wb", "xb", "ab"]) -> FileWriter: ...
    def open(
        self, path: str, mode: str = "rb", *, version: int | None = None
    ) -> FileReader | FileWriter:
        """A file to read ("rb"), or to write: anew ("wb"), if there is none ("xb"), on ("ab").

        For text wrap it: ``io.TextIOWrapper(io.BufferedReader(storage.open(path)))``.
        """
        if mode == "rb":
            return FileReader(self._client, path, version)
        return FileWriter(self._client, path, write_mode(mode))

    def list(self, path: str = "", *, recursive: bool = False) -> Iterator[FileInfo]:
        """What is in a directory, by path, asked for page by page."""
        after: str | None = None
        while True:
            result = self._client.call("storage.list", path=path, recursive=recursive, after=after)
            page = cast(FilePage, result)
            yield from page["entries"]
            after = page.get("next")
            if after is None:
                return

    def stat(self, path: str) -> FileInfo:
        return cast(FileInfo, self._client.call("storage.stat", path=path))

    def usage(self, agent: str | None = None) -> RootUsage:
        """What is stored, and what may be."""
        result = self._client.call("storage.stat", path=root_path(agent))
        return cast(RootUsage, field(result, "usage", dict))

    def mkdir(self, path: str) -> None:
        """With those above it."""
        self._client.call("storage.mkdir", path=path)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """A file's history stays: rollback() brings it back."""
        self._client.call("storage.delete", path=path, recursive=recursive)

    def rename(self, path: str, to: str, *, replace: bool = False) -> None:
        self._client.call("storage.rename", path=path, to=to, replace=replace)

    def history(self, path: str) -> Sequence[FileVersion]:
        """The versions that are kept, newest first; a deleted file's too."""
        result = self._client.call("storage.history", path=path)
        return cast(Sequence[FileVersion], field(result, "versions", list))

    def rollback(
        self, path: str, *, version: int | None = None, steps: int | None = None
    ) -> Written:
        """Go back to a version, or so many back (by default one); that is a new version."""
        result = self._client.call("storage.rollback", path=path, version=version, steps=steps)
        return cast(Written, result)

    def search(
        self, query: str, k: int = 5, *, mode: SearchMode = "hybrid", path: str = ""
    ) -> FoundFiles:
        """Text files that fit best, below path.  Its "mode" says how they were found."""
        result = self._client.call("storage.search", query=query, k=k, mode=mode, path=path)
        return cast(FoundFiles, result)

    def share(
        self,
        path: str,
        with_: str,
        mode: Literal["read", "write"] = "read",
        *,
        expires_s: int | None = None,
    ) -> str:
        """Let an agent of this uid, or "@group", at a file or a directory; the grant's id."""
        given = {"path": path, "with": with_, "mode": mode, "expires_s": expires_s}
        result = self._client.call("storage.share", **given)
        return cast(str, field(result, "grant", str))

    def grants(self) -> FileGrants:
        """What this agent shares ("given"), and what is shared with it ("held")."""
        return cast(FileGrants, self._client.call("storage.grants"))

    def revoke(self, grant: str) -> None:
        self._client.call("storage.revoke", grant=grant)


def root_path(agent: str | None) -> str:
    """The root of an agent; of oneself without a name."""
    return "" if agent is None else f"{agent}:/"
