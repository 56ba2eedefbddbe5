"""Promise 5: what was acknowledged is kept.  Agents work, the daemon is killed, and again.

Each agent notes what it was told.  After a kill -9 every context must hold that, or what the one
call that was under way would have made of it; nothing half-written, nothing invented.  At the end
one daemon lives on for a while, to see that its memory and its descriptors stay as they are.

AIOSD_SOAK_KILLS sets how long all that goes on; pytest -s shows the figures as they come.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from aios_sdk import wire
from tests.e2e.conftest import DaemonProcess
from tests.server.harness import RawPeer

pytestmark = pytest.mark.slow

N_AGENTS = 6
N_KILLS = int(os.environ.get("AIOSD_SOAK_KILLS", "6"))  # 60 take about five minutes
LAST_LIFE_S = 6.0 + N_KILLS  # of the daemon that isn't killed; a third of it is warming up
N_SAMPLES = 24  # of that one's figures
GROWTH_BYTES = 48 * 2**20  # above what the allocator keeps and gives; a leak per call is far more
FLAGS = ("--slots", "4", "--slot-tokens", "512", "--snapshot-ram", "16M", "--snapshot-files", "64M")


class GoneError(Exception):
    """The daemon is gone in the middle of a call."""


@dataclass
class Agent:
    """What one agent was told: the tokens of each context.  doubt is the call under way, whose
    effect it can't know: the context, and the tokens it had before it."""

    name: str
    rng: random.Random
    known: dict[str, list[int]] = field(default_factory=dict)
    doubt: tuple[str, str] | None = None
    n_calls: int = 0

    def work(self, socket: str, is_over: threading.Event) -> None:
        """Act until the daemon is gone, or it is over."""
        try:
            with RawPeer(socket, agent=self.name) as peer:
                while not is_over.is_set():
                    self._act(peer)
                    self.n_calls += 1
        except (GoneError, OSError, AssertionError) as error:
            # Only the end of the connection is allowed to end the work.
            if isinstance(error, AssertionError) and "None" not in str(error):
                raise

    def _ask(self, peer: RawPeer, method: str, **params: Any) -> Any:
        peer._n += 1
        peer.send(wire.encode_request(peer._n, method, params))
        message = peer.receive()
        if message is None:
            raise GoneError
        assert isinstance(message, wire.Response), message
        assert message.error is None, message.error
        return message.result

    def _act(self, peer: RawPeer) -> None:
        dice = self.rng.random()
        if not self.known or (dice < 0.15 and len(self.known) < 8):
            self.doubt = ("", "create")
            context = self._ask(peer, "context.create", system=f"I am {self.name}.")["context"]
            self.doubt = (context, "read")
            self.known[context] = self._tokens(peer, context)
        else:
            context = self.rng.choice(list(self.known))
            if dice < 0.4:
                self.doubt = (context, "grow")
                words = {"messages": [{"role": "user", "content": f"{self.rng.random()}"}]}
                self._ask(peer, "context.append", context=context, **words)
            elif dice < 0.75 and len(self.known[context]) < 400:
                self.doubt = (context, "grow")
                params = {"prompt": " more", "max_tokens": 3, "ignore_eos": True}
                self._ask(peer, "llm.generate", context=context, **params)
            elif dice < 0.85:
                n_tokens = self.rng.randint(0, len(self.known[context]))
                self.doubt = (context, "shrink")
                self._ask(peer, "context.rewind", context=context, n_tokens=n_tokens)
            elif dice < 0.93 and len(self.known) < 8:
                self.doubt = ("", "create")
                fork = self._ask(peer, "context.fork", context=context)["context"]
                assert self._tokens(peer, fork) == self.known[context]
                self.known[fork] = list(self.known[context])
            else:
                self.doubt = (context, "delete")
                self._ask(peer, "context.delete", context=context)
                del self.known[context]
                self.doubt = None
                return
            self.known[context] = self._tokens(peer, context)
        self.doubt = None

    def _tokens(self, peer: RawPeer, context: str) -> list[int]:
        read = self._ask(peer, "context.read", context=context, tokens=True)
        tokens: list[int] = read["tokens"]
        return tokens

    def compare(self, socket: str) -> None:
        """What is there now against what was told."""
        with RawPeer(socket, agent=self.name) as peer:
            there = {c["context"] for c in self._ask(peer, "context.list")["contexts"]}
            in_doubt, how = self.doubt or ("", "")
            for context in list(self.known):
                if context == in_doubt and how == "delete" and context not in there:
                    del self.known[context]
                    continue
                assert context in there, f"{self.name} lost {context}"
                now, told = self._tokens(peer, context), self.known[context]
                if context != in_doubt or how in ("read", "delete"):
                    assert now == told, f"{self.name}: {context} after {self.doubt}"
                elif how == "grow":
                    assert now[: len(told)] == told
                elif how == "shrink":
                    assert now == told[: len(now)]
                self.known[context] = now
            extra = there - self.known.keys()
            assert len(extra) <= (how in ("create", "read")), f"{self.name}: {extra}"
            for context in extra:
                self.known[context] = self._tokens(peer, context)
            self.doubt = None


