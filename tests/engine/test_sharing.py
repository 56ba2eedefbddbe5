"""Never read the same prefix twice, and never anything of another uid."""

from __future__ import annotations

from array import array

from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.engine.sharing import MIN_SHARED_TOKENS
from aiosd.kernel.model import ContextId, JobId, Lane, SlotId
from tests.engine.schedules import Answer, Turn, alone, note, seen

SYSTEM = array("i", [300 + n % 200 for n in range(200)])


class Bench:
    """An engine with eight slots whose jobs all begin with SYSTEM."""

    def __init__(self, prefill_tokens: int = 64, prefix_ram_bytes: int = 0) -> None:
        self.engine = Engine(
            FakeModel(n_slots=8, end_liking=-50.0),
            snapshot_ram_bytes=10**7,
            prefix_ram_bytes=prefix_ram_bytes,
            prefill_tokens=prefill_tokens,
        )
        self.answers: dict[JobId, Answer] = {}

    def turn(self, n: int, uid: int = 1000) -> Turn:
        return Turn(SYSTEM + array("i", [n, n + 1]), max_tokens=4, uid=uid)

    def run(self, *jobs: tuple[str, int, Turn]) -> None:
        """Open and finish the jobs together; each is (name, slot, turn), its own context."""
        for name, _, turn in jobs:
            self.engine.open(turn.spec(name, ContextId(name), array("i")))
            self.answers[JobId(name)] = Answer()
        while lanes := [
            Lane(JobId(name), ContextId(name), SlotId(slot), None)
            for name, slot, _ in jobs
            if self.answers[JobId(name)].finish is None
        ]:
            note(self.engine.step(lanes), self.answers)
        for name, _, turn in jobs:
            self.engine.close(JobId(name))
            expected = alone(
                FakeModel(n_slots=1, end_liking=-50.0), turn.spec("x", ContextId("x"), array("i"))
            )
            assert seen(self.answers[JobId(name)]) == seen(expected)

    def n_cached(self, name: str) -> int | None:
        return self.answers[JobId(name)].n_cached


def test_eight_that_begin_alike_and_arrive_together_read_it_once() -> None:
    bench = Bench()
    bench.run(*((f"j{n}", n, bench.turn(n)) for n in range(8)))
    assert bench.engine.stats.prompt_tokens == len(SYSTEM) + 8 * 2
    assert [bench.n_cached(f"j{n}") for n in range(8)] == [0] + [len(SYSTEM)] * 7


def test_of_two_uids_each_reads_for_itself() -> None:
    bench = Bench()
    bench.run(*((f"j{n}", n, bench.turn(n, uid=1000 + n % 2)) for n in range(4)))
    assert bench.engine.stats.prompt_tokens == 2 * len(SYSTEM) + 4 * 2
    assert [bench.n_cached(f"j{n}") for n in range(4)] == [0, 0, len(SYSTEM), len(SYSTEM)]


def test_what_a_released_slot_holds_serves_its_uid_and_nobody_else() -> None:
    bench = Bench()
    bench.run(("a", 0, bench.turn(1)))
    bench.engine.release(SlotId(0))
    bench.run(("b", 3, bench.turn(2)))  # from another slot
    bench.engine.release(SlotId(3))
    bench.run(("c", 3, bench.turn(3)))  # in the same one
    assert (bench.n_cached("b"), bench.n_cached("c")) == (len(SYSTEM), len(SYSTEM))
    bench.run(("d", 0, bench.turn(1, uid=1001)))  # the very slot that held it
    bench.run(("e", 5, bench.turn(1, uid=1002)))
    assert (bench.n_cached("d"), bench.n_cached("e")) == (0, 0)


