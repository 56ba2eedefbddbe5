"""Promise 1 with the kernel that serves: whatever arrives, is cancelled, paused, forked, lost,
restarted or set anew, in whatever order, each answer is what it is alone.

hypothesis writes the schedules; engine and kernel are the daemon's own, in one loop (machine.py).
AIOSD_EXACTNESS_EXAMPLES asks for more of them on the real model, and for new ones every time.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aiosd import models
from aiosd.engine.base import Model, Sampling
from aiosd.engine.calls import GENERIC
from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.kernel import events as ev
from aiosd.kernel.kernel import Kernel
from aiosd.kernel.model import ContextId, JobState, Outcome, Priority, SlotId
from aiosd.kernel.policies import POLICIES
from tests.engine.machine import Machine
from tests.engine.schedules import Answer, Turn, alone, seen
from tests.engine.test_engine_exactness import calling_grammar

MORE = os.environ.get("AIOSD_EXACTNESS_EXAMPLES")
N_EXAMPLES = int(MORE or "8")  # on the real model: half a minute, if nothing else runs
N_SLOTS = 4
SLOT_TOKENS = 512
FILE_BYTES = 32 * 2**20
PREAMBLE = "You are one of the agents of a newsroom, and you answer in one line. " * 2
QUESTIONS = ("What is rain?", "Name a fox.", "Two maps, then.", "Where does salt come from, say?")
CALLING = calling_grammar("required", GENERIC)
ALIVE = (JobState.READY, JobState.RUNNING, JobState.STALLED, JobState.PAUSED)


@dataclass(frozen=True)
class Setting:
    """What a daemon is started with."""

    n_slots: int
    n_lanes: int
    policy: str
    quantum_tokens: int
    prefill_tokens: int
    snapshot_ram_bytes: int
    prefix_ram_bytes: int
    step_ms: int
    is_joint_batch: bool


@st.composite
def some_settings(draw: st.DrawFn, rams: tuple[int, ...]) -> Setting:
    n_slots = draw(st.integers(1, N_SLOTS))
    return Setting(
        n_slots,
        draw(st.integers(1, n_slots)),
        draw(st.sampled_from(sorted(POLICIES))),
        draw(st.sampled_from((1, 3, 16))),
        draw(st.sampled_from((5, 32, 256))),
        draw(st.sampled_from(rams)),
        draw(st.sampled_from(rams)),
        draw(st.sampled_from((0, 2, 60))),
        draw(st.booleans()),
    )


PLACES = st.integers(0, 7)
ACTS = st.one_of(
    st.tuples(st.just("step"), st.sampled_from((1, 2, 5))),
    st.tuples(st.just("step"), st.sampled_from((5, 25))),
    st.tuples(st.just("submit"), PLACES, st.sampled_from(Priority)),
    st.tuples(st.just("submit"), PLACES, st.sampled_from(Priority)),
    st.tuples(st.just("cancel"), PLACES),
    st.tuples(st.just("pause"), PLACES),
    st.tuples(st.just("stall"), PLACES),
    st.tuples(st.just("go on"), PLACES),
    st.tuples(st.just("fork"), PLACES, st.integers(1, 4)),
    st.tuples(st.just("fork"), PLACES, st.just(4)),
    st.tuples(st.just("lose"), PLACES),
    st.tuples(st.just("empty"), st.integers(0, N_SLOTS - 1)),
    st.tuples(st.just("store"), PLACES),
    st.tuples(st.just("threads"), st.integers(1, 2)),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(
        st.just("policy"), st.sampled_from(sorted(POLICIES)), st.sampled_from((1, 2, 8)), PLACES
    ),
)  # fmt: skip
SCHEDULES = st.lists(ACTS, min_size=20, max_size=40)


def turns_of(model: Model, number: int, max_tokens: int) -> list[Turn]:
    """One-shot and of two turns; greedy and seeded; one calls tools; most begin alike; of two
    uids."""
    greedy = Sampling(temperature=0.0)
    seeded = Sampling(temperature=0.9, repeat_penalty=1.2, seed=40 + number)
    turns = []
    is_calling = number == 2  # a tool, whatever it is asked
    for turn in range(1 + number % 2):
        preamble = PREAMBLE if turn == 0 and number != 3 else ""
        text = f"{preamble}{QUESTIONS[(number + turn) % len(QUESTIONS)]}"
        turns.append(
            Turn(
                model.tokenize(text, special=False),
                max_tokens=4 * max_tokens if is_calling else max_tokens + number % 3,
                sampling=seeded if number % 2 else greedy,
                grammar=CALLING if is_calling else None,
                marker="" if is_calling else None,
                ignore_eos=not is_calling,
                uid=1001 if number == 4 else 1000,
            )
        )
    return turns


Start = Callable[[], tuple[Engine, Kernel]]
"""A daemon's two halves, as they are when it starts."""


def play(machine: Machine, schedule: list[tuple[Any, ...]], start: Start) -> None:
    for act in schedule:
        perform(machine, act, start)
    machine.finish()


