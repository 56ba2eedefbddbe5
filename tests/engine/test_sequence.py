"""What a job says next, from rows of logits written by hand."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.engine.base import Ending, EngineError, GrammarError, JobSpec, Logits, Sampling
from aiosd.engine.fake import END_OF_TEXT, IM_END, N_VOCAB, FakeModel
from aiosd.engine.sequence import Sequence, common_prefix
from aiosd.engine.text import Words
from aiosd.kernel.model import ContextId, JobId

MODEL = FakeModel(slot_tokens=64)
GREEDY = Sampling(temperature=0.0)


def spec(prompt: str = "Hello", max_tokens: int = 10, **more: Any) -> JobSpec:
    tokens = MODEL.tokenize(prompt, special=False)
    return JobSpec(
        JobId("j"), ContextId("c"), tokens, 0, max_tokens, **({"sampling": GREEDY} | more)
    )


def sequence(**more: Any) -> Sequence:
    return Sequence(spec(**more), MODEL, 0)


def row(*likings: tuple[str | int, float]) -> Logits:
    """A row in which these tokens have these logits, and all others -10."""
    logits = np.full(N_VOCAB, -10.0, np.float32)
    for what, value in likings:
        token = what if isinstance(what, int) else MODEL.tokenize(what, special=False)[0]
        logits[token] = value
    return logits


def test_an_end_token_ends_the_job_and_is_not_kept() -> None:
    its = sequence()
    assert its.say(MODEL, row(("a", 5.0))) == Words("a", (97,))
    assert its.say(MODEL, row((IM_END, 5.0))) is None
    assert its.ending == Ending(JobId("j"), "stop")
    assert its.n_output == 1
    assert its.tokens[-1] == 97


def test_with_ignore_eos_the_next_best_token_is_said_and_the_row_stays_as_it_was() -> None:
    its = sequence(ignore_eos=True)
    logits = row((IM_END, 5.0), (END_OF_TEXT, 4.0), ("b", 3.0))
    assert its.say(MODEL, logits) == Words("b", (98,))
    assert logits[IM_END] == 5.0
    assert its.ending is None


def test_a_job_ends_by_length_at_max_tokens() -> None:
    its = sequence(max_tokens=2)
    its.say(MODEL, row(("a", 5.0)))
    assert its.ending is None
    assert its.say(MODEL, row(("b", 5.0))) == Words("b", (98,))
    assert its.ending == Ending(JobId("j"), "length")


def test_a_job_ends_by_length_when_its_slot_is_full() -> None:
    its = sequence(prompt="a b c d", max_tokens=1000)
    n_prompt = len(its.tokens)
    while its.ending is None:
        its.say(MODEL, row(("a", 5.0)))
    assert its.ending.finish == "length"
    assert (len(its.tokens), its.n_output) == (64, 64 - n_prompt)


def test_a_stop_string_in_the_last_token_counts_as_stop_string_not_as_length() -> None:
    its = sequence(max_tokens=1, stop=("a",))
    assert its.say(MODEL, row(("a", 5.0))) is None
    assert its.ending == Ending(JobId("j"), "stop_string", "a")


def test_what_was_held_back_comes_with_the_last_word() -> None:
    its = sequence(max_tokens=2, stop=("ab!",))
    assert its.say(MODEL, row(("a", 5.0))) is None
    assert its.say(MODEL, row(("b", 5.0))) == Words("ab", (97, 98))


def test_a_grammar_overrules_the_model_only_where_it_must() -> None:
    its = sequence(grammar='root ::= "a" [bc] [0-9]*')
    assert its.say(MODEL, row(("x", 9.0), ("a", 5.0))) == Words("a", (97,))
    assert its.say(MODEL, row(("c", 9.0), ("b", 5.0))) == Words("c", (99,))
    assert its.say(MODEL, row(("d", 9.0), (IM_END, 5.0))) is None
    assert its.ending == Ending(JobId("j"), "stop")


def test_a_job_ends_by_stop_as_soon_as_its_grammar_can_only_end() -> None:
    its = sequence(grammar='root ::= "a" [bc]', max_tokens=2, ignore_eos=True)
    its.say(MODEL, row(("a", 5.0)))
    assert its.say(MODEL, row(("b", 5.0))) == Words("b", (98,))
    assert its.ending == Ending(JobId("j"), "stop")


def test_an_answer_that_could_go_on_ends_by_length() -> None:
    its = sequence(grammar='root ::= "a" [bc]*', max_tokens=2)
    its.say(MODEL, row(("a", 5.0)))
    its.say(MODEL, row(("b", 5.0)))
    assert its.ending == Ending(JobId("j"), "length")


def test_a_bad_grammar_is_refused_at_once() -> None:
    with pytest.raises(GrammarError, match="root"):
        sequence(grammar='start ::= "a"')


def test_a_row_that_is_no_row_is_an_error() -> None:
    with pytest.raises(EngineError, match="the model computed nan"):
        sequence().say(MODEL, np.full(N_VOCAB, np.nan, np.float32))


def test_logprobs_are_the_models_own_before_temperature_penalties_and_bans() -> None:
    its = sequence(
        n_logprobs=3,
        ignore_eos=True,
        sampling=Sampling(temperature=0.0, repeat_penalty=3.0, presence_penalty=9.0),
        prompt="a",
    )
    logits = np.full(N_VOCAB, -np.inf, np.float32)
    logits[[97, 98, IM_END]] = np.log([0.5, 0.2, 0.3])
    words = its.say(MODEL, logits)
    assert words is not None
    assert words.text == "b"  # "a" is in the prompt: penalised
    [logprob] = words.logprobs
    assert (logprob.token, logprob.text) == (98, "b")
    assert logprob.logprob == pytest.approx(np.log(0.2), abs=1e-6)
    assert [(token, text) for token, text, _ in logprob.top] == [(97, "a"), (IM_END, ""), (98, "b")]
    assert [value for *_, value in logprob.top] == pytest.approx(np.log([0.5, 0.3, 0.2]), abs=1e-6)


def test_penalties_see_the_last_64_tokens_only() -> None:
    sampling = Sampling(temperature=0.0, presence_penalty=100.0)
    model = FakeModel(slot_tokens=256)
    logits = row(("a", 5.0), ("b", 4.0))
    for n_between, expected in ((63, "b"), (64, "a")):
        tokens = model.tokenize("a" + "x" * n_between, special=False)
        its = Sequence(JobSpec(JobId("j"), ContextId("c"), tokens, 0, 5, sampling), model, 0)
        words = its.say(model, logits)
        assert words is not None
        assert words.text == expected


def test_each_word_has_a_draw_of_its_own_and_a_second_choice_has_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws: list[int] = []
    real = MODEL.sample

    def sample(logits: Logits, sampling: Sampling, recent: array[int], index: int) -> int:
        draws.append(index)
        return real(logits, sampling, recent, index)

    monkeypatch.setattr(MODEL, "sample", sample)
    its = sequence(grammar='root ::= "a" [bc] [0-9]*')
    its.say(MODEL, row(("a", 5.0)))
    its.say(MODEL, row(("x", 9.0), ("b", 5.0)))
    its.say(MODEL, row(("1", 5.0)))
    assert draws == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompt": ""}, "0 tokens to read, a slot takes 1 to 63 and an answer"),
        ({"prompt": "x" * 64}, "64 tokens to read, a slot takes 1 to 63 and an answer"),
        ({"max_tokens": -1}, "max_tokens is -1, at least 0 is needed"),
        ({"stop": ("a", "")}, "an empty stop string would end every job at once"),
    ],
)
def test_a_job_that_can_not_run_is_refused_with_the_value_and_the_limit(
    more: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        sequence(**more)


def test_prompt_tokens_are_charged_once_and_only_above_the_high_water_mark() -> None:
    its = sequence(prompt="abcdef")
    its.n_high = 2  # found in the slot
    assert its.note_read(2, 4) == (2, 0)
    assert its.note_read(0, 5) == (1, 4)  # all lost, read again
    assert its.note_read(5, 6) == (1, 0)
    assert its.note_read(6, 7) == (0, 0)  # output is charged when it is sampled
    assert its.note_read(0, 7) == (0, 7)


@given(
    same=st.lists(st.integers(0, 60000), max_size=300),
    a=st.lists(st.integers(0, 3), max_size=5),
    b=st.lists(st.integers(0, 3), max_size=5),
)
def test_the_common_prefix_is_exact(same: list[int], a: list[int], b: list[int]) -> None:
    x, y = array("i", same + a), array("i", same + b)
    expected = 0
    while expected < min(len(x), len(y)) and x[expected] == y[expected]:
        expected += 1
    assert common_prefix(x, y) == expected
