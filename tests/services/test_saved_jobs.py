"""Detached jobs in the database: output in pieces, an end, and what a restart finds."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import replace

import pytest

from aios_sdk.errors import TooLarge
from aiosd.kernel.model import ContextId, JobId
from aiosd.services import saved_jobs
from aiosd.services.database import Transaction
from aiosd.services.saved_contexts import NotAsSaved
from aiosd.services.saved_jobs import DONE, FAILED, SavedJob
from tests.services.opened import ALICE, in_memory

JOB = JobId("j1")
PARAMS = {"temperature": 0.7, "stop": ["\n"], "schema": {"type": "object"}, "max_tokens": 9}


@pytest.fixture
def db() -> Iterator[Transaction]:
    with in_memory() as transaction:
        yield transaction


def new_job(id_: str, created_ms: int = 10) -> SavedJob:
    return SavedJob(
        JobId(id_), ALICE, ContextId("c1"), dict(PARAMS), array("i", [4, 5]), 2**32 - 2, created_ms
    )


def test_a_running_job_comes_back_with_what_it_said_so_far(db: Transaction) -> None:
    saved_jobs.create(db, replace(new_job("j2", 20), context=None))
    saved_jobs.create(db, new_job("j1"))
    saved_jobs.append(db, JOB, 0, array("i", [1, 2]), 9)
    saved_jobs.append(db, JOB, 2, array("i", []), 9)
    saved_jobs.append(db, JOB, 2, array("i", [3]), 9)
    assert saved_jobs.unfinished(db) == [
        replace(new_job("j1"), output=array("i", [1, 2, 3])),
        replace(new_job("j2", 20), context=None),
    ]


@pytest.mark.parametrize("start", [1, 3])
def test_output_with_a_gap_or_an_overlap_is_refused(db: Transaction, start: int) -> None:
    saved_jobs.create(db, new_job("j1"))
    saved_jobs.append(db, JOB, 0, array("i", [1, 2]), 9)
    with pytest.raises(NotAsSaved, match=f"job j1 is not running with {start} tokens saved"):
        saved_jobs.append(db, JOB, start, array("i", [1]), 9)


def test_output_is_bounded(db: Transaction) -> None:
    saved_jobs.create(db, new_job("j1"))
    saved_jobs.append(db, JOB, 0, array("i", [1, 2]), 3)
    with pytest.raises(TooLarge, match="4 tokens of output of job j1, limit is 3"):
        saved_jobs.append(db, JOB, 2, array("i", [3, 4]), 3)


@pytest.mark.parametrize("state", [DONE, FAILED])
def test_an_ended_job_keeps_its_result_and_changes_no_more(db: Transaction, state: str) -> None:
    saved_jobs.create(db, new_job("j1"))
    saved_jobs.append(db, JOB, 0, array("i", [1]), 9)
    saved_jobs.finish(db, JOB, state, {"text": "é"}, now_ms=30, max_result_bytes=100)
    assert saved_jobs.load(db, JOB) == replace(
        new_job("j1"),
        output=array("i", [1]),
        state=state,
        result={"text": "é"},
        finished_ms=30,
    )
    assert saved_jobs.unfinished(db) == []
    with pytest.raises(NotAsSaved, match="job j1 is not running"):
        saved_jobs.finish(db, JOB, DONE, {}, now_ms=31, max_result_bytes=100)
    with pytest.raises(NotAsSaved, match="job j1 is not running with 1 tokens saved"):
        saved_jobs.append(db, JOB, 1, array("i", [2]), 9)


def test_a_result_past_its_limit_is_refused_and_the_job_still_runs(db: Transaction) -> None:
    saved_jobs.create(db, new_job("j1"))
    with pytest.raises(TooLarge, match="the result of job j1 has 15 bytes, limit is 14"):
        saved_jobs.finish(db, JOB, DONE, {"text": "four"}, now_ms=30, max_result_bytes=14)
    assert [job.id for job in saved_jobs.unfinished(db)] == ["j1"]


@pytest.mark.parametrize("n_items", [0, 1, 255, 256, 257, 1000])
def test_json_made_in_parts_is_the_json(n_items: int) -> None:
    result = {"text": 'a "ü"', "tokens": list(range(n_items)), "top": [["x", -0.5]] * n_items}
    assert saved_jobs._text(result) == json.dumps(result, ensure_ascii=False, separators=(",", ":"))


def test_a_deleted_job_is_gone_with_its_output(db: Transaction) -> None:
    saved_jobs.create(db, new_job("j1"))
    saved_jobs.append(db, JOB, 0, array("i", [1]), 9)
    saved_jobs.delete(db, JOB)
    assert saved_jobs.load(db, JOB) is None
    assert db.execute("SELECT count(*) FROM job_output").fetchone() == (0,)


def ended(db: Transaction, *ends_ms: int) -> None:
    """Jobs of 100 bytes of output (and as much again of the rest), named by their ends."""
    for end_ms in ends_ms:
        job = new_job(f"j{end_ms}")
        saved_jobs.create(db, job)
        saved_jobs.append(db, job.id, 0, array("i", range(25)), 25)
        saved_jobs.finish(db, job.id, DONE, {}, now_ms=end_ms, max_result_bytes=10)


def test_ended_jobs_expire_by_age_oldest_end_first(db: Transaction) -> None:
    ended(db, 30, 10, 20)
    saved_jobs.create(db, new_job("running", created_ms=0))
    assert saved_jobs.expire(db, 70, keep_ms=50, max_ended=9, max_bytes=9999) == ["j10"]
    assert saved_jobs.expire(db, 71, keep_ms=50, max_ended=9, max_bytes=9999) == ["j20"]
    assert saved_jobs.expire(db, 10**9, keep_ms=50, max_ended=9, max_bytes=9999) == ["j30"]
    assert [job.id for job in saved_jobs.unfinished(db)] == ["running"]


def test_ended_jobs_expire_by_number_and_by_bytes(db: Transaction) -> None:
    ended(db, 10, 20, 30, 40)
    assert saved_jobs.expire(db, 50, keep_ms=99, max_ended=3, max_bytes=9999) == ["j10"]
    (n_bytes,) = db.execute("SELECT n_bytes FROM jobs WHERE id = 'j20'").fetchone()
    limit = 2 * n_bytes
    assert saved_jobs.expire(db, 50, keep_ms=99, max_ended=3, max_bytes=limit) == ["j20"]
    assert saved_jobs.expire(db, 50, keep_ms=99, max_ended=3, max_bytes=limit) == []
