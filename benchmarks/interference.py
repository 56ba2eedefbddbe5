"""Who disturbs whom: talkers while a long prompt arrives, a person's question among background
work, and sys.ping under all of it; aiosd beside llama-server under the same load.

A gap is the time between two tokens of one talker, as its client sees it.  It counts as "while" if
any of it lies between the long prompt's arrival and that one's first token.  A normal step is the
median gap before; a chunk is what reading the long prompt alone takes for each PREFILL_TOKENS.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks import peer
from benchmarks.common import Options, Spread, bars, finish, model_path, n_cores, note, shown, table
from benchmarks.common import Row as JsonRow
from benchmarks.load import READ_BYTES, Agent, JobTimes, background_jobs, prompt_tokens
from benchmarks.servers import llama_server
from benchmarks.syscalls import Client

N_TALKERS = 16
N_BEFORE = 20  # tokens of each talker before the long prompt arrives
N_TALK = 160  # tokens of each talker in all
N_LONG_PROMPT = 1500
PREFILL_TOKENS = 256  # the daemon's default
SLOT_TOKENS = 2048
GAP_STEPS = 2  # the target: so many normal steps and a chunk
N_BACKGROUND, BACKGROUND_PROMPT, BACKGROUND_OUTPUT = 8, 700, 16
N_LANES = 4  # for the background work
ASK_AFTER_S = 0.3
PING_GAP_S = 0.005
N_PINGS = 1000
PING_TARGET_MS = 20.0
MINUTES = 3.0
STORIES = ("a fox", "the rain", "an old clock", "bread", "a bridge", "salt", "a letter", "a map")

Ask = Callable[..., Coroutine[Any, Any, JobTimes]]
"""(prompt, n_output, times, priority) -> times, whose arrivals it fills in as they come."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between tokens."""

    p50: Spread
    p99: Spread
    most: Spread


@dataclass(frozen=True, slots=True)
class Talk:
    """Talkers and a long prompt.  in_steps: the longest gap in normal steps; of_allowed: over
    GAP_STEPS normal steps and a chunk."""

    server: str
    before: Gaps
    during: Gaps
    chunk_ms: Spread
    in_steps: Spread
    of_allowed: Spread
    long_ttft_ms: Spread


@dataclass(frozen=True, slots=True)
class Person:
    """A question among background prompts that came before it."""

    server: str
    ttft_ms: Spread
    background_ttft_ms: Spread
    n_passed_it: Spread  # background jobs whose first token came before the person's


@dataclass(frozen=True, slots=True)
class Ping:
    """sys.ping while everything runs."""

    ping_p50_ms: Spread
    ping_p99_ms: Spread
    ping_most_ms: Spread


@dataclass(slots=True)
class Taken:
    """The samples of one server."""

    talks: list[dict[str, float]] = field(default_factory=list)
    persons: list[dict[str, float]] = field(default_factory=list)


def main(options: Options) -> None:
    program = options.llama_server or peer.build(options, peer.LLAMA_SERVER)
    model = model_path()
    ours, theirs = Taken(), Taken()
    pings: list[tuple[float, float, float]] = []
    scale = Scale.quick() if options.is_quick else Scale()
    for _ in options.rounds(MINUTES):
        flags: Flags = {"slots": scale.n_talkers + 1, "slot-tokens": SLOT_TOKENS}
        with PrivateDaemon({**flags, "threads": n_cores()}) as daemon:
            ours.talks.append(talk(Aiosd(daemon.socket).ask, scale))
            pings.append(ping(daemon.socket, scale))
        with llama_server(
            program, model, n_slots=scale.n_talkers + 1, slot_tokens=SLOT_TOKENS
        ) as url:
            theirs.talks.append(talk(LlamaServer(url).ask, scale))
        with PrivateDaemon({"slots": 8, "lanes": N_LANES, "threads": n_cores()}) as daemon:
            ours.persons.append(person(Aiosd(daemon.socket).ask, scale))
        with llama_server(program, model, n_slots=N_LANES, slot_tokens=SLOT_TOKENS) as url:
            theirs.persons.append(person(LlamaServer(url).ask, scale))
        note("a round is done")
    servers = {"aiosd": ours, "llama-server": theirs}
    talks = [talk_of(name, taken.talks) for name, taken in servers.items()]
    rows: list[object] = [*talks]
    rows += [person_of(name, taken.persons) for name, taken in servers.items()]
    rows.append(Ping(*(Spread.of([sample[i] for sample in pings]) for i in range(3))))
    finish("interference", options, rows, report, len(pings))
    bars(
        "interference",
        options,
        title=f"{N_TALKERS} talkers while a prompt of {N_LONG_PROMPT} tokens is read",
        y_label="milliseconds between two tokens",
        labels=[f"{row.server}\n{when}" for row in talks for when in ("before", "while")],
        groups={
            name: [getattr(gaps, name) for row in talks for gaps in (row.before, row.during)]
            for name in ("p50", "p99", "most")
        },
    )


