"""A conversation at the terminal: a line in, an answer out, word by word.

    AIOSD_SOCKET=… python sdk/examples/chat.py
Ctrl-C stops an answer, /undo takes the last turn back, /context its size, Ctrl-D ends.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from aios_sdk import Agent


def lines() -> Iterator[str]:
    """What the user types, or what comes through a pipe."""
    with contextlib.suppress(EOFError):
        while True:
            line = input("> " if sys.stdin.isatty() else "").strip()
            if line:
                yield line


def answer(agent: Agent, line: str) -> None:
    try:
        for text in agent.generate_stream(line):
            print(text, end="", flush=True)
    except KeyboardInterrupt:  # leaving the loop has cancelled it, and the turn never was
        print(" …", end="")
    print()


def main() -> None:
    system = "You are a friendly guide who answers in one or two short sentences."
    with Agent("chat", system=system, max_tokens=120) as agent:
        for line in lines():
            match line:
                case "/undo":
                    n_messages = agent.context().info()["n_messages"]
                    agent.context().rewind(n_messages=max(1, n_messages - 2))
                case "/context":
                    info = agent.context().info()
                    print(f"{info['n_messages']} messages, {info['n_tokens']} tokens")
                case _:
                    answer(agent, line)


if __name__ == "__main__":
    main()
