"""The engine by examples: what is read, what is charged, what fails, and what nobody notices."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aiosd.engine.base import EngineError, GrammarError, OutOfCells, Piece, Sampling
from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.engine.pace import FIRST_PIECE, LEAST_PIECE
from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, Outcome, SlotId
from tests.engine.schedules import Answer, Turn, alone, note, seen

LONG = "the of and to in is that " * 20


class Bench:
    """An engine whose decodes are written down: what was read, call by call."""

    def __init__(self, snapshot_ram_bytes: int = 10**7, **engine: Any) -> None:
        self.model = FakeModel(n_slots=4, end_liking=-50.0)
        self.engine = Engine(self.model, snapshot_ram_bytes=snapshot_ram_bytes, **engine)
        self.answers: dict[JobId, Answer] = {}
        self.reads: list[list[tuple[int, int, int]]] = []
        self.model.before_decode = self._write_down

    def _write_down(self, pieces: Sequence[Piece]) -> None:
        self.reads.append([(p.slot, p.start, len(p.tokens)) for p in pieces])

    def turn(self, prompt: str, max_tokens: int = 6, **more: Any) -> Turn:
        sampling = more.pop("sampling", Sampling(seed=7))
        return Turn(
            self.model.tokenize(prompt, special=True), max_tokens, sampling=sampling, **more
        )

    def open(self, name: str, turn: Turn, log: array[int] | None = None) -> JobId:
        spec = turn.spec(name, ContextId(name[0]), array("i") if log is None else log)
        self.engine.open(spec)
        self.answers[spec.job] = Answer()
        return spec.job

    def step(self, *lanes: tuple[str, int]) -> tuple[LaneReport, ...]:
        """Lanes are (job, slot); a job's context is its first letter."""
        self.reads.clear()
        report = self.engine.step(
            [Lane(JobId(job), ContextId(job[0]), SlotId(slot), None) for job, slot in lanes]
        )
        note(report, self.answers)
        return report.lanes

    def finish(self, *lanes: tuple[str, int]) -> None:
        while running := [lane for lane in lanes if not self.answers[JobId(lane[0])].finish]:
            self.step(*running)


def expected(turn: Turn, log: array[int] | None = None) -> Answer:
    model = FakeModel(n_slots=1, end_liking=-50.0)
    return alone(model, turn.spec("x", ContextId("x"), array("i") if log is None else log))


def test_a_prompt_and_the_first_word_take_one_step() -> None:
    bench = Bench()
    bench.open("a", bench.turn("The time"))
    assert bench.step(("a", 0)) == (LaneReport(JobId("a"), 2, 1),)
    assert bench.reads == [[(0, 0, 2)]]
    assert bench.answers[JobId("a")].n_first_tokens == 1
    assert bench.step(("a", 0)) == (LaneReport(JobId("a"), 0, 1),)
    assert bench.reads == [[(0, 2, 1)]]


def test_the_last_step_of_a_job_says_how_it_ended() -> None:
    bench = Bench()
    bench.open("a", bench.turn("The time", max_tokens=1))
    assert bench.step(("a", 0)) == (LaneReport(JobId("a"), 2, 1, Outcome.DONE),)
    assert bench.answers[JobId("a")].finish == "length"


def test_the_next_turn_reads_only_what_is_new() -> None:
    bench = Bench()
    first = bench.turn("The time")
    bench.open("a1", first)
    bench.finish(("a1", 2))
    bench.engine.close(JobId("a1"))
    log = first.prompt + bench.answers[JobId("a1")].tokens
    second = bench.turn(" is")
    bench.open("a2", second, log)
    bench.step(("a2", 2))
    # The last word of the first turn was sampled but never read.
    assert bench.reads == [[(2, len(log) - 1, 2)]]
    assert bench.answers[JobId("a2")].n_cached == len(log) - 1
    bench.finish(("a2", 2))
    assert seen(bench.answers[JobId("a2")]) == seen(expected(second, log))


def test_of_a_prompt_that_is_there_as_a_whole_the_last_token_is_read_again() -> None:
    bench = Bench()
    turn = bench.turn("The time")
    bench.open("a1", turn)
    bench.finish(("a1", 0))
    bench.open("a2", turn)
    assert bench.step(("a2", 0)) == (LaneReport(JobId("a2"), 1, 1),)
    assert bench.reads == [[(0, 1, 1)]]
    assert bench.answers[JobId("a2")].n_cached == 1


