"""Running what a model wrote: a Python snippet, a shell command.

What confines them is around the whole process: no network, no files but a directory that is empty
at first and gone afterwards, and what the configuration grants.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from aios_sdk.toolbox import Outcome, tool

OUTPUT_BYTES: Final = 200_000
PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


@tool(max_parallel=4, timeout_s=60)
def python(code: str) -> Outcome:
    """Run a Python program in an empty directory without network; what it prints is the result.

    Args:
        code: the whole program; use print() for what you want to know
    """
    return _run([sys.executable, "-I", "-c", code])


@tool(max_parallel=2, timeout_s=120, irreversible=True)
def shell(command: str) -> Outcome:
    """Run a command in a POSIX shell; what it prints, errors too, is the result.

    Args:
        command: for example "ls -l | head"
    """
    return _run(["/bin/sh", "-c", command])


def _run(argv: Sequence[str]) -> Outcome:
    """Output and exit code.  A program that says too much is ended."""
    if any(len(arg.encode("utf-8", "replace")) > 120_000 or "\0" in arg for arg in argv):
        raise ValueError("that is too long for a program (120,000 bytes), or has a NUL in it")
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_end_with_us,  # noqa: PLW1509 - this process has one thread, and no loop
    ) as program:
        assert program.stdout is not None
        said = program.stdout.read(OUTPUT_BYTES + 1)
        if len(said) > OUTPUT_BYTES:
            program.kill()
    text = said[:OUTPUT_BYTES].decode("utf-8", "replace")
    if len(said) > OUTPUT_BYTES:
        return Outcome(f"{text}\n[ended: it printed more than {OUTPUT_BYTES} bytes]", is_error=True)
    if program.returncode:
        how = f"exit code {program.returncode}"
        if program.returncode < 0:
            how = f"ended by signal {-program.returncode}"
        return Outcome(f"{text}\n[{how}]".lstrip(), is_error=True)
    return Outcome(text or "[no output]")


def _end_with_us() -> None:
    """The daemon ends all that a call has started; if it is killed itself, we end, and this too."""
    _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