def perform(machine: Machine, act: tuple[Any, ...], start: Start) -> None:
    conversations, jobs = machine.conversations, machine.jobs_in(*ALIVE)

    def chosen(things: list[Any]) -> Any:
        return things[act[1] % len(things)]

    match act:
        case ("step", int() as n_steps):
            for _ in range(n_steps):
                machine.step()
        case ("submit", _, priority):
            machine.submit(chosen(conversations), priority)
        case ("threads", int() as n_threads):
            machine.engine.set_threads(n_threads)
        case ("policy", str() as policy, int() as quantum, int() as lanes):
            n_lanes = 1 + lanes % machine.kernel.n_slots
            machine.happens(ev.PolicyChanged(policy, quantum, n_lanes))
        case ("fork", _, int() as quarters) if len(conversations) < 8:
            answered = [c for c in conversations if c.answers]
            if answered:
                source = chosen(answered)
                log = source.log[: len(source.log) * quarters // 4]
                fork = machine.converse([turns_of(machine.engine.model, 1, 4)[1]], log)
                machine.submit(fork)
        case ("lose", _):
            machine.engine.forget(chosen(conversations).context)
        case ("empty", int() as slot) if slot < machine.kernel.n_slots:
            machine.engine.clear(SlotId(slot))
        case ("store", _):
            context = chosen(conversations).context
            machine.engine.store(context, machine.kernel.slot_of(context), "file")
        case ("restart", bool() as is_orderly):
            if is_orderly:
                machine.engine.flush_to_files(10.0)
            machine.restart(*start())
        case ("cancel", _) if jobs:
            machine.happens(ev.Cancelled(chosen(jobs), Outcome.CANCELLED))
        case ("pause", _) if jobs:
            machine.happens(ev.JobPaused(chosen(jobs)))
        case ("stall", _) if jobs:
            machine.happens(ev.OutputStalled(chosen(jobs)))
        case ("go on", _) if jobs:
            machine.happens(ev.JobResumed(chosen(jobs)))
            machine.happens(ev.OutputDrained(chosen(jobs)))
        case _:
            pass  # nothing there to do it to


class Alone:
    """What each turn says with nobody beside it; asked once, since many schedules ask the same."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[tuple[object, ...], Answer] = {}

    def __call__(self, log: array[int], turn: Turn) -> Answer:
        key = (tuple(log), tuple(turn.prompt), turn.max_tokens, turn.sampling)
        if key not in self._known:
            self._known[key] = alone(self._model, turn.spec("alone", ContextId("alone"), log))
        return self._known[key]


def check(
    model: Model,
    expected: Alone,
    setting: Setting,
    schedule: list[tuple[Any, ...]],
    *,
    n_conversations: int,
    max_tokens: int,
) -> None:
    with TemporaryDirectory() as place:

        def start() -> tuple[Engine, Kernel]:
            for slot in range(model.info.n_slots):
                model.truncate(SlotId(slot), 0)
            fingerprint = model.info.fingerprint
            engine = Engine(
                model,
                snapshot_ram_bytes=setting.snapshot_ram_bytes,
                snapshot_files=SnapshotFiles(
                    Path(place) / "files", FILE_BYTES, fingerprint, keep_free_bytes=0
                ),
                prefix_ram_bytes=setting.prefix_ram_bytes,
                prefill_tokens=setting.prefill_tokens,
                step_ms=setting.step_ms,
                is_joint_batch=setting.is_joint_batch,
            )
            n_slots, n_lanes = setting.n_slots, setting.n_lanes
            return engine, Kernel(n_slots, n_lanes, setting.policy, setting.quantum_tokens)

        machine = Machine(*start())
        for number in range(n_conversations):
            machine.converse(turns_of(model, number, max_tokens))
        play(machine, schedule, start)
    for conversation in machine.conversations:
        assert len(conversation.answers) == len(conversation.turns)
        for (log, turn), answer in zip(conversation.asked, conversation.answers, strict=True):
            assert seen(answer) == seen(expected(log, turn), answer.n_before), conversation.context


@settings(max_examples=120, deadline=None)
@given(some_settings((0, 64 * 1024, 10**7)), SCHEDULES)
def test_whatever_happens_each_answer_is_what_it_is_alone(
    setting: Setting, schedule: list[tuple[Any, ...]]
) -> None:
    model = FakeModel(n_slots=N_SLOTS, slot_tokens=SLOT_TOKENS)
    expected = Alone(FakeModel(n_slots=1, slot_tokens=SLOT_TOKENS))
    check(model, expected, setting, schedule, n_conversations=6, max_tokens=7)


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[Model, Alone]]:
    from aiosd.engine.llama import LlamaModel

    path: Path = models.locate(models.DEFAULT.name, models.packaged_dir())
    model = LlamaModel(path, n_slots=N_SLOTS, slot_tokens=SLOT_TOKENS, n_threads=1)
    single = LlamaModel(path, n_slots=1, slot_tokens=SLOT_TOKENS, n_threads=1)
    yield model, Alone(single)
    single.close()
    model.close()


@pytest.mark.slow
@pytest.mark.timeout(3600 if MORE else 600)
@settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize=MORE is None,
    # Making a failure smaller takes an hour on a real model; the fake one does that.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
)
@given(some_settings((0, 3 * 2**20, 64 * 2**20)), SCHEDULES)
def test_whatever_happens_each_answer_of_the_real_model_is_what_it_is_alone(
    real: tuple[Model, Alone], setting: Setting, schedule: list[tuple[Any, ...]]
) -> None:
    model, expected = real
    check(model, expected, setting, schedule, n_conversations=5, max_tokens=5)
