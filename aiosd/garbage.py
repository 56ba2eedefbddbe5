"""When Python looks for cycles: rarely through all objects, and then while nobody waits.

A full collection holds every thread for as long as there are objects: a tenth of a second and more
with thousands of jobs.  Left to itself Python does one whenever a quarter more has come together.
Most of our objects need none of it: reference counts free them.
"""

from __future__ import annotations

import gc
import sys
import time

YOUNG = (2000, 10)
"""Allocations until the youngest objects are looked at, and of those looks until the next older
are: so that neither takes more than about two milliseconds."""
NEVER = 1_000_000_000  # full collections of Python's own accord
SWITCH_S = 0.001
"""How long a busy worker thread may hold up the event loop.  Python's own 5 ms are paid at every
turn of the loop while a worker is busy."""
PATIENCE_S = 600.0  # without a quiet moment; then a full collection happens anyway


def settle() -> None:
    """What is there now (modules, the model) stays, and is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG, NEVER)
    sys.setswitchinterval(SWITCH_S)


class Sweeper:
    """Decides when all objects are looked at.  Does nothing unless settle() was called."""

    def __init__(self) -> None:
        self._swept_s = time.monotonic()

    def sweep(self, *, is_quiet: bool) -> bool:
        """Look now, if nobody is held up by it, or if that has been so for too long."""
        now_s = time.monotonic()
        if gc.get_threshold()[2] != NEVER:
            return False
        if not is_quiet and now_s - self._swept_s < PATIENCE_S:
            return False
        self._swept_s = now_s
        gc.collect()
        return True