@dataclass(frozen=True, slots=True)
class Scale:
    n_talkers: int = N_TALKERS
    n_before: int = N_BEFORE
    n_talk: int = N_TALK
    n_long_prompt: int = N_LONG_PROMPT
    n_background: int = N_BACKGROUND
    background_prompt: int = BACKGROUND_PROMPT
    n_pings: int = N_PINGS

    @classmethod
    def quick(cls) -> Scale:
        return cls(2, 4, 24, 300, 3, 60, 20)


# ---------------------------------------------------------------- the two servers


class Aiosd:
    def __init__(self, path: str) -> None:
        self._path = path
        self._n = 0

    async def ask(
        self, prompt: str | list[int], n_output: int, times: JobTimes, priority: str = "normal"
    ) -> JobTimes:
        self._n += 1
        agent = await Agent.connect(self._path, f"agent-{self._n}")
        params: dict[str, Any] = {"max_tokens": n_output, "temperature": 0, "ignore_eos": True}
        params |= {"stream": True, "priority": priority}
        params["prompt" if isinstance(prompt, str) else "tokens"] = prompt
        times.submitted_s = time.perf_counter()
        await agent.stream("llm.generate", times, **params)
        times.ended_s = time.perf_counter()
        agent.close()
        return times


class LlamaServer:
    """Its own /completion, which takes text and tokens alike and streams server-sent events."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port

    async def ask(
        self, prompt: str | list[int], n_output: int, times: JobTimes, priority: str = "normal"
    ) -> JobTimes:
        del priority  # it knows of none
        body = {"prompt": prompt, "n_predict": n_output, "temperature": 0, "ignore_eos": True}
        data = json.dumps({**body, "stream": True}).encode()
        reader, writer = await asyncio.open_connection(self._host, self._port)
        head = "POST /completion HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        head += f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        times.submitted_s = time.perf_counter()
        writer.write(head.encode() + data)
        text = b""
        while more := await reader.read(READ_BYTES):
            now_s = time.perf_counter()
            *lines, text = (text + more).split(b"\n")
            n_tokens = sum(
                line.startswith(b"data: {") and b'"stop":false' in line for line in lines
            )
            if n_tokens:
                times.arrivals.append((now_s, n_tokens))
        times.ended_s = time.perf_counter()
        writer.close()
        assert times.arrivals, "llama-server gave nothing"
        return times


# ---------------------------------------------------------------- the situations


def talk(ask: Ask, scale: Scale) -> dict[str, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_talk(ask, scale))


async def _talk(ask: Ask, scale: Scale) -> dict[str, float]:
    await ask("Hello there.", 4, JobTimes())
    alone = await ask(prompt_tokens(scale.n_long_prompt, 1), 1, JobTimes())
    chunk_s = (alone.arrivals[0][0] - alone.submitted_s) * PREFILL_TOKENS / scale.n_long_prompt
    talkers = [JobTimes() for _ in range(scale.n_talkers)]
    long = JobTimes()
    async with asyncio.TaskGroup() as group:
        for number, times in enumerate(talkers):
            about = STORIES[number % len(STORIES)]
            prompt = f"Story {number}: a long tale about {about}. Once upon a time"
            group.create_task(ask(prompt, scale.n_talk, times))
        while min(len(times.arrivals) for times in talkers) < scale.n_before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # an event per token would be in the way of what is measured
        await ask(prompt_tokens(scale.n_long_prompt, 2), 4, long)
    began_s, ended_s = long.submitted_s, long.arrivals[0][0]
    all_read_s = max(times.arrivals[0][0] for times in talkers)
    before, during = [], []
    for times in talkers:
        moments = [when_s for when_s, _ in times.arrivals]
        for left, right in itertools.pairwise(moments):
            if all_read_s < left and right < began_s:
                before.append(right - left)
            elif left < ended_s and right > began_s:
                during.append(right - left)
    if not before or not during:
        raise RuntimeError("the talkers ended too early to be disturbed")
    step_s = quantile(before, 0.5)
    figures = {"chunk_ms": chunk_s * 1e3, "in_steps": max(during) / step_s}
    figures["of_allowed"] = max(during) / (GAP_STEPS * step_s + chunk_s)
    figures["long_ttft_ms"] = (ended_s - began_s) * 1e3
    for name, gaps in (("before", before), ("during", during)):
        figures[f"{name}_p50"] = quantile(gaps, 0.5) * 1e3
        figures[f"{name}_p99"] = quantile(gaps, 0.99) * 1e3
        figures[f"{name}_most"] = max(gaps) * 1e3
    return figures


def person(ask: Ask, scale: Scale) -> dict[str, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_person(ask, scale))


async def _person(ask: Ask, scale: Scale) -> dict[str, float]:
    await ask("Hello there.", 4, JobTimes())
    background = [JobTimes() for _ in range(scale.n_background)]
    asked = JobTimes()
    async with asyncio.TaskGroup() as group:
        for number, times in enumerate(background):
            prompt = prompt_tokens(scale.background_prompt, 50 + number)
            group.create_task(ask(prompt, BACKGROUND_OUTPUT, times, "background"))
        await asyncio.sleep(ASK_AFTER_S)  # they came first
        await ask("A person asks: what is the time?", 8, asked, "interactive")
    first_s = asked.arrivals[0][0]
    ttfts = [times.arrivals[0][0] - times.submitted_s for times in background]
    return {
        "ttft_ms": (first_s - asked.submitted_s) * 1e3,
        "background_ttft_ms": quantile(ttfts, 0.5) * 1e3,
        "n_passed_it": float(sum(times.arrivals[0][0] < first_s for times in background)),
    }


def ping(path: str, scale: Scale) -> tuple[float, float, float]:
    """(p50, p99, most) in milliseconds, while talkers talk and long prompts are read."""
    n_readers = max(1, scale.n_talkers // 4)
    with (
        background_jobs(path, n_jobs=scale.n_talkers - n_readers),
        background_jobs(path, n_jobs=n_readers, n_prompt=scale.n_long_prompt, n_output=16),
    ):
        client = Client(path)
        times_s = []
        for _ in range(scale.n_pings):
            time.sleep(random.expovariate(1 / PING_GAP_S))
            times_s.append(client.round_trip_s())
        client.close()
    return quantile(times_s, 0.5) * 1e3, quantile(times_s, 0.99) * 1e3, max(times_s) * 1e3


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# ---------------------------------------------------------------- figures


def talk_of(server: str, taken: list[dict[str, float]]) -> Talk:
    def spread(key: str) -> Spread:
        return Spread.of([sample[key] for sample in taken])

    def gaps(name: str) -> Gaps:
        return Gaps(*(spread(f"{name}_{part}") for part in ("p50", "p99", "most")))

    keys = ("chunk_ms", "in_steps", "of_allowed", "long_ttft_ms")
    return Talk(server, gaps("before"), gaps("during"), *map(spread, keys))


def person_of(server: str, taken: list[dict[str, float]]) -> Person:
    keys = ("ttft_ms", "background_ttft_ms", "n_passed_it")
    return Person(server, *(Spread.of([sample[key] for sample in taken]) for key in keys))


def report(rows: Sequence[JsonRow]) -> str:
    talks = [r for r in rows if "during" in r]
    persons = [r for r in rows if "n_passed_it" in r]
    pings = [r for r in rows if "ping_p99_ms" in r]
    parts = [
        f"{N_TALKERS} talkers, and a prompt of {N_LONG_PROMPT} tokens arrives: milliseconds "
        "between two tokens of a talker, before and until that prompt's own first token.",
        table(
            ("server", "when", "p50", "p99", "longest", "in normal steps", "over what is allowed"),
            [line for r in talks for line in _talk_lines(r)],
        ),
        f"Allowed are {GAP_STEPS} normal steps and a chunk of {PREFILL_TOKENS} tokens "
        f"({shown(talks[0]['chunk_ms'])} ms here). The long prompt's first token came after "
        + ", ".join(f"{shown(r['long_ttft_ms'])} ms ({r['server']})" for r in talks)
        + ".",
        f"A person asks (priority interactive) {ASK_AFTER_S} s after {N_BACKGROUND} background "
        f"prompts of {BACKGROUND_PROMPT} tokens, {N_LANES} lanes:",
        table(
            ("server", "first token, ms", "of background jobs, median, ms", "of these came before"),
            [
                (
                    r["server"],
                    *(shown(r[key]) for key in ("ttft_ms", "background_ttft_ms", "n_passed_it")),
                )
                for r in persons
            ],
        ),
    ]
    for r in pings:
        verdict = "met" if r["ping_p99_ms"]["median"] <= PING_TARGET_MS else "missed"
        parts.append(
            f"sys.ping while {N_TALKERS} jobs talk and read: p50 {shown(r['ping_p50_ms'])} ms, "
            f"p99 {shown(r['ping_p99_ms'])} ms, longest {shown(r['ping_most_ms'])} ms; the guide "
            f"is {PING_TARGET_MS:.0f} ms at p99: {verdict}."
        )
    return "\n\n".join(parts)


def _talk_lines(r: JsonRow) -> list[tuple[str, ...]]:
    before, during = r["before"], r["during"]
    keys = ("p50", "p99", "most")
    return [
        (r["server"], "before", *(shown(before[key]) for key in keys), "", ""),
        (
            r["server"],
            "while",
            *(shown(during[key]) for key in keys),
            shown(r["in_steps"]),
            shown(r["of_allowed"]),
        ),
    ]