def test_a_parked_context_serves_as_a_prefix_too() -> None:
    bench = Bench()
    bench.run(("a", 0, bench.turn(1)))
    bench.engine.save(ContextId("a"), SlotId(0))
    bench.engine.clear(SlotId(0))
    bench.run(("b", 1, bench.turn(2)), ("c", 2, bench.turn(3, uid=1001)))
    assert (bench.n_cached("b"), bench.n_cached("c")) == (len(SYSTEM), 0)
    bench.engine.load(ContextId("a"), SlotId(5))
    assert bench.engine.stats.snapshots_lost == 0


def test_too_little_in_common_is_read_rather_than_copied() -> None:
    bench = Bench()
    short = SYSTEM[: MIN_SHARED_TOKENS - 1]
    first, second = (Turn(short + array("i", [n] * 40), max_tokens=2) for n in (1, 2))
    bench.run(("a", 0, first))
    bench.run(("b", 1, second))
    assert bench.n_cached("b") == 0


def test_one_that_waits_for_a_reader_who_leaves_reads_for_itself() -> None:
    bench = Bench()
    first, second = bench.turn(1), bench.turn(2)
    for name, turn in (("a", first), ("b", second)):
        bench.engine.open(turn.spec(name, ContextId(name), array("i")))
        bench.answers[JobId(name)] = Answer()
    a, b = (Lane(JobId(n), ContextId(n), SlotId(s), None) for n, s in (("a", 0), ("b", 1)))
    note(bench.engine.step([a, b]), bench.answers)
    assert bench.engine.stats.prompt_tokens == 64  # a's alone; b waits
    bench.engine.close(JobId("a"))
    while bench.answers[JobId("b")].finish is None:
        note(bench.engine.step([b]), bench.answers)
    assert bench.n_cached("b") == 64  # what a had read until then
    assert bench.engine.stats.prompt_tokens == 64 + len(SYSTEM) + 2 - 64


def used_by_others(bench: Bench, uid: int = 1000) -> None:
    """Every slot holds something else."""
    for slot in range(8):
        bench.engine.clear(SlotId(slot))
        other = Turn(array("i", [90 + slot] * 20), max_tokens=1, uid=uid)
        bench.run((f"other{slot}", slot, other))
        bench.engine.close(JobId(f"other{slot}"))


def test_what_two_contexts_began_with_is_there_for_a_third_when_both_are_gone() -> None:
    bench = Bench(prefix_ram_bytes=10**6)
    bench.run(("a", 0, bench.turn(1)), ("b", 1, bench.turn(2)))
    used_by_others(bench)
    bench.run(("c", 3, bench.turn(3)))
    assert bench.n_cached("c") == len(SYSTEM)
    assert 0 < bench.engine.stats.prefix_ram_bytes <= 10**6
    used_by_others(bench)
    bench.run(("d", 3, bench.turn(4, uid=1001)))  # not for another uid
    assert bench.n_cached("d") == 0


def test_without_a_budget_for_prefixes_it_is_read_again() -> None:
    bench = Bench()
    bench.run(("a", 0, bench.turn(1)), ("b", 1, bench.turn(2)))
    used_by_others(bench)
    bench.run(("c", 3, bench.turn(3)))
    assert bench.n_cached("c") == 0


def test_the_prefix_that_was_not_used_for_longest_goes_first() -> None:
    def prompt(kind: int, n: int) -> Turn:
        return Turn(array("i", [kind] * 200 + [n]), max_tokens=1, uid=1000)

    bench = Bench(prefix_ram_bytes=2 * 2**16)  # room for two
    for kind in (301, 302):
        bench.run((f"a{kind}", 0, prompt(kind, 1)), (f"b{kind}", 1, prompt(kind, 2)))
    used_by_others(bench)
    bench.run(("again", 2, prompt(301, 3)))
    bench.run(("a303", 0, prompt(303, 1)), ("b303", 1, prompt(303, 2)))
    used_by_others(bench)
    bench.run(("first", 3, prompt(301, 4)))
    bench.run(("third", 4, prompt(303, 4)))
    bench.run(("second", 5, prompt(302, 4)))
    cached = [bench.n_cached(name) for name in ("again", "first", "third", "second")]
    assert cached == [200, 200, 200, 0]
