"""Where snapshots go: out of RAM into files, ahead of time when nobody waits, and back."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest

from aiosd.engine import snapshot_files, snapshots, write_behind
from aiosd.engine.base import Piece
from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.engine.sharing import FILE_TOKENS_PER_SHARED, MIN_SHARED_TOKENS
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.engine.snapshots import MIN_BUFFER_BYTES, Residence
from aiosd.kernel.model import ContextId, JobId, Lane, SlotId
from tests.engine.schedules import Answer, Turn, alone, note, seen

A, B, C = ContextId("a"), ContextId("b"), ContextId("c")
QUIET_S, AT_REST_S = 0.3, 1000.0


class Bench:
    """An engine with room in RAM for so many snapshots, and files; contexts are one letter."""

    def __init__(self, directory: Path, n_buffers: int = 1, file_bytes: int = 10**6) -> None:
        self.directory = directory
        self.n_buffers, self.file_bytes = n_buffers, file_bytes
        self.events: list[str] = []
        self.restart()

    def restart(self) -> None:
        self.model = FakeModel(n_slots=4, slot_tokens=2048, end_liking=-50.0)
        self.files = SnapshotFiles(
            self.directory,
            self.file_bytes,
            self.model.info.fingerprint,
            lambda name, _values: self.events.append(name),
            keep_free_bytes=0,
        )
        self.engine = Engine(
            self.model,
            snapshot_ram_bytes=self.n_buffers * MIN_BUFFER_BYTES,
            snapshot_files=self.files,
        )

    def turn(self, name: str, n_tokens: int = 100, **more: Any) -> Turn:
        tokens = array("i", [ord(name[0]) + n % 7 for n in range(n_tokens)])
        return Turn(tokens, max_tokens=3, uid=1000, **more)

    def run(self, name: str, slot: int, turn: Turn | None = None) -> Answer:
        turn = self.turn(name) if turn is None else turn
        answers = {JobId(name): Answer()}
        context = ContextId(name[0])
        self.engine.open(turn.spec(name, context, array("i")))
        while answers[JobId(name)].finish is None:
            note(self.engine.step([Lane(JobId(name), context, SlotId(slot), None)]), answers)
        self.engine.close(JobId(name))
        expected = alone(
            FakeModel(n_slots=1, slot_tokens=2048, end_liking=-50.0),
            turn.spec("x", ContextId("x"), array("i")),
        )
        assert seen(answers[JobId(name)]) == seen(expected)
        return answers[JobId(name)]

    def park(self, *names: str) -> None:
        """Run each context's turn in slot 0 and save it."""
        for name in names:
            self.run(name, 0)
            self.engine.save(ContextId(name), SlotId(0))
            self.engine.clear(SlotId(0))

    def homes(self) -> list[Residence | None]:
        return [self.engine.residence_of(context) for context in (A, B, C)]

    def tidy(self, idle_s: float) -> int:
        """All that is to be done after so long; how many pieces it took."""
        for n_pieces in range(100):
            if self.engine.tidy(idle_s) != 0.0:
                return n_pieces
        raise AssertionError("it never ends")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "snapshots")


def test_what_ram_has_no_room_for_goes_to_a_file_and_comes_back(bench: Bench) -> None:
    bench.park("a", "b", "c")
    assert bench.homes() == ["file", "file", "ram"]
    assert bench.engine.stats.snapshots_lost == 0
    assert bench.engine.stats.snapshot_files == 2
    assert bench.engine.stats.snapshot_file_bytes == bench.files.n_bytes > 0
    bench.engine.load(A, SlotId(1))
    assert bench.run("a2", 1, bench.turn("a")).n_cached == 99


def test_a_snapshot_bigger_than_the_ram_goes_to_a_file_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=0)
    bench.park("a")
    assert bench.homes() == ["file", None, None]
    assert bench.engine.stats.snapshot_ram_bytes == 0


