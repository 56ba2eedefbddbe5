"""Tokens per minute: a minute's worth at once, then a steady trickle, and debts are paid."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from aiosd.kernel.model import AgentId
from aiosd.kernel.rates import Rates

S = 10**9
A, B = AgentId(1, "a"), AgentId(1, "b")


def test_a_minutes_worth_may_be_taken_at_once_and_then_the_agent_waits() -> None:
    rates = Rates()
    rates.limit(A, 60, 0)
    assert (rates.room(A, 0), rates.room(B, 0)) == (60, None)
    rates.charge(A, 59, 0)
    assert (rates.room(A, 0), rates.is_empty(A)) == (1, False)
    rates.charge(A, 1, 0)
    assert (rates.is_empty(A), rates.is_empty(B)) == (True, False)
    assert rates.wake_ns() == 1 * S
    assert rates.refill(S - 1) == []
    assert rates.refill(S) == [A]
    assert rates.room(A, S) == 1


def test_what_was_taken_too_much_has_to_be_waited_for() -> None:
    rates = Rates()
    rates.limit(A, 600, 0)
    rates.charge(A, 1200, 0)
    assert rates.wake_ns() == 61 * S  # 600 too many, and a second's worth to begin with
    assert rates.refill(61 * S) == [A]
    assert rates.room(A, 61 * S) == 10


def test_a_new_limit_counts_what_was_used() -> None:
    rates = Rates()
    rates.limit(A, 60, 0)
    rates.charge(A, 60, 0)
    rates.limit(A, 120, 0)
    assert (rates.is_empty(A), rates.room(A, 0)) == (False, 60)
    rates.limit(A, 30, 0)
    assert rates.is_empty(A)
    rates.limit(A, None, 0)
    assert (rates.is_empty(A), rates.room(A, 0)) == (False, None)
    assert rates.refill(10**12) == []


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 90 * S), st.integers(0, 500)), max_size=30),
)
def test_the_bucket_is_exact(per_minute: int, steps: list[tuple[int, int]]) -> None:
    rates = Rates()
    rates.limit(A, per_minute, 0)
    level, now_ns = Fraction(per_minute), 0
    for wait_ns, n_tokens in steps:
        now_ns += wait_ns
        level = min(Fraction(per_minute), level + Fraction(per_minute * wait_ns, 60 * S)) - n_tokens
        rates.refill(now_ns)
        rates.charge(A, n_tokens, now_ns)
        assert rates.room(A, now_ns) == max(1, level.__floor__())
        if level < 1:
            assert rates.is_empty(A)
            due_ns = rates.wake_ns()
            assert due_ns is not None
            assert due_ns >= now_ns or rates.refill(now_ns) == []


def test_limits_that_change_in_a_loop_leave_one_wait_and_the_right_one() -> None:
    rates = Rates()
    rates.limit(A, 1, 0)
    rates.charge(A, 1000, 0)
    assert rates.due_ns(A) == 1000 * 60 * S
    for n in range(5000):
        rates.limit(A, 1000 + n % 2, 0)
    rates.limit(A, 600, 0)
    assert rates.due_ns(A) == 41 * S  # 1,000 were used, 600 of them this minute; a second's worth
    assert len(rates._due) < 100
    assert rates.refill(41 * S) == [A]
    assert rates.due_ns(A) is None
