"""Acts on an agent's files: versions, quotas, history, and what people do with a shell."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_sdk.errors import (
    AiosError,
    Denied,
    Exists,
    InvalidParams,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unavailable,
)
from aiosd.kernel.model import AgentId
from aiosd.services.database import Transaction
from aiosd.services.storage import rows
from aiosd.services.storage.files import Files
from aiosd.services.storage.paths import Parts
from tests.services.storage.opened import ALICE, BOB, LIMITS, opened, seen, tree


def at(path: str) -> Parts:
    return tuple(path.split("/"))


def write(
    files: Files, path: str, data: bytes, mode: str = "replace", owner: AgentId = ALICE
) -> int:
    return files.write(owner, at(path), data, mode, owner.name).version


def read(files: Files, path: str, version: int | None = None, owner: AgentId = ALICE) -> bytes:
    file = files.outside.settle(owner, at(path)) if version is None else None
    if version is not None:
        file = files.records.read(lambda t: rows.find(t, owner, path))
    if file is None:
        raise NotFound(path)
    return files.reader.read(owner, file, version, offset=0, n_bytes=None, n_most=10**9)[0]


def versions(files: Files, path: str) -> list[tuple[int, str, int]]:
    return [(v.version, v.op, v.size) for v in files.reader.history(ALICE, at(path))]


def remove(files: Files, path: str, *, recursive: bool = False) -> None:
    files.delete(ALICE, at(path), "alice", recursive=recursive)


def move(files: Files, source: str, target: str, *, over: bool = False) -> None:
    files.rename(ALICE, at(source), at(target), "alice", over=over)


def listed(files: Files, path: str = "", *, recursive: bool = True) -> list[str]:
    parts = at(path) if path else ()
    found, _ = files.reader.entries(ALICE, parts, recursive=recursive, after="", n_most=1000)
    return [e.path + ("/" if e.is_dir else "") for e in found]


def usage(files: Files, owner: AgentId = ALICE) -> tuple[int, int]:
    root = files.records.read(lambda t: rows.root(t, owner))
    assert root is not None
    return root.n_files, root.n_bytes


def n_blobs(directory: Path) -> int:
    return len(tree(directory / "storage/blobs"))


def check(files: Files, directory: Path) -> None:
    """The figures, the rows, the blobs and the visible files say the same."""

    def work(t: Transaction) -> None:
        for root in rows.roots(t):
            key = (root.key,)
            (n_live, n_bytes) = t.execute(
                "SELECT count(*), total(size) FROM storage_files "
                "WHERE root = ? AND sha256 IS NOT NULL",
                key,
            ).fetchone()
            (n_dirs,) = t.execute(
                "SELECT count(*) FROM storage_dirs WHERE root = ?", key
            ).fetchone()
            (history,) = t.execute(
                "SELECT total(size + 512) FROM storage_versions WHERE root = ? AND is_old", key
            ).fetchone()
            assert (root.n_files, root.n_bytes) == (n_live + n_dirs, n_bytes)
            assert root.n_history_bytes == history
            current = t.execute(
                "SELECT count(*) FROM storage_files f JOIN storage_versions v ON v.file = f.key "
                "AND v.version = f.version AND v.sha256 IS f.sha256 WHERE f.root = ?",
                key,
            ).fetchone()
            assert (
                current
                == t.execute("SELECT count(*) FROM storage_files WHERE root = ?", key).fetchone()
            )

    files.records.read(work)
    assert set(files.blobs.all()) == files.records.read(rows.all_hashes)
    assert tree(directory / "storage/tmp") == {}


# ---------------------------------------------------------------- versions


def test_every_write_is_a_version_and_a_file_that_people_see(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        assert write(files, "notes/a.txt", b"one") == 1
        assert write(files, "notes/a.txt", b"two\0\xff") == 2
        assert write(files, "notes/a.txt", b"!", "append") == 3
        assert read(files, "notes/a.txt") == b"two\0\xff!"
        assert read(files, "notes/a.txt", 1) == b"one"
        assert versions(files, "notes/a.txt") == [
            (3, "append", 6),
            (2, "replace", 5),
            (1, "replace", 3),
        ]
        assert tree(seen(tmp_path)) == {"notes/a.txt": b"two\0\xff!"}
        assert (seen(tmp_path) / "notes/a.txt").stat().st_mode & 0o777 == 0o600
        check(files, tmp_path)


def test_create_refuses_what_is_there_and_append_makes_what_is_not(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        assert write(files, "a", b"1", "create") == 1
        with pytest.raises(Exists, match="'a' is there already, at version 1"):
            write(files, "a", b"2", "create")
        assert write(files, "b", b"1", "append") == 1
        assert read(files, "a") == b"1"


def test_the_same_content_is_kept_once_per_uid(tmp_path: Path) -> None:
    other = AgentId(1001, "alice")
    with opened(tmp_path) as files:
        for path in ("a", "b", "c"):
            write(files, path, b"same")
        write(files, "a", b"same", owner=BOB)
        assert n_blobs(tmp_path) == 1
        write(files, "a", b"same", owner=other)
        assert n_blobs(tmp_path) == 2
        check(files, tmp_path)


def test_rollback_is_a_version_itself_and_brings_back_what_was_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"one")
        write(files, "a", b"two")
        assert files.rollback(ALICE, at("a"), None, 1, "alice").version == 3
        assert read(files, "a") == b"one"
        remove(files, "a")
        assert listed(files) == []
        with pytest.raises(NotFound):
            read(files, "a")
        assert files.rollback(ALICE, at("a"), 2, 1, "alice").version == 5
        assert read(files, "a") == b"two"
        assert [op for _, op, _ in versions(files, "a")] == [
            "rollback", "delete", "rollback", "replace", "replace",
        ]  # fmt: skip
        with pytest.raises(InvalidParams, match="version 4 of 'a' is its deletion"):
            files.rollback(ALICE, at("a"), 4, 1, "alice")
        with pytest.raises(NotFound, match="no version 9 of 'a'; there are 1 to 5"):
            files.rollback(ALICE, at("a"), 9, 1, "alice")
        check(files, tmp_path)


def test_a_file_keeps_its_history_when_it_moves(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"one")
        write(files, "a", b"two")
        move(files, "a", "d/b")
        assert read(files, "d/b", 1) == b"one"
        assert tree(seen(tmp_path)) == {"d/b": b"two"}
        with pytest.raises(NotFound):
            versions(files, "a")
        check(files, tmp_path)


def test_replacing_by_a_move_goes_on_with_the_history_of_what_was_there(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"from a")
        write(files, "b", b"from b")
        with pytest.raises(Exists, match="give replace"):
            move(files, "a", "b")
        move(files, "a", "b", over=True)
        assert read(files, "b") == b"from a"
        assert read(files, "b", 1) == b"from b"
        assert listed(files) == ["b"]
        assert [op for _, op, _ in versions(files, "a")] == ["rename", "replace"]
        files.rollback(ALICE, at("b"), None, 1, "alice")
        assert read(files, "b") == b"from b"
        check(files, tmp_path)


def test_a_directory_moves_and_goes_with_all_in_it(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "d/x/1", b"1")
        write(files, "d/2", b"2")
        write(files, "e/2", b"old")
        remove(files, "e", recursive=True)
        move(files, "d", "e")
        assert listed(files) == ["e/", "e/2", "e/x/", "e/x/1"]
        assert read(files, "e/2", 1) == b"old"
        assert usage(files) == (4, 2)
        with pytest.raises(InvalidParams, match="itself or below it"):
            move(files, "e", "e/x/y")
        with pytest.raises(InvalidParams, match="'e' is not empty"):
            remove(files, "e")
        remove(files, "e", recursive=True)
        assert listed(files) == []
        assert usage(files) == (0, 0)
        files.rollback(ALICE, at("e/x/1"), None, 1, "alice")
        assert read(files, "e/x/1") == b"1"
        check(files, tmp_path)


def test_files_and_directories_don_t_take_each_others_place(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "f", b"1")
        files.make_directory(ALICE, at("d"))
        with pytest.raises(InvalidParams, match="'f' is a file, not a directory"):
            write(files, "f/x", b"1")
        with pytest.raises(InvalidParams, match="'d' is a directory"):
            write(files, "d", b"1")
        with pytest.raises(Exists):
            files.make_directory(ALICE, at("d"))
        with pytest.raises(Exists, match="directories aren't replaced"):
            move(files, "f", "d", over=True)
        check(files, tmp_path)


def test_a_listing_goes_on_where_it_ended(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        names = ["a/x", "a/y/z", "a.txt", "b"]
        for name in names:
            write(files, name, b"")
        everything = listed(files)
        assert everything == ["a/", "a/x", "a/y/", "a/y/z", "a.txt", "b"]
        collected: list[str] = []
        after, has_more = "", True
        while has_more:
            found, has_more = files.reader.entries(ALICE, (), recursive=True, after=after, n_most=2)
            collected += [e.path + ("/" if e.is_dir else "") for e in found]
            after = found[-1].path
        assert collected == everything
        assert listed(files, "a", recursive=False) == ["a/x", "a/y/"]


def test_parts_of_a_large_file_are_read_without_the_rest(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", bytes(range(200)))
        file = files.outside.settle(ALICE, at("a"))
        assert file is not None
        part, version = files.reader.read(ALICE, file, None, offset=190, n_bytes=50, n_most=100)
        assert (part, version.size) == (bytes(range(190, 200)), 200)
        with pytest.raises(TooLarge, match="200 bytes from 0 on, one answer holds 100"):
            files.reader.read(ALICE, file, None, offset=0, n_bytes=None, n_most=100)
        assert files.reader.read(ALICE, file, 1, offset=999, n_bytes=1, n_most=1)[0] == b""


# ---------------------------------------------------------------- quotas and history


def test_quotas_say_both_numbers_and_leave_nothing_behind(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, n_bytes=100, n_files=3)
    with opened(tmp_path, limits) as files:
        write(files, "a", b"x" * 60)
        with pytest.raises(QuotaExceeded) as caught:
            write(files, "b", b"y" * 41)
        assert caught.value.data == {"limit": 100, "used": 60}
        with pytest.raises(QuotaExceeded):
            write(files, "a", b"y" * 41, "append")
        write(files, "a", b"z" * 100)
        write(files, "d/e", b"")
        with pytest.raises(QuotaExceeded) as caught:
            write(files, "f", b"")
        assert caught.value.data == {"limit": 3, "used": 3}
        with pytest.raises(QuotaExceeded):
            files.make_directory(ALICE, at("g"))
        assert not (seen(tmp_path) / "g").exists()
        remove(files, "a")
        write(files, "f", b"")
        with pytest.raises(QuotaExceeded):
            files.rollback(ALICE, at("a"), 1, 1, "alice")
        check(files, tmp_path)


def test_agents_of_a_uid_share_its_limit(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, bytes_per_uid=100)
    with opened(tmp_path, limits) as files:
        write(files, "a", b"x" * 60)
        with pytest.raises(QuotaExceeded, match="the agents of uid 1000 store 60 bytes"):
            write(files, "a", b"y" * 41, owner=BOB)
        write(files, "a", b"y" * 41, owner=AgentId(7, "bob"))
        check(files, tmp_path)


def test_history_is_pruned_by_count_by_bytes_and_by_age(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, versions_per_file=3, history_bytes=3000)
    with opened(tmp_path, limits) as files:
        for number in range(5):
            write(files, "a", b"%d" % number)
        assert [v for v, _, _ in versions(files, "a")] == [5, 4, 3]
        assert n_blobs(tmp_path) == 3
        write(files, "b", b"x" * 1500)
        write(files, "b", b"y")  # 2 * 513 and 2012: the oldest of all go first
        assert [v for v, _, _ in versions(files, "a")] == [5, 4]
        assert [v for v, _, _ in versions(files, "b")] == [2, 1]
        remove(files, "a")
        check(files, tmp_path)
        assert files.prune(before_ms=1_800_000_000_000, n_most=100) > 0
        assert n_blobs(tmp_path) == 1
        assert [v for v, _, _ in versions(files, "b")] == [2]
        with pytest.raises(NotFound):
            versions(files, "a")
        check(files, tmp_path)


# ---------------------------------------------------------------- people with a shell


def test_what_a_person_changes_is_a_version_and_harms_none(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"ours")
        (seen(tmp_path) / "a").write_bytes(b"their")  # in place
        assert files.reader.current(ALICE, at("a")) is None
        assert read(files, "a") == b"their"
        assert read(files, "a", 1) == b"ours"
        assert versions(files, "a")[0] == (2, "outside", 5)
        (seen(tmp_path) / "a").write_bytes(b"again")
        write(files, "a", b"ours again")
        assert [op for _, op, _ in versions(files, "a")] == [
            "replace", "outside", "outside", "replace",
        ]  # fmt: skip
        check(files, tmp_path)


def test_what_a_person_adds_and_removes_is_taken_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"1")
        (seen(tmp_path) / "d").mkdir()
        (seen(tmp_path) / "d/new").write_bytes(b"new")
        (seen(tmp_path) / "a").unlink()
        assert listed(files) == ["d/", "d/new"]
        assert read(files, "d/new") == b"new"
        with pytest.raises(NotFound):
            read(files, "a")
        assert [op for _, op, _ in versions(files, "a")] == ["outside", "replace"]
        files.rollback(ALICE, at("a"), 1, 1, "alice")
        assert tree(seen(tmp_path)) == {"a": b"1", "d/new": b"new"}
        remove(files, "d", recursive=True)
        assert read(files, "d/new", 1) == b"new"
        check(files, tmp_path)


def test_a_file_that_was_only_touched_or_restored_is_no_new_version(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"1")
        os.utime(seen(tmp_path) / "a", (5, 5))
        assert read(files, "a") == b"1"
        assert [v for v, _, _ in versions(files, "a")] == [1]
        assert files.reader.current(ALICE, at("a")) is not None
        check(files, tmp_path)


def test_planted_links_pipes_and_huge_files_are_refused_with_words(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"1")
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        (seen(tmp_path) / "link").symlink_to(secret)
        os.link(secret, seen(tmp_path) / "hard")
        os.mkfifo(seen(tmp_path) / "pipe")
        with (seen(tmp_path) / "huge").open("wb") as huge:
            huge.truncate(10**12)
        for name in ("link", "hard", "pipe"):
            with pytest.raises(Denied, match="not a plain file"):
                read(files, name)
        with pytest.raises(TooLarge, match="'huge', changed outside, has 1000000000000 bytes"):
            read(files, "huge")
        assert listed(files) == ["a", "huge"]
        assert secret.read_bytes() == b"secret"
        check(files, tmp_path)


def test_a_content_that_is_gone_says_so_and_harms_no_other(tmp_path: Path) -> None:
    with opened(tmp_path) as files:
        write(files, "a", b"1")
        write(files, "a", b"2")
        for path in (tmp_path / "storage/blobs").glob("*/*/*"):
            if path.read_bytes() == b"1":
                path.unlink()
        with pytest.raises(Unavailable, match="is missing from the daemon's storage"):
            read(files, "a", 1)
        assert read(files, "a") == b"2"


# ---------------------------------------------------------------- any order of acts

PATHS = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "d"])
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("replace"), PATHS, st.binary(max_size=4)),
        st.tuples(st.just("append"), PATHS, st.binary(max_size=4)),
        st.tuples(st.just("edit"), PATHS, st.binary(max_size=4)),
        st.tuples(st.just("delete"), PATHS, st.just(b"")),
        st.tuples(st.just("rename"), PATHS, PATHS),
        st.tuples(st.just("rollback"), PATHS, st.integers(1, 3)),
        st.tuples(st.just("again"), st.just(""), st.just(b"")),
    ),
    max_size=20,
)


@settings(max_examples=80, deadline=None)
@given(acts=ACTS)
def test_any_order_of_acts_gives_what_a_dictionary_gives(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str, object]]
) -> None:
    place = tmp_path_factory.mktemp("acts")
    model: dict[str, bytes] = {}
    with opened(place) as files:
        for act, path, extra in acts:
            before = dict(model)
            try:
                match act, extra:
                    case (("replace" | "append"), bytes()):
                        write(files, path, extra, act)
                        old = model.get(path, b"") if act == "append" else b""
                        model[path] = old + extra
                    case "edit", bytes():
                        if path in model:
                            (seen(place) / path).write_bytes(extra)
                            model[path] = extra
                    case "delete", _:
                        remove(files, path, recursive=True)
                        for key in [k for k in model if k == path or k.startswith(path + "/")]:
                            del model[key]
                    case "rename", str():
                        move(files, path, extra, over=True)
                        for key in [k for k in before if k == path or k.startswith(path + "/")]:
                            model[extra + key[len(path) :]] = model.pop(key)
                    case "rollback", int():
                        file = files.rollback(ALICE, at(path), None, extra, "alice")
                        model[path] = read(files, path, file.version)
            except AiosError:
                pass
            assert tree(seen(place)) == model
        for path, data in model.items():
            assert read(files, path) == data
        check(files, place)