def test_switching_between_residents_reads_nothing_again() -> None:
    bench = Bench()
    bench.open("a", bench.turn(LONG))
    bench.open("b", bench.turn(LONG + "b"))
    bench.step(("a", 0))
    bench.step(("b", 1))
    bench.step(("a", 0))
    assert [len(call) for call in bench.reads] == [1]
    assert bench.reads[0][0][2] == 1
    assert bench.engine.stats.reread_tokens == 0


def test_a_parked_job_goes_on_in_another_slot_as_if_nothing_had_happened() -> None:
    bench = Bench()
    turn = bench.turn(LONG)
    bench.open("a", turn)
    bench.step(("a", 0))
    bench.engine.save(ContextId("a"), SlotId(0))
    bench.engine.clear(SlotId(0))
    bench.engine.load(ContextId("a"), SlotId(3))
    assert bench.step(("a", 3)) == (LaneReport(JobId("a"), 0, 1),)
    assert bench.reads == [[(3, len(turn.prompt), 1)]]
    bench.finish(("a", 3))
    assert seen(bench.answers[JobId("a")]) == seen(expected(turn))
    assert bench.engine.stats.snapshots_lost == 0


def test_what_was_lost_is_read_again_and_not_charged() -> None:
    bench = Bench(snapshot_ram_bytes=0)
    turn = bench.turn(LONG)
    bench.open("a", turn)
    bench.step(("a", 0))
    bench.engine.save(ContextId("a"), SlotId(0))
    bench.engine.clear(SlotId(0))
    bench.engine.load(ContextId("a"), SlotId(1))
    assert bench.step(("a", 1)) == (LaneReport(JobId("a"), 0, 1),)
    assert bench.reads == [[(1, 0, len(turn.prompt) + 1)]]
    assert bench.engine.stats.reread_tokens == len(turn.prompt)
    assert bench.engine.stats.prompt_tokens == len(turn.prompt)
    assert bench.engine.stats.snapshots_lost == 1
    bench.finish(("a", 1))
    assert seen(bench.answers[JobId("a")]) == seen(expected(turn))


def test_an_old_snapshot_is_a_start() -> None:
    bench = Bench()
    turn = bench.turn(LONG, max_tokens=20)
    bench.open("a", turn)
    bench.step(("a", 0))
    bench.engine.save(ContextId("a"), SlotId(0))
    for _ in range(5):
        bench.step(("a", 0))
    bench.engine.clear(SlotId(0))  # parked without saving
    bench.engine.load(ContextId("a"), SlotId(0))
    bench.step(("a", 0))
    assert bench.reads == [[(0, len(turn.prompt), 6)]]


def test_a_move_costs_no_reading() -> None:
    bench = Bench()
    turn = bench.turn(LONG)
    bench.open("a", turn)
    bench.step(("a", 3))
    bench.engine.move(ContextId("a"), SlotId(3), SlotId(1))
    assert bench.model.n_cells(SlotId(3)) == 0
    bench.step(("a", 1))
    assert bench.reads == [[(1, len(turn.prompt), 1)]]
    bench.finish(("a", 1))
    assert seen(bench.answers[JobId("a")]) == seen(expected(turn))


def test_a_cancelled_call_leaves_no_trace_in_the_next() -> None:
    bench = Bench()
    first = bench.turn("The time")
    bench.open("a1", first)
    bench.finish(("a1", 0))
    log = first.prompt + bench.answers[JobId("a1")].tokens
    bench.open("a2", bench.turn(" is what they said"), log)
    for _ in range(3):
        bench.step(("a2", 0))
    bench.engine.close(JobId("a2"))
    third = bench.turn(" and more")
    bench.open("a3", third, log)
    bench.finish(("a3", 0))
    assert bench.answers[JobId("a3")].n_cached == len(log)  # all of it: a2 had read the last word
    assert seen(bench.answers[JobId("a3")]) == seen(expected(third, log))


