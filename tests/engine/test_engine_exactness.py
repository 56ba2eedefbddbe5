"""Promise 1: scheduling never changes an answer.  Random schedules against the same jobs alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd import models
from aiosd.engine.base import Model, Sampling
from aiosd.engine.calls import CallForm, Tool
from aiosd.engine.calls_grammar import Literals, answer_grammar
from aiosd.engine.engine import Engine
from aiosd.engine.fake import FakeModel
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.kernel.model import SlotId
from tests.engine.schedules import Turn, assert_same, play, play_alone

STOPS = ("the", "Has", " a", "éü", "€", "\ufffd", "is it", "😀", "ing")
PREAMBLES = ("You are one of many agents. " * 3, "You are one of many agents. You are alone. ")
SAYING = Tool("say", "", {"type": "object", "properties": {"is": {"enum": ["the", "é", 5]}}})
LIKELY = CallForm(opening="th", middle=":", joint=".", closing="!")
"""A form of calls whose marker comes soon in whatever the fake says."""
GRAMMAR = 'root ::= "[" ([a-z]+ | [0-9]+) ("," [a-z ]+){0,3} "]"'


def calling_grammar(choice: str, form: CallForm = LIKELY) -> str:
    return answer_grammar(
        [SAYING], form, Literals((), lambda _: None), choice=choice, is_parallel=True
    )


GRAMMARS: tuple[tuple[str, str | None], ...] = (
    (GRAMMAR, None),
    (calling_grammar("auto"), LIKELY.marker),
    (calling_grammar("required"), ""),
)


def random_turn(rng: random.Random, model: Model) -> Turn:
    # Some begin alike, so that work is shared; of three uids, so that some of it mustn't be.
    preamble = rng.choice(["", "", *PREAMBLES])
    text = " ".join(rng.choice(STOPS) for _ in range(rng.choice([1, 3, 12, 40])))
    grammar, marker = rng.choice(GRAMMARS) if rng.random() < 0.3 else (None, None)
    return Turn(
        prompt=model.tokenize(f"{preamble}<|im_start|>{rng.random():.3f} {text}", special=True),
        max_tokens=rng.randint(1, 40),
        sampling=Sampling(
            temperature=rng.choice([0.0, 0.7, 1.5]),
            repeat_penalty=rng.choice([1.0, 1.3]),
            presence_penalty=rng.choice([0.0, 0.5]),
            seed=rng.randrange(2**32 - 1),
        ),
        stop=tuple(rng.sample(STOPS, rng.choice([0, 0, 1, 3]))),
        grammar=grammar,
        marker=marker,
        n_logprobs=rng.choice([0, 0, 3]),
        ignore_eos=grammar is None and rng.random() < 0.3,
        uid=rng.choice([1000, 1000, 1001]),
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_schedule_gives_each_job_what_it_gets_alone(seed: int) -> None:
    rng = random.Random(seed)
    n_slots = rng.randint(1, 4)
    model = FakeModel(n_slots=n_slots, max_batch_tokens=rng.choice([4, 64, 512]))
    chains = [
        [random_turn(rng, model) for _ in range(rng.randint(1, 3))]
        for _ in range(rng.randint(1, 6))
    ]
    expected = play_alone(FakeModel(n_slots=1), chains)
    engine = Engine(
        model,
        snapshot_ram_bytes=rng.choice([0, 64 * 1024, 200 * 1024, 10**7]),
        prefill_tokens=rng.choice([1, 7, 64, 256]),
        is_joint_batch=rng.random() < 0.5,
    )
    answers = play(engine, chains, rng, failures=model)
    assert_same(answers, expected)


def damage(directory: Path, rng: random.Random) -> None:
    """What may happen to files while nobody looks."""
    files = sorted(directory.iterdir())
    if not files:
        return
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    dice = rng.random()
    if dice < 0.4:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif dice < 0.6:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif dice < 0.8:
        other = rng.choice(files)
        theirs = other.read_bytes()
        other.write_bytes(data)
        path.write_bytes(theirs)
    else:
        path.unlink()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_files_restarts_and_damage_change_no_answer(seed: int) -> None:
    rng = random.Random(seed)
    n_slots = rng.randint(1, 4)
    chains = [
        [random_turn(rng, FakeModel()) for _ in range(rng.randint(1, 3))]
        for _ in range(rng.randint(1, 6))
    ]
    expected = play_alone(FakeModel(n_slots=1), chains)
    ram_bytes = rng.choice([0, 64 * 1024, 200 * 1024])
    file_bytes = rng.choice([5000, 20_000, 10**7])
    with TemporaryDirectory() as place:
        directory = Path(place) / "snapshots"

        def engine() -> Engine:
            model = FakeModel(n_slots=n_slots, max_batch_tokens=rng.choice([4, 64, 512]))
            files = SnapshotFiles(directory, file_bytes, model.info.fingerprint, keep_free_bytes=0)
            return Engine(
                model,
                snapshot_ram_bytes=ram_bytes,
                snapshot_files=files,
                prefill_tokens=rng.choice([1, 7, 64, 256]),
            )

        first = engine()
        assert isinstance(first.model, FakeModel)
        answers = play(
            first,
            chains,
            rng,
            failures=first.model,
            restarted=engine,
            mischief=lambda: damage(directory, rng),
        )
    assert_same(answers, expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_job_is_charged_for_each_prompt_token_once_whatever_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    model = FakeModel(n_slots=2)
    chains = [[random_turn(rng, model)] for _ in range(4)]
    engine = Engine(model, snapshot_ram_bytes=0, prefill_tokens=8)
    answers = play(engine, chains, rng, failures=model)
    for [turn], [answer] in zip(chains, answers, strict=True):
        assert answer.n_cached is not None
        # A cancelled try may have left cells, so some may be cached; none is charged twice.
        assert answer.n_prompt + answer.n_cached == len(turn.prompt)
        assert answer.n_first_tokens == 1


@pytest.fixture(scope="module")
def llama_model() -> Iterator[Model]:
    from aiosd.engine.llama import LlamaModel

    path = models.locate(models.DEFAULT.name, models.packaged_dir())
    model = LlamaModel(path, n_slots=3, slot_tokens=512, n_threads=1)
    yield model
    model.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_schedule_gives_each_job_what_it_gets_alone_on_the_real_model(
    seed: int, llama_model: Model, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    chains = [
        [replace(random_turn(rng, llama_model), max_tokens=rng.randint(4, 12)) for _ in range(2)]
        for _ in range(4)
    ]
    expected = play_alone(llama_model, chains)
    snapshot_ram_bytes = rng.choice([0, 4 * 2**20, 40 * 2**20])

    def engine() -> Engine:
        for slot in range(llama_model.info.n_slots):
            llama_model.truncate(SlotId(slot), 0)
        return Engine(
            llama_model,
            snapshot_ram_bytes=snapshot_ram_bytes,
            snapshot_files=SnapshotFiles(
                tmp_path / "files", 30 * 2**20, llama_model.info.fingerprint, keep_free_bytes=0
            ),
            prefill_tokens=rng.choice([7, 32, 256]),
            is_joint_batch=rng.random() < 0.5,
        )

    mischief = partial(damage, tmp_path / "files", rng)
    answers = play(engine(), chains, rng, restarted=engine, mischief=mischief)
    assert_same(answers, expected)
    assert any(answer.finish != "failed" for chain in answers for answer in chain)
