"""How much of a prompt a step reads: what fits into its time, measured."""

from __future__ import annotations

from aiosd.engine.pace import FIRST_PIECE, LEAST_PIECE, Pace

MS = 10**6


def pace(ms_per_token: float, talking_ms: int = 0, step_ms: int = 250, most: int = 512) -> Pace:
    """After it has seen a while of that."""
    made = Pace(step_ms, most)
    for _ in range(30):
        made.note_reading(64, int(64 * ms_per_token * MS))
        if talking_ms:
            made.note_talking(talking_ms * MS)
    return made


def test_the_first_piece_is_small_since_nothing_is_known() -> None:
    assert Pace(250, 512).piece(is_anyone_talking=False) == FIRST_PIECE
    assert Pace(250, 5).piece(is_anyone_talking=True) == 5


def test_beside_talkers_a_piece_takes_what_they_leave_of_the_step() -> None:
    assert 98 <= pace(2, talking_ms=50).piece(is_anyone_talking=True) <= 100
    assert 24 <= pace(2, talking_ms=200).piece(is_anyone_talking=True) <= 26


def test_when_nobody_talks_it_may_take_longer_and_is_bounded_all_the_same() -> None:
    assert 498 <= pace(2, talking_ms=50).piece(is_anyone_talking=False) <= 500
    assert pace(2, most=256).piece(is_anyone_talking=False) == 256
    assert pace(100).piece(is_anyone_talking=False) == 10  # a second, not a minute


def test_a_slow_model_reads_in_the_least_pieces_that_are_worth_a_pass() -> None:
    assert pace(1000).piece(is_anyone_talking=False) == LEAST_PIECE
    assert pace(2, talking_ms=900).piece(is_anyone_talking=True) == LEAST_PIECE


def test_it_follows_when_the_machine_slows_down() -> None:
    it = pace(1)
    before = it.piece(is_anyone_talking=True)
    for _ in range(10):
        it.note_reading(64, 64 * 4 * MS)
    assert 0.2 * before < it.piece(is_anyone_talking=True) < 0.3 * before


def test_a_few_tokens_at_the_end_of_a_prompt_say_nothing() -> None:
    it = pace(1)
    before = it.piece(is_anyone_talking=True)
    it.note_reading(2, 500 * MS)
    assert it.piece(is_anyone_talking=True) == before
