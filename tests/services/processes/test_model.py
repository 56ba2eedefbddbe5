"""When a process is started again; what is asked of it, as the database has it."""

from __future__ import annotations

import pytest

from aiosd.confine import ExitStatus
from aiosd.kernel.model import AgentId
from aiosd.services.processes import rows
from aiosd.services.processes.model import Attempts, Limits, Spec, Why
from aiosd.services.processes.rows import Kept
from aiosd.services.schema import MIGRATIONS
from tests.services.opened import in_memory

OK, FAILED, KILLED = ExitStatus(0), ExitStatus(3), ExitStatus(None, 9)


@pytest.mark.parametrize(
    ("restart", "status", "expected"),
    [
        ("no", OK, Why.EXIT),
        ("no", FAILED, Why.EXIT),
        ("no", None, Why.START),
        ("on_failure", OK, Why.EXIT),
        ("on_failure", FAILED, 0.5),
        ("on_failure", KILLED, 0.5),
        ("on_failure", None, 0.5),
        ("always", OK, 0.5),
        ("always", KILLED, 0.5),
    ],
)
def test_what_it_asked_for_decides(restart: str, status: ExitStatus, expected: object) -> None:
    assert Attempts().delay_s(restart, status, 1.0, 10) == expected  # type: ignore[arg-type]  # one of the three


def test_each_start_in_a_row_waits_longer_up_to_a_minute_and_a_number() -> None:
    attempts = Attempts()
    delays = [attempts.delay_s("always", FAILED, 1.0, 9) for _ in range(10)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, Why.RESTARTS]
    assert attempts.n_restarts == 9


def test_a_good_run_begins_the_row_anew() -> None:
    attempts = Attempts()
    for _ in range(5):
        attempts.delay_s("always", FAILED, 1.0, 9)
    assert attempts.delay_s("always", FAILED, 60.0, 9) == 0.5
    assert attempts.n_restarts == 6


def test_what_another_version_wrote_is_named_and_left() -> None:
    spec = Spec("/bin/true", ("true",))
    with in_memory(MIGRATIONS) as transaction:
        rows.save(transaction, Kept("p1", AgentId(1, "a"), spec), 1)
        rows.save(transaction, Kept("p2", AgentId(1, "b"), spec), 2)
        rows.save(transaction, Kept("p3", AgentId(1, "a"), spec), 3)  # the name's new holder
        transaction.execute("UPDATE processes SET spec = '{\"x\": 1}' WHERE id = 'p2'")
        assert rows.load(transaction) == ([Kept("p3", AgentId(1, "a"), spec)], ["p2"])
        rows.forget(transaction, "p3")
        assert rows.load(transaction) == ([], ["p2"])


def test_a_spec_is_the_same_after_the_database() -> None:
    spec = Spec(
        program="/bin/python",
        argv=("python", "-c", "pass"),
        env={"A": "ü"},
        cwd="/srv",
        limits=Limits(tokens=5, wall_s=60),
        read=("/srv",),
        rights=("llm",),
        restart="always",
        is_kept=True,
    )
    assert Spec.from_json(spec.to_json()) == spec