def test_a_slow_disk_loses_snapshots_instead_of_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.park("a", "b")
    monkeypatch.setattr(snapshots, "MAX_EVICTION_S", 0.0)
    bench.park("c")
    assert bench.homes() == ["file", None, "ram"]
    assert bench.engine.stats.snapshots_lost == 1
    bench.engine.tidy(QUIET_S)  # it has the time
    assert bench.files.get(C) is not None


def test_after_a_restart_contexts_are_where_they_were_written_to(bench: Bench) -> None:
    bench.park("a", "b")
    bench.restart()
    assert bench.homes() == ["file", None, None]
    assert bench.engine.contexts_in_files() == [A]
    # No Load: the kernel doesn't know that it was ever resident.
    assert bench.run("a2", 0, bench.turn("a")).n_cached == 99


def test_a_file_that_is_bad_costs_a_reading_and_one_event(bench: Bench) -> None:
    bench.park("a", "b")
    path = bench.directory / "a.kv"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    bench.engine.load(A, SlotId(0))
    assert bench.events == ["snapshot_file_bad"]
    assert bench.run("a2", 0, bench.turn("a")).n_cached == 0
    assert bench.engine.stats.snapshot_files_bad == 1
    assert bench.engine.stats.snapshots_lost == 1


def test_a_bad_file_found_on_the_way_leaves_what_another_slot_has(bench: Bench) -> None:
    bench.run("d", 3, Turn(bench.turn("a", 60).prompt, max_tokens=0, uid=1000))
    bench.park("a", "b")
    path = bench.directory / "a.kv"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert bench.run("a2", 0, bench.turn("a")).n_cached == 60
    assert bench.events == ["snapshot_file_bad"]


def test_what_the_model_refuses_is_unlinked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.park("a", "b")
    monkeypatch.setattr(bench.model, "restore", lambda _slot, _data: False)
    bench.engine.load(A, SlotId(0))
    assert (bench.events, bench.homes()[0]) == (["snapshot_file_bad"], None)


def test_a_deleted_context_leaves_no_file(bench: Bench) -> None:
    bench.park("a", "b")
    bench.engine.forget(A)
    bench.engine.forget(B)
    assert bench.homes() == [None, None, None]
    assert list(bench.directory.iterdir()) == []


def test_a_context_sent_to_a_file_gives_up_its_ram_and_goes_on_from_the_file(bench: Bench) -> None:
    bench.park("a")
    assert bench.homes()[0] == "ram"
    assert bench.engine.store(A, None, "file")
    assert bench.homes()[0] == "file"
    bench.engine.load(A, SlotId(1))
    assert bench.run("a", 1).n_cached == 99  # all but the last, whose logits are needed


def test_nothing_of_a_file_crosses_uids(bench: Bench) -> None:
    bench.park("a", "b")
    turn = bench.turn("a")
    assert bench.run("d", 1, Turn(turn.prompt, max_tokens=3, uid=1001)).n_cached == 0
    bench.engine.load(A, SlotId(2))
    assert bench.run("e", 2, Turn(turn.prompt, max_tokens=3, uid=1002)).n_cached == 0


def test_a_file_is_shared_if_that_is_quicker_than_reading(bench: Bench) -> None:
    long = bench.turn("a", FILE_TOKENS_PER_SHARED * MIN_SHARED_TOKENS * 2)
    bench.run("a", 0, long)
    assert bench.engine.store(A, SlotId(0), "file")
    for n_shared, n_cached in ((31, 0), (40, 40)):
        bench.restart()
        prompt = long.prompt[:n_shared] + array("i", [400 + n_shared] * 50)
        answer = bench.run(f"d{n_shared}", n_shared % 3, Turn(prompt, max_tokens=2, uid=1000))
        assert answer.n_cached == n_cached


# ---------------------------------------------------------------- when nobody waits


