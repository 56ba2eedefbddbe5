"""The fair line: classes, then uids, then agents, each by the tokens it has been given so far.

A virtual token counter per uid and per agent (VTC, Sheng et al., OSDI'24): whoever has been given
the least for its weight goes first.  Each class counts what was given in it, and nothing else: one
who has worked much in a lower class would wait in a higher one, where nothing ages, until those who
are new there have been given as much.

Rule 1: a class goes before the next one as a whole; within it, turns that were broken off go first,
in the order of their tickets, so that a turn is finished before a new one begins.
Rule 2: a counter is lifted to the least of those waiting when its owner comes back from idling:
nobody saves up.  The least is noted at every choice, when all that are ready stand in the line; if
none of them is left it is what those who came home last were given: nobody was waiting for that.
Rule 3: who has waited for ageing_ns goes one class up until its next turn is over, so that a stream
of better ones can't hold it up for ever.
Rule 4: n places are filled as if each had taken a whole quantum already, so that they are spread
over uids and agents as the next n turns one after another would be.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from aiosd.kernel.model import AgentId, Job, JobId, Priority
from aiosd.kernel.policy import RoundRobin

UNIT = 1 << 30
"""What one token of weight 1 adds to a counter: divides well by weights."""

MAX_SPARE_COUNTERS = 4096
"""Counters kept of those who aren't in the line, beyond as many as are."""


class _Standing(NamedTuple):
    """Where a uid or an agent stands among its like; serial: who came first among equals."""

    counter: int
    serial: int

    def plus(self, more: int) -> _Standing:
        return _Standing(self.counter + more, self.serial)


class _Queue:
    """Keys sorted by their standing; what each key stands for has at least one job."""

    def __init__(self) -> None:
        self._sorted: list[tuple[_Standing, int | str]] = []
        self._standing: dict[int | str, _Standing] = {}

    def put(self, key: int | str, counter: int, serial: int) -> None:
        """Let the key stand there; if it was in the queue its serial stays."""
        old = self._standing.get(key)
        if old is not None:
            self.drop(key)
            serial = old.serial
        standing = self._standing[key] = _Standing(counter, serial)
        insort(self._sorted, (standing, key))

    def drop(self, key: int | str) -> None:
        standing = self._standing.pop(key)
        del self._sorted[bisect_left(self._sorted, (standing, key))]

    def n_before(
        self,
        key: Any,
        n_own: int,
        step: int,
        weighted: Callable[[Any], int] | None,
        n_jobs: Callable[[Any], int],
    ) -> int:
        """How many of the others' jobs go before the key's n_own-th (from 0), each job adding a
        step to its key's counter: the same for all, unless it is weighted."""
        own = self._standing[key].plus(n_own * (weighted(key) if weighted else step))
        n = 0
        for standing, other in self._sorted:
            if other == key:
                continue
            if standing > own:
                break
            if standing.counter == own.counter:  # so all do that came while nobody has run
                n += standing.serial < own.serial
                continue
            its_step = weighted(other) if weighted else step
            steps, rest = divmod(own.counter - standing.counter, its_step)
            n_ahead = steps + (rest > 0 or standing.serial < own.serial)
            n += n_ahead if n_ahead <= 1 else min(n_jobs(other), n_ahead)
        return n

    def least(self) -> int:
        """The smallest counter; the queue isn't empty."""
        return self._sorted[0][0].counter

    def first(self, n: int) -> list[tuple[_Standing, int | str]]:
        return self._sorted[:n]

    def __contains__(self, key: int | str) -> bool:
        return key in self._standing

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[tuple[_Standing, int | str]]:
        return iter(self._sorted)


class _Class:
    """The ready jobs of one class."""

    def __init__(self) -> None:
        self.broken_off: list[tuple[int, JobId, AgentId]] = []  # by ticket: their turns go on first
        self.uids = _Queue()
        self.agents: dict[int, _Queue] = {}
        self.jobs: dict[AgentId, list[tuple[int, JobId]]] = {}
        self.n_by_uid: dict[int, int] = {}
        self.by_uid: dict[int, int] = {}  # the counters
        self.by_agent: dict[AgentId, int] = {}
        self.came_home: set[AgentId] = set()  # charged since the last choice
        self.floor = 0  # the least counter of a uid at the last choice
        self.floors: dict[int, int] = {}  # the same of each uid's agents

    def n_jobs(self) -> int:
        return len(self.broken_off) + sum(self.n_by_uid.values())

    def note_floors(self) -> None:
        """Who is ready stands in the line or was broken off; those without a job here came home."""
        least = {uid: agents.least() for uid, agents in self.agents.items()}
        self._lower(least, {agent for _, _, agent in self.broken_off})
        ended: dict[int, int] = {}
        self._lower(ended, {agent for agent in self.came_home if agent.uid not in least})
        self.came_home.clear()
        if uids := least or ended:
            self.floor = max(self.floor, min(self.by_uid[uid] for uid in uids))
        for uid, counter in (least | ended).items():
            self.floors[uid] = max(self.floors.get(uid, 0), counter)

    def _lower(self, least: dict[int, int], agents: set[AgentId]) -> None:
        for agent in agents & self.by_agent.keys():  # one that changed its class has none here
            counter = self.by_agent[agent]
            least[agent.uid] = min(least.get(agent.uid, counter), counter)


