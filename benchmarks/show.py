"""The examples together, many instances of each, on one daemon for some minutes.

    python -m benchmarks.show --instances 20 --minutes 5

Agents as their authors run them, each a process, under fair scheduling, with tools, children and
mailboxes, and a person who answers what asks for one.  Afterwards:

* every run of an example has ended well;
* every job is accounted: as many have ended, by kind, as were submitted;
* nothing is left: no process, descriptor, connection, call, job, context, nor memory that grows.

What is there before is looked at after each example has run once, alone: what is made on first use
and kept is no leak.  Exits with 1 and what was wrong, if anything was.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from aios_sdk import AiosError, Client
from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import ROOT, Spread, note, table

EXAMPLES = ROOT / "sdk" / "examples"
NAMES = ("best_of_n", "chat", "debate", "plan_and_execute", "react", "reflexion")
CONFIG = """
[[access.confirm]]  # asks a person, whose part this script plays
kinds = ["tool"]
acts = ["use"]
irreversible = true

[[access.confirm]]
kinds = ["memory"]
acts = ["delete"]
own = true

[tools.tool.calculator]
irreversible = "yes"  # as far as asking goes

[spawn]
processes_per_uid = 256
ended_per_uid = 16
"""
WHAT_A_USER_TYPES = "What is a river?\nAnd a lake?\n/undo\n/context\n"
RUN_TIMEOUT_S = 3600.0  # of one run of one example, when all of them share the model
SETTLE_S = 60.0  # after the last run, until all that ends a moment later has ended
LOOK_EVERY_S = 1.0
MAX_GROWTH_BYTES = 256 * 2**20  # of the daemon's memory, beside snapshots, which have a budget
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Run:
    """One instance of an example, from its start to its end."""

    example: str
    seconds: float
    code: int
    words: str  # the last of what it said on stderr


@dataclass(frozen=True, slots=True)
class Seen:
    """What a daemon holds at a moment, as the kernel and the daemon tell it."""

    processes: int
    descriptors: int
    connections: int
    calls: int
    jobs: int
    contexts: int
    memory_bytes: int  # resident, less snapshots

    def left_over(self, before: Seen) -> list[str]:
        """What is more than it was."""
        names = ("processes", "descriptors", "connections", "calls", "jobs", "contexts")
        more = [
            f"{getattr(self, name)} {name}, {getattr(before, name)} before"
            for name in names
            if getattr(self, name) > getattr(before, name)
        ]
        growth = self.memory_bytes - before.memory_bytes
        if growth > MAX_GROWTH_BYTES:
            more.append(f"{growth >> 20} MiB more memory, {MAX_GROWTH_BYTES >> 20} is the limit")
        return more


@dataclass(slots=True)
class Person:
    """Answers what the agents ask, as somebody at `aiosctl approvals` would; of tools each fifth
    time no, which a model is told and goes on with."""

    client: Client
    said: Counter[str] = field(default_factory=Counter)

    def answer(self) -> None:
        """Until the client is closed."""
        seen: set[str] = set()
        with contextlib.suppress(AiosError):
            for requests in self.client.access.watch():
                for request in requests:
                    if request["request"] not in seen:
                        seen.add(request["request"])
                        self._decide(request["request"], request["kind"])

    def _decide(self, request: str, kind: str) -> None:
        self.said[f"of {kind}"] += 1
        is_yes = kind != "tool" or self.said["of tool"] % 5 != 0
        with contextlib.suppress(AiosError):  # its caller has left meanwhile
            (self.client.access.approve if is_yes else self.client.access.deny)(request)
            self.said["approved" if is_yes else "denied"] += 1


@dataclass(slots=True)
class Stage:
    """The daemon of a show, and what has been seen of it."""

    daemon: PrivateDaemon
    client: Client
    pid: int
    peak: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, dict[str, float]]:
        """The daemon's metrics: of each name its values, by their labels."""
        return {
            family.name: {",".join(s.labels.values()): s.value for s in family.samples}
            for family in text_string_to_metric_families(self.client.metrics())
        }

    def look(self) -> Seen:
        figures = self.figures()
        status = Path(f"/proc/{self.pid}/statm").read_text().split()
        resident = int(status[1]) * os.sysconf("SC_PAGE_SIZE")
        seen = Seen(
            processes=len(descendants(self.pid)),
            descriptors=sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir()),
            connections=int(figures["aiosd_connections"][""]),
            calls=int(figures["aiosd_calls"][""]),
            jobs=int(sum(figures["aiosd_jobs"].values())),
            contexts=int(figures["aiosd_contexts"][""]),
            memory_bytes=resident - int(figures["aiosd_snapshot_bytes"]["ram"]),
        )
        for name in Seen.__slots__:
            self.peak[name] = max(self.peak[name], getattr(seen, name))
        return seen

    def run(self, example: str) -> Run:
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{example}.py")],
            env={**os.environ, "AIOSD_SOCKET": self.daemon.socket},
            input=WHAT_A_USER_TYPES,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        return Run(example, time.monotonic() - began_s, done.returncode, done.stderr[-2000:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.show", description=__doc__)
    parser.add_argument("--instances", type=int, default=20, help="of each example, at once")
    parser.add_argument("--minutes", type=float, default=5.0, help="no run is begun past them")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--examples", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    given = parser.parse_args()
    problems = show(given.examples, given.instances, given.minutes, given.slots)
    if problems:
        raise SystemExit("\n".join(("It did not hold:", *problems)))
    print("Nothing is left, and every job is accounted.")


def show(names: Sequence[str], n_instances: int, minutes: float, n_slots: int) -> list[str]:
    """Run it, print its tables; what did not hold."""
    adopt_orphans()
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(staged(n_slots))
        person = Person(stack.enter_context(Client(stage.daemon.socket, agent="aiosctl")))
        answering = threading.Thread(target=person.answer, name="person")
        answering.start()
        try:
            note("each example once")
            first = [stage.run(name) for name in names]
            before = stage.look()
            note(f"{n_instances} of each, for {minutes:g} minutes")
            runs = together(stage, names, n_instances, minutes)
            after = settled(stage, before)
            ended = stage.figures()
        finally:
            person.client.close()
            answering.join()
    print(of_runs(runs), of_daemon(before, stage.peak, after), of_jobs(ended, person), sep="\n\n")
    return [
        *(f"{run.example} ended with {run.code}: {run.words}" for run in first + runs if run.code),
        *unaccounted(ended),
        *after.left_over(before),
        *(f"process {pid} outlived the daemon" for pid in descendants(os.getpid())),
    ]


@contextlib.contextmanager
def staged(n_slots: int) -> Iterator[Stage]:
    """A daemon with what the examples need, and somebody who looks at it now and then."""
    with tempfile.TemporaryDirectory(prefix="show-") as place:
        config = Path(place) / "aiosd.toml"
        config.write_text(CONFIG)
        flags: Flags = {
            "config": str(config),
            "policy": "fair",
            "slots": n_slots,
            "slot-tokens": 1024,
            "snapshot-ram": "2G",
        }
        with PrivateDaemon(flags) as daemon, Client(daemon.socket, agent="show") as client:
            pid = client.status()["pid"]
            assert isinstance(pid, int)
            yield Stage(daemon, client, pid)


def together(stage: Stage, names: Sequence[str], n_instances: int, minutes: float) -> list[Run]:
    """So many instances of each example at once, each again and again until the time is over."""
    until_s = time.monotonic() + minutes * 60
    runs: list[Run] = []

    def again_and_again(example: str) -> None:
        runs.append(stage.run(example))
        while time.monotonic() < until_s:
            runs.append(stage.run(example))

    threads = [
        threading.Thread(target=again_and_again, args=(name,))
        for name in names
        for _ in range(n_instances)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            stage.look()
            thread.join(LOOK_EVERY_S)
    return runs


def settled(stage: Stage, before: Seen) -> Seen:
    """What is there when nothing is left over, or after a while."""
    until_s = time.monotonic() + SETTLE_S
    while (seen := stage.look()).left_over(before) and time.monotonic() < until_s:
        time.sleep(0.2)
    return seen


def unaccounted(figures: dict[str, dict[str, float]]) -> list[str]:
    submitted = sum(figures["aiosd_jobs_submitted"].values())
    ended = sum(figures["aiosd_jobs_ended"].values())
    if submitted == ended:
        return []
    return [f"{submitted:.0f} jobs were submitted, {ended:.0f} have ended"]


def of_runs(runs: Sequence[Run]) -> str:
    cells = []
    for name in sorted({run.example for run in runs}):
        mine = [run for run in runs if run.example == name]
        took = Spread.of([run.seconds for run in mine])
        n_failed = sum(run.code != 0 for run in mine)
        times = [f"{seconds:.1f}" for seconds in (took.low, took.median, took.high)]
        cells.append((name, str(len(mine)), str(n_failed), *times))
    return table(("example", "runs", "failed", "fastest s", "median s", "slowest s"), cells)


def of_daemon(before: Seen, peak: Counter[str], after: Seen) -> str:
    cells = [
        (
            name,
            *(_count(name, n) for n in (getattr(before, name), peak[name], getattr(after, name))),
        )
        for name in Seen.__slots__
    ]
    return table(("of the daemon", "before", "most", "after"), cells)


def of_jobs(figures: dict[str, dict[str, float]], person: Person) -> str:
    """What was submitted, how it ended, what it took, and what a person was asked."""
    rows = {"submitted": sum(figures["aiosd_jobs_submitted"].values())}
    rows |= {f"ended: {kind}": n for kind, n in figures["aiosd_jobs_ended"].items()}
    rows |= {kind: figures["aiosd_switches"][kind] for kind in ("slices", "parks")}
    rows |= {f"requests {answer}": n for answer, n in sorted(person.said.items())}
    calls = {kind: n for kind, n in figures["aiosd_syscalls"].items() if "," in kind}
    shown = ("llm.", "tool.", "agent.spawn", "ipc.send", "ipc.ack")
    rows |= {f"calls: {kind.replace(',', ' ')}": n for kind, n in sorted(calls.items())
             if kind.startswith(shown)}  # fmt: skip
    return table(("jobs", "number"), [(name, f"{n:.0f}") for name, n in rows.items()])


def _count(name: str, n: int) -> str:
    return f"{n >> 20} MiB" if name.endswith("_bytes") else str(n)


def descendants(pid: int) -> set[int]:
    """All processes below one, zombies too."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {p for p, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def adopt_orphans() -> None:
    """A process whose parents have ended becomes a child of this one: it can't hide."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


if __name__ == "__main__":
    main()