def test_a_rewound_context_keeps_the_part_that_is_left() -> None:
    bench = Bench()
    turn = bench.turn(LONG)
    bench.open("a1", turn)
    bench.finish(("a1", 0))
    other = bench.turn(" but then")
    bench.open("a2", other, turn.prompt[:50])
    bench.finish(("a2", 0))
    assert bench.answers[JobId("a2")].n_cached == 50
    assert seen(bench.answers[JobId("a2")]) == seen(expected(other, turn.prompt[:50]))


def test_a_slot_that_holds_someone_elses_cells_gives_nothing_of_them() -> None:
    bench = Bench()
    bench.open("a", bench.turn("The time is now"))
    bench.step(("a", 0))
    turn = bench.turn("Some other words")
    bench.open("b", turn)
    bench.finish(("b", 0))
    assert bench.answers[JobId("b")].n_cached == 0
    assert seen(bench.answers[JobId("b")]) == seen(expected(turn))


def test_saving_a_slot_that_holds_nothing_of_the_context_saves_nothing() -> None:
    bench = Bench()
    bench.open("a", bench.turn(LONG))
    bench.step(("a", 0))
    bench.engine.save(ContextId("b"), SlotId(0))
    bench.engine.save(ContextId("b"), SlotId(1))
    assert bench.engine.snapshot_bytes(ContextId("b")) == 0
    bench.engine.save(ContextId("a"), SlotId(0))
    assert bench.engine.snapshot_bytes(ContextId("a")) > 0
    bench.engine.forget(ContextId("a"))
    assert bench.engine.snapshot_bytes(ContextId("a")) == 0


def test_a_model_that_can_not_truncate_reads_all_again() -> None:
    bench = Bench()
    first = bench.turn(LONG)
    bench.open("a1", first)
    bench.finish(("a1", 0))
    real = bench.model.truncate
    bench.model.truncate = (  # type: ignore[method-assign]
        lambda slot, n_tokens: n_tokens == 0 and real(slot, 0)
    )
    second = bench.turn(LONG[:50])
    bench.open("a2", second)
    bench.finish(("a2", 0))
    assert bench.answers[JobId("a2")].n_cached == 0
    assert seen(bench.answers[JobId("a2")]) == seen(expected(second))


# ---------------------------------------------------------------- who gets what in a step


def test_a_long_prompt_does_not_stall_the_talkers() -> None:
    bench = Bench(prefill_tokens=10)
    talker = bench.turn("The time", max_tokens=50)
    bench.open("a", talker)
    bench.step(("a", 1))
    long = bench.turn(LONG)
    bench.open("b", long)
    for n_read in range(0, 100, 10):
        assert bench.step(("b", 0), ("a", 1)) == (
            LaneReport(JobId("b"), 10, 0),
            LaneReport(JobId("a"), 0, 1),
        )
        assert bench.reads[1] == [(0, n_read, 10)]
    bench.finish(("b", 0), ("a", 1))
    assert seen(bench.answers[JobId("a")]) == seen(expected(talker))
    assert seen(bench.answers[JobId("b")]) == seen(expected(long))


def test_a_slow_model_reads_in_small_pieces_so_that_a_step_keeps_to_its_time() -> None:
    bench = Bench(prefill_tokens=256, step_ms=1)
    bench.model.delay_s = 0.05
    long = bench.turn(LONG)
    bench.open("a", long)
    pieces = [bench.step(("a", 0))[0].n_prompt for _ in range(3)]
    assert pieces == [FIRST_PIECE, LEAST_PIECE, LEAST_PIECE]
    bench.model.delay_s = 0.0
    bench.finish(("a", 0))
    assert seen(bench.answers[JobId("a")]) == seen(expected(long))


def test_of_two_prompts_the_older_job_is_read_first() -> None:
    bench = Bench(prefill_tokens=10)
    bench.open("a", bench.turn("the " * 12))
    bench.open("b", bench.turn("of " * 12))
    assert [lane.n_prompt for lane in bench.step(("b", 0), ("a", 1))] == [0, 10]
    n_left = len(bench.turn("the " * 12).prompt) - 10
    assert [lane.n_prompt for lane in bench.step(("b", 0), ("a", 1))] == [10 - n_left, n_left]


