"""A group of agents at work: one long system prompt for all, some turns each, a tool call between.

Rule: every server gets the same messages, answers greedily with exactly so many tokens (its end
token is out of the question), and is asked the next turn when its agent's tool call is over.
aiosd is told only what is new; to the others the whole conversation is sent again, as to any
stateless server.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.load import Agent

TIMEOUT_S = 300.0
END_TOKENS = (0, 2)  # of SmolLM2: <|endoftext|>, <|im_end|>
BANNED = -100.0
RULES = (
    "Read the request twice before you answer it, and answer only what was asked.",
    "Say which file a fact is from, and never invent the name of a file.",
    "Prefer a short list to a long paragraph when there are several things to say.",
    "If a tool fails, say what it said, then try once more with other arguments.",
    "Keep numbers as they were given; do not round them and do not change their units.",
    "When two sources disagree, name both and say which one is newer.",
    "Do not repeat the question, do not apologise, and do not thank anybody.",
    "Ask for a missing detail only if the work cannot go on without it.",
)
N_TURNS = 2
N_OUTPUT = 32
TOPICS = ("rain", "bread", "clocks", "foxes", "maps", "salt", "bridges", "letters")
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Workload:
    """wave: another one gives other questions under the same system prompt, for a warm server."""

    n_agents: int
    n_turns: int = N_TURNS
    n_output: int = N_OUTPUT
    n_rules: int = 34  # of the system prompt: about 700 tokens
    wave: int = 0

    @property
    def system(self) -> str:
        numbered = (f"{n + 1}. {RULES[n % len(RULES)]}" for n in range(self.n_rules))
        return "You are one of the agents of a newsroom. " + " ".join(numbered)

    def question(self, agent: int, turn: int) -> str:
        topic = TOPICS[(agent + turn) % len(TOPICS)]
        place = f"desk {self.wave}-{agent}, note {turn}"
        return f"From {place}: what should the page on {topic} say first, and why?"

    def wait_s(self, agent: int, turn: int) -> float:
        """The tool call before a turn: 0.1 to 0.5 s, the same for every server."""
        if turn == 0:
            return 0.0
        return random.Random(f"{agent} {turn} {self.wave}").uniform(0.1, 0.5)

    @property
    def n_generated(self) -> int:
        return self.n_agents * self.n_turns * self.n_output


@dataclass(frozen=True, slots=True)
class Outcome:
    """makespan_s: from the first call to the last reply; n_output: tokens that were generated."""

    makespan_s: float
    n_output: int


# ---------------------------------------------------------------- aiosd


def through_aiosd(path: str, work: Workload) -> Outcome:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_through_aiosd(path, work))


async def _through_aiosd(path: str, work: Workload) -> Outcome:
    agents = [
        await Agent.connect(path, f"desk-{work.wave}-{number}") for number in range(work.n_agents)
    ]
    n_output = [0] * work.n_agents

    async def live(number: int) -> None:
        agent = agents[number]
        created = await agent.call("context.create", system=work.system)
        for turn in range(work.n_turns):
            await asyncio.sleep(work.wait_s(number, turn))
            reply = await agent.call(
                "llm.generate",
                context=created["context"],
                messages=[{"role": "user", "content": work.question(number, turn)}],
                max_tokens=work.n_output,
                temperature=0,
                ignore_eos=True,
            )
            n_output[number] += len(reply["tokens"])

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(work.n_agents):
            group.create_task(live(number))
    spent_s = time.perf_counter() - began_s
    for agent in agents:
        agent.close()
    return Outcome(spent_s, sum(n_output))


# ---------------------------------------------------------------- an OpenAI-compatible server

Answer = Callable[[list[Message], int], tuple[str, int]]
"""(messages, how many tokens) -> (the text, how many tokens it has)."""


def through_http(url: str, work: Workload) -> Outcome:
    """url: its base, as http://127.0.0.1:8080 (with or without /v1)."""
    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    with urllib.request.urlopen(f"{base}/models", timeout=TIMEOUT_S) as reply:  # noqa: S310 - given
        model = json.load(reply)["data"][0]["id"]

    def answer(messages: list[Message], n_output: int) -> tuple[str, int]:
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "max_tokens": n_output,
            "temperature": 0,
            "ignore_eos": True,  # where it is known
            "logit_bias": {str(token): BANNED for token in END_TOKENS},
        }
        request = urllib.request.Request(  # noqa: S310 - the address was given to us
            f"{base}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310
            said = json.load(reply)
        return said["choices"][0]["message"]["content"] or "", said["usage"]["completion_tokens"]

    return in_threads(answer, work)


def in_threads(answer: Answer, work: Workload) -> Outcome:
    """A thread per agent, each keeping its conversation."""
    ready = threading.Barrier(work.n_agents + 1)

    def live(number: int) -> int:
        messages = [{"role": "system", "content": work.system}]
        n_output = 0
        ready.wait()
        for turn in range(work.n_turns):
            time.sleep(work.wait_s(number, turn))
            messages.append({"role": "user", "content": work.question(number, turn)})
            text, n_tokens = answer(messages, work.n_output)
            messages.append({"role": "assistant", "content": text})
            n_output += n_tokens
        return n_output

    with ThreadPoolExecutor(work.n_agents) as pool:
        lives = [pool.submit(live, number) for number in range(work.n_agents)]
        ready.wait()
        began_s = time.perf_counter()
        n_output = sum(life.result() for life in lives)
        return Outcome(time.perf_counter() - began_s, n_output)
