"""The jobs by state: READY ones stand in the policy's line, each other state is one dict.

Rule 1: a job changes its state only here, so it is in exactly one collection at any time.
Rule 2: time spent READY is summed up here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aiosd.kernel.events import Submitted
from aiosd.kernel.model import AgentId, Cost, Job, JobId, JobState
from aiosd.kernel.policy import Fifo


class JobTable:
    """The jobs that haven't ended, and the order in which the ready ones go."""

    def __init__(self, policy: Fifo) -> None:
        self._policy = policy
        self._jobs: dict[JobId, Job] = {}
        self._by_agent: dict[AgentId, dict[JobId, Job]] = {}
        self._apart: dict[JobState, dict[JobId, Job]] = {
            state: {} for state in JobState if state is not JobState.READY
        }
        self._last_ticket = 0

    @property
    def all(self) -> Mapping[JobId, Job]:
        return MappingProxyType(self._jobs)

    @property
    def policy(self) -> Fifo:
        return self._policy

    def apart(self, state: JobState) -> Mapping[JobId, Job]:
        """The jobs in a state other than READY."""
        return self._apart[state]

    def n_in(self, state: JobState) -> int:
        return len(self._policy) if state is JobState.READY else len(self._apart[state])

    def of_agent(self, agent: AgentId) -> list[Job]:
        return list(self._by_agent.get(agent, {}).values())

    def add(self, event: Submitted, now_ns: int, *, is_delayed: bool = False) -> Job:
        job = Job(
            id=event.job,
            context=event.context,
            agent=event.agent,
            priority=event.priority,
            submitted_ns=now_ns,
            ready_since_ns=now_ns,
            ticket=self._new_ticket(),
            is_delayed=is_delayed,
        )
        job.state = settled_state(job)
        self._jobs[job.id] = job
        self._by_agent.setdefault(job.agent, {})[job.id] = job
        if job.state is JobState.READY:
            self._policy.add(job)
        else:
            self._apart[job.state][job.id] = job
        return job

    def enter(self, job: Job, state: JobState, now_ns: int) -> None:
        """Move the job from the collection it is in to another."""
        self._leave(job, now_ns)
        job.state = state
        if state is JobState.READY:
            job.ready_since_ns = now_ns
            self._policy.add(job)
        else:
            self._apart[state][job.id] = job

    def remove(self, job: Job, now_ns: int) -> Cost:
        """Forget the job; returns what it cost."""
        self._leave(job, now_ns)
        del self._jobs[job.id]
        own = self._by_agent[job.agent]
        del own[job.id]
        if not own:
            del self._by_agent[job.agent]
        first_run_ns = now_ns if job.first_run_ns is None else job.first_run_ns
        return Cost(
            slices=job.slices,
            parks=job.parks,
            n_prompt=job.n_prompt,
            n_output=job.n_output,
            queue_ns=first_run_ns - job.submitted_ns,
            waited_ns=job.waited_ns,
            submitted_ns=job.submitted_ns,
            first_run_ns=job.first_run_ns,
            first_token_ns=job.first_token_ns,
            finished_ns=now_ns,
        )

    def end_turns(self, n_lanes: int, *, with_others: bool) -> set[JobId]:
        """Send those of the next to run to the back of the line whose turns are over while someone
        waits; returns who they are.  Ends since each is sent at most once: its new turn is unused.

        with_others   with a turn end those of which less than half is left
        """
        policy = self._policy
        sent: set[JobId] = set()
        while len(policy) > n_lanes:
            first = policy.first(n_lanes)
            ending = [job for job in first if policy.is_used_up(job)]
            if not ending:
                break
            if with_others:
                ending = [job for job in first if policy.is_half_used(job)]
            for job in ending:
                self.end_turn(job)
                sent.add(job.id)
        return sent

    def end_turn(self, job: Job) -> None:
        """Send a ready job to the back of the line, to begin a new turn there."""
        self._policy.remove(job)
        job.ticket, job.n_aged = self._new_ticket(), 0
        job.used_tokens = job.extra_tokens = 0
        self._policy.add(job)

    def change_policy(self, policy: Fifo) -> None:
        """The same jobs with the same tickets, in another order."""
        for job in self._policy:
            policy.add(job)
        self._policy = policy

    def check(self) -> None:
        """Raises AssertionError unless every job is in its state's collection, and only there."""
        found = [(job, JobState.READY) for job in self._policy]
        found += [(job, state) for state, jobs in self._apart.items() for job in jobs.values()]
        if sorted(job.id for job, _ in found) != sorted(self._jobs):
            raise AssertionError(f"jobs {sorted(self._jobs)} are not {[j.id for j, _ in found]}")
        for job, state in found:
            if job.state is not state or self._jobs[job.id] is not job:
                raise AssertionError(f"job {job.id} is {job.state}, but stands with {state}")
            if (job.ends_as is not None) != (state is JobState.CANCELLING):
                raise AssertionError(f"job {job.id} is {state} and is to end as {job.ends_as}")
            is_on_lane = state in (JobState.RUNNING, JobState.CANCELLING)
            if not is_on_lane and state is not settled_state(job):
                raise AssertionError(f"job {job.id} is {state}, its flags say {settled_state(job)}")
        self._policy.check()
        by_agent = {job for jobs in self._by_agent.values() for job in jobs}
        if by_agent != self._jobs.keys() or not all(self._by_agent.values()):
            raise AssertionError(f"jobs by agent are {by_agent}")
        tickets = {job.ticket for job in self._jobs.values()}
        if len(tickets) != len(self._jobs) or max(tickets, default=0) > self._last_ticket:
            raise AssertionError(f"tickets {sorted(tickets)} of {len(self._jobs)} jobs")

    def _leave(self, job: Job, now_ns: int) -> None:
        if job.state is JobState.READY:
            self._policy.remove(job)
            job.waited_ns += now_ns - job.ready_since_ns
        else:
            del self._apart[job.state][job.id]

    def _new_ticket(self) -> int:
        self._last_ticket += 1
        return self._last_ticket


def settled_state(job: Job) -> JobState:
    """Where a job belongs that isn't a lane: READY only if nothing holds it back."""
    if job.is_paused:
        return JobState.PAUSED
    if job.is_stalled:
        return JobState.STALLED
    return JobState.DELAYED if job.is_delayed else JobState.READY
