"""Plan and execute: a planner writes a plan, and an agent of its own carries out each step.

    AIOSD_SOCKET=… python sdk/examples/plan_and_execute.py
The workers are this same file, run by the daemon as confined processes with the step to do as their
argument; they work side by side, and what they print is what they found.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from aios_sdk import Agent, ChatMessage

FILE = str(Path(__file__).resolve())
TASK = "Prepare a picnic for four people."
STEP = {"type": "string", "pattern": "^[A-Z][a-z ,]{8,60}[.]$"}  # even of a small model: words
PLAN = {"type": "array", "items": STEP, "minItems": 2, "maxItems": 3}  # what the model must say


def work(step: str) -> None:
    """A worker: its name and its connection come from the daemon."""
    system = "You carry out one step of a plan and tell what you did in one sentence."
    with Agent(system=system, max_tokens=48) as agent:
        print(agent.generate(step))


def main() -> None:
    with Agent("planner", system="You plan tasks in few and short steps.") as agent:
        asked = f'{TASK} Which steps does it take? Answer as in ["Buy bread.", "Cut it."]'
        plan = agent.generate(asked, schema=PLAN, max_tokens=250)
        steps: list[str] = json.loads(plan.text)
        workers = [
            agent.spawn(f"worker-{os.getpid()}-{n}", "python", FILE, step, read=[FILE])
            for n, step in enumerate(steps)
        ]
        for step, worker in zip(steps, workers, strict=True):
            ended = worker.wait()
            found = " ".join(line["text"] for line in worker.logs())
            print(f"{step!r}, exit code {ended.get('exit_code')}: {found}")
            agent.context().append([ChatMessage(role="user", content=f"{step} Done: {found}")])
        print(agent.generate("Sum up in one sentence what was done.", max_tokens=60))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1])
    else:
        main()
