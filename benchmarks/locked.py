"""The first thing most people write: one llama_cpp.Llama, and a lock around it.

`python -m benchmarks.locked agents MODEL AGENTS TURNS OUTPUT RULES` runs the workload of `agents`,
`… jobs MODEL` reads jobs from standard input (see ablation); each prints its figures as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llama_cpp import Llama

from benchmarks.common import n_cores
from benchmarks.workload import BANNED, END_TOKENS, Message, Workload, in_threads

BIAS = dict.fromkeys(END_TOKENS, BANNED)


def load(path: str) -> Llama:
    return Llama(
        path, n_ctx=2048, n_threads=n_cores(), n_threads_batch=n_cores(), verbose=False, seed=0
    )


def agents(path: str, work: Workload) -> dict[str, float]:
    model = load(path)
    lock = threading.Lock()

    def answer(messages: list[Message], n_output: int) -> tuple[str, int]:
        with lock:
            said: Any = model.create_chat_completion(
                messages,
                max_tokens=n_output,
                temperature=0,
                logit_bias=BIAS,
            )
        return said["choices"][0]["message"]["content"], said["usage"]["completion_tokens"]

    outcome = in_threads(answer, work)
    return {"makespan_s": outcome.makespan_s, "n_output": outcome.n_output}


def jobs(path: str, agents: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Per agent: {at_s, turns: [{tokens, n_output}]} -> when its turns waited and ended."""
    model = load(path)
    lock = threading.Lock()
    began_s = time.perf_counter()

    def live(agent: dict[str, Any]) -> dict[str, float]:
        time.sleep(max(0.0, began_s + agent["at_s"] - time.perf_counter()))
        submitted_s = time.perf_counter()
        log: list[int] = []
        waited_s = 0.0
        for turn in agent["turns"]:
            log += turn["tokens"]
            asked_s = time.perf_counter()
            with lock:
                waited_s += time.perf_counter() - asked_s
                said: Any = model.create_completion(
                    log,
                    max_tokens=turn["n_output"],
                    temperature=0,
                    logit_bias=BIAS,
                )
            log += model.tokenize(said["choices"][0]["text"].encode(), add_bos=False)
        ended_s = time.perf_counter()
        return {
            "submitted_s": submitted_s - began_s,
            "ended_s": ended_s - began_s,
            "waited_s": waited_s,
        }

    with ThreadPoolExecutor(len(agents)) as pool:
        return list(pool.map(live, agents))


def main() -> None:
    match sys.argv[1:]:
        case ["agents", path, *numbers]:
            figures: object = agents(path, Workload(*map(int, numbers)))
        case ["jobs", path]:
            figures = jobs(path, json.load(sys.stdin))
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