def test_a_better_class_is_read_before_older_jobs_and_never_waits_for_them() -> None:
    """Prompts that begin alike too: who waits for whose reading turns round with the class."""
    bench = Bench(prefill_tokens=10)
    turns = {name: bench.turn(LONG[:120] + name) for name in ("a", "b")}
    for name, turn in turns.items():
        bench.open(name, turn)
    jobs = (JobId("a"), ContextId("a"), SlotId(0)), (JobId("b"), ContextId("b"), SlotId(1))
    old, new = (Lane(*job, None, rank=1) for job in jobs)
    first = bench.engine.step([old, new])
    assert [lane.n_prompt for lane in first.lanes] == [10, 0]  # b waits for what a reads
    urgent = dataclasses.replace(new, rank=0)
    note(first, bench.answers)
    report = bench.engine.step([old, urgent])
    assert [lane.n_prompt for lane in report.lanes] == [0, 10]
    while True:
        note(report, bench.answers)
        if bench.answers[JobId("b")].finish:
            break
        assert sum(lane.n_prompt for lane in report.lanes) <= 10
        report = bench.engine.step([old, urgent])
    bench.finish(("a", 0))
    for name, turn in turns.items():
        assert seen(bench.answers[JobId(name)]) == seen(expected(turn))


def test_a_joint_batch_gives_the_same_answers() -> None:
    bench = Bench(prefill_tokens=10, is_joint_batch=True)
    turns = {name: bench.turn(LONG[: 40 * k], 20) for k, name in enumerate("abcd", 1)}
    for name, turn in turns.items():
        bench.open(name, turn)
    bench.finish(*((name, slot) for slot, name in enumerate(turns)))
    for name, turn in turns.items():
        assert seen(bench.answers[JobId(name)]) == seen(expected(turn))


# ---------------------------------------------------------------- failures


def running_bench(**engine: Any) -> tuple[Bench, dict[str, Turn]]:
    """Three jobs that talk, in slots 0 to 2."""
    bench = Bench(**engine)
    turns = {name: bench.turn(f"{name} {LONG[:30]}", 12) for name in "abc"}
    for name, turn in turns.items():
        bench.open(name, turn)
    bench.step(("a", 0), ("b", 1), ("c", 2))
    bench.step(("a", 0), ("b", 1), ("c", 2))
    return bench, turns


def test_a_decode_that_fails_once_costs_nobody_their_answer() -> None:
    bench, turns = running_bench()
    bench.model.fail_next_decode([SlotId(1)])
    assert bench.step(("a", 0), ("b", 1), ("c", 2)) == (
        LaneReport(JobId("a"), 0, 0),
        LaneReport(JobId("b"), 0, 0),
        LaneReport(JobId("c"), 0, 0),
    )
    bench.step(("a", 0), ("b", 1), ("c", 2))
    assert [len(call) for call in bench.reads] == [1, 1, 1]  # each alone, all of it again
    bench.step(("a", 0), ("b", 1), ("c", 2))
    assert [len(call) for call in bench.reads] == [3]  # and together again
    bench.finish(("a", 0), ("b", 1), ("c", 2))
    for name, turn in turns.items():
        assert seen(bench.answers[JobId(name)]) == seen(expected(turn))


def test_a_decode_that_fails_again_for_one_lane_fails_that_lane_only() -> None:
    bench, turns = running_bench()
    bench.model.fail_next_decode([SlotId(1)], times=2)
    bench.finish(("a", 0), ("b", 1), ("c", 2))
    failed = bench.answers[JobId("b")]
    assert (failed.finish, failed.error) == (
        "failed",
        "decode failed (told to, for slots [1])",
    )
    for name in "ac":
        assert seen(bench.answers[JobId(name)]) == seen(expected(turns[name]))


def test_the_slot_of_a_failed_job_serves_the_next() -> None:
    bench = Bench()
    bench.open("a", bench.turn("The time"))
    bench.step(("a", 0))
    bench.model.fail_next_decode([SlotId(0)])
    assert bench.step(("a", 0)) == (LaneReport(JobId("a"), 0, 0, Outcome.FAILED),)
    bench.engine.save(ContextId("a"), SlotId(0))  # nothing that is worth saving
    assert bench.engine.snapshot_bytes(ContextId("a")) == 0
    turn = bench.turn("Some other")
    bench.open("b", turn)
    bench.finish(("b", 0))
    assert seen(bench.answers[JobId("b")]) == seen(expected(turn))


