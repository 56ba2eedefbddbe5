"""What only the fake has; what it shares with the real model is in the contract suite."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.engine.base import EngineError, OutOfCells, Piece, Sampling
from aiosd.engine.fake import IM_END, IM_START, N_VOCAB, VOCABULARY, FakeModel
from aiosd.kernel.model import SlotId

A, B = SlotId(0), SlotId(1)


def test_the_vocabulary_has_all_bytes_and_no_piece_twice() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == N_VOCAB == 512
    assert VOCABULARY[:256] == tuple(bytes([n]) for n in range(256))


@given(st.text(max_size=50))
def test_tokens_give_back_their_text(text: str) -> None:
    model = FakeModel(n_slots=1)
    tokens = model.tokenize(text, special=False)
    assert b"".join(map(model.piece, tokens)) == text.encode("utf-8", "replace")


def test_control_texts_become_control_tokens_only_when_asked() -> None:
    model = FakeModel(n_slots=1)
    assert list(model.tokenize("<|im_start|>a<|im_end|>", special=True)) == [IM_START, 97, IM_END]
    plain = model.tokenize("<|im_start|>", special=False)
    assert b"".join(map(model.piece, plain)) == b"<|im_start|>"


def test_rows_depend_on_every_token_before_and_on_nothing_else() -> None:
    model = FakeModel()
    [first] = model.decode([Piece(A, 0, [1, 2, 3, 4], True)])
    first = first.copy()
    model.decode([Piece(B, 0, [1, 2], False)])
    [pieced] = model.decode([Piece(B, 2, [3, 4], True)])
    assert first.tolist() == pieced.tolist()
    model.truncate(A, 0)
    [other] = model.decode([Piece(A, 0, [9, 2, 3, 4], True)])
    assert first.tolist() != other.tolist()


def test_a_row_is_gone_with_the_next_decode() -> None:
    model = FakeModel()
    [row] = model.decode([Piece(A, 0, [1], True)])
    model.decode([Piece(A, 1, [1], False)])
    assert np.isnan(row).all()
    with pytest.raises(EngineError, match="the model computed nan"):
        model.sample(row, Sampling(), [], 0)


def test_a_failed_decode_leaves_rubbish_until_the_slot_is_emptied() -> None:
    model = FakeModel()
    [expected] = model.decode([Piece(A, 0, [1, 2], True)])
    expected = expected.copy()
    model.truncate(A, 1)
    model.fail_next_decode([B])
    with pytest.raises(EngineError, match=r"told to, for slots \[1\]"):
        model.decode([Piece(A, 1, [2], True), Piece(B, 0, [5], True)])
    [rubbish] = model.decode([Piece(A, model.n_cells(A), [2], True)])
    assert rubbish.tolist() != expected.tolist()
    model.truncate(A, 0)
    [again] = model.decode([Piece(A, 0, [1, 2], True)])
    assert again.tolist() == expected.tolist()


def test_out_of_cells_changes_nothing() -> None:
    model = FakeModel(slot_tokens=8)
    model.decode([Piece(A, 0, [1] * 7, False)])
    with pytest.raises(OutOfCells, match="slot 0 needs 9 cells, it has 8"):
        model.decode([Piece(B, 0, [1], False), Piece(A, 7, [1, 1], False)])
    assert (model.n_cells(A), model.n_cells(B)) == (7, 0)


def test_a_snapshot_of_another_model_is_refused() -> None:
    model, other = FakeModel(slot_tokens=64), FakeModel(slot_tokens=128)
    model.decode([Piece(A, 0, [1, 2], False)])
    buffer = bytearray(model.snapshot_bytes(A))
    model.save(A, memoryview(buffer))
    assert model.restore(B, memoryview(buffer))
    assert not other.restore(A, memoryview(buffer))
    assert not model.restore(B, memoryview(buffer)[:-1])
    assert model.n_cells(B) == 0


def test_it_says_end_now_and_then_and_never_when_told_not_to_like_it() -> None:
    ends = []
    for end_liking in (0.0, -50.0, 50.0):
        model = FakeModel(end_liking=end_liking)
        tokens = array("i", [1])
        for index in range(300):
            [row] = model.decode([Piece(A, model.n_cells(A), tokens[-1:], True)])
            token = model.sample(row, Sampling(seed=3), tokens[-64:], index)
            if token in model.info.eog:
                break
            tokens.append(token)
        ends.append(len(tokens))
    assert 2 < ends[0] < 300
    assert ends[1:] == [301, 1]
