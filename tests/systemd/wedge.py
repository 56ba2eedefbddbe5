"""Stops the threads of a process that compute, as a hanging driver would; the others go on.

    python wedge.py PID     says "wedged", and stays until the process is gone

ptrace(2) can stop a single thread; SIGSTOP would stop them all.  The first thread, on which the
event loop is, is left alone.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207  # Source: sys/ptrace.h
WALL = 0x40000000  # Source: waitpid(2), __WALL: threads too
PR_SET_PDEATHSIG = 1
LOOK_S = 1.0
MIN_TICKS = 3  # of a hundred in LOOK_S: less is no computing

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


def main() -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody stays stopped when the test has gone
    pid = int(sys.argv[1])
    stopped: set[int] = set()
    while (thread := busiest(pid, stopped)) or not stopped:
        if thread:
            stop(thread)
            stopped.add(thread)
    sys.stdout.write("wedged\n")
    sys.stdout.flush()
    while stopped:  # a thread that is traced is gone only when its tracer has seen it go
        thread, status = os.waitpid(-1, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            stopped.discard(thread)


def busiest(pid: int, apart: set[int]) -> int:
    """The thread that computed most for a while, beside the first and those; 0: none computed."""
    before = ticks(pid)
    time.sleep(LOOK_S)
    now = ticks(pid)
    gains = {t: now[t] - before.get(t, 0) for t in now if t != pid and t not in apart}
    thread = max(gains, key=lambda t: gains[t], default=0)
    return thread if gains.get(thread, 0) >= MIN_TICKS else 0


def ticks(pid: int) -> dict[int, int]:
    """What each thread has computed.  Source: proc(5), utime."""
    stats = {int(t.name): (t / "stat").read_text() for t in Path(f"/proc/{pid}/task").iterdir()}
    return {thread: int(stat.rpartition(")")[2].split()[11]) for thread, stat in stats.items()}


def stop(thread: int) -> None:
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace({request:#x}, {thread})")
    os.waitpid(thread, WALL)


main()
