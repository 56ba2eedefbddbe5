"""Storage for the event loop: the acts of `files`, in threads of their own.

Rule 1: acts on one root come one after another; those of different roots don't wait for each other.
Rule 2: the threads are storage's alone, so that no act waits behind the model or a tokeniser; of
one root only a few are at work, so that no agent takes them all.
Rule 3: a cancelled caller gets its CancelledError when its act has ended, whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aios_sdk.errors import Busy, Exists, NotFound
from aiosd.kernel.model import AgentId
from aiosd.services.database import Database, DatabaseError, Transaction
from aiosd.services.storage import recovery, rows
from aiosd.services.storage.blobs import Part
from aiosd.services.storage.errors import refusal
from aiosd.services.storage.files import Files
from aiosd.services.storage.paths import Parts
from aiosd.services.storage.reading import Entry
from aiosd.services.storage.rows import File, Limits, Root, Version
from aiosd.services.storage.visible import no_file
from aiosd.storage_config import StorageConfig

T = TypeVar("T")

N_THREADS = 16  # they wait for the disk, not for a core; flushes at the same time share a commit
READS_PER_ROOT = 4
MAX_ROWS = 10_000  # of files read lately, kept so that the next read needn't ask the database
_PRUNE_MOST = 1000  # versions in one commit of housekeeping: a few milliseconds


class BlockingDatabase:
    """The database for storage's threads: waits on the loop's one writer and one reader."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._loop = loop

    def read(self, work: Callable[[Transaction], T]) -> T:
        return asyncio.run_coroutine_threadsafe(self._database.read(work), self._loop).result()

    def write(self, work: Callable[[Transaction], T]) -> T:
        return asyncio.run_coroutine_threadsafe(self._database.write(work), self._loop).result()


@dataclass(slots=True)
class Upload:
    """A file that comes in parts.  Nothing of it is seen before the last one."""

    id: str
    session: str
    owner: AgentId
    parts: Parts
    mode: str
    part: Part
    n_replaced: int = 0  # bytes that it will take the place of
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_gone: bool = False

    def append(self, data: bytes) -> int:
        with self.lock:
            if self.is_gone:
                raise NotFound(f"no upload {self.id!r}: it has ended")
            self.part.append(data)
            return self.part.size

    def discard(self) -> None:
        with self.lock:
            if not self.is_gone:
                self.is_gone = True
                self.part.close()


@dataclass(slots=True)
class _Turns:
    """Who is at work on a root."""

    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READS_PER_ROOT))
    n_users: int = 0


