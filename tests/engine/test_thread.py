"""The engine's thread: order, promptness, and what is left after a bug.  Nothing here sleeps: the
fake model's before_decode hook stops the engine where a test wants it."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from aiosd.engine import thread
from aiosd.engine.base import JobSpec, Piece, Sampling
from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.engine.thread import (
    Call,
    Close,
    EngineDied,
    EngineThread,
    Forget,
    Message,
    Open,
    Progress,
    RunHome,
)
from aiosd.kernel.events import Clear, Load, Move, Run, Save
from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, Outcome, SlotId

PATIENCE_S = 20.0


class Bench:
    def __init__(self, **options: Any) -> None:
        self.model = FakeModel(n_slots=4, end_liking=-50.0)
        self.engine = Engine(self.model, snapshot_ram_bytes=10**7)
        self.messages: SimpleQueue[Message] = SimpleQueue()
        self.thread = EngineThread(self.engine, self.messages.put, **options)

    def spec(self, name: str, max_tokens: int = 50, grammar: str | None = None) -> JobSpec:
        tokens = self.model.tokenize(f"The time {name}", special=False)
        sampling = Sampling(temperature=0.0)
        job, context = JobId(name), ContextId(name)
        return JobSpec(job, context, tokens, 0, max_tokens, sampling, grammar=grammar)

    def open(self, name: str, max_tokens: int = 50, grammar: str | None = None) -> None:
        self.thread.put(Open(self.spec(name, max_tokens, grammar)))

    def run(self, *names: str, quantum: int | None = None) -> None:
        lanes = tuple(lane(name, slot, quantum) for slot, name in enumerate(names))
        self.thread.put(Run(lanes))

    def until_home(self) -> tuple[list[Message], tuple[LaneReport, ...]]:
        """What was said, and the reports of the Run that came home."""
        said: list[Message] = []
        while True:
            message = self.messages.get(timeout=PATIENCE_S)
            if isinstance(message, RunHome):
                return said, message.lanes
            said.append(message)

    def ask(self, function: Any) -> object:
        """Its result, from the engine thread; all that was put before is done then."""
        answers: SimpleQueue[tuple[object, Exception | None]] = SimpleQueue()
        self.thread.put(Call(function, lambda result, error: answers.put((result, error))))
        result, error = answers.get(timeout=PATIENCE_S)
        if error is not None:
            raise error
        return result

    def nothing_said(self) -> bool:
        try:
            self.messages.get_nowait()
        except Empty:
            return True
        return False

    @contextmanager
    def held_at_decode(self) -> Iterator[threading.Event]:
        """Within it a decode waits for the end of the block; the event says that one does."""
        arrived, may_go = threading.Event(), threading.Event()

        def before_decode(_pieces: Sequence[Piece]) -> None:
            arrived.set()
            assert may_go.wait(PATIENCE_S)

        self.model.before_decode = before_decode
        try:
            yield arrived
        finally:
            self.model.before_decode = None
            may_go.set()


def lane(name: str, slot: int, quantum: int | None = None) -> Lane:
    return Lane(JobId(name), ContextId(name), SlotId(slot), quantum)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.thread.start()
    yield bench
    assert bench.thread.stop(PATIENCE_S)


def test_a_run_comes_home_when_a_lane_has_taken_its_tokens(bench: Bench) -> None:
    bench.open("a")
    bench.open("b")
    bench.run("a", "b", quantum=10)
    said, reports = bench.until_home()
    n_prompt = len(bench.spec("a").tokens)
    assert reports == (
        LaneReport(JobId("a"), n_prompt, 10 - n_prompt),
        LaneReport(JobId("b"), n_prompt, 10 - n_prompt),
    )
    assert all(isinstance(message, Progress) for message in said)
    assert bench.nothing_said()


def test_a_run_comes_home_when_a_lane_finishes(bench: Bench) -> None:
    bench.open("a")
    bench.open("b", max_tokens=3)
    bench.run("a", "b")
    said, reports = bench.until_home()
    assert [(r.job, r.n_output, r.outcome) for r in reports] == [
        ("a", 3, None),
        ("b", 3, Outcome.DONE),
    ]
    last = said[-1]
    assert isinstance(last, Progress)
    assert [(e.job, e.finish) for e in last.endings] == [("b", "length")]


def test_progress_tells_words_first_tokens_and_what_was_cached(bench: Bench) -> None:
    bench.open("a", max_tokens=4)
    bench.run("a")
    said, _ = bench.until_home()
    steps = [message for message in said if isinstance(message, Progress)]
    assert [step.first_tokens for step in steps if step.first_tokens] == [("a",)]
    assert [step.n_cached for step in steps if step.n_cached] == [{"a": 0}]
    tokens = array("i", [t for step in steps for out in step.outputs for t in out.tokens])
    text = "".join(out.text for step in steps for out in step.outputs)
    assert len(tokens) == 4
    assert b"".join(map(bench.model.piece, tokens)).decode(errors="replace") == text


def test_an_interrupt_brings_the_run_home_after_the_step_it_is_in(bench: Bench) -> None:
    bench.open("a")
    with bench.held_at_decode() as arrived:
        bench.run("a")
        assert arrived.wait(PATIENCE_S)
        bench.thread.interrupt()
    _, [report] = bench.until_home()
    assert (report.n_output, report.outcome) == (1, None)
    assert bench.model.n_decodes == 1


def test_an_interrupt_is_not_lost_on_a_run_that_has_not_begun(bench: Bench) -> None:
    bench.open("a")
    with bench.held_at_decode() as arrived:
        bench.run("a", quantum=1)
        assert arrived.wait(PATIENCE_S)
        bench.run("a")
        bench.thread.interrupt()
    bench.until_home()
    _, [report] = bench.until_home()
    assert report.n_output == 1


def test_an_interrupt_hits_no_run_that_is_put_after_it(bench: Bench) -> None:
    bench.open("a")
    with bench.held_at_decode() as arrived:
        bench.run("a")
        assert arrived.wait(PATIENCE_S)
        bench.thread.interrupt()
        bench.run("a", quantum=5)
    assert [bench.until_home()[1][0].n_output for _ in range(2)] == [1, 5]


def test_an_interrupt_that_comes_too_late_does_not_hit_the_next_run(bench: Bench) -> None:
    bench.open("a")
    bench.run("a", quantum=1)
    bench.until_home()
    bench.thread.interrupt()
    bench.run("a", quantum=5)
    _, [report] = bench.until_home()
    assert report.n_output == 5


def test_the_kernels_actions_reach_the_engine_in_order(bench: Bench) -> None:
    bench.open("a")
    bench.run("a", quantum=8)
    bench.until_home()
    for command in (
        Save(ContextId("a"), SlotId(0)),
        Clear(SlotId(0)),
        Load(ContextId("a"), SlotId(2)),
        Move(ContextId("a"), SlotId(2), SlotId(0)),
    ):
        bench.thread.put(command)
    bench.run("a", quantum=3)
    _, [second] = bench.until_home()
    assert (second.n_prompt, second.n_output) == (0, 3)
    assert bench.engine.stats.reread_tokens == 0
    assert bench.ask(lambda: bench.engine.snapshot_bytes(ContextId("a")) > 0)
    bench.thread.put(Forget(ContextId("a")))
    assert bench.ask(lambda: bench.engine.snapshot_bytes(ContextId("a"))) == 0


def test_a_job_that_can_not_be_opened_fails_in_its_run_with_the_reason(bench: Bench) -> None:
    bench.open("a")
    bench.open("b", grammar='start ::= "x"')
    bench.run("a", "b")
    said, reports = bench.until_home()
    assert [(r.job, r.outcome) for r in reports] == [("a", None), ("b", Outcome.FAILED)]
    assert reports[0].n_output == 1  # the others got their step
    errors = [e.error for m in said if isinstance(m, Progress) for e in m.endings]
    assert errors == ["grammar has no rule named root"]
    bench.thread.put(Close(JobId("b")))
    bench.open("b")  # the name is free again
    bench.run("b", quantum=1)
    assert bench.until_home()[1][0].outcome is None


def test_a_run_of_nothing_but_refused_jobs_comes_home_at_once(bench: Bench) -> None:
    bench.open("a", grammar="root ::=")
    bench.open("b", grammar='start ::= "x"')
    bench.run("b")
    _, reports = bench.until_home()
    assert reports == (LaneReport(JobId("b"), 0, 0, Outcome.FAILED),)
    assert bench.model.n_decodes == 0


def test_a_bug_fails_the_jobs_of_its_run_and_the_thread_lives_on(bench: Bench) -> None:
    bench.open("a")
    bench.open("b")
    bench.open("c")
    bench.thread.put(Run((lane("c", 0, 4), lane("a", 1, 4), lane("b", 2, 4))))
    bench.until_home()

    def bug(_pieces: Sequence[Piece]) -> None:
        raise ZeroDivisionError("oh")

    bench.model.before_decode = bug
    bench.thread.put(Run((lane("a", 1), lane("b", 2))))
    said, reports = bench.until_home()
    assert [(r.job, r.outcome) for r in reports] == [("a", Outcome.FAILED), ("b", Outcome.FAILED)]
    [died] = [m for m in said if isinstance(m, EngineDied)]
    assert died.traceback.endswith("ZeroDivisionError")  # a message may quote anything
    assert "in bug" in died.traceback
    errors = {e.job: e.error for m in said if isinstance(m, Progress) for e in m.endings}
    assert errors == dict.fromkeys("ab", "the engine failed: a bug, the log has its traceback")
    bench.model.before_decode = None
    cells = bench.ask(lambda: [bench.model.n_cells(SlotId(slot)) for slot in range(3)])
    assert cells == [4, 0, 0]  # c's slot was left alone
    for name in "ab":
        bench.thread.put(Close(JobId(name)))
    bench.open("a")
    bench.thread.put(Run((lane("c", 0, 4), lane("a", 1, 4))))
    _, reports = bench.until_home()
    assert [(r.job, r.outcome) for r in reports] == [("c", None), ("a", None)]
    assert bench.engine.stats.reread_tokens == 0


def test_a_command_that_fails_is_told_and_its_slot_is_emptied(bench: Bench) -> None:
    bench.open("a")
    bench.run("a", quantum=4)
    bench.until_home()
    bench.thread.put(Move(ContextId("a"), SlotId(0), SlotId(99)))
    died = bench.messages.get(timeout=PATIENCE_S)
    assert isinstance(died, EngineDied)
    assert bench.ask(lambda: bench.model.n_cells(SlotId(0))) == 0
    while not bench.nothing_said():
        pass  # slot 99 can't be emptied either, which is told too
    bench.run("a", quantum=4)
    assert bench.until_home()[1][0].outcome is None


def test_a_call_hands_back_its_result_or_its_error(bench: Bench) -> None:
    assert bench.ask(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        bench.ask(lambda: 1 / 0)


def test_the_heartbeat_moves_with_steps_and_rests_when_there_is_nothing(bench: Bench) -> None:
    bench.open("a")
    with bench.held_at_decode() as arrived:
        bench.run("a", quantum=10)
        assert arrived.wait(PATIENCE_S)
        assert bench.thread.busy_since_ns > 0
        assert bench.thread.n_steps == 0
    bench.until_home()
    assert bench.thread.n_steps > 1
    assert bench.thread.stop(PATIENCE_S)
    assert bench.thread.busy_since_ns == 0


def test_adapt_is_called_before_steps_now_and_then() -> None:
    calls: list[int] = []
    bench = Bench(adapt=lambda: calls.append(threading.get_ident()))
    bench.thread.start()
    bench.open("a", max_tokens=5)
    bench.run("a")
    bench.until_home()
    assert calls  # how often depends on the machine
    assert threading.get_ident() not in calls
    assert bench.thread.stop(PATIENCE_S)


def test_a_bug_in_adapt_fails_nobody_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "ADAPT_NS", 0)
    calls: list[int] = []

    def adapt() -> None:
        calls.append(threading.get_ident())
        raise ZeroDivisionError("adapt")

    bench = Bench(adapt=adapt)
    bench.thread.start()
    bench.open("a", max_tokens=5)
    bench.run("a")
    said, [report] = bench.until_home()
    assert report.outcome is Outcome.DONE
    assert len(calls) == 1
    assert [isinstance(message, EngineDied) for message in said].count(True) == 1
    assert bench.thread.stop(PATIENCE_S)


def test_stop_brings_the_run_home_first() -> None:
    bench = Bench()
    bench.thread.start()
    bench.open("a", max_tokens=900)
    with bench.held_at_decode() as arrived:
        bench.run("a")
        assert arrived.wait(PATIENCE_S)
        stopper = threading.Thread(target=bench.thread.stop, args=(PATIENCE_S,))
        bench.thread.interrupt()
        stopper.start()
    stopper.join(PATIENCE_S)
    _, [report] = bench.until_home()
    assert report.n_output == 1


class Tidier(Engine):
    """Has so many pieces to write when nobody waits, and says when it is asked."""

    def __init__(self, n_pieces: int) -> None:
        super().__init__(FakeModel(n_slots=4, end_liking=-50.0), snapshot_ram_bytes=10**7)
        self.n_pieces = n_pieces
        self.asked: SimpleQueue[float] = SimpleQueue()
        self.may_go_on = threading.Event()

    def tidy(self, idle_s: float) -> float | None:
        self.asked.put(idle_s)
        assert self.may_go_on.wait(PATIENCE_S)
        if self.n_pieces < 0:
            raise ZeroDivisionError("a bug")
        self.n_pieces -= 1
        return 0.0 if self.n_pieces else None


@contextmanager
def tidying(n_pieces: int) -> Iterator[tuple[Tidier, EngineThread, SimpleQueue[Message]]]:
    engine, messages = Tidier(n_pieces), SimpleQueue[Message]()
    engine_thread = EngineThread(engine, messages.put)
    engine_thread.start()
    yield engine, engine_thread, messages
    engine.may_go_on.set()
    assert engine_thread.stop(PATIENCE_S)


def test_what_can_wait_is_done_piece_by_piece_when_no_command_comes() -> None:
    with tidying(3) as (engine, engine_thread, _messages):
        assert engine.asked.get(timeout=PATIENCE_S) >= thread.IDLE_S
        assert engine_thread.busy_since_ns > 0
        engine.may_go_on.set()
        idle_s = [engine.asked.get(timeout=PATIENCE_S) for _ in range(2)]
        assert idle_s == sorted(idle_s)
    assert engine.asked.empty()


def test_a_command_goes_before_the_next_piece() -> None:
    with tidying(1000) as (engine, engine_thread, _messages):
        engine.asked.get(timeout=PATIENCE_S)
        n_left: SimpleQueue[object] = SimpleQueue()
        engine_thread.put(Call(lambda: engine.n_pieces, lambda result, _error: n_left.put(result)))
        engine.may_go_on.set()
        assert n_left.get(timeout=PATIENCE_S) == 999


def test_a_bug_in_what_can_wait_is_told_once_and_the_thread_lives_on() -> None:
    with tidying(-1) as (engine, engine_thread, messages):
        engine.may_go_on.set()
        message = messages.get(timeout=PATIENCE_S)
        assert isinstance(message, EngineDied)
        assert message.traceback.endswith("ZeroDivisionError")
        done = threading.Event()
        engine_thread.put(Call(lambda: None, lambda _result, _error: done.set()))
        assert done.wait(PATIENCE_S)
    assert engine.asked.qsize() == 1
