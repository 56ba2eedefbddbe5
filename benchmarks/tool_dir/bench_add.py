"""The tool that benchmarks/tools.py calls through the daemon, and runs by itself for comparison."""

from __future__ import annotations

import json
import sys

from aios_sdk.toolbox import tool


@tool(max_parallel=8, ordered=False)
def bench_add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    print(json.dumps(bench_add(**json.loads(sys.argv[1]))))
