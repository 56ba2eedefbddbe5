"""No path leaves the root: by openat2 and by the walk, at rest and while links are swapped in."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_sdk.errors import AiosError, Denied
from aiosd.services.storage import confined
from aiosd.services.storage.confined import Confined
from tests.services.storage.opened import ALICE, opened, seen, tree

AT_FDCWD = -100
WAIT_S = 60.0
HOW = pytest.mark.parametrize("has_openat2", [True, False], ids=["openat2", "walk"])


@contextlib.contextmanager
def below(path: Path, *, has_openat2: bool) -> Iterator[Confined]:
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = Confined(top, has_openat2=has_openat2)
        yield found
        assert found._has_openat2 == has_openat2  # it did what the test is about
    finally:
        os.close(top)


@HOW
def test_a_directory_is_reached_made_and_missed(tmp_path: Path, has_openat2: bool) -> None:
    with below(tmp_path, has_openat2=has_openat2) as root:
        with pytest.raises(FileNotFoundError), root.directory(("a", "b")):
            pass
        with root.directory(("a", "b"), make=True) as made:
            assert os.fstat(made).st_ino == (tmp_path / "a/b").stat().st_ino
        with root.directory(()) as top:
            assert os.fstat(top).st_ino == tmp_path.stat().st_ino
        (tmp_path / "a/file").write_bytes(b"")
        with pytest.raises(NotADirectoryError), root.directory(("a", "file")):
            pass


@HOW
@pytest.mark.parametrize("target", ["/", "/etc", "..", "../..", ".", "inside", "/proc/self/root"])
def test_no_link_is_followed_wherever_it_leads(
    tmp_path: Path, has_openat2: bool, target: str
) -> None:
    (tmp_path / "root/inside/deep").mkdir(parents=True)
    (tmp_path / "root/link").symlink_to(target)
    with below(tmp_path / "root", has_openat2=has_openat2) as root:
        for parts in (("link",), ("link", "deep"), ("inside", "..", "link")):
            for make in (False, True):
                with (
                    pytest.raises((Denied, FileNotFoundError)),
                    root.directory(parts, make=make),
                ):
                    pass


def test_only_plain_files_with_one_name_are_opened(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    (tmp_path / "link").symlink_to("plain")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "hard").write_bytes(b"x")
    os.link(tmp_path / "hard", tmp_path / "hard2")
    top = os.open(tmp_path, os.O_RDONLY)
    try:
        with confined.plain_file(top, "plain") as descriptor:
            assert os.read(descriptor, 9) == b"x"
        for name in ("link", "pipe", "hard"):
            with pytest.raises(Denied, match="not a plain file"), confined.plain_file(top, name):
                pass
    finally:
        os.close(top)


def test_removing_a_tree_leaves_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_bytes(b"x")
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/link").symlink_to(tmp_path / "out")
    top = os.open(tmp_path, os.O_RDONLY)
    try:
        confined.remove_tree(top, "in")
    finally:
        os.close(top)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/kept").read_bytes() == b"x"


NAMES = st.sampled_from(["a", "b", "link", "out", "secret"])
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "mkdir", "delete", "rename", "list"]),
        st.lists(NAMES, min_size=1, max_size=3),
        st.lists(NAMES, min_size=1, max_size=3),
    ),
    max_size=8,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ACTS)
def test_acts_on_a_root_full_of_planted_links_touch_nothing_outside(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, list[str], list[str]]]
) -> None:
    place = tmp_path_factory.mktemp("links")
    outside = place / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    (outside / "a/secret").write_bytes(b"secret")
    before = tree(outside)
    with opened(place) as files:
        files.make_directory(ALICE, ("a",))
        root = seen(place)
        (root / "link").symlink_to(outside)
        (root / "a/out").symlink_to(outside / "secret")
        (root / "secret").symlink_to("../../../../outside/secret")
        for act, one, other in acts:
            with contextlib.suppress(AiosError):
                match act:
                    case "write":
                        files.write(ALICE, tuple(one), b"mine", "replace", "alice")
                    case "read":
                        if file := files.outside.settle(ALICE, tuple(one)):
                            data, _ = files.reader.read(
                                ALICE, file, None, offset=0, n_bytes=None, n_most=99
                            )
                            assert data == b"mine"
                    case "mkdir":
                        files.make_directory(ALICE, tuple(one))
                    case "delete":
                        files.delete(ALICE, tuple(one), "alice", recursive=True)
                    case "rename":
                        files.rename(ALICE, tuple(one), tuple(other), "alice", over=True)
                    case "list":
                        found, _ = files.reader.entries(
                            ALICE, (), recursive=True, after="", n_most=1000
                        )
                        assert all(e.size != len(b"secret") for e in found)
        assert tree(outside) == before


def exchange(one: Path, other: Path) -> None:
    """Source: renameat2(2); RENAME_EXCHANGE is 2: neither name is ever absent."""
    done = ctypes.CDLL(None, use_errno=True).renameat2(
        AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), 2
    )
    if done:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@HOW
def test_somebody_who_swaps_a_directory_and_a_link_gains_nothing(
    tmp_path: Path, has_openat2: bool
) -> None:
    """A thread exchanges `a` and a link to outside, as fast as it can."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"secret")
    with opened(tmp_path) as files:
        files.visible._below = Confined(files.visible._agents, has_openat2=has_openat2)
        files.write(ALICE, ("a", "f"), b"mine", "replace", "alice")
        root = seen(tmp_path)
        (root / "link").symlink_to(outside)
        is_over = threading.Event()
        counts = Counter[str]()

        def swap() -> None:
            while not is_over.is_set():
                exchange(root / "a", root / "link")
                counts["swaps"] += 1

        def attempt(act: Callable[[], object]) -> None:
            try:
                act()
                counts["done"] += 1
            except AiosError:
                counts["refused"] += 1

        def read() -> None:
            file = files.outside.settle(ALICE, ("a", "f"))
            if file is not None:
                data, _ = files.reader.read(ALICE, file, None, offset=0, n_bytes=None, n_most=99)
                assert data == b"mine"

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            until = time.monotonic() + WAIT_S
            n_rounds = 0
            while n_rounds < 150 or min(counts[k] for k in ("swaps", "done", "refused")) < 20:
                assert time.monotonic() < until, counts
                attempt(lambda: files.write(ALICE, ("a", "g"), b"mine", "replace", "alice"))
                attempt(read)
                attempt(lambda: files.delete(ALICE, ("a", "g"), "alice", recursive=False))
                n_rounds += 1
        finally:
            is_over.set()
            thread.join(WAIT_S)
        assert tree(outside) == {"f": b"secret"}
