"""What a job waits for, as job.list says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiosd.driver import Driver
from aiosd.kernel.model import Job, JobId, JobState

DATABASE = {"kind": "database"}  # its turn is being written; it is answered when that is on disk


def waits_for(
    driver: Driver, job: Job, now_ns: int, positions: Mapping[JobId, int]
) -> dict[str, Any] | None:
    """{kind, ...}, or None if it is being worked on.

    positions: Kernel.positions() of a moment ago; who has come to the line since is not in it.

    lane {position}   a place in the running batch
    prefix {job}      that job is reading what this one will need
    rate {wait_ms}    its agent has used up its tokens per minute
    reader            its client doesn't read
    resume            someone paused it
    step              it was cancelled, and the step under way isn't over
    """
    match job.state:
        case JobState.READY:
            place = positions.get(job.id)
            return {"kind": "lane"} | ({} if place is None else {"position": place})
        case JobState.RUNNING:
            leader = driver.leaders.get(job.id)
            return None if leader is None else {"kind": "prefix", "job": leader}
        case JobState.DELAYED:
            due_ns = driver.kernel.rate_due_ns(job.agent)
            wait = {} if due_ns is None else {"wait_ms": max(0, due_ns - now_ns) // 10**6}
            return {"kind": "rate", **wait}
        case JobState.STALLED:
            return {"kind": "reader"}
        case JobState.PAUSED:
            return {"kind": "resume"}
        case JobState.CANCELLING:
            return {"kind": "step"}
