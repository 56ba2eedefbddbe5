"""Snapshot files: what is written comes back or is gone, whatever happens to disk and directory."""

from __future__ import annotations

import os
import random
import resource
import stat
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiosd.engine import snapshot_files
from aiosd.engine.snapshot_files import FileEntry, SnapshotFiles
from aiosd.kernel.model import ContextId

UID = 1000
A, B, C = ContextId("a"), ContextId("b"), ContextId("c")
TOKENS = array("i", [7, 8, 9])
PAYLOAD = bytes(range(200))
FILE_BYTES = 192 + len(PAYLOAD)  # header and three tokens: 132 bytes, rounded up to 64


class Bench:
    """A directory, its files, and what they said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events: list[tuple[str, dict[str, object]]] = []

    def files(self, budget_bytes: int = 10**6, fingerprint: str = "model") -> SnapshotFiles:
        self.events.clear()
        return SnapshotFiles(
            self.directory,
            budget_bytes,
            fingerprint,
            lambda name, values: self.events.append((name, values)),
            keep_free_bytes=0,
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "snapshots")


def write(
    files: SnapshotFiles,
    context: ContextId,
    payload: bytes = PAYLOAD,
    *,
    uid: int = UID,
    tokens: array[int] = TOKENS,
    keep: tuple[ContextId, ...] = (),
) -> bool:
    writing = files.write(context, uid, tokens, memoryview(payload), keep)
    while True:
        try:
            next(writing)
        except StopIteration as end:
            return bool(end.value)


def read(files: SnapshotFiles, context: ContextId) -> bytes | None:
    entry = files.get(context)
    assert entry is not None
    buffer = bytearray(entry.payload_bytes)
    return bytes(buffer) if files.read(context, memoryview(buffer)) else None


def test_what_was_written_is_there_after_a_restart(bench: Bench) -> None:
    assert write(bench.files(), A)
    files = bench.files()
    entry = files.get(A)
    assert entry is not None
    assert (entry.uid, entry.tokens, entry.payload_bytes) == (UID, TOKENS, 200)
    assert read(files, A) == PAYLOAD
    assert (files.n_bytes, len(files), files.contexts()) == (FILE_BYTES, 1, [A])
    assert (bench.directory / "a.kv").stat().st_size == FILE_BYTES
    assert bench.events == []


def test_nobody_else_may_look(bench: Bench) -> None:
    bench.directory.mkdir(mode=0o755)
    write(bench.files(), A)
    assert stat.S_IMODE(bench.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((bench.directory / "a.kv").stat().st_mode) == 0o600


def test_a_newer_file_of_a_context_replaces_the_older(bench: Bench) -> None:
    files = bench.files()
    write(files, A)
    assert write(files, A, b"new" * 10, tokens=array("i", [7, 8, 9, 10]))
    assert read(files, A) == b"new" * 10
    assert files.holds(A, array("i", [7, 8, 9, 10]))
    assert not files.holds(A, TOKENS)
    assert files.n_bytes == (bench.directory / "a.kv").stat().st_size


def test_the_least_recently_used_goes_first(bench: Bench) -> None:
    files = bench.files(2 * FILE_BYTES)
    write(files, A)
    write(files, B)
    read(files, A)
    write(files, C)
    assert bench.names() == ["a.kv", "c.kv"]
    assert files.n_bytes == 2 * FILE_BYTES


def test_the_order_outlives_a_restart_and_so_does_a_smaller_budget(bench: Bench) -> None:
    files = bench.files()
    for context in (A, B, C):
        write(files, context)
    files.touch(A)
    files = bench.files(2 * FILE_BYTES)
    assert files.contexts() == [C, A]
    assert bench.names() == ["a.kv", "c.kv"]


def test_without_a_budget_no_file_stays(bench: Bench) -> None:
    write(bench.files(), A)
    files = bench.files(0)
    assert bench.names() == []
    assert not write(files, B)
    assert bench.names() == []


def test_what_is_to_be_kept_makes_no_room(bench: Bench) -> None:
    files = bench.files(2 * FILE_BYTES)
    write(files, A)
    write(files, B)
    assert not write(files, C, keep=(A, B))
    assert write(files, C, keep=(A,))
    assert bench.names() == ["a.kv", "c.kv"]


def test_what_can_never_fit_costs_nobody_their_file(bench: Bench) -> None:
    files = bench.files(2 * FILE_BYTES)
    write(files, A)
    assert not write(files, B, bytes(2 * FILE_BYTES))
    assert bench.names() == ["a.kv"]


def test_there_are_not_more_files_than_may_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_files, "MAX_FILES", 2)
    files = bench.files()
    for context in (A, B, C):
        assert write(files, context)
    assert write(files, C, b"again")  # its own place
    assert bench.names() == ["b.kv", "c.kv"]


def test_a_file_is_written_in_pieces_and_giving_up_leaves_the_older_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_files, "CHUNK_BYTES", 64)
    files = bench.files()
    write(files, A)
    writing = files.write(A, UID, array("i", [1]), memoryview(bytes(300)))
    next(writing)
    next(writing)
    assert bench.names() == ["a.kv", "a.part"]
    assert files.n_bytes > FILE_BYTES
    writing.close()
    assert bench.names() == ["a.kv"]
    assert files.n_bytes == FILE_BYTES
    assert read(files, A) == PAYLOAD


def test_a_write_that_was_killed_leaves_nothing_after_the_next_start(bench: Bench) -> None:
    bench.files()
    (bench.directory / "a.part").write_bytes(b"half")
    (bench.directory / "notes.txt").write_text("not ours")
    bench.files()
    assert bench.names() == ["notes.txt"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".a", "a" * 65, "a\n", "ä", "-a"])
def test_a_context_that_can_be_no_file_name_has_no_file(name: str, bench: Bench) -> None:
    files = bench.files()
    assert not write(files, ContextId(name))
    files.forget(ContextId(name))
    assert bench.names() == []


def test_files_of_another_model_or_version_are_unlinked_at_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bench.files()
    write(files, A)
    write(files, B)
    assert len(bench.files(fingerprint="other")) == 0
    assert bench.names() == []
    assert bench.events == [("snapshot_files_stale", {"files": 2})]
    write(bench.files(), A)
    monkeypatch.setattr(snapshot_files, "_VERSION", 2)
    assert len(bench.files()) == 0
    assert bench.events == [("snapshot_files_stale", {"files": 1})]


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


def test_no_flipped_bit_before_the_start_goes_unnoticed(bench: Bench) -> None:
    write(bench.files(), A)
    path = bench.directory / "a.kv"
    data = path.read_bytes()
    for place in range(FILE_BYTES):
        path.write_bytes(flipped(data, place))
        files = bench.files()
        is_padding = 132 <= place < 192
        if files.get(A) is not None:
            assert read(files, A) == (PAYLOAD if is_padding else None)
        assert len(bench.events) == (0 if is_padding else 1), f"byte {place}"
        assert path.exists() == is_padding


def test_no_flipped_bit_while_it_runs_goes_unnoticed(bench: Bench) -> None:
    path = bench.directory / "a.kv"
    for place in range(FILE_BYTES):
        files = bench.files()
        write(files, A)
        path.write_bytes(flipped(path.read_bytes(), place))
        is_padding = 132 <= place < 192
        assert read(files, A) == (PAYLOAD if is_padding else None)
        assert (files.n_bad, path.exists()) == ((0, True) if is_padding else (1, False))
        if not is_padding:
            assert (files.get(A), files.n_bytes) == (None, 0)
            assert [name for name, _ in bench.events] == ["snapshot_file_bad"]


@pytest.mark.parametrize("n_bytes", [0, 1, 119, 131, 150, 192, 391])
@pytest.mark.parametrize("is_running", [False, True])
def test_a_file_cut_short_is_bad(n_bytes: int, is_running: bool, bench: Bench) -> None:
    files = bench.files()
    write(files, A)
    os.truncate(bench.directory / "a.kv", n_bytes)
    if is_running:
        assert read(files, A) is None
    else:
        files = bench.files()
    assert (len(files), files.n_bad, bench.names()) == (0, 1, [])


@pytest.mark.parametrize("is_running", [False, True])
def test_files_that_changed_places_are_bad(is_running: bool, bench: Bench) -> None:
    files = bench.files()
    write(files, A)
    write(files, B, uid=1001)
    a, b, aside = (bench.directory / name for name in ("a.kv", "b.kv", "aside"))
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    if is_running:
        assert (read(files, A), read(files, B)) == (None, None)
    else:
        files = bench.files()
    assert (len(files), files.n_bad, bench.names()) == (0, 2, [])


def test_an_older_file_put_back_is_bad_while_running_and_good_after_a_restart(
    bench: Bench,
) -> None:
    files = bench.files()
    write(files, A)
    old = (bench.directory / "a.kv").read_bytes()
    write(files, A, b"newer", tokens=array("i", [7, 8, 9, 10]))
    (bench.directory / "a.kv").write_bytes(old)
    assert read(files, A) is None
    (bench.directory / "a.kv").write_bytes(old)
    files = bench.files()
    assert read(files, A) == PAYLOAD
    assert files.holds(A, TOKENS)  # so whoever compares tokens is told the truth


def test_what_is_no_file_is_bad_and_blocks_nothing(bench: Bench) -> None:
    write(bench.files(), B)
    os.mkfifo(bench.directory / "a.kv")
    (bench.directory / "c.kv").symlink_to(bench.directory / "b.kv")
    (bench.directory / "d.kv").mkdir()
    files = bench.files()
    assert (files.contexts(), files.n_bad) == ([B], 3)
    assert bench.names() == ["b.kv", "d.kv"]
    assert [name for name, _ in bench.events].count("snapshot_file_left") == 1


def test_a_file_that_somebody_unlinked_is_bad_and_nothing_more(bench: Bench) -> None:
    files = bench.files()
    write(files, A)
    (bench.directory / "a.kv").unlink()
    assert read(files, A) is None
    assert (files.n_bad, files.n_bytes, len(files)) == (1, 0, 0)


@contextmanager
def files_no_longer_than(n_bytes: int) -> Iterator[None]:
    """A disk that is full after so many bytes (write fails with EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_once_and_damages_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bench.files()
    write(files, A)
    with files_no_longer_than(FILE_BYTES):
        assert not write(files, A, bytes(10_000), tokens=array("i", [1]))
        assert not write(files, B)  # it would fit, yet the disk refused just now
    assert (files.n_failed, bench.names(), files.n_bytes) == (1, ["a.kv"], FILE_BYTES)
    assert [name for name, _ in bench.events] == ["snapshot_file_not_written"]
    assert read(files, A) == PAYLOAD
    monkeypatch.setattr(files, "_paused_until_ns", 0)
    assert write(files, B)


def test_the_disk_is_not_filled_to_the_last_byte(bench: Bench) -> None:
    files = SnapshotFiles(bench.directory, 10**6, "model", keep_free_bytes=2**62)
    assert not write(files, A)
    assert (files.n_failed, bench.names()) == (1, [])


def test_a_directory_that_can_not_be_had_means_no_files(bench: Bench) -> None:
    bench.directory.write_text("a file")
    files = bench.files()
    assert [name for name, _ in bench.events] == ["snapshot_files_off"]
    assert not write(files, A)
    assert (len(files), files.n_bytes) == (0, 0)


def test_a_directory_that_went_away_costs_the_files_only(bench: Bench) -> None:
    files = bench.files()
    write(files, A)
    (bench.directory / "a.kv").unlink()
    bench.directory.rmdir()
    assert not write(files, B)
    assert read(files, A) is None


def test_random_writes_reads_and_restarts_keep_the_books(bench: Bench) -> None:
    rng = random.Random(7)
    contexts = [ContextId(f"c{n}") for n in range(12)]
    payloads: dict[ContextId, bytes] = {}
    files = bench.files(5000)
    for _ in range(600):
        context, dice = rng.choice(contexts), rng.random()
        if dice < 0.5:
            payload = rng.randbytes(rng.randint(1, 900))
            if write(files, context, payload, tokens=array("i", [1] * rng.randint(1, 90))):
                payloads[context] = payload
        elif dice < 0.8 and files.get(context) is not None:
            assert read(files, context) == payloads[context]
        elif dice < 0.9:
            files.forget(context)
        else:
            before = files.contexts()
            files = bench.files(5000)
            assert files.contexts() == before
        sizes = [path.stat().st_size for path in bench.directory.iterdir()]
        assert files.n_bytes == sum(sizes) <= 5000
        assert bench.names() == sorted(f"{c}.kv" for c in files.contexts())
    assert bench.events == []


def test_a_file_entry_knows_its_size() -> None:
    assert FileEntry(UID, TOKENS, 200, 0).file_bytes == FILE_BYTES
