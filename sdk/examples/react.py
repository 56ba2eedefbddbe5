"""ReAct: the model reasons, calls tools, reads what they say, and goes on until it can answer.

    AIOSD_SOCKET=… python sdk/examples/react.py
One tool is a function of this file, which runs here; the other is the daemon's, which runs it
confined.  The loop itself is the daemon's (llm.act); a step comes as soon as it has happened.
"""

from __future__ import annotations

from typing import Literal

from aios_sdk import Agent, CallResult, ToolCall

SYSTEM = (
    "You answer questions with tools. Think first, then call a tool, then answer in a sentence."
)
QUESTIONS = ("What does one pear cost?", "Calculate 3 * 45.")
CENTS = {"apple": 30, "pear": 45, "plum": 25}


def price_of(fruit: Literal["apple", "pear", "plum"]) -> str:
    """Tell the price of one piece of a fruit."""
    return f"One {fruit} costs {CENTS[fruit]} cents."


def answer(agent: Agent, question: str) -> None:
    # A small model hardly ever calls by itself: "required" has it begin with a call.
    with agent.act_stream(
        question,
        tools=[price_of, "calculator"],
        max_rounds=3,
        tool_choice="required",
        parallel_tool_calls=False,
    ) as steps:
        for step in steps:
            match step:
                case str():
                    print(step, end="", flush=True)
                case ToolCall(name=name, arguments=arguments):
                    print(f"-> {name}({arguments})")
                case CallResult(content=content):
                    print(f"<- {content}")
    done = steps.result
    print(f"\n({done.rounds} rounds, {len(done.calls)} calls, {done.finish})")


def main() -> None:
    with Agent("react", system=SYSTEM, max_tokens=100, temperature=0) as agent:
        for question in QUESTIONS:
            print(f"? {question}")
            with agent.fork() as fresh:  # each question has a conversation of its own
                answer(fresh, question)


if __name__ == "__main__":
    main()