class Storage:
    """All roots.  limits_of: what an agent may store, asked at every act.  DatabaseError says why a
    directory can't be used."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        limits_of: Callable[[AgentId], Limits],
        now_ms: Callable[[], int],
        *,
        config: Callable[[], StorageConfig],
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        records = BlockingDatabase(database, self._loop)
        try:
            self._files = Files(directory, records, limits_of, now_ms, at)
        except OSError as error:
            words = f"can't keep files in {directory}: {error.strerror}"
            raise DatabaseError(words) from error
        self._database = database
        self._now_ms = now_ms
        self._limits_of = limits_of
        self._config = config
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="storage")
        self._turns: dict[AgentId, _Turns] = {}
        self._uploads: dict[str, Upload] = {}
        self._rows: dict[tuple[AgentId, str], File] = {}
        self.changed = asyncio.Event()  # set when there may be something to index

    async def recover(self) -> recovery.Mended:
        """Mend what a killed daemon left; before anything else."""
        return await self._run(functools.partial(recovery.recover, self._files))

    async def close(self) -> None:
        """Wait for the acts under way, before the database closes."""
        for upload in list(self._uploads.values()):
            await self._run(upload.discard)
        self._uploads.clear()
        await self._loop.run_in_executor(None, self._pool.shutdown)
        self._files.close()

    async def tidy(self) -> int:
        """Let go history that is past its age; the number of contents that went."""
        before_ms = self._now_ms() - self._config().history_s * 1000
        return await self._run(lambda: self._files.prune(before_ms, _PRUNE_MOST))

    # ------------------------------------------------------------ reading

    async def find(self, owner: AgentId, parts: Parts) -> Entry | None:
        """What is at a path, or None."""
        with contextlib.suppress(NotFound):
            return await self.stat(owner, parts)
        return None

    async def stat(self, owner: AgentId, parts: Parts) -> Entry:
        """NotFound if there is nothing.  What a person has just put there gets its version."""
        async with self._reading(owner):
            entry = await self._run(lambda: self._files.reader.entry(owner, parts))
        if entry.is_dir or entry.version is not None:
            return entry
        await self._current(owner, parts)
        async with self._reading(owner):
            return await self._run(lambda: self._files.reader.entry(owner, parts))

    async def read(
        self,
        owner: AgentId,
        parts: Parts,
        version: int | None,
        *,
        offset: int,
        n_bytes: int | None,
        n_most: int,
    ) -> tuple[bytes, Version]:
        """Bytes of a version, deleted files' too; of the current one if it is None."""
        key = (owner, "/".join(parts))
        file = self._rows.get(key) if version is None else None
        if file is None:
            file = await self._database.read(lambda t: rows.find(t, *key))
        if version is None and file is not None:
            at = functools.partial(self._files.reader.read_current, owner, parts, file)
            async with self._reading(owner):
                done = await self._run(lambda: at(offset=offset, n_bytes=n_bytes, n_most=n_most))
            if done is not None:
                self._remember(key, file)
                return done
        if version is None:
            self._rows.pop(key, None)
            file = await self._current(owner, parts)
        if file is None:
            raise no_file(key[1])
        read = functools.partial(
            self._files.reader.read,
            owner,
            file,
            version,
            offset=offset,
            n_bytes=n_bytes,
            n_most=n_most,
        )
        async with self._reading(owner):
            return await self._run(read)

    async def history(self, owner: AgentId, parts: Parts) -> list[Version]:
        """The versions that are kept, newest first."""
        async with self._writing(owner):  # what a person changed is among them
            return await self._run(lambda: self._history(owner, parts))

    async def entries(
        self, owner: AgentId, parts: Parts, *, recursive: bool, after: str, n_most: int
    ) -> tuple[list[Entry], bool]:
        async with self._reading(owner):
            return await self._run(
                lambda: self._files.reader.entries(
                    owner, parts, recursive=recursive, after=after, n_most=n_most
                )
            )

    async def with_content(self, uid: int, sha256: str, work: Callable[[bytes], T]) -> T:
        """What work() makes of a content, in a thread.  Unavailable if it is gone."""
        return await self._run(lambda: work(self._files.reader.content(uid, sha256)))

    async def usage(self, owner: AgentId) -> tuple[Root, Limits]:
        """What the agent stores and may store."""
        found = await self._database.read(lambda t: rows.root(t, owner))
        return found or Root(0, owner, 0, 0, 0), self._limits_of(owner)

    # ------------------------------------------------------------ changing

    async def write(self, owner: AgentId, parts: Parts, data: bytes, mode: str, by: str) -> File:
        async with self._writing(owner):
            return await self._run(lambda: self._files.write(owner, parts, data, mode, by))

    async def make_directory(self, owner: AgentId, parts: Parts) -> None:
        async with self._writing(owner):
            await self._run(lambda: self._files.make_directory(owner, parts))

    async def delete(self, owner: AgentId, parts: Parts, by: str, *, recursive: bool) -> None:
        async with self._writing(owner):
            await self._run(lambda: self._files.delete(owner, parts, by, recursive=recursive))

    async def rename(
        self, owner: AgentId, source: Parts, target: Parts, by: str, *, over: bool
    ) -> None:
        async with self._writing(owner):
            await self._run(lambda: self._files.rename(owner, source, target, by, over=over))

    async def rollback(
        self, owner: AgentId, parts: Parts, version: int | None, steps: int, by: str
    ) -> File:
        async with self._writing(owner):
            return await self._run(lambda: self._files.rollback(owner, parts, version, steps, by))

    # ------------------------------------------------------------ uploads

    async def begin(self, owner: AgentId, parts: Parts, mode: str, session: str) -> Upload:
        """A file that will come in parts, of that session: it ends with it."""
        mine = [u for u in self._uploads.values() if u.owner.uid == owner.uid]
        most = self._config().uploads_per_uid
        if len(mine) >= most:
            raise Busy(
                f"{len(mine)} files of this uid are being sent in parts, limit is {most}; "
                "finish or leave one",
                retry_after_ms=1000,
                queue_depth=len(mine),
            )
        if mode == "create" and await self.find(owner, parts):
            raise Exists(f"{'/'.join(parts)!r} is there already")
        path = "/".join(parts)
        old = await self._database.read(lambda t: rows.find(t, owner, path))
        n_replaced = old.size if old is not None and mode == "replace" else 0
        made: list[Part] = []
        try:
            await self._run(lambda: made.append(self._files.blobs.new_part()))
        except BaseException:  # a cancelled caller's file has been made all the same
            for part in made:
                self._pool.submit(part.close)
            raise
        (part,) = made
        upload = Upload("u" + secrets.token_hex(8), session, owner, parts, mode, part, n_replaced)
        self._uploads[upload.id] = upload
        return upload

    def upload(self, id_: str, owner: AgentId, parts: Parts, session: str) -> Upload:
        """NotFound if there is none of that id, session and path."""
        upload = self._uploads.get(id_)
        if upload is None or (upload.session, upload.owner, upload.parts) != (
            session,
            owner,
            parts,
        ):
            raise NotFound(f"no upload {id_!r} to {'/'.join(parts)!r}: begin it anew")
        return upload

    async def append(self, upload: Upload, data: bytes) -> int:
        """Its size with this part.  After an error there is no such upload any more."""
        mine = [u for u in self._uploads.values() if u.owner == upload.owner]
        n_coming = sum(u.part.size - u.n_replaced for u in mine)
        try:
            await self._run(lambda: self._files.check_room(upload.owner, n_coming + len(data)))
            return await self._run(lambda: upload.append(data))
        except BaseException:
            self._forget(upload)
            raise

    async def finish(self, upload: Upload, by: str) -> File:
        """All parts are there: it becomes a version."""

        def work() -> File:
            with upload.lock:
                if upload.is_gone:
                    raise NotFound(f"no upload {upload.id!r}: it has ended")
                return self._files.write(upload.owner, upload.parts, upload.part, upload.mode, by)

        try:
            async with self._writing(upload.owner):
                return await self._run(work)
        finally:
            self._forget(upload)

    def abandon(self, id_: str, session: str) -> None:
        """Forget it.  NotFound if the session has no such upload."""
        upload = self._uploads.get(id_)
        if upload is None or upload.session != session:
            raise NotFound(f"no upload {id_!r}: it has ended")
        self._forget(upload)

    def drop_uploads(self, session: str) -> None:
        """The session is gone, and with it what it had not finished."""
        for upload in [u for u in self._uploads.values() if u.session == session]:
            self._forget(upload)

    def _forget(self, upload: Upload) -> None:
        if self._uploads.pop(upload.id, None) is not None:
            self._pool.submit(upload.discard)

    # ------------------------------------------------------------ inside

    async def _current(self, owner: AgentId, parts: Parts) -> File:
        async with self._reading(owner):
            file = await self._run(lambda: self._files.reader.current(owner, parts))
        if file is None:
            async with self._writing(owner):
                file = await self._run(lambda: self._files.outside.settle(owner, parts))
        if file is None:
            raise no_file("/".join(parts))
        return file

    def _remember(self, key: tuple[AgentId, str], file: File) -> None:
        """A row that was right a moment ago.  Whether it still is, the stamp says."""
        if len(self._rows) >= MAX_ROWS:
            self._rows.clear()
        self._rows[key] = file

    def _history(self, owner: AgentId, parts: Parts) -> list[Version]:
        self._files.outside.settle(owner, parts)
        return self._files.reader.history(owner, parts)

    @contextlib.asynccontextmanager
    async def _turn(self, owner: AgentId) -> AsyncIterator[_Turns]:
        turns = self._turns.setdefault(owner, _Turns())
        turns.n_users += 1
        try:
            yield turns
        finally:
            turns.n_users -= 1
            if not turns.n_users:
                del self._turns[owner]

    @contextlib.asynccontextmanager
    async def _reading(self, owner: AgentId) -> AsyncIterator[None]:
        async with self._turn(owner) as turns, turns.reading:
            yield

    @contextlib.asynccontextmanager
    async def _writing(self, owner: AgentId) -> AsyncIterator[None]:
        async with self._turn(owner) as turns, turns.writing:
            try:
                yield
            finally:
                self.changed.set()

    async def _run(self, work: Callable[[], T]) -> T:
        """In a thread; if the caller is cancelled meanwhile, to its end all the same."""
        future: Future[T] = self._pool.submit(work)
        waiting = asyncio.wrap_future(future, loop=self._loop)
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError as error:
                if future.cancel():
                    raise
                cancelled = error
        if cancelled is not None:
            waiting.exception()  # taken note of: the caller no longer asks
            raise cancelled
        try:
            return waiting.result()
        except OSError as error:
            raise refusal(error) from error
