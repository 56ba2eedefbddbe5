"""After a restart: time to ready, and to a context's first token, beside reading it all again.

A daemon keeps contexts of some length and is stopped in order.  It is started again twice: with
the snapshot files it wrote, and without them, so that every context is read from its tokens.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aios_sdk import Client
from aiosd.demo.daemon import Flags, PrivateDaemon
from benchmarks.common import Options, Spread, finish, shown, table
from benchmarks.common import Row as JsonRow

N_CONTEXTS = 6
SLOT_TOKENS = 2048
LENGTHS = (256, 1024, 1900)
MINUTES = 3.0


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds.  ratio: reading again over restoring, the median of the pairs'."""

    n_tokens: int
    ready_ms: Spread
    restored_ttft_ms: Spread
    reread_ttft_ms: Spread
    ratio: float


def main(options: Options) -> None:
    lengths = LENGTHS[:1] if options.is_quick else LENGTHS
    taken: dict[int, list[tuple[float, float, float]]] = {n_tokens: [] for n_tokens in lengths}
    for _ in options.rounds(MINUTES):
        for n_tokens in lengths:
            taken[n_tokens].append(measure(n_tokens))
    rows = [row_of(n_tokens, taken[n_tokens]) for n_tokens in lengths]
    finish("restart", options, rows, report, len(taken[lengths[0]]))


def report(rows: Sequence[JsonRow]) -> str:
    head = ("tokens", "ready", "first token, restored", "first token, read again", "ratio")
    cells = [
        (
            f"{r['n_tokens']}",
            shown(r["ready_ms"]),
            shown(r["restored_ttft_ms"]),
            shown(r["reread_ttft_ms"]),
            f"{r['ratio']:.1f}",
        )
        for r in rows
    ]
    return (
        f"Milliseconds from the start of a daemon with {N_CONTEXTS} contexts until it answers, and "
        f"then to a context's first token.\n\n{table(head, cells)}"
    )


def measure(n_tokens: int) -> tuple[float, float, float]:
    """Milliseconds: (to ready, to a first token restored, to one read again)."""
    with tempfile.TemporaryDirectory(prefix="aiosd-restart-") as place:
        state = Path(place) / "state"
        contexts = prepare(state, n_tokens)
        shutil.copytree(state, bare := Path(place) / "bare")
        shutil.rmtree(bare / "snapshots", ignore_errors=True)
        ready_ms, restored_ms = first_tokens(state, contexts)
        _, again_ms = first_tokens(bare, contexts)
        return ready_ms, restored_ms, again_ms


def row_of(n_tokens: int, taken: list[tuple[float, float, float]]) -> Row:
    ready, restored, again = (Spread.of(times) for times in zip(*taken, strict=True))
    ratio = Spread.of([again_ms / restored_ms for _, restored_ms, again_ms in taken]).median
    return Row(n_tokens, ready, restored, again, ratio)


def _flags(state: Path) -> Flags:
    return {
        "state-dir": str(state),
        "slots": N_CONTEXTS,
        "slot-tokens": SLOT_TOKENS,
        "snapshot-files": "2G",
    }


def prepare(state: Path, n_tokens: int) -> list[str]:
    """Contexts of n_tokens each, all different, read and kept by a daemon that has ended."""
    with PrivateDaemon(_flags(state)) as daemon, Client(daemon.socket, agent="bench") as client:
        contexts = []
        for n in range(N_CONTEXTS):
            context = client.context()
            tokens = [1000 + (n * 7919 + i * 31) % 40000 for i in range(n_tokens)]
            client.call("context.append", context=context.id, tokens=tokens)
            context.prefetch()
            contexts.append(context.id)
    return contexts


def first_tokens(state: Path, contexts: list[str]) -> tuple[float, float]:
    """(milliseconds to ready, mean milliseconds to a context's first token)."""
    began_s = time.perf_counter()
    with PrivateDaemon(_flags(state)) as daemon, Client(daemon.socket, agent="bench") as client:
        client.ping()
        ready_ms = (time.perf_counter() - began_s) * 1000
        took_ms = []
        for context in contexts:
            asked_s = time.perf_counter()
            client.call(
                "llm.generate", context=context, prompt=" go", max_tokens=1, ignore_eos=True
            )
            took_ms.append((time.perf_counter() - asked_s) * 1000)
    return ready_ms, sum(took_ms) / len(took_ms)
