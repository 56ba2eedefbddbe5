"""A job that goes on after a restart says what it would have said, wherever it was cut."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.engine.base import EngineError, JobSpec, Model, Output, Sampling
from aiosd.engine.engine import Engine
from aiosd.engine.fake import IM_END, FakeModel
from aiosd.engine.snapshot_files import SnapshotFiles
from aiosd.kernel.model import ContextId, JobId, Lane, Outcome, SlotId
from tests.engine.schedules import Answer, Turn, alone, assert_same, note
from tests.engine.test_engine_exactness import calling_grammar, random_turn

C, J, SLOT = ContextId("c"), JobId("j"), SlotId(0)
LANE = Lane(J, C, SLOT, None)
LIST = 'root ::= "[" [a-z]+ ("," [a-z ]+){0,3} "]"'
LONG_LIST = 'root ::= "[" [a-z ]{30,60} ("," [a-z ]{5,9}){2,3} "]"'


def model() -> FakeModel:
    return FakeModel(n_slots=2, slot_tokens=256)


def spec(turn: Turn, output: array[int] | None = None) -> JobSpec:
    return turn.spec(J, C, array("i"), array("i") if output is None else output)


def run(engine: Engine, job: JobSpec) -> Answer:
    """The answer, as whoever noted down job.output sees it."""
    answers = {J: Answer(n_output=len(job.output), n_before=len(job.output))}
    engine.open(job)
    while answers[J].finish is None:
        note(engine.step([LANE]), answers)
    engine.close(J)
    return answers[J]


def given_before_the_end(turn: Turn) -> array[int]:
    """The tokens of all Outputs but those that came with the Ending."""
    engine = Engine(model(), snapshot_ram_bytes=0)
    engine.open(spec(turn))
    tokens = array("i")
    while not (report := engine.step([LANE])).endings:
        tokens.extend(token for output in report.outputs for token in output.tokens)
    return tokens


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_wherever_a_job_is_cut_it_goes_on_as_if_it_had_not_been(seed: int) -> None:
    rng = random.Random(seed)
    turn = random_turn(rng, model())
    expected = alone(model(), spec(turn))
    given_tokens = given_before_the_end(turn)
    output = given_tokens[: rng.randint(0, len(given_tokens))]
    engine = Engine(model(), snapshot_ram_bytes=0, prefill_tokens=rng.choice([1, 16, 256]))
    answer = run(engine, spec(turn, output))
    assert_same([[answer]], [[expected]])
    assert answer.n_prompt == len(turn.prompt)
    assert engine.stats.reread_tokens == max(0, len(output) - 1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_job_that_had_said_all_ends_at_once_and_in_the_same_way(seed: int) -> None:
    rng = random.Random(seed)
    turn = replace(random_turn(rng, model()), stop=(), ignore_eos=True, n_logprobs=0)
    expected = alone(model(), spec(turn))
    fake = model()
    answer = run(Engine(fake, snapshot_ram_bytes=0), spec(turn, expected.tokens))
    if expected.finish == "failed":
        return
    assert_same([[answer]], [[expected]])
    assert fake.n_decodes == 0


def turn_of(prompt: str, max_tokens: int = 12, **more: Any) -> Turn:
    return Turn(model().tokenize(prompt, special=True), max_tokens, **more)


def test_the_words_from_before_come_once_at_the_first_step_without_logprobs() -> None:
    turn = turn_of("The time", sampling=Sampling(seed=3), n_logprobs=2, ignore_eos=True)
    expected = alone(model(), spec(turn))
    engine = Engine(model(), snapshot_ram_bytes=0, prefill_tokens=4)
    engine.open(spec(turn, expected.tokens[:6]))
    reports = [engine.step([LANE]) for _ in range(3)]
    [first] = reports[0].outputs
    assert first.tokens == tuple(expected.tokens[:6])
    assert first.logprobs == ()
    assert [report.lanes[0].n_output for report in reports] == [0, 1, 1]  # 2 + 6 tokens to read
    assert reports[1].outputs == (
        Output(J, *_shown(expected.tokens[6]), logprobs=expected.logprobs[6:7]),
    )
    assert [report.first_tokens for report in reports] == [(), (J,), ()]


def _shown(token: int) -> tuple[str, tuple[int, ...]]:
    return model().piece(token).decode(), (token,)


def test_a_stop_string_across_the_border_is_found() -> None:
    fake = model()
    turn = turn_of("The", 30, sampling=Sampling(temperature=0.0), ignore_eos=True)
    said = alone(model(), spec(turn))
    for border in range(2, 12):  # a stop string of the last letter before it and the first after
        before = b"".join(map(fake.piece, said.tokens[:border])).decode(errors="replace")
        after = b"".join(map(fake.piece, said.tokens[border:])).decode(errors="replace")
        stopping = replace(turn, stop=(before[-1] + after[0],))
        expected = alone(model(), spec(stopping))
        output = given_before_the_end(stopping)
        answer = run(Engine(model(), snapshot_ram_bytes=0), spec(stopping, output))
        assert expected.finish == "stop_string"
        assert_same([[answer]], [[expected]])


def test_a_restart_with_a_file_reads_neither_the_prompt_nor_the_words_again(
    tmp_path: Path,
) -> None:
    turn = turn_of("the of and to in is that " * 5, 40, ignore_eos=True)
    expected = alone(model(), spec(turn))

    def engine() -> Engine:
        fake = model()
        files = SnapshotFiles(tmp_path / "files", 10**6, fake.info.fingerprint)
        return Engine(fake, snapshot_ram_bytes=0, snapshot_files=files)

    first = engine()
    first.open(spec(turn))
    answers = {J: Answer()}
    for _ in range(30):
        note(first.step([LANE]), answers)
    output = answers[J].tokens
    assert first.flush_to_files(10.0) == 1
    second = engine()
    second.load(C, SLOT)
    answer = run(second, spec(turn, output))
    assert_same([[answer]], [[expected]])
    assert answer.n_cached == len(turn.prompt)
    assert (second.stats.prompt_tokens, second.stats.reread_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("more", "output", "message"),
    [
        ({}, [97, IM_END], f"output token 1 is {IM_END}, which ends an answer"),
        (
            {"grammar": LIST},
            [ord("["), ord("1")],
            "output token 1 is 49, which the grammar forbids",
        ),
        ({}, [97, 512], "output tokens 97 to 512, the vocabulary has 512"),
        ({}, [97] * 13, "13 tokens of output so far, max_tokens is 12 and the slot has 254 cells"),
        ({"max_tokens": 0}, [97], "1 tokens of output so far, max_tokens is 0"),
    ],
)
def test_an_output_that_this_job_can_not_have_given_is_refused_with_words(
    more: dict[str, Any], output: list[int], message: str
) -> None:
    engine = Engine(model(), snapshot_ram_bytes=0)
    with pytest.raises(EngineError, match=message):
        engine.open(spec(turn_of("The time", **more), array("i", output)))


def test_reading_ahead_says_nothing_and_leaves_all_to_the_next_job() -> None:
    engine = Engine(model(), snapshot_ram_bytes=0, prefill_tokens=16)
    turn = turn_of("the of and to in is that " * 5, max_tokens=0)
    n_tokens = len(turn.prompt)
    answer = run(engine, spec(turn))
    assert (answer.finish, answer.text, len(answer.tokens)) == ("length", "", 0)
    assert (answer.n_prompt, answer.n_output, answer.n_first_tokens) == (n_tokens, 0, 0)
    assert answer.n_cached == 0
    asking = replace(turn, prompt=turn.prompt + array("i", [5, 6]), max_tokens=4)
    assert_same([[answer := run(engine, spec(asking))]], [[alone(model(), spec(asking))]])
    assert (answer.n_cached, answer.n_prompt) == (n_tokens, 2)


def test_reading_ahead_what_is_there_ends_without_reading() -> None:
    fake = model()
    engine = Engine(fake, snapshot_ram_bytes=0)
    turn = turn_of("the of and to in is that", max_tokens=0)
    run(engine, spec(turn))
    n_decodes = fake.n_decodes
    engine.open(spec(turn))
    report = engine.step([LANE])
    assert [lane.outcome for lane in report.lanes] == [Outcome.DONE]
    assert report.n_cached == {J: len(turn.prompt)}
    assert fake.n_decodes == n_decodes


def test_a_job_waits_for_one_that_reads_ahead_what_it_needs() -> None:
    engine = Engine(model(), snapshot_ram_bytes=0, prefill_tokens=16)
    ahead = turn_of("the of and to in is that " * 5, max_tokens=0)
    asking = replace(ahead, prompt=ahead.prompt + array("i", [5, 6]), max_tokens=4)
    engine.open(spec(ahead))
    engine.open(asking.spec("k", ContextId("k"), array("i")))
    answers = {J: Answer(), JobId("k"): Answer()}
    lanes = [LANE, Lane(JobId("k"), ContextId("k"), SlotId(1), None)]
    while answers[JobId("k")].finish is None:
        note(engine.step([x for x in lanes if answers[x.job].finish is None]), answers)
    assert engine.stats.prompt_tokens == len(ahead.prompt) + 2
    assert_same([[answers[JobId("k")]]], [[alone(model(), spec(asking))]])


@pytest.fixture(scope="module")
def real(model_path: Path) -> Iterator[Model]:
    from aiosd.engine.llama import LlamaModel

    llama = LlamaModel(model_path, n_slots=2, slot_tokens=512, n_threads=2)
    yield llama
    llama.close()


@pytest.mark.slow
@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"sampling": Sampling(temperature=0.0)},
        {"sampling": Sampling(seed=5, temperature=1.2, repeat_penalty=1.3, presence_penalty=0.4)},
        {"sampling": Sampling(seed=6), "grammar": LONG_LIST},
        {"sampling": Sampling(seed=7), "stop": (", and", "ing ")},
        {"sampling": Sampling(seed=8), "grammar": calling_grammar("required"), "marker": ""},
    ],
)
def test_on_the_real_model_a_job_that_was_cut_goes_on_the_same(
    more: dict[str, Any], with_file: bool, real: Model, tmp_path: Path
) -> None:
    text = (
        "<|im_start|>user\nTell me about the sea and its fish.<|im_end|>\n<|im_start|>assistant\n"
    )
    turn = Turn(real.tokenize(text * 2, special=True), 24, **more)

    def engine() -> Engine:
        for slot in range(real.info.n_slots):
            real.truncate(SlotId(slot), 0)
        files = SnapshotFiles(tmp_path / "files", 10**9, real.info.fingerprint)
        return Engine(real, snapshot_ram_bytes=0, snapshot_files=files)

    expected = run(engine(), spec(turn))
    first = engine()
    first.open(spec(turn))
    output = array("i")
    for _ in range(9):
        report = first.step([LANE])
        if report.endings:
            break
        output.extend(token for said in report.outputs for token in said.tokens)
    assert len(output) > 2
    if with_file:
        assert first.flush_to_files(10.0) == 1
    second = engine()
    answer = run(second, spec(turn, output))
    assert_same([[answer]], [[expected]])
    assert second.stats.prompt_tokens == (0 if with_file else len(turn.prompt))
