"""Ways out: links that lead elsewhere, made by who is confined or by others of its user, and the
daemon's end."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aiosd.confine import ConfineError, Confinement, Grant, landlock, private, process, spawn
from tests.confine.harness import in_a_loop
from tests.confine.test_spawn import output

if landlock.abi() == 0:
    pytest.skip("this kernel has no Landlock", allow_module_level=True)


def secret_in(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "state/words").write_text("secret")
    return tmp_path / "state"


@in_a_loop
async def test_the_first_line_of_a_script_grants_nothing_but_a_program(tmp_path: Path) -> None:
    state, own = secret_in(tmp_path), tmp_path / "own"
    (own / "x").symlink_to(state)
    (own / "x\x0bsh").symlink_to("/bin/sh")  # the kernel's word ends at a blank, not at \x0b
    script = own / "script"
    for first in (f"#!{own}/x\x0bsh", f"#! {state}", f"#!{state}/words"):
        script.write_text(f"{first}\ncat {state}/words")
        script.chmod(0o755)
        try:
            said, _ = await output([str(script)])
        except ConfineError:
            continue
        assert said == f"cat: {state}/words: Permission denied\n"


@in_a_loop
async def test_a_path_that_was_decided_on_is_refused_once_it_is_a_link(tmp_path: Path) -> None:
    state, own = secret_in(tmp_path), tmp_path / "own"
    (own / "data").symlink_to(state)
    (own / "run").symlink_to("/bin/cat")
    for path in (own / "data", own / "data/words"):
        with pytest.raises(ConfineError, match=f"{path}: it has become a link, to {state}"):
            await spawn(["cat"], Confinement(Grant(read=(str(path),)), is_resolved=True))
    with pytest.raises(ConfineError, match="run: it has become a link, to /"):
        await spawn(["cat"], Confinement(is_resolved=True), executable=str(own / "run"))
    said, _ = await output(["cat", f"{own}/data/words"], Confinement(Grant(read=(f"{own}/data",))))
    assert said == "secret"  # the configuration's own paths may be links


@in_a_loop
async def test_that_it_dies_with_the_daemon_can_not_be_taken_back() -> None:
    source = """
import ctypes
libc, number = ctypes.CDLL(None), ctypes.c_int()
print([libc.prctl(1, n, 0, 0, 0) for n in (0, 15, 9)])
libc.prctl(2, ctypes.byref(number), 0, 0, 0)
print(number.value)
"""
    said, _ = await output([sys.executable, "-c", source])
    assert said == "[0, 0, 0]\n9\n"


def test_clearing_up_follows_no_link_that_took_a_directory_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = private.make(None, os.getgid())
    within = made / private.TMP / "a"
    within.mkdir()
    empty = private._empty

    def and_then_a_link(at: int) -> Generator[None, None, list[str]]:
        """What another process of its user does, at the worst of times."""
        names = yield from empty(at)
        if names == ["a"]:
            within.rmdir()
            within.symlink_to(outside)
        return names

    monkeypatch.setattr(private, "_empty", and_then_a_link)
    with pytest.raises(NotADirectoryError):
        private.remove(made)
    assert outside.stat().st_mode & 0o777 == 0o755
    monkeypatch.undo()
    private.remove(made)
    assert not made.exists()


def test_who_leaves_much_behind_lets_others_first(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[tuple[Any, ...]] = []
    done: list[str] = []

    class Threads:
        def submit(self, *work: Any) -> None:
            waiting.append(work)

    def steps(who: str, n: int) -> Iterator[None]:
        for number in range(n):
            done.append(f"{who}{number}")
            yield

    clock = count()
    monkeypatch.setattr(process, "_threads", Threads())
    monkeypatch.setattr("aiosd.confine.process.time.monotonic", lambda: float(next(clock)))
    ended: list[Future[None]] = [Future(), Future()]
    waiting += [
        (process._take_turns, steps("much", 3), ended[0]),
        (process._take_turns, steps("little", 1), ended[1]),
    ]
    while waiting:
        function, *args = waiting.pop(0)
        function(*args)
    assert done == ["much0", "little0", "much1", "much2"]
    assert all(each.done() for each in ended)
