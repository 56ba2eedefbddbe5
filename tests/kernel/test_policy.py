"""The line: who is next, who is where, and that fifo and rr differ by one method."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.kernel.model import AgentId, ContextId, Job, JobId, Priority
from aiosd.kernel.policies import make
from aiosd.kernel.policy import Fifo, RoundRobin


def job(ticket: int, used_tokens: int = 0) -> Job:
    return Job(
        id=JobId(f"j{ticket}"),
        context=ContextId(f"c{ticket}"),
        agent=AgentId(1, "a"),
        priority=Priority.NORMAL,
        submitted_ns=0,
        ticket=ticket,
        used_tokens=used_tokens,
    )


def test_fifo_and_round_robin_differ_by_the_quantum_alone() -> None:
    own = {name for name in vars(RoundRobin) if not name.startswith("__")}
    assert own == {"name", "quantum"}
    assert RoundRobin.__bases__ == (Fifo,)


def test_a_turn_of_fifo_has_no_end_and_one_of_round_robin_a_quantum() -> None:
    fifo, rr = make("fifo", 16), make("rr", 16)
    assert (fifo.quantum(), rr.quantum()) == (None, 16)
    assert (fifo.allowance(job(1, 10)), rr.allowance(job(1, 10))) == (None, 6)
    assert [rr.is_used_up(job(1, used)) for used in (15, 16, 99)] == [False, True, True]
    assert not fifo.is_used_up(job(1, 10**6))


def test_the_smallest_ticket_is_first_whatever_the_order_of_arrival() -> None:
    line = make("rr", 16)
    for ticket in (5, 2, 9, 7):
        line.add(job(ticket))
    assert [each.ticket for each in line.first(3)] == [2, 5, 7]
    assert [each.ticket for each in line] == [2, 5, 7, 9]
    assert line.position(job(7)) == 3
    assert len(line) == 4


def test_asking_about_or_removing_who_is_not_in_the_line_is_an_error() -> None:
    line = make("rr", 16)
    with pytest.raises(KeyError):
        line.position(job(1))
    with pytest.raises(KeyError):
        line.remove(job(1))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20))))
def test_the_line_is_a_sorted_set_of_tickets(steps: list[tuple[bool, int]]) -> None:
    line, expected, jobs = make("fifo", 16), set[int](), {n: job(n) for n in range(1, 21)}
    for is_added, ticket in steps:
        if is_added and ticket not in expected:
            line.add(jobs[ticket])
            expected.add(ticket)
        elif not is_added and ticket in expected:
            line.remove(jobs[ticket])
            expected.remove(ticket)
        ordered = sorted(expected)
        assert [each.ticket for each in line] == ordered
        assert [each.ticket for each in line.first(4)] == ordered[:4]
        for index, each in enumerate(ordered):
            assert line.position(jobs[each]) == index + 1
