"""`job.*`: generations under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    NotFound,
)
from aiosd.kernel import events as ev
from aiosd.kernel.model import JobId, Outcome, Priority
from aiosd.server.calls.base import Result
from aiosd.services import access
from aiosd.services.access import Target

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class Jobs:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def job_list(self, call: Call) -> Result:
        wants_all = call.params["all"]
        now_ns = time.monotonic_ns()
        kernel = self._d.driver.kernel
        return {
            "jobs": [
                {
                    "job": job,
                    "agent": record.agent.name,
                    "uid": record.agent.uid,
                    "context": record.spec.context,
                    "state": kernel.jobs[job].state.value,
                    "priority": kernel.jobs[job].priority.name.lower(),
                    "n_output": len(record.tokens),
                    "waited_ms": kernel.waited_ns(job, now_ns) // 10**6,
                    "slices": kernel.jobs[job].slices,
                    "parks": kernel.jobs[job].parks,
                }
                for job, record in self._d.driver.jobs.items()
                if record.agent == call.agent
                or (wants_all and access.may_see(record.agent, call.subject))
            ]
        }

    def job_cancel(self, call: Call) -> Result:
        self._d.driver.cancel(self._job(call), Outcome.CANCELLED)
        return {}

    def job_pause(self, call: Call) -> Result:
        self._d.driver.post(ev.JobPaused(self._job(call)))
        return {}

    def job_resume(self, call: Call) -> Result:
        self._d.driver.post(ev.JobResumed(self._job(call)))
        return {}

    def job_priority(self, call: Call) -> Result:
        priority = Priority[call.params["priority"].upper()]
        self._d.driver.post(ev.PriorityChanged(self._job(call), priority))
        return {}

    def _job(self, call: Call) -> JobId:
        job = JobId(call.params["job"])
        record = self._d.driver.jobs.get(job)
        if record is None:
            raise NotFound(f"no job {job!r}", job=job)
        self._d.access.check(call, "steer", Target("job", record.agent, job))
        return job

    async def job_attach(self, call: Call) -> Result:
        return await self._d.detached.attach(call)
