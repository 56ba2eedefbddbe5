"""What every base.Model keeps, the fake and the real one: the promises the engine builds on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiosd.engine.base import (
    MAX_SEED,
    PENALTY_WINDOW,
    EngineError,
    GrammarError,
    Logits,
    Model,
    OutOfCells,
    Piece,
    Sampling,
)
from aiosd.engine.fake import FakeModel
from aiosd.kernel.model import SlotId

A, B, C, D = (SlotId(n) for n in range(4))
GREEDY = Sampling(temperature=0.0)
ONE_MODEL = settings(
    max_examples=25,
    deadline=None,
    # the model is the same for all examples, and each leaves it as it was
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=["fake", pytest.param("llama", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    if request.param == "llama":
        yield request.getfixturevalue("llama")
        return
    fake = FakeModel(n_slots=8, slot_tokens=1024)
    yield fake
    fake.close()


def some_tokens(model: Model, n: int, seed: int = 1) -> list[int]:
    """Ordinary tokens at random: no control token among them."""
    rng = random.Random(seed)
    plain = [t for t in range(model.info.n_vocab) if model.piece(t) and t not in model.info.eog]
    return rng.choices(plain, k=n)


def read(model: Model, slot: SlotId, tokens: Sequence[int], *, by: int = 512) -> Logits:
    """Append tokens to a slot in pieces of that length; a copy of the last row."""
    row = None
    for begin in range(0, len(tokens), by):
        part = tokens[begin : begin + by]
        wants = begin + by >= len(tokens)
        rows = model.decode([Piece(slot, model.n_cells(slot), part, wants)])
        row = rows[0].copy() if wants else None
    assert row is not None
    return row


def same(one: Logits, other: Logits) -> bool:
    """To the last bit."""
    return one.tobytes() == other.tobytes()


def row_with(model: Model, values: dict[int, float], rest: float = -math.inf) -> Logits:
    row = np.full(model.info.n_vocab, rest, np.float32)
    for token, value in values.items():
        row[token] = value
    return row


def snapshot(model: Model, slot: SlotId) -> memoryview:
    buffer = memoryview(bytearray(model.snapshot_bytes(slot)))
    return buffer[: model.save(slot, buffer)]


# ---------------------------------------------------------------- promise 1, at its root


@pytest.mark.parametrize("n_tokens", [2, 63, 64, 65, 300, 700])
def test_a_row_is_the_same_in_one_piece_in_many_and_in_any_slot(
    model: Model, n_tokens: int
) -> None:
    tokens = some_tokens(model, n_tokens)
    alone = read(model, A, tokens)
    assert same(alone, read(model, B, tokens, by=7))
    assert same(alone, read(model, SlotId(7), tokens, by=100))
    assert same(alone, read(model, C, tokens, by=1 if n_tokens < 100 else 65))


def test_a_row_is_the_same_in_company(model: Model) -> None:
    texts = [some_tokens(model, n, seed=n) for n in (600, 40, 513, 64, 129)]
    alone = []
    for text in texts:
        alone.append(read(model, A, text))
        model.truncate(A, 0)
    for slot, text in enumerate(texts):
        read(model, SlotId(slot), text[:-1])
    pieces = [Piece(SlotId(s), len(t) - 1, t[-1:], True) for s, t in enumerate(texts)]
    together = [row.copy() for row in model.decode(pieces)]
    assert [same(a, b) for a, b in zip(alone, together, strict=True)] == [True] * 5


def test_a_talker_is_not_disturbed_by_a_reader_in_the_same_batch(model: Model) -> None:
    text, prompt = some_tokens(model, 50), some_tokens(model, 400, seed=2)
    expected = read(model, A, text)
    expected_prompt = read(model, B, prompt)
    for slot in (A, B):
        model.truncate(slot, 0)
    read(model, A, text[:-1])
    rows = model.decode([Piece(B, 0, prompt, True), Piece(A, 49, text[-1:], True)])
    assert same(rows[0], expected_prompt)
    assert same(rows[1], expected)


def test_rows_come_in_the_order_of_the_pieces_that_want_them(model: Model) -> None:
    texts = {slot: some_tokens(model, 5, seed=slot) for slot in (A, B, C, D)}
    alone = {slot: read(model, slot, text) for slot, text in texts.items()}
    for slot in texts:
        model.truncate(slot, 0)
    rows = model.decode([Piece(slot, 0, texts[slot], slot != B) for slot in (C, A, B, D)])
    assert [same(row, alone[slot]) for row, slot in zip(rows, (C, A, D), strict=True)] == [True] * 3


def test_greedy_text_is_the_same_alone_and_under_any_schedule(model: Model) -> None:
    rng = random.Random(7)
    prompts = [some_tokens(model, rng.randrange(1, 200), seed=n) for n in range(4)]
    alone = [talk(model, prompt, 12) for prompt in prompts]
    texts = [list(prompt) for prompt in prompts]
    where: dict[int, SlotId] = {}
    parked: dict[int, memoryview] = {}
    rows: dict[int, Logits] = {}
    while any(len(text) < len(prompt) + 12 for text, prompt in zip(texts, prompts, strict=True)):
        for job in range(4):
            if job in where and rng.random() < 0.3:
                slot = where.pop(job)
                parked[job] = snapshot(model, slot)
                model.truncate(slot, 0)
            elif job not in where:
                slot = rng.choice([SlotId(s) for s in range(8) if s not in where.values()])
                where[job] = slot
                if job in parked and rng.random() < 0.8:
                    assert model.restore(slot, parked[job])
                else:
                    model.truncate(slot, 0)
        pieces, jobs = [], []
        for job, slot in where.items():
            text, n_cells = texts[job], model.n_cells(slot)
            if len(text) < len(prompts[job]) + 12:
                if n_cells == len(text):  # all read, nobody kept the row: read the last one again
                    assert model.truncate(slot, n_cells - 1)
                    n_cells -= 1
                part = text[n_cells : n_cells + rng.choice([1, 3, 70, 200])]
                if n_cells + len(part) < len(text) or rng.random() < 0.9:
                    pieces.append(Piece(slot, n_cells, part, n_cells + len(part) == len(text)))
                    jobs.append(job)
        if not pieces:
            continue
        wanting = [job for job, piece in zip(jobs, pieces, strict=True) if piece.wants_logits]
        for job, row in zip(wanting, model.decode(pieces), strict=True):
            rows[job] = row
            texts[job].append(model.sample(row, GREEDY, (), 0))
    assert [text[len(p) :] for text, p in zip(texts, prompts, strict=True)] == alone


def talk(model: Model, prompt: Sequence[int], n_tokens: int) -> list[int]:
    model.truncate(A, 0)
    row = read(model, A, prompt)
    said = [model.sample(row, GREEDY, (), 0)]
    while len(said) < n_tokens:
        said.append(model.sample(read(model, A, said[-1:]), GREEDY, (), len(said)))
    model.truncate(A, 0)
    return said


def test_the_number_of_threads_changes_no_bit(model: Model) -> None:
    tokens = some_tokens(model, 200)
    expected = read(model, A, tokens, by=90)
    model.set_threads(1)
    one = read(model, B, tokens)
    model.set_threads(2)
    assert same(expected, one)
    assert same(expected, read(model, C, tokens, by=64))


# ---------------------------------------------------------------- slots


def test_a_truncated_slot_goes_on_from_there(model: Model) -> None:
    tokens, others = some_tokens(model, 40), some_tokens(model, 300, seed=2)
    expected = read(model, A, tokens)
    read(model, B, tokens[:20])
    read(model, B, others)
    assert model.truncate(B, 20)
    assert model.n_cells(B) == 20
    assert same(expected, read(model, B, tokens[20:]))


def test_truncating_to_what_is_there_or_more_changes_nothing(model: Model) -> None:
    read(model, A, some_tokens(model, 10))
    assert model.truncate(A, 10)
    assert model.truncate(A, 11)
    assert model.truncate(B, 0)
    assert (model.n_cells(A), model.n_cells(B)) == (10, 0)


def test_a_copy_goes_on_as_its_source_would_and_each_has_its_own_cells(model: Model) -> None:
    tokens = some_tokens(model, 120)
    expected = read(model, A, tokens)
    model.truncate(A, 0)
    read(model, A, tokens[:100])
    read(model, B, some_tokens(model, 30, seed=2))  # the target was in use
    model.copy(A, B)
    assert model.n_cells(B) == 100
    read(model, A, some_tokens(model, 15, seed=3))
    assert same(expected, read(model, B, tokens[100:]))
    assert (model.n_cells(A), model.n_cells(B)) == (115, 120)
    model.copy(B, B)
    assert model.n_cells(B) == 120


def test_a_copy_is_there_at_once_for_a_snapshot_or_another_copy(model: Model) -> None:
    tokens = some_tokens(model, 50)
    expected = read(model, A, tokens)
    model.truncate(A, 49)
    model.copy(A, B)
    kept = snapshot(model, B)
    model.copy(B, C)
    read(model, A, some_tokens(model, 60, seed=2))
    model.truncate(B, 0)
    assert model.restore(D, kept)
    assert same(expected, read(model, C, tokens[49:]))
    assert same(expected, read(model, D, tokens[49:]))


def test_a_prefix_of_a_copy_serves_another_text(model: Model) -> None:
    prefix, rest = some_tokens(model, 90), some_tokens(model, 20, seed=2)
    expected = read(model, A, [*prefix, *rest])
    read(model, B, [*prefix, *some_tokens(model, 33, seed=3)])
    model.copy(B, C)
    model.truncate(C, 90)
    assert same(expected, read(model, C, rest))


# ---------------------------------------------------------------- snapshots


@pytest.mark.parametrize("n_tokens", [1, 64, 513])
def test_a_restored_slot_goes_on_as_if_nothing_had_happened(model: Model, n_tokens: int) -> None:
    tokens = some_tokens(model, n_tokens + 3)
    expected = read(model, A, tokens)
    model.truncate(A, n_tokens)
    kept = snapshot(model, A)
    read(model, A, some_tokens(model, 100, seed=2))
    read(model, B, some_tokens(model, 40, seed=3))
    assert model.restore(B, kept.toreadonly())
    assert model.n_cells(B) == n_tokens
    assert same(expected, read(model, B, tokens[n_tokens:]))
    assert model.restore(A, kept)
    assert same(expected, read(model, A, tokens[n_tokens:], by=1))


def test_a_snapshot_takes_the_bytes_that_were_announced(model: Model) -> None:
    read(model, A, some_tokens(model, 33))
    announced = model.snapshot_bytes(A)
    room = memoryview(bytearray(b"\xaa" * (announced + 9)))
    assert model.save(A, room) == announced
    assert bytes(room[announced:]) == b"\xaa" * 9
    with pytest.raises(EngineError, match=f"snapshot of {announced} bytes, the buffer has"):
        model.save(A, room[: announced - 1])
    assert model.n_cells(A) == 33


def test_what_is_no_snapshot_leaves_the_slot_empty(model: Model) -> None:
    read(model, A, some_tokens(model, 33))
    good = bytes(snapshot(model, A))
    rng = random.Random(1)
    bad = [b"", b"\0", good[:-1], good[: len(good) // 2], good[1:], rng.randbytes(len(good))]
    bad += [good[:8] + bytes([255] * 4) + good[12:], bytes(len(good))]
    for data in bad:
        read(model, B, some_tokens(model, 5))
        assert not model.restore(B, memoryview(data))
        assert model.n_cells(B) == 0
    assert model.restore(B, memoryview(good))


# ---------------------------------------------------------------- what decode refuses


def bad_batches(model: Model) -> dict[str, list[Piece]]:
    limit, n_vocab = model.info.max_batch_tokens, model.info.n_vocab
    good = Piece(B, 0, [65], True)
    return {
        r"batch of 0 tokens, allowed are 1 to": [],
        rf"batch of {limit + 1} tokens, allowed are 1 to {limit}": [
            Piece(B, 0, [65] * (limit + 1), True)
        ],
        r"empty piece for slot 2": [good, Piece(C, 0, [], True)],
        r"slot 1 is in the batch twice": [good, Piece(B, 0, [66], True)],
        r"slot 8 is out of range, the model has 8": [good, Piece(SlotId(8), 0, [65], True)],
        r"slot -1 is out of range, the model has 8": [good, Piece(SlotId(-1), 0, [65], True)],
        r"slot 0 holds 10 tokens, the piece starts at 9": [good, Piece(A, 9, [65], True)],
        r"slot 0 holds 10 tokens, the piece starts at 11": [good, Piece(A, 11, [65], True)],
        r"slot 2 holds 0 tokens, the piece starts at -1": [good, Piece(C, -1, [65], True)],
        rf"tokens 65 to {n_vocab}.*, the vocabulary has {n_vocab}": [
            Piece(B, 0, [65, n_vocab], True)
        ],
        rf"tokens -1 to 65.*, the vocabulary has {n_vocab}": [Piece(B, 0, [65, -1], True)],
        r"tokens": [Piece(B, 0, [2**31], True)],
    }


def test_what_decode_refuses_changes_nothing_for_anyone(model: Model) -> None:
    tokens = some_tokens(model, 11)
    expected = read(model, A, tokens)
    model.truncate(A, 10)
    for message, pieces in bad_batches(model).items():
        with pytest.raises(EngineError, match=message):
            model.decode(pieces)
        assert [model.n_cells(SlotId(slot)) for slot in range(8)] == [10] + [0] * 7
    assert same(expected, read(model, A, tokens[10:]))


def test_a_full_slot_is_out_of_cells_and_the_others_go_on(model: Model) -> None:
    n_cells = model.info.slot_tokens
    tokens = some_tokens(model, n_cells)
    read(model, A, tokens)
    with pytest.raises(OutOfCells, match=f"slot 0 needs {n_cells + 1} cells, it has {n_cells}"):
        model.decode([Piece(B, 0, [65], True), Piece(A, n_cells, [65], True)])
    assert (model.n_cells(A), model.n_cells(B)) == (n_cells, 0)
    read(model, B, [65])


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.n_cells(SlotId(8)),
        lambda m: m.truncate(SlotId(-1), 0),
        lambda m: m.copy(A, SlotId(8)),
        lambda m: m.copy(SlotId(8), A),
        lambda m: m.snapshot_bytes(SlotId(99)),
        lambda m: m.save(SlotId(8), memoryview(bytearray(8))),
        lambda m: m.restore(SlotId(8), memoryview(b"")),
    ],
)
def test_slots_out_of_range_are_refused(model: Model, call: Callable[[Model], object]) -> None:
    with pytest.raises(EngineError, match=r"slot -?\d+ is out of range, the model has 8"):
        call(model)


def test_other_nonsense_is_refused(model: Model) -> None:
    with pytest.raises(EngineError, match="can't truncate slot 0 to -1 tokens"):
        model.truncate(A, -1)
    with pytest.raises(EngineError, match="0 threads"):
        model.set_threads(0)


# ---------------------------------------------------------------- sampling


def test_sampling_is_a_pure_function_of_its_arguments(model: Model) -> None:
    rows = [read(model, A, some_tokens(model, 9, seed=seed)) for seed in range(3)]
    samplings = [
        Sampling(seed=1, temperature=1.5),
        Sampling(seed=2, top_k=0, top_p=0.9, temperature=1.2),
        Sampling(seed=2, repeat_penalty=1.3, frequency_penalty=0.2),
        Sampling(seed=MAX_SEED, top_k=0, top_p=1.0, min_p=0.0, temperature=2.0),
        GREEDY,
    ]
    calls = [(r, s, i) for r in range(3) for s in range(5) for i in (0, 1, 2, 1000, 2**31)]
    recent = some_tokens(model, 64, seed=9)

    def answer(call: tuple[int, int, int]) -> int:
        row, sampling, index = call
        return model.sample(rows[row], samplings[sampling], recent, index)

    before = [row.copy() for row in rows]
    first = [answer(call) for call in calls]
    shuffled = list(calls)
    random.Random(3).shuffle(shuffled)
    again = {call: answer(call) for call in shuffled}
    assert [again[call] for call in calls] == first
    assert [same(a, b) for a, b in zip(rows, before, strict=True)] == [True] * 3


def test_greedy_takes_the_most_likely_and_of_equals_the_first(model: Model) -> None:
    row = row_with(model, {300: 5.0, 17: 5.0, 400: 4.9}, rest=0.0)
    assert model.sample(row, GREEDY, (), 0) == 17
    assert model.sample(row, Sampling(temperature=2.0, top_k=1), (), 0) == 17


def test_draws_follow_the_probabilities_and_the_seed(model: Model) -> None:
    row = row_with(model, {10: math.log(6.0), 20: math.log(3.0), 30: 0.0})
    plain = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)
    drawn = [model.sample(row, plain, (), index) for index in range(1000)]
    assert drawn.count(10) == pytest.approx(600, abs=50)
    assert drawn.count(20) == pytest.approx(300, abs=50)
    assert drawn.count(30) == pytest.approx(100, abs=40)
    other = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=6)
    n_equal = sum(model.sample(row, other, (), i) == token for i, token in enumerate(drawn))
    assert n_equal == pytest.approx(460, abs=60)  # 0.6 ** 2 + 0.3 ** 2 + 0.1 ** 2: independent


def test_each_filter_cuts_where_it_says(model: Model) -> None:
    row = row_with(model, {n: math.log(p) for n, p in enumerate((0.5, 0.3, 0.15, 0.05), 40)})
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

    def possible(**parameters: float) -> set[int]:
        sampling = Sampling(temperature=1.0, **{**off, **parameters})  # type: ignore[arg-type]
        return {model.sample(row, sampling, (), index) for index in range(300)}

    assert possible() == {40, 41, 42, 43}
    assert possible(top_k=2) == {40, 41}
    assert possible(top_p=0.7) == {40, 41}
    assert possible(top_p=0.81) == {40, 41, 42}
    assert possible(min_p=0.2) == {40, 41, 42}
    assert possible(min_p=1.0) == {40}
    assert possible(top_p=0.0) == {40}


def test_a_tiny_temperature_is_nearly_greedy(model: Model) -> None:
    row = row_with(model, {10: 9.0, 20: 9.1}, rest=-5.0)
    for temperature in (1e-30, 1e-6, 0.001):
        sampling = Sampling(temperature=temperature)
        assert {model.sample(row, sampling, (), index) for index in range(50)} == {20}


def test_penalties_are_llama_cpps_and_end_with_the_window(model: Model) -> None:
    def best(row: Logits, recent: Sequence[int], **parameters: float) -> int:
        return model.sample(row, Sampling(temperature=0.0, **parameters), recent, 0)  # type: ignore[arg-type]

    row = row_with(model, {10: 4.0, 20: 3.0, 30: -1.0})
    assert best(row, [10], repeat_penalty=1.3) == 10  # 4 / 1.3 = 3.08
    assert best(row, [10], repeat_penalty=1.4) == 20  # 4 / 1.4 = 2.86
    assert best(row, [10], presence_penalty=1.1) == 20
    assert best(row, [10], frequency_penalty=0.6) == 10  # 4 - 0.6
    assert best(row, [10, 10], frequency_penalty=0.6) == 20  # 4 - 1.2
    assert best(row, [10, 20, 10, 20], presence_penalty=5.0, frequency_penalty=5.0) == 30
    negative = row_with(model, {10: -2.0, 20: -2.5})
    assert best(negative, [10], repeat_penalty=1.3) == 20  # -2 * 1.3 = -2.6
    filler = [50] * PENALTY_WINDOW
    assert best(row, [10, *filler[1:]], presence_penalty=2.0) == 20
    assert best(row, [10, *filler], presence_penalty=2.0) == 10


def test_rows_that_are_none_are_errors(model: Model) -> None:
    good = row_with(model, {10: 1.0}, rest=0.0)
    for sampling in (GREEDY, Sampling()):
        for value in (math.nan, math.inf):
            bad = good.copy()
            bad[77] = value
            with pytest.raises(EngineError, match=f"the model computed {value} for token 77"):
                model.sample(bad, sampling, (), 0)
        with pytest.raises(EngineError, match="no token is possible"):
            model.sample(row_with(model, {}), sampling, (), 0)


def test_parameters_that_cannot_be_computed_with_are_named(model: Model) -> None:
    row = row_with(model, {10: 1.0}, rest=0.0)
    for bad in (
        Sampling(temperature=math.nan),
        Sampling(temperature=-1.0),
        Sampling(top_p=math.inf),
        Sampling(min_p=-0.1),
        Sampling(repeat_penalty=0.0),
        Sampling(presence_penalty=-math.inf),
        Sampling(seed=MAX_SEED + 1),
        Sampling(seed=-1),
        Sampling(top_k=2**31),
    ):
        with pytest.raises(EngineError, match=r"is .*, allowed are"):
            model.sample(row, bad, (), 0)


# ---------------------------------------------------------------- vocabulary


# SmolLM2 has no token for these, nor for the bytes F1 and F2, with which unassigned planes begin.
TEXT = st.text(
    st.characters(max_codepoint=0x3FFFF, exclude_characters="\x04\x06\x13\x14\x16\x1d"),
    max_size=60,
)


@ONE_MODEL
@given(text=TEXT)
def test_tokens_give_back_the_bytes_of_their_text(model: Model, text: str) -> None:
    tokens = model.tokenize(text, special=False)
    assert b"".join(map(model.piece, tokens)) == text.encode("utf-8", "replace")
    assert not set(tokens) & model.info.eog


@pytest.mark.parametrize(
    "text", ["", "a", "Grüße, 漢字 😀👍🏽 e\u0301", "\0a\0", "\ud800", " \n\t ", "é" * 2000]
)
def test_particular_texts_come_back(model: Model, text: str) -> None:
    tokens = model.tokenize(text, special=False)
    assert b"".join(map(model.piece, tokens)) == text.encode("utf-8", "replace")
    assert tokens.typecode == "i"
    assert tokens.itemsize == 4


def test_only_special_makes_control_tokens_and_they_show_nothing(model: Model) -> None:
    for text in model.info.control_texts:
        [token] = model.tokenize(text, special=True)
        assert model.piece(token) == b""
        plain = model.tokenize(f"x{text}y", special=False)
        assert token not in plain
        assert b"".join(map(model.piece, plain)) == f"x{text}y".encode()


def test_many_control_texts_are_the_tokens_that_few_are(model: Model) -> None:
    start, end = model.info.control_texts[1:3]
    turn = f"{start}user\nhello, you{end}\n"
    one = model.tokenize(turn, special=True)
    assert model.tokenize(turn * 500, special=True) == one * 500


def test_pieces_out_of_range_are_value_errors(model: Model) -> None:
    for token in (-1, model.info.n_vocab, 2**40):
        with pytest.raises(ValueError, match=f"token {token} is out of range"):
            model.piece(token)


def test_the_info_is_consistent(model: Model) -> None:
    info = model.info
    assert info.eog <= set(range(info.n_vocab))
    assert {model.piece(token) for token in info.eog} == {b""}
    assert info.eos_text in info.control_texts
    assert info.chat_template
    assert info.n_slots == 8
    assert info.slot_tokens == 1024
    assert info.max_batch_tokens >= info.n_slots
    assert info.is_exact
    assert info.fingerprint


# ---------------------------------------------------------------- grammar

LIST = 'root ::= "[" item ("," item)* "]"\nitem ::= [0-9]+ | "\\"" [^"]* "\\""'


def feed(model: Model, grammar_text: str, text: str) -> bool:
    """Whether the grammar takes this text, token by token, and may end after it."""
    grammar = model.grammar(grammar_text)
    for token in model.tokenize(text, special=False):
        if not grammar.allows(token):
            return False
        grammar.accept(token)
    return all(grammar.allows(token) for token in model.info.eog)


def test_a_grammar_takes_its_language_and_nothing_else(model: Model) -> None:
    assert feed(model, LIST, '[1,22,"Grüße 😀"]')
    assert feed(model, LIST, '[""]')
    assert not feed(model, LIST, "[1,]")
    assert not feed(model, LIST, "[1")
    assert not feed(model, LIST, "[1]]")
    assert feed(model, 'root ::= "ab"{2,3} [^x-z]? # comment', "abab")
    assert feed(model, 'root ::= "ab"{2,3} [^x-z]?', "abababé")
    assert not feed(model, 'root ::= "ab"{2,3} [^x-z]?', "ababz")


def test_the_mask_leaves_exactly_what_is_allowed(model: Model) -> None:
    row = np.linspace(-1, 1, model.info.n_vocab, dtype=np.float32)
    before = row.copy()
    grammar = model.grammar(LIST)
    for text in ("", "[", "1", ',"', "é", '"', "]"):
        for token in model.tokenize(text, special=False):
            grammar.accept(token)
        masked = grammar.mask(row)
        allowed = np.flatnonzero(masked != -np.inf)
        tokens = range(0, model.info.n_vocab, 1 if model.info.n_vocab < 1000 else 17)
        assert [t in set(allowed) for t in tokens] == [grammar.allows(t) for t in tokens]
        assert same(masked[allowed], row[allowed])
    assert same(row, before)
    assert set(allowed) == model.info.eog
    assert grammar.is_complete


def test_a_refused_token_leaves_the_grammar_where_it_was(model: Model) -> None:
    grammar = model.grammar(LIST)
    [comma] = model.tokenize(",", special=False)
    [bracket] = model.tokenize("[", special=False)
    for token in (comma, min(model.info.eog)):
        with pytest.raises(EngineError, match=f"the grammar doesn't allow token {token} here"):
            grammar.accept(token)
    assert grammar.allows(bracket)
    assert not grammar.is_complete


def test_after_its_end_a_grammar_answers_nothing(model: Model) -> None:
    grammar = model.grammar('root ::= "1"')
    [one] = model.tokenize("1", special=False)
    grammar.accept(one)
    assert grammar.is_complete
    grammar.accept(min(model.info.eog))
    assert grammar.is_complete
    for act in (grammar.allows, grammar.accept):
        with pytest.raises(EngineError, match="the grammar has ended"):
            act(one)
    with pytest.raises(EngineError, match="the grammar has ended"):
        grammar.mask(row_with(model, {}, rest=0.0))
    grammar.close()


def test_two_jobs_with_one_grammar_do_not_meet(model: Model) -> None:
    one, other = model.grammar(LIST), model.grammar(LIST)
    [bracket] = model.tokenize("[", special=False)
    one.accept(bracket)
    one.close()
    assert other.allows(bracket)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rule named root"),
        ('a ::= "x"', "no rule named root"),
        ("root ::= missing", "'missing', which is not defined"),
        ('root ::= root "a" | "b"', "left-recursive: root can begin with itself"),
        ("root ::= root", "allows nothing"),
        ("root ::= []", "allows nothing"),
        ('root ::= "x', "unexpected end"),
        ('root ::= ("x"', r"expected '\)'"),
        ("root ::= [a", "unexpected end"),
        ('root ::= "\\q"', "unknown escape"),
        ('root ::= "a"{3001}', "limit is 2000"),
        ("root ::= " + "(" * 65 + ")" * 65, "nested deeper than 64"),
        ('root ::= "' + "a" * 65536 + '"', "limit is 65536"),
        ('root ::= "\ud800"', "surrogate"),
    ],
)
def test_bad_grammars_are_refused_with_the_reason(model: Model, text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        model.grammar(text)


def test_a_grammar_that_no_token_fits_is_an_error_not_a_row_of_nothing(model: Model) -> None:
    grammar = model.grammar('root ::= "a" []')
    with pytest.raises(GrammarError, match="no token of this model fits"):
        grammar.mask(row_with(model, {}, rest=0.0))
