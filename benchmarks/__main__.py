"""`python -m benchmarks [NAME …]`: run them all, or those named, into benchmarks/results.

`python -m benchmarks results` makes RESULTS.md of what is there.
"""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path

from benchmarks import results
from benchmarks.common import Options, note


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(results.BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{names}; or results")
    parser.add_argument("--runs", type=int, default=5, help="how often each figure is taken")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument(
        "--minutes", type=float, help="of each benchmark: no further run is begun past them"
    )
    parser.add_argument(
        "--agents", type=sizes, default=(), metavar="N,…", help="sizes, of agents and scale"
    )
    parser.add_argument(
        "--more",
        action="store_true",
        help="agents: only what the results don't have, added to them",
    )
    parser.add_argument("--url", help="an OpenAI-compatible server, as one more peer of agents")
    parser.add_argument("--llama-server", type=Path, help="the program, else it is built")
    parser.add_argument(
        "--llama-source", type=Path, help="an unpacked llama-cpp-python, instead of a download"
    )
    given = parser.parse_args()
    unknown = sorted(set(given.names) - {*results.BENCHMARKS, "results"})
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {names}")
    options = Options(
        n_runs=1 if given.quick else given.runs,
        is_quick=given.quick,
        llama_source=given.llama_source,
        url=given.url,
        llama_server=given.llama_server,
        sizes=given.agents,
        minutes=given.minutes,
        is_more=given.more,
    )
    failed = [name for name in given.names or results.BENCHMARKS if not run(name, options)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(name: str, options: Options) -> bool:
    """One of them, and the page with it.  A failure is told and leaves the others their time."""
    note(name)
    try:
        if name != "results":
            results.BENCHMARKS[name].module.main(options)
    except Exception:
        traceback.print_exc()
        return False
    if not options.is_quick:
        results.write()
    return True


def sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
