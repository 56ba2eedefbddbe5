"""Reflexion: try, check, put into words what went wrong, remember that, and try again.

    AIOSD_SOCKET=… python sdk/examples/reflexion.py
Each attempt begins with an empty conversation; what carries over is what the agent remembers.
"""

from __future__ import annotations

from aios_sdk import Agent

TASK = "Describe the sea in one sentence of at most eight words."
MAX_WORDS = 8
MAX_ATTEMPTS = 4


def fault(answer: str) -> str | None:
    """What is wrong with an answer: a rule, a test run, or another model could say it."""
    n_words = len(answer.split())
    return f"It had {n_words} words, but {MAX_WORDS} is the most." if n_words > MAX_WORDS else None


def attempt(agent: Agent, n: int) -> str | None:
    """The lesson of an attempt that failed; None after one that didn't."""
    with agent.fork() as fresh:
        answer = fresh.generate(TASK, recall={"k": 3, "tags": ["lesson"]}).text
        wrong = fault(answer)
        print(f"attempt {n}: {answer!r} {wrong or 'It fits.'}")
        if wrong is None:
            return None
        advice = fresh.generate(f"{wrong} In one short sentence: what will you do next time?")
        return f"{wrong} {advice}"


def main() -> None:
    system = "You write short, plain sentences."
    with Agent("reflexion", system=system, max_tokens=40) as agent:
        lessons: list[str] = []
        for n in range(1, MAX_ATTEMPTS + 1):
            lesson = attempt(agent, n)
            if lesson is None:
                break
            lessons.append(agent.memory.add(lesson, tags=["lesson"]))
        print(f"{len(lessons)} lessons learned")
        for lesson in lessons:  # an agent that lives on would keep them
            agent.memory.delete(lesson)


if __name__ == "__main__":
    main()
