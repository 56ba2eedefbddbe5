"""`python -m aiosd.demo`: the same work under round robin and under FIFO, live, then compared.

Exit codes: 0 shown to the end, 1 the daemon failed (its log is shown), 130 interrupted.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from rich.console import Console

from aios_sdk.errors import AiosError
from aiosd.demo import show
from aiosd.demo.agents import TASKS, perform
from aiosd.demo.board import Board, Row, Summary, summarise
from aiosd.demo.daemon import DaemonError, Flags, PrivateDaemon

N_SLOTS = 4  # for eight contexts: half of them are parked at any time
N_LANES = 2
QUANTUM_TOKENS = 16
POLICIES = ("rr", "fifo")

NEXT = """
Try next:
  .venv/bin/aiosd &                              serve it to your programs
  .venv/bin/aiosctl run "Why is the sky blue?"   ask it
  .venv/bin/aiosctl chat                         talk with it
  .venv/bin/aiosctl ps                           see who runs and who waits"""


def main() -> int:
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the daemon too
    try:
        console.print(
            f"{len(TASKS)} agents share one model: {N_SLOTS} slots, {N_LANES} lanes. "
            "The long tasks arrive first.",
            highlight=False,
        )
        summaries = [run(console, policy) for policy in POLICIES]
        show.compare(console, summaries)
        console.print(NEXT, highlight=False, markup=False)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except DaemonError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def run(console: Console, policy: str) -> Summary:
    """All tasks under one policy, on a daemon of their own."""
    flags: Flags = {
        "policy": policy,
        "quantum": QUANTUM_TOKENS,
        "slots": N_SLOTS,
        "lanes": N_LANES,
        "slot-tokens": 1024,
    }
    board = Board(policy, {task.agent: Row(task.agent) for task in TASKS})
    with PrivateDaemon(flags) as daemon:
        console.print(f"\n{title(policy)}", highlight=False)
        screen = show.open_screen(console)
        try:
            asyncio.run(
                perform(
                    daemon.socket,
                    board,
                    on_turn=lambda turn: screen.turn(board, turn),
                    on_tick=lambda: screen.update(board),
                )
            )
        except* AiosError as errors:
            first = errors.exceptions[0]
            raise DaemonError(f"{first}; the daemon's log ends:\n{daemon.log_tail()}") from errors
        finally:
            screen.close()
    return summarise(board)


def title(policy: str) -> str:
    if policy == "rr":
        return f"Round robin: after {QUANTUM_TOKENS} tokens the next in line has its turn."
    return "FIFO: first come, first finished."


if __name__ == "__main__":
    sys.exit(main())