def test_a_place_that_always_fails_is_found_although_it_is_far_from_the_start() -> None:
    bench = Bench(prefill_tokens=16)
    poison = bench.model.tokenize("€", special=False)[0]

    def before_decode(pieces: Sequence[Piece]) -> None:
        if any(poison in piece.tokens for piece in pieces):
            raise EngineError("this token kills")

    bench.model.before_decode = before_decode
    turns = {"a": bench.turn(LONG), "b": bench.turn(LONG + "€" + LONG), "c": bench.turn("The", 40)}
    for name, turn in turns.items():
        bench.open(name, turn)
    bench.finish(("a", 0), ("b", 1), ("c", 2))
    assert bench.answers[JobId("b")].error == "this token kills"
    for name in "ac":
        assert seen(bench.answers[JobId(name)]) == seen(expected(turns[name]))


def test_out_of_cells_keeps_what_was_read() -> None:
    bench, turns = running_bench()

    def once(_pieces: Sequence[Piece]) -> None:
        bench.model.before_decode = bench._write_down
        raise OutOfCells("no room")

    bench.model.before_decode = once
    bench.step(("a", 0), ("b", 1), ("c", 2))
    bench.step(("a", 0), ("b", 1), ("c", 2))
    assert [[n for _, _, n in call] for call in bench.reads] == [[1], [1], [1]]
    bench.finish(("a", 0), ("b", 1), ("c", 2))
    for name, turn in turns.items():
        assert seen(bench.answers[JobId(name)]) == seen(expected(turn))


def test_a_job_that_can_not_be_sampled_fails_alone() -> None:
    bench = Bench()
    good = bench.turn("The time")
    bench.open("a", good)
    bench.open("b", bench.turn("The time", sampling=Sampling(temperature=-1.0)))
    bench.finish(("a", 0), ("b", 1))
    assert bench.answers[JobId("b")].error == "temperature is -1.0, allowed are 0 to 1e+06"
    assert seen(bench.answers[JobId("a")]) == seen(expected(good))


def test_a_job_that_can_not_be_opened_changes_nothing() -> None:
    bench = Bench()
    with pytest.raises(GrammarError):
        bench.open("a", bench.turn("The", grammar="root ::= undefined"))
    bench.open("a", bench.turn("The"))
    with pytest.raises(ValueError, match="job a is open already"):
        bench.open("a", bench.turn("The"))


@pytest.mark.parametrize(
    ("lanes", "message"),
    [
        ((("a", 0), ("b", 0)), "two lanes share a slot"),
        ((("a", 0), ("c", 1)), "job c has ended"),
    ],
)
def test_lanes_that_make_no_sense_are_a_bug_of_the_caller(
    lanes: tuple[tuple[str, int], ...], message: str
) -> None:
    bench = Bench()
    for name in "abc":
        bench.open(name, bench.turn("The", 1 if name == "c" else 9))
    bench.step(("c", 1))
    with pytest.raises(ValueError, match=message):
        bench.step(*lanes)


def test_a_bug_in_the_model_is_not_taken_for_a_failure_of_a_job() -> None:
    bench = Bench()
    bench.open("a", bench.turn("The"))

    def bug(_pieces: Sequence[Piece]) -> None:
        raise ZeroDivisionError

    hook: Callable[[Sequence[Piece]], None] = bug
    bench.model.before_decode = hook
    with pytest.raises(ZeroDivisionError):
        bench.step(("a", 0))


def test_stats_count_what_happened() -> None:
    bench = Bench()
    bench.open("a", bench.turn("The time", 3))
    bench.finish(("a", 0))
    bench.engine.save(ContextId("a"), SlotId(0))
    bench.engine.set_threads(3)
    stats = bench.engine.stats
    assert (stats.steps, stats.prompt_tokens, stats.cached_tokens) == (3, 2, 0)
    assert (stats.output_tokens, stats.reread_tokens, stats.n_threads) == (3, 0, 3)
    assert (stats.snapshot_ram_bytes, stats.snapshots_lost) == (65536, 0)
    assert stats.busy_ns > 0
