"""The index of text files: kept up beside writes, part by part, and only of what is there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from aiosd.services.database import Database, Transaction
from aiosd.services.documents import Mode
from aiosd.services.schema import MIGRATIONS
from aiosd.services.search import Search
from aiosd.services.storage.index import Index
from aiosd.services.storage.store import Storage
from aiosd.storage_config import StorageConfig
from tests.services.storage.opened import ALICE, BOB, LIMITS
from tests.services.storage.test_chunks import prose

T = TypeVar("T")
WAIT_S = 30.0


@dataclasses.dataclass
class World:
    database: Database
    storage: Storage
    index: Index

    async def settled(self) -> None:
        """All that was written is indexed."""

        def n_left(t: Transaction) -> int:
            work = "SELECT count(*) FROM storage_files WHERE indexed != version"
            return int(t.execute(work).fetchone()[0])

        async with asyncio.timeout(WAIT_S):
            while await self.database.read(n_left):
                pass

    async def docs(self, file: str) -> dict[int, str]:
        def work(t: Transaction) -> dict[int, str]:
            rows = t.execute(
                "SELECT d.doc, d.text FROM storage_chunks c JOIN search_docs d ON d.doc = c.doc "
                "JOIN storage_files f ON f.key = c.file WHERE f.path = ?",
                (file,),
            )
            return dict(rows.fetchall())

        return await self.database.read(work)

    async def n_docs(self) -> int:
        count = "SELECT count(*) FROM search_docs"
        return await self.database.read(lambda t: int(t.execute(count).fetchone()[0]))

    async def found(self, query: str) -> list[str]:
        await self.settled()
        matches = await self.index.search(ALICE, query, 5, Mode.WORDS)
        return [match.path for match in matches.results]


@contextlib.asynccontextmanager
async def world(directory: Path, config: StorageConfig | None = None) -> AsyncIterator[World]:
    async def in_worker(work: Callable[[], T]) -> T:
        return work()

    used = config or StorageConfig()
    limits = dataclasses.replace(LIMITS, n_bytes=2**30, history_bytes=2**30)
    database = await Database.open(directory / "db", MIGRATIONS)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.run())
        search = Search(database, None, in_worker, ram_bytes=0)
        storage = Storage(
            directory / "storage",
            database,
            lambda _: limits,
            lambda: time.time_ns() // 1_000_000,
            config=lambda: used,
        )
        index = Index(database, search, storage, lambda: used)
        indexing = tasks.create_task(index.run())
        try:
            yield World(database, storage, index)
        finally:
            indexing.cancel()
            await storage.close()
            await database.close()


async def write(of: World, path: str, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    await of.storage.write(ALICE, tuple(path.split("/")), data, "replace", "alice")


def test_an_edit_keeps_the_documents_of_the_parts_around_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as of:
            lines = prose(300).splitlines(keepends=True)
            await write(of, "a", "".join(lines))
            await of.settled()
            before = await of.docs("a")
            await write(of, "a", "".join([*lines[:150], "a zebra passes\n", *lines[150:]]))
            await of.settled()
            after = await of.docs("a")
            assert len(before) > 10
            assert len(before.keys() & after.keys()) >= len(before) - 2
            assert await of.n_docs() == len(after)
            assert await of.found("zebra") == ["a"]

    asyncio.run(main())


def test_what_is_deleted_moved_or_no_text_any_more_is_found_as_it_is_now(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as of:
            for name in ("gone", "moved", "binary"):
                await write(of, name, f"the zebra called {name}")
            assert sorted(await of.found("zebra")) == ["binary", "gone", "moved"]
            await of.storage.delete(ALICE, ("gone",), "alice", recursive=False)
            await of.storage.rename(ALICE, ("moved",), ("d", "here"), "alice", over=False)
            await write(of, "binary", b"the zebra\0")
            assert await of.found("zebra") == ["d/here"]
            assert await of.n_docs() == 1
            assert (await of.index.search(BOB, "zebra", 5, Mode.WORDS)).results == ()
            assert (await of.index.search(ALICE, "zebra", 5, Mode.WORDS, ("x",))).results == ()
            below = await of.index.search(ALICE, "zebra", 5, Mode.HYBRID, ("d",))
            assert [match.path for match in below.results] == ["d/here"]
            assert (below.mode, below.reason is not None) == (Mode.WORDS, True)

    asyncio.run(main())


def test_parts_and_files_past_their_limits_are_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        config = StorageConfig(indexed_bytes=20_000, indexed_parts=5)
        async with world(tmp_path, config) as of:
            await write(of, "large", "zebra " * 4000)
            await write(of, "many", prose(150) + "zebra")
            await write(of, "few", "zebra")
            assert await of.found("zebra") == ["few"]

    asyncio.run(main())


def test_parts_of_a_file_that_was_pruned_unseen_go_at_the_next_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as of:
            await write(of, "a", "zebra")
            await write(of, "b", "zebra")
            await of.settled()
        async with world(tmp_path) as of:

            def prune(t: Transaction) -> int:
                t.execute("DELETE FROM storage_versions")
                return t.execute("DELETE FROM storage_files WHERE path = 'a'").rowcount

            await of.database.write(prune)
        async with world(tmp_path) as of:
            async with asyncio.timeout(WAIT_S):
                while await of.n_docs() != 1:
                    pass
            assert await of.found("zebra") == ["b"]

    asyncio.run(main())


def test_what_was_not_indexed_before_a_crash_is_indexed_after(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as of:
            await write(of, "a", "zebra")
            await of.settled()
            await of.database.write(
                lambda t: t.execute("UPDATE storage_files SET indexed = 0").rowcount
            )
        async with world(tmp_path) as of:
            assert await of.found("zebra") == ["a"]
            assert await of.n_docs() == 1

    asyncio.run(main())
