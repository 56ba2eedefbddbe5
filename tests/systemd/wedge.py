"""Stops the threads of a process that compute, as a hanging driver would; the others go on.

    python wedge.py PID     says "wedged", and stays until the process is gone

ptrace(2) can stop a single thread; SIGSTOP would stop them all.  The first thread, on which the
event loop is, is left alone, and the others are stopped inside llama.cpp's libraries, where they
don't hold Python's lock: so the daemon goes on answering.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PTRACE_CONT, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 0x4206, 0x4207  # Source: sys/ptrace.h
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
            stop(pid, thread)
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


def stop(pid: int, thread: int) -> None:
    ptrace(PTRACE_SEIZE, thread)
    while True:
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        if is_computing(pid, thread):
            return
        ptrace(PTRACE_CONT, thread)
        time.sleep(0.001)


def is_computing(pid: int, thread: int) -> bool:
    """Whether the stopped thread's next instruction is one of ggml's or OpenMP's.

    Source: proc(5): syscall ends with the program counter; maps has the libraries' addresses.
    """
    pc = int(Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()[-1], 16)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        if first <= pc < last:
            return "ggml" in line or "gomp" in line
    return False


def ptrace(request: int, thread: int) -> None:
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x}, {thread})")


main()
