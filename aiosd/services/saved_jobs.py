"""Detached jobs in the database: what they were asked, what they have said, how they ended.

Rule 1: as in saved_contexts, each function runs inside Database.write() or read().  finish() beside
saved_contexts.append() in one write: a job's end and its turn in the log are one event.
Rule 2: output is appended where it ends; a gap or an overlap is NotAsSaved.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aios_sdk.errors import TooLarge
from aiosd.kernel.model import AgentId, ContextId, JobId
from aiosd.services.database import Transaction
from aiosd.services.saved_contexts import NotAsSaved, from_blob, to_blob

RUNNING, DONE, FAILED = "running", "done", "failed"
PART_ITEMS = 256
_COLUMNS = "id, uid, agent, context, params, prompt, seed, created_ms, state, result, finished_ms"


@dataclass(slots=True)
class SavedJob:
    """A detached job.

    context  None for a job whose context is its own alone
    params   the call's params as checked and filled in, with all that decides its tokens
    prompt   the tokens this call adds to the log before its output
    seed     that is used, also if it was chosen by us
    output   tokens so far
    result   of a done one its reply, of a failed one {code, message, data?}
    """

    id: JobId
    agent: AgentId
    context: ContextId | None
    params: dict[str, Any]
    prompt: array[int]
    seed: int
    created_ms: int
    state: str = RUNNING
    output: array[int] = field(default_factory=lambda: array("i"))
    result: dict[str, Any] | None = None
    finished_ms: int | None = None


def create(transaction: Transaction, job: SavedJob) -> None:
    """A new running job, without output."""
    params, prompt = _text(job.params), to_blob(job.prompt)
    transaction.execute(
        "INSERT INTO jobs"
        " (id, context, uid, agent, params, prompt, seed, state, created_ms, n_bytes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            job.context,
            *job.agent,
            params,
            prompt,
            job.seed,
            RUNNING,
            job.created_ms,
            len(params.encode()) + len(prompt),
        ),
    )


def append(
    transaction: Transaction, job: JobId, start: int, tokens: array[int], max_tokens: int
) -> None:
    """Tokens of the output, from number `start` on.  TooLarge past max_tokens in all."""
    n_output = start + len(tokens)
    if n_output > max_tokens:
        raise TooLarge(
            f"{n_output} tokens of output of job {job}, limit is {max_tokens}", limit=max_tokens
        )
    changed = transaction.execute(
        "UPDATE jobs SET n_output = ?, n_bytes = n_bytes + ?"
        " WHERE id = ? AND state = 'running' AND n_output = ?",
        (n_output, 4 * len(tokens), job, start),
    ).rowcount
    if not changed:
        raise NotAsSaved(f"job {job} is not running with {start} tokens saved")
    if tokens:
        transaction.execute(
            "INSERT INTO job_output (job, start, tokens) VALUES (?, ?, ?)",
            (job, start, to_blob(tokens)),
        )


def finish(
    transaction: Transaction,
    job: JobId,
    state: str,
    result: dict[str, Any],
    *,
    now_ms: int,
    max_result_bytes: int,
) -> None:
    """The job has ended as DONE or FAILED.  TooLarge if its result is; it then still runs here."""
    text = _text(result)
    n_bytes = len(text.encode())
    if n_bytes > max_result_bytes:
        raise TooLarge(
            f"the result of job {job} has {n_bytes} bytes, limit is {max_result_bytes}",
            limit=max_result_bytes,
        )
    changed = transaction.execute(
        "UPDATE jobs SET state = ?, result = ?, finished_ms = ?, n_bytes = n_bytes + ?"
        " WHERE id = ? AND state = 'running'",
        (state, text, now_ms, n_bytes, job),
    ).rowcount
    if not changed:
        raise NotAsSaved(f"job {job} is not running")


def load(transaction: Transaction, job: JobId) -> SavedJob | None:
    """The job with all its output, or None."""
    return next(_load(transaction, "id = ?", job), None)


def unfinished(transaction: Transaction) -> list[SavedJob]:
    """Jobs to go on with after a restart, oldest first."""
    return list(_load(transaction, "state = ? ORDER BY created_ms, id", RUNNING))


def delete(transaction: Transaction, job: JobId) -> None:
    """Forget the job and its output, if it is there."""
    transaction.execute("DELETE FROM jobs WHERE id = ?", (job,))


def expire(
    transaction: Transaction, now_ms: int, *, keep_ms: int, max_ended: int, max_bytes: int
) -> list[JobId]:
    """Forget ended jobs, oldest end first: those that ended longer than keep_ms ago, then until
    max_ended are left and all jobs (running ones count) have at most max_bytes.  Which ones."""
    n_ended, n_bytes = transaction.execute(
        "SELECT count(*) FILTER (WHERE state <> 'running'), coalesce(sum(n_bytes), 0) FROM jobs"
    ).fetchone()
    dropped: list[JobId] = []
    for id_, finished_ms, size in transaction.execute(
        "SELECT id, finished_ms, n_bytes FROM jobs WHERE finished_ms IS NOT NULL"
        " ORDER BY finished_ms, id"
    ):
        if now_ms - finished_ms <= keep_ms and n_ended <= max_ended and n_bytes <= max_bytes:
            break
        dropped.append(JobId(id_))
        n_ended -= 1
        n_bytes -= size
    transaction.executemany("DELETE FROM jobs WHERE id = ?", [(id_,) for id_ in dropped])
    return dropped


def _load(transaction: Transaction, where: str, value: str) -> Iterator[SavedJob]:
    rows = transaction.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE {where}",  # noqa: S608 - one of the two texts above
        (value,),
    )
    for id_, uid, agent, context, params, prompt, seed, created_ms, state, result, ended in rows:
        chunks = transaction.execute(
            "SELECT tokens FROM job_output WHERE job = ? ORDER BY start", (id_,)
        )
        yield SavedJob(
            JobId(id_),
            AgentId(uid, agent),
            None if context is None else ContextId(context),
            json.loads(params),
            from_blob(prompt),
            seed,
            created_ms,
            state,
            from_blob(b"".join(blob for (blob,) in chunks)),
            None if result is None else json.loads(result),
            ended,
        )


def _text(value: dict[str, Any]) -> str:
    """As JSON.  Long lists in parts: each holds the interpreter, and with it the event loop, until
    it is done."""
    parts = (f"{_piece(key)}:{_list(item)}" for key, item in value.items())
    return f"{{{','.join(parts)}}}"


def _list(value: object) -> str:
    if not isinstance(value, list):
        return _piece(value)
    pieces = (_piece(value[at : at + PART_ITEMS])[1:-1] for at in range(0, len(value), PART_ITEMS))
    return f"[{','.join(pieces)}]"


def _piece(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
