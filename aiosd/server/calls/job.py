"""`job.*`: generations under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    NotFound,
)
from aiosd import story
from aiosd.kernel import events as ev
from aiosd.kernel.model import JobId, Outcome, Priority
from aiosd.server import generate
from aiosd.server.calls.base import Result
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
                or (wants_all and self._d.access.sees(call, record.agent))
            ]
        }

    async def job_story(self, call: Call) -> Result:
        job, driver = JobId(call.params["job"]), self._d.driver
        entries = driver.journal.entries()
        known = driver.journal.base.jobs.get(job) or driver.kernel.jobs.get(job)
        begun = None if known is None else story.Subject(job, known.agent, known.context)

        def told() -> tuple[story.Subject | None, list[story.Moment]]:  # of thousands of events
            subject = begun or story.subject_of(job, entries)
            return subject, [] if subject is None else story.story(subject, entries)

        subject, moments = await self._d.in_worker(told)
        if subject is None or not self._d.access.sees(call, subject.agent):
            raise NotFound(f"no job {job!r} in the journal", job=job)
        behind_ns = generate.now_ms() * 10**6 - time.monotonic_ns()
        return {
            "job": job,
            "agent": subject.agent.name,
            "uid": subject.agent.uid,
            "context": subject.context,
            "whole": bool(moments) and moments[0].event == "submitted",
            "events": [
                {"at_us": (m.now_ns + behind_ns) // 1000, "event": m.event, **m.details}
                for m in moments[-story.MAX_EVENTS :]
            ],
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
