"""`job.*`: generations under way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    NotFound,
)
from aiosd import story
from aiosd.kernel import events as ev
from aiosd.kernel.model import AgentId, JobId, Outcome, Priority
from aiosd.server import generate, waiting
from aiosd.server.calls.base import Result
from aiosd.server.turns import in_turns
from aiosd.server.workers import LONG_TEXT
from aiosd.services.access import Target

if TYPE_CHECKING:
    from aiosd.driver import JobRecord, JobResult
    from aiosd.server.daemon import Daemon
    from aiosd.server.generate import Work
    from aiosd.server.session import Call


class Jobs:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    async def job_list(self, call: Call) -> Result:
        async with self._d.listings[call.session.uid]:
            return await self._list(call)

    async def _list(self, call: Call) -> Result:
        wants_all = call.params["all"]
        driver = self._d.driver

        def is_wanted(agent: AgentId) -> bool:
            return agent == call.agent or (wants_all and self._d.access.sees(call, agent))

        now_ns = time.monotonic_ns()
        positions = driver.kernel.positions()
        found: dict[JobId, Result] = {}
        async for record in in_turns(list(driver.jobs.values())):
            job = record.spec.job
            if is_wanted(record.agent) and job in driver.jobs:  # it may have ended meanwhile
                found[job] = self._under_way(record, now_ns, positions)
        for work, result in self._d.saving.values():
            if is_wanted(work.agent):
                found[work.spec.job] = _saving(work, result)
        for job, act in self._d.acts.items():
            if is_wanted(act.agent):
                found[job] = act.describe()
        return {"jobs": list(found.values())}

    def _under_way(self, record: JobRecord, now_ns: int, positions: Mapping[JobId, int]) -> Result:
        kernel = self._d.driver.kernel
        job = kernel.jobs[record.spec.job]
        waits_for = waiting.waits_for(self._d.driver, job, now_ns, positions)
        return {
            "job": job.id,
            "agent": record.agent.name,
            "uid": record.agent.uid,
            "context": record.spec.context,
            "state": job.state.value,
            "priority": job.priority.name.lower(),
            "n_output": len(record.tokens),
            "waited_ms": kernel.waited_ns(job.id, now_ns) // 10**6,
            "slices": job.slices,
            "parks": job.parks,
            **({} if waits_for is None else {"waits_for": waits_for}),
        }

    async def job_story(self, call: Call) -> Result:
        job, driver = JobId(call.params["job"]), self._d.driver
        entries = driver.journal.entries()
        known = driver.journal.base.jobs.get(job) or driver.kernel.jobs.get(job)
        begun = None if known is None else story.Subject(job, known.agent, known.context)

        def told() -> tuple[story.Subject | None, list[story.Moment]]:  # of thousands of events
            subject = begun or story.subject_of(job, entries)
            return subject, [] if subject is None else story.story(subject, entries)

        subject, moments = await self._d.in_worker(told, call.session.uid, LONG_TEXT)
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
        act = self._d.acts.get(JobId(call.params["job"]))
        if act is not None:  # its tools run
            self._d.access.check(call, "steer", Target("job", act.agent, call.params["job"]))
            act.cancel()
        else:
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


def _saving(work: Work, result: JobResult) -> Result:
    """A job whose turn is being written."""
    return {
        "job": work.spec.job,
        "agent": work.agent.name,
        "uid": work.agent.uid,
        "context": work.spec.context,
        "state": "saving",
        "priority": work.params["priority"],
        "n_output": len(result.tokens),
        "waited_ms": result.cost.waited_ns // 10**6,
        "slices": result.cost.slices,
        "parks": result.cost.parks,
        "waits_for": waiting.DATABASE,
    }
