"""An agent that makes one syscall and says when it had its answer: what benchmarks/spawn.py starts.

CLOCK_MONOTONIC is one clock for all processes of a machine, so whoever started it can subtract.
"""

from __future__ import annotations

import time

from aios_sdk import Client

with Client() as client:  # the connection and its hello
    client.ping()
    print(time.monotonic_ns(), flush=True)