def test_parked_contexts_are_written_when_it_is_quiet(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=3)
    bench.park("a", "b")
    assert bench.tidy(QUIET_S) == 2
    assert bench.engine.tidy(QUIET_S) is None
    assert bench.homes() == ["ram", "ram", None]
    assert bench.files.contexts() == [A, B]
    assert bench.engine.stats.snapshot_files == 2


def test_a_context_in_a_slot_is_written_when_it_has_been_at_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run("a", 0)
    assert bench.engine.tidy(QUIET_S) == pytest.approx(write_behind.AT_REST_S - QUIET_S)
    assert bench.files.contexts() == []
    assert bench.tidy(AT_REST_S) == 1
    assert bench.engine.tidy(AT_REST_S) is None
    bench.restart()  # killed
    assert bench.run("a2", 1, bench.turn("a")).n_cached == 99


def test_eviction_finishes_what_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_files, "CHUNK_BYTES", 300)
    bench = Bench(tmp_path)
    bench.park("a")
    assert bench.engine.tidy(QUIET_S) == 0.0
    assert [path.name for path in bench.directory.iterdir()] == ["a.part"]
    bench.park("b")
    assert bench.homes() == ["file", "ram", None]
    assert bench.tidy(QUIET_S) > 2
    assert sorted(path.name for path in bench.directory.iterdir()) == ["a.kv", "b.kv"]


@pytest.mark.parametrize("idle_s", [QUIET_S, AT_REST_S])
def test_a_context_that_is_deleted_while_it_is_written_leaves_no_file(
    idle_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_files, "CHUNK_BYTES", 300)
    bench = Bench(tmp_path)
    bench.run("a", 0)
    if idle_s == QUIET_S:
        bench.engine.save(A, SlotId(0))
        bench.engine.clear(SlotId(0))
    assert bench.engine.tidy(idle_s) == 0.0
    bench.engine.forget(A)
    bench.engine.clear(SlotId(0))
    assert bench.tidy(idle_s) == 0
    assert list(bench.directory.iterdir()) == []
    assert bench.files.n_bytes == 0


def test_a_context_that_changes_while_it_is_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_files, "CHUNK_BYTES", 300)
    bench = Bench(tmp_path, n_buffers=2)
    bench.park("a")
    assert bench.engine.tidy(QUIET_S) == 0.0
    bench.run("a2", 0, bench.turn("a", 150))
    bench.engine.save(A, SlotId(0))
    bench.engine.clear(SlotId(0))
    # Its buffer may hold other bytes now: what was begun would be a file of this and that.
    assert list(bench.directory.iterdir()) == []
    bench.tidy(QUIET_S)
    entry = bench.files.get(A)
    assert entry is not None
    assert len(entry.tokens) == 152
    bench.restart()
    assert bench.run("a3", 0, bench.turn("a", 150)).n_cached == 149


def test_two_that_do_not_fit_are_not_written_in_turns_for_ever(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=3, file_bytes=3000)  # of 1,800 bytes each
    bench.park("a", "b")
    assert bench.tidy(QUIET_S) == 2  # one was written, one refused
    assert bench.tidy(QUIET_S) == 0
    assert bench.files.contexts() == [A]
    bench.park("c")
    bench.engine.forget(A)
    assert bench.tidy(QUIET_S) == 2
    assert bench.files.contexts() == [B]


def test_after_the_disk_refused_it_is_left_alone_for_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.park("a")
    monkeypatch.setattr(bench.files, "_keep_free_bytes", 2**62)
    assert bench.engine.tidy(QUIET_S) == 0.0
    assert bench.engine.tidy(QUIET_S) == snapshot_files.RETRY_S
    assert bench.events == ["snapshot_file_not_written"]
    assert bench.engine.stats.snapshot_writes_failed == 1
    monkeypatch.setattr(bench.files, "_keep_free_bytes", 0)
    monkeypatch.setattr(bench.files, "_paused_until_ns", 0)
    assert bench.tidy(QUIET_S) == 1
    assert bench.files.contexts() == [A]