@dataclass(frozen=True)
class Figures:
    """What a daemon held at one moment."""

    rss_bytes: int
    n_descriptors: int
    state_bytes: int

    @classmethod
    def of(cls, daemon: DaemonProcess, what: str) -> Figures:
        state = daemon.directory / "state"
        sizes = [path.stat().st_size for path in state.iterdir() if path.is_file()]
        figures = cls(daemon.rss_bytes(), daemon.n_descriptors(), sum(sizes))
        megabytes = f"{figures.rss_bytes / 1e6:.1f} MB, database {figures.state_bytes / 1e6:.1f} MB"
        sys.stdout.write(f"{what}: {megabytes}, {figures.n_descriptors} descriptors\n")
        return figures


@contextlib.contextmanager
def at_work(agents: list[Agent], daemon: DaemonProcess) -> Iterator[None]:
    """All agents act until the block ends."""
    is_over = threading.Event()
    threads = [threading.Thread(target=a.work, args=(daemon.socket, is_over)) for a in agents]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def live_on(agents: list[Agent], daemon: DaemonProcess) -> list[Figures]:
    """The figures of a daemon at work for a while, one after the other."""
    series = []
    process = daemon.process
    with at_work(agents, daemon):
        for n in range(N_SAMPLES):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LAST_LIFE_S / N_SAMPLES)
            assert process.poll() is None, daemon.words()
            series.append(Figures.of(daemon, f"last life, {n + 1} of {N_SAMPLES}"))
    return series


def assert_flat(series: list[Figures]) -> None:
    """The last third holds no more than the second third did, but for what comes and goes."""
    third = len(series) // 3
    warm, late = series[third : 2 * third], series[2 * third :]
    growth = median(f.rss_bytes for f in late) - median(f.rss_bytes for f in warm)
    assert growth <= GROWTH_BYTES, f"memory grew by {growth} bytes"
    most = max(f.n_descriptors for f in warm)
    assert max(f.n_descriptors for f in late) <= most + N_AGENTS  # a file or two each, for moments


@pytest.mark.timeout(3600)
def test_what_was_acknowledged_survives_kill_9_again_and_again(tmp_path: Path) -> None:
    rng = random.Random(20)
    agents = [Agent(f"agent-{n}", random.Random(n)) for n in range(N_AGENTS)]
    daemon = DaemonProcess(tmp_path, *FLAGS)
    idle: list[Figures] = []
    try:
        for n in range(N_KILLS):
            with at_work(agents, daemon):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.process.wait(1.0 + 3.0 * rng.random())  # then a kill, at any moment
                daemon.kill()
            daemon = daemon.again()
            for agent in agents:
                agent.compare(daemon.socket)
            idle.append(Figures.of(daemon, f"after kill {n + 1}"))
        assert sum(agent.n_calls for agent in agents) > 10 * N_KILLS
        # Each life begins as the one before: what was kept doesn't pile up.
        assert idle[-1].n_descriptors <= idle[0].n_descriptors + 2
        assert idle[-1].rss_bytes <= idle[0].rss_bytes + GROWTH_BYTES

        assert_flat(live_on(agents, daemon))
        for agent in agents:
            agent.compare(daemon.socket)
        assert daemon.stop() == 0
        daemon = daemon.again()
        for agent in agents:
            agent.compare(daemon.socket)
        assert daemon.n_descriptors() <= idle[0].n_descriptors + 2
        assert daemon.stop() == 0
    finally:
        daemon.kill()


PROMPT = {"prompt": "Once upon a time", "max_tokens": 120, "ignore_eos": True}
NUMBERS = 'root ::= "[" [0-9]+ ("," [0-9]+)* "]"'


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "params",
    [
        {**PROMPT, "temperature": 0},
        {**PROMPT, "temperature": 0.9, "seed": 11, "repeat_penalty": 1.2},
        {
            "prompt": "Numbers: ",
            "max_tokens": 90,
            "temperature": 0.8,
            "seed": 3,
            "grammar": NUMBERS,
        },
    ],
    ids=["greedy", "seeded", "grammar"],
)
def test_a_detached_job_killed_in_mid_turn_ends_as_if_nothing_had_happened(
    tmp_path: Path, params: dict[str, Any]
) -> None:
    daemon = DaemonProcess(tmp_path, *FLAGS)
    try:
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            straight: Any = peer.ask("llm.generate", **params).result
            created: Any = peer.ask("context.create").result
            detached = {**params, "context": created["context"], "detach": True, "stream": True}
            peer.send(wire.encode_request(1, "llm.generate", detached))
            job, n_seen = "", 0
            while n_seen < len(straight["tokens"]) // 2:
                message = peer.receive()
                assert isinstance(message, wire.Notification), message
                job = str(message.params.get("job", job))
                n_seen += len(message.params.get("tokens", []))  # type: ignore[arg-type]
        daemon.kill()
        daemon = daemon.again()
        with RawPeer(daemon.socket) as peer:
            peer.sock.settimeout(60)
            reply: Any = peer.ask("job.attach", job=job).result
            assert reply["tokens"] == straight["tokens"]
            assert reply["text"] == straight["text"]
            assert reply["finish"] == straight["finish"]
            read: Any = peer.ask("context.read", context=created["context"], tokens=True).result
            assert read["tokens"][-len(straight["tokens"]) :] == straight["tokens"]
        assert daemon.stop() == 0
    finally:
        daemon.kill()
