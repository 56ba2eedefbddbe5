"""A disk that is full or can't be written: clear words, nothing half-written, reads go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_sdk.errors import NotFound, Unavailable
from aiosd.services.database import DatabaseError
from aiosd.services.storage import rows
from aiosd.services.storage.store import Storage
from aiosd.storage_config import StorageConfig
from tests.services.opened import opened as database_opened
from tests.services.storage.opened import ALICE, opened, seen, tree

SIZE = 4 * 1024**2
BIG = 1024**2
LIMITS = rows.Limits(2**40, 10**6, 1000, 2**40, 2**40)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of SIZE."""
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", path],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no mounting here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextlib.contextmanager
def filled(path: Path) -> Iterator[None]:
    """Nothing more fits, until the end of the block."""
    with (path / "filler").open("wb") as filler, contextlib.suppress(OSError):
        while True:
            os.write(filler.fileno(), b"x" * 4096)
    yield
    (path / "filler").unlink()


def test_a_full_disk_refuses_writes_in_words_and_keeps_what_it_has(
    tmp_path: Path, small_disk: Path
) -> None:
    """The database is elsewhere, so that it is the files that don't fit."""
    (tmp_path / "storage").symlink_to(small_disk)
    with opened(tmp_path, LIMITS) as files:
        files.write(ALICE, ("a",), b"1", "replace", "alice")
        with filled(small_disk):
            for mode in ("replace", "append"):
                with pytest.raises(Unavailable, match="the disk is full; free some space"):
                    files.write(ALICE, ("a",), b"2" * BIG, mode, "alice")
            with pytest.raises(Unavailable, match="disk is full"):
                files.rollback(ALICE, ("a",), 1, 1, "alice")
            assert tree(small_disk / "tmp") == {}
            file = files.outside.settle(ALICE, ("a",))
            assert file is not None
            assert (
                files.reader.read(ALICE, file, None, offset=0, n_bytes=None, n_most=99)[0] == b"1"
            )
        # Two copies of three quarters each don't fit: the second one is refused in the middle.
        with pytest.raises(Unavailable, match="disk is full"):
            files.write(ALICE, ("b",), b"3" * 3 * BIG, "replace", "alice")
        assert tree(small_disk / "tmp") == {}
        with pytest.raises(NotFound):
            files.reader.entry(ALICE, ("b",))
        assert files.write(ALICE, ("a",), b"4" * BIG, "replace", "alice").version == 2
        assert len(tree(small_disk / "blobs")) == 2
        assert tree(seen(tmp_path)) == {"a": b"4" * BIG}


def test_what_can_t_be_written_can_be_read(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "storage").symlink_to(small_disk)
    with opened(tmp_path, LIMITS) as files:
        files.write(ALICE, ("a",), b"1", "replace", "alice")
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        with pytest.raises(Unavailable, match="read-only file system; what is there can be read"):
            files.write(ALICE, ("a",), b"2", "replace", "alice")
        with pytest.raises(Unavailable, match="read-only"):
            files.make_directory(ALICE, ("d",))
        file = files.outside.settle(ALICE, ("a",))
        assert file is not None
        assert files.reader.read(ALICE, file, None, offset=0, n_bytes=None, n_most=99)[0] == b"1"
        listed, _ = files.reader.entries(ALICE, (), recursive=True, after="", n_most=9)
        assert [entry.path for entry in listed] == ["a"]
        root = files.records.read(lambda t: rows.root(t, ALICE))
        assert root is not None
        assert root.n_files == 1
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        assert files.write(ALICE, ("a",), b"3", "replace", "alice").version == 2


def test_a_directory_that_can_t_be_used_is_named_at_start(tmp_path: Path) -> None:
    (tmp_path / "storage").write_bytes(b"a file")

    async def main() -> None:
        async with database_opened(tmp_path / "db") as database:
            with pytest.raises(DatabaseError, match=r"can't keep files in .*/storage: "):
                Storage(
                    tmp_path / "storage",
                    database,
                    lambda _: LIMITS,
                    lambda: 0,
                    config=StorageConfig,
                )

    asyncio.run(main())