def test_without_files_there_is_nothing_to_tidy() -> None:
    engine = Engine(FakeModel(), snapshot_ram_bytes=10**6)
    assert engine.tidy(AT_REST_S) is None
    assert engine.flush_to_files(1.0) == 0
    assert engine.contexts_in_files() == []


# ---------------------------------------------------------------- before the end


def test_at_the_end_slots_and_ram_go_to_files(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=2)
    bench.park("a", "b")
    bench.run("c", 2)
    assert bench.engine.flush_to_files(10.0) == 3
    bench.restart()
    assert bench.homes() == ["file", "file", "file"]
    for name in ("a", "b", "c"):
        assert bench.run(f"{name}2", 0, bench.turn(name)).n_cached == 99


def test_at_the_end_a_slot_counts_more_than_what_was_saved_of_it_before(bench: Bench) -> None:
    bench.run("a", 0)
    bench.engine.save(A, SlotId(0))
    bench.run("a2", 0, bench.turn("a", 150))
    assert bench.engine.flush_to_files(10.0) == 1
    bench.restart()
    assert bench.run("a3", 0, bench.turn("a", 150)).n_cached == 149


def test_at_the_end_the_most_recently_used_have_the_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=2, file_bytes=4000)
    bench.park("a", "b")
    bench.run("c", 2)
    assert bench.engine.flush_to_files(10.0) == 2
    bench.restart()
    assert bench.engine.contexts_in_files() == [B, C]


def test_at_the_end_there_is_only_so_much_time(bench: Bench) -> None:
    bench.park("a")
    bench.run("b", 1)
    assert bench.engine.flush_to_files(0.0) == 0
    assert list(bench.directory.iterdir()) == []


# ---------------------------------------------------------------- context.snapshot


def test_a_context_is_stored_where_it_is_wanted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=2)
    assert not bench.engine.store(A, None, "ram")
    assert not bench.engine.store(A, None, "file")
    assert not bench.engine.store(A, SlotId(0), "file")
    bench.run("a", 0)
    assert bench.engine.store(A, SlotId(0), "file")
    assert bench.homes()[0] == "file"
    assert bench.engine.store(A, None, "file")
    assert bench.engine.store(A, None, "ram")
    assert bench.homes()[0] == "ram"
    assert bench.engine.snapshot_bytes(A) > 0
    bench.engine.clear(SlotId(0))
    bench.engine.load(A, SlotId(1))
    assert bench.run("a2", 1, bench.turn("a")).n_cached == 99


def test_a_file_that_is_newer_than_the_ram_is_what_comes_back(bench: Bench) -> None:
    bench.run("a", 0)
    assert bench.engine.store(A, SlotId(0), "ram")
    bench.run("a2", 0, bench.turn("a", 150))
    assert bench.engine.store(A, SlotId(0), "file")
    bench.engine.clear(SlotId(0))
    bench.engine.load(A, SlotId(1))
    assert bench.model.n_cells(SlotId(1)) == 152


def test_with_no_room_it_is_not_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=0, file_bytes=0)
    bench.run("a", 0)
    assert not bench.engine.store(A, SlotId(0), "ram")
    assert not bench.engine.store(A, SlotId(0), "file")
    assert bench.homes() == [None, None, None]


def test_memory_for_files_is_kept_within_the_budget(tmp_path: Path) -> None:
    bench = Bench(tmp_path, n_buffers=2)
    bench.model.decode([Piece(SlotId(3), 0, [1], False)])
    bench.park("a", "b", "c")
    for context in (A, B, C, A, B):
        bench.engine.load(context, SlotId(1))
        bench.engine.save(context, SlotId(1))
        assert bench.engine.stats.snapshot_ram_bytes <= 2 * MIN_BUFFER_BYTES
