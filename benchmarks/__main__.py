"""`python -m benchmarks [NAME …]`: run them all, or those named, into benchmarks/results."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import decode, restart, rr_overhead, syscalls
from benchmarks.common import Options

BENCHMARKS = {
    "decode": decode.main,
    "rr_overhead": rr_overhead.main,
    "syscalls": syscalls.main,
    "restart": restart.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5, help="how often each figure is taken")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument(
        "--llama-source", type=Path, help="an unpacked llama-cpp-python, instead of a download"
    )
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options = Options(1 if given.quick else given.runs, given.quick, given.llama_source)
    for name in given.names or BENCHMARKS:
        BENCHMARKS[name](options)


if __name__ == "__main__":
    main()
