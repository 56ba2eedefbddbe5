"""Promise 1 through the socket: scheduling never changes an answer.

24 agents hold conversations of several turns, greedy and seeded.  What each gets alone is what it
gets among all the others, under every policy, quantum and snapshot budget, while contexts are
parked and resumed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from aios_sdk import wire
from tests.e2e.conftest import DaemonProcess, Start
from tests.server.harness import RawPeer

pytestmark = pytest.mark.slow

N_AGENTS = 24
N_TURNS = 3
SLOTS = ("--slots", "8", "--slot-tokens", "1024")

TOPICS = ("rain", "bread", "clocks", "foxes", "maps", "salt")


@dataclass(frozen=True)
class Turn:
    """What one turn gave, and what it went through."""

    tokens: tuple[int, ...]
    text: str
    slices: int
    parks: int


def params_of(agent: int, turn: int) -> dict[str, Any]:
    """Half of the agents are greedy, half sample with a seed of their own; lengths differ."""
    topic = TOPICS[agent % len(TOPICS)]
    about = f"Agent {agent}, turn {turn}: tell me about {topic}. " * (1 + (agent * 7 + turn) % 4)
    sampled = {"temperature": 0.9, "seed": 1000 + agent, "repeat_penalty": 1.1}
    return {
        "messages": [{"role": "user", "content": about}],
        "max_tokens": 12 + (agent * 5 + turn * 3) % 17,
        **(sampled if agent % 2 else {"temperature": 0}),
    }


def converse(daemon: DaemonProcess, agent: int) -> list[Turn]:
    with RawPeer(daemon.socket, agent=f"agent-{agent}") as peer:
        peer.sock.settimeout(240)
        context = answer(peer.ask("context.create", system=f"You are agent number {agent}."))
        turns = []
        for turn in range(N_TURNS):
            reply = answer(
                peer.ask("llm.generate", context=context["context"], **params_of(agent, turn))
            )
            usage = reply["usage"]
            turns.append(
                Turn(tuple(reply["tokens"]), reply["text"], usage["slices"], usage["parks"])
            )
        answer(peer.ask("context.delete", context=context["context"]))
        return turns


def answer(response: wire.Response) -> Any:
    assert response.error is None, response.error
    return response.result


def words(turns: list[Turn]) -> list[tuple[tuple[int, ...], str]]:
    return [(turn.tokens, turn.text) for turn in turns]


@pytest.fixture(scope="module")
def alone(start: Start) -> list[list[Turn]]:
    """Each agent by itself, one after the other, on one slot."""
    daemon = start("--slots", "1", "--slot-tokens", "1024", "--policy", "fifo")
    conversations = [converse(daemon, agent) for agent in range(N_AGENTS)]
    assert daemon.stop() == 0
    return conversations


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("flags", "is_sliced"),
    [
        (("--policy", "rr", "--quantum", "4", "--lanes", "4"), True),
        (("--policy", "fair", "--quantum", "4", "--lanes", "4"), True),
        (("--policy", "fifo", "--lanes", "4"), False),
        (("--policy", "rr", "--quantum", "1", "--lanes", "3"), True),
        (
            (
                "--policy",
                "rr",
                "--quantum",
                "4",
                "--lanes",
                "4",
                "--snapshot-ram",
                "32M",
                "--snapshot-files",
                "0",
            ),
            True,
        ),
        (("--policy", "rr", "--quantum", "8", "--lanes", "4", "--snapshot-ram", "16M"), True),
        (("--policy", "rr", "--quantum", "5", "--lanes", "8", "--prefill-tokens", "7"), True),
    ],
    ids=["rr-4", "fair-4", "fifo", "rr-1", "small-snapshots", "files", "tiny-prefill"],
)
def test_everyone_gets_what_it_gets_alone(
    start: Start, alone: list[list[Turn]], flags: tuple[str, ...], is_sliced: bool
) -> None:
    daemon = start(*SLOTS, *flags)
    with ThreadPoolExecutor(N_AGENTS) as pool:
        together = list(pool.map(lambda agent: converse(daemon, agent), range(N_AGENTS)))
    for agent in range(N_AGENTS):
        assert words(together[agent]) == words(alone[agent]), f"agent {agent}"
    with RawPeer(daemon.socket) as peer:
        core = answer(peer.ask("sys.status"))["cores"][0]
    assert not any(core["jobs"].values())
    slices = [turn.slices for turns in together for turn in turns]
    parks = [turn.parks for turns in together for turn in turns]
    if is_sliced:
        assert max(slices) > 1
        assert sum(parks) > 0
    else:
        assert slices == [1] * (N_AGENTS * N_TURNS)
        assert parks == [0] * (N_AGENTS * N_TURNS)
    if "32M" in flags:
        assert core["snapshots"]["lost"] > 0
        assert core["tokens"]["reread"] > 0
    assert daemon.stop() == 0