class Fair(RoundRobin):
    """Weighted fair queueing over uids and their agents, in classes."""

    name = "fair"

    def __init__(self, quantum_tokens: int, ageing_ns: int = 15 * 10**9) -> None:
        super().__init__(quantum_tokens)
        self._ageing_ns = ageing_ns
        self._classes = [_Class() for _ in Priority]
        self._members: dict[JobId, tuple[Job, int, bool]] = {}  # its class, is its turn broken off
        self._weights: dict[AgentId, int] = {}
        self._ageing: list[tuple[int, JobId]] = []  # when each is due; those gone are skipped
        self._serial = 0

    # ---------------------------------------------------------------- what the line is made of

    def set_weight(self, agent: AgentId, weight: int) -> None:
        if weight == 1:
            self._weights.pop(agent, None)
        else:
            self._weights[agent] = weight

    def rank(self, job: Job) -> int:
        return max(0, job.priority - job.n_aged)

    def charge(self, job: Job, n_tokens: int, rank: int) -> None:
        super().charge(job, n_tokens, rank)
        if self.is_used_up(job):
            job.n_aged = 0
        line, agent = self._classes[rank], job.agent
        line.by_uid[agent.uid] = line.by_uid.get(agent.uid, 0) + n_tokens * UNIT
        line.by_agent[agent] = line.by_agent.get(agent, 0) + n_tokens * self._step(agent)
        line.came_home.add(agent)
        self._stand(line, agent)

    def lead_tokens(self, job: Job) -> int:
        line, agent = self._classes[self.rank(job)], job.agent
        of_uid = line.by_uid.get(agent.uid, 0) - line.floor
        of_agent = line.by_agent.get(agent, 0) - line.floors.get(agent.uid, 0)
        return max(of_uid, of_agent) // UNIT

    def _step(self, agent: AgentId) -> int:
        return UNIT // self._weights.get(agent, 1)

    def _stand(self, line: _Class, agent: AgentId) -> None:
        """Let the uid and the agent stand where their counters say, if they are there."""
        if agent.uid in line.uids:
            line.uids.put(agent.uid, line.by_uid[agent.uid], 0)
        if agent in line.jobs:
            line.agents[agent.uid].put(agent.name, line.by_agent[agent], 0)

    def add(self, job: Job) -> None:
        rank = self.rank(job)
        is_broken_off = job.used_tokens > 0 and not self.is_used_up(job)
        self._members[job.id] = (job, rank, is_broken_off)
        if is_broken_off:
            insort(self._classes[rank].broken_off, (job.ticket, job.id, job.agent))
        else:
            self._enter(self._classes[rank], job)
        if rank:
            heapq.heappush(self._ageing, (self._due_ns(job), job.id))

    def _due_ns(self, job: Job) -> int:
        return job.ready_since_ns + (job.n_aged + 1) * self._ageing_ns

    def _enter(self, into: _Class, job: Job) -> None:
        agent, uid = job.agent, job.agent.uid
        self._serial += 1
        lifted = max(into.by_uid.get(uid, 0), into.floor)
        lifted_agent = max(into.by_agent.get(agent, 0), into.floors.get(uid, 0))
        into.by_uid[uid], into.by_agent[agent] = lifted, lifted_agent
        if uid not in into.uids:
            into.agents[uid] = _Queue()
            into.n_by_uid[uid] = 0
            into.uids.put(uid, lifted, self._serial)
        if agent not in into.jobs:
            into.jobs[agent] = []
            into.agents[uid].put(agent.name, lifted_agent, self._serial)
        insort(into.jobs[agent], (job.ticket, job.id))
        into.n_by_uid[uid] += 1
        self._stand(into, agent)

    def remove(self, job: Job) -> None:
        _, rank, is_broken_off = self._members.pop(job.id)
        line = self._classes[rank]
        if is_broken_off:
            del line.broken_off[bisect_left(line.broken_off, (job.ticket, job.id, job.agent))]
            return
        agent, uid = job.agent, job.agent.uid
        own = line.jobs[agent]
        del own[bisect_left(own, (job.ticket, job.id))]
        line.n_by_uid[uid] -= 1
        if not own:
            del line.jobs[agent]
            line.agents[uid].drop(agent.name)
        if not line.n_by_uid[uid]:
            del line.n_by_uid[uid], line.agents[uid]
            line.uids.drop(uid)

    # ---------------------------------------------------------------- before each choice

    def note_time(self, now_ns: int) -> None:
        """Everyone who is ready stands in the line: note the least counters, and let age count."""
        for each in self._classes:
            each.note_floors()
        self._age(now_ns)
        self._forget()

    def _age(self, now_ns: int) -> None:
        while self._ageing and self._ageing[0][0] <= now_ns:
            due_ns, job_id = heapq.heappop(self._ageing)
            member = self._members.get(job_id)
            if member is None:
                continue
            job = member[0]
            if due_ns != self._due_ns(job) or not self.rank(job):
                continue  # it had a turn meanwhile
            self.remove(job)
            job.n_aged += 1
            self.add(job)
        if len(self._ageing) > 2 * len(self._members) + 1024:
            self._ageing = [
                (self._due_ns(job), job.id) for job, rank, _ in self._members.values() if rank
            ]
            heapq.heapify(self._ageing)

    def _forget(self) -> None:
        """Let go the counters of who isn't here: at or below the floor they say nothing."""
        for each in self._classes:
            if len(each.by_agent) <= MAX_SPARE_COUNTERS + 2 * len(self._members):
                continue
            here = {job.agent for job, _, _ in self._members.values()}
            uids = {agent.uid for agent in here}
            each.by_uid = {u: n for u, n in each.by_uid.items() if u in uids or n > each.floor}
            kept = sorted(
                (agent for agent in each.by_agent if agent not in here),
                key=each.by_agent.__getitem__,
            )[-MAX_SPARE_COUNTERS // 2 :]
            each.by_agent = {a: n for a, n in each.by_agent.items() if a in here} | {
                agent: each.by_agent[agent] for agent in kept if agent.uid in each.by_uid
            }
            each.floors = {u: n for u, n in each.floors.items() if u in each.by_uid}

    # ---------------------------------------------------------------- questions

    def best_rank(self) -> int | None:
        for rank, each in enumerate(self._classes):
            if each.broken_off or each.jobs:
                return rank
        return None

    def first(self, n_jobs: int) -> list[Job]:
        return [self._members[job][0] for job in islice(self._in_order(n_jobs), n_jobs)]

    def _in_order(self, n_jobs: int) -> Iterator[JobId]:
        """The first n_jobs of the line; what comes after them may be out of order."""
        for each in self._classes:
            yield from (job for _, job, _ in each.broken_off)
            yield from self._fairly(each, n_jobs)

    def _fairly(self, line: _Class, n_jobs: int) -> Iterator[JobId]:
        # n places go to n uids at most, so the first n of them will do.
        heap = list(line.uids.first(n_jobs))
        step = self.quantum_tokens * UNIT
        of_uid: dict[int | str, Iterator[JobId]] = {}
        while heap:
            standing, uid = heap[0]
            assert isinstance(uid, int)
            if uid not in of_uid:
                of_uid[uid] = self._fairly_of(line, uid, n_jobs)
            job = next(of_uid[uid], None)
            if job is None:
                heapq.heappop(heap)
                continue
            heapq.heapreplace(heap, (standing.plus(step), uid))
            yield job

    def _fairly_of(self, line: _Class, uid: int, n_jobs: int) -> Iterator[JobId]:
        heap = list(line.agents[uid].first(n_jobs))
        of_agent: dict[int | str, Iterator[tuple[int, JobId]]] = {}
        while heap:
            standing, name = heap[0]
            assert isinstance(name, str)
            agent = AgentId(uid, name)
            if name not in of_agent:
                of_agent[name] = iter(line.jobs[agent])
            entry = next(of_agent[name], None)
            if entry is None:
                heapq.heappop(heap)
                continue
            step = self.quantum_tokens * self._step(agent)
            heapq.heapreplace(heap, (standing.plus(step), name))
            yield entry[1]

    def position(self, job: Job) -> int:
        """The job's place in the line if nobody else came, counted and not walked: O(uids, and
        agents of its uid).  Raises KeyError if it is not in it."""
        _, rank, is_broken_off = self._members[job.id]
        line, agent = self._classes[rank], job.agent
        n_before = sum(each.n_jobs() for each in self._classes[:rank])
        entry = (job.ticket, job.id)
        if is_broken_off:
            return n_before + bisect_left(line.broken_off, (*entry, agent)) + 1
        place = bisect_left(line.jobs[agent], entry)
        agents, step = line.agents[agent.uid], self.quantum_tokens * UNIT

        def weighted(name: str) -> int:
            return self.quantum_tokens * self._step(AgentId(agent.uid, name))

        def n_jobs(name: str) -> int:
            return len(line.jobs[AgentId(agent.uid, name)])

        has_weights = weighted if self._weights else None
        place += agents.n_before(agent.name, place, step, has_weights, n_jobs)
        place += line.uids.n_before(agent.uid, place, step, None, line.n_by_uid.__getitem__)
        return n_before + len(line.broken_off) + place + 1

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.first(len(self._members)))

    def __contains__(self, job: Job) -> bool:
        return job.id in self._members

    def check(self) -> None:
        """Raises AssertionError unless every job stands where its flags and counters say."""
        for job, rank, is_broken_off in self._members.values():
            if rank != self.rank(job):
                raise AssertionError(f"job {job.id} stands in class {rank}, is of {self.rank(job)}")
            line = self._classes[rank]
            entry = (job.ticket, job.id)
            is_there = (
                (*entry, job.agent) in line.broken_off
                if is_broken_off
                else entry in line.jobs[job.agent]
            )
            if not is_there:
                raise AssertionError(f"job {job.id} is not where it was put")
        if len(set(self._in_order(len(self)))) != len(self):
            raise AssertionError("the line has other jobs than were put into it")
