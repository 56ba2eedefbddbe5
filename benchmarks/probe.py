"""What the model alone can do, with nobody to serve: the limits that the benchmarks compare with.

`python -m benchmarks.probe rates MODEL LANES SHARED PIECES OUTPUT`: seconds for reading SHARED
tokens once, and then, for each of the comma-separated PIECES (a turn's new tokens), for reading
that many in every lane and generating OUTPUT tokens in every lane.
`… switch MODEL LENGTHS`: seconds for reading so many tokens, for parking and for resuming them.

A process of its own, since llama.cpp's threads are its own; prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from aiosd.engine import threads

threads.set_environment()  # before llama.cpp is loaded, as the daemon does

# ruff: noqa: E402 - for the line above
from aiosd.engine.base import Piece
from aiosd.engine.llama import LlamaModel
from aiosd.kernel.model import SlotId
from benchmarks.common import n_cores
from benchmarks.load import prompt_tokens

PREFILL_TOKENS = 256  # the daemon's default
MAX_BATCH_TOKENS = 512
N_SWITCHES = 5  # of which the median counts


def rates(
    path: Path, n_lanes: int, n_shared: int, pieces: list[int], n_output: int
) -> dict[str, float]:
    """{shared_s, pieces_s, decode_s}; the last two for all lanes and turns together."""
    room = n_shared + sum(pieces) + n_output * len(pieces)
    model = LlamaModel(path, n_slots=n_lanes, slot_tokens=room + 64, n_threads=n_cores())
    slots = [SlotId(n) for n in range(n_lanes)]
    read(model, slots[0], prompt_tokens(64, 7))  # warms up
    model.truncate(slots[0], 0)

    shared_s = read(model, slots[0], prompt_tokens(n_shared, 1))
    for slot in slots[1:]:
        model.copy(slots[0], slot)
    pieces_s = decode_s = 0.0
    for turn, n_piece in enumerate(pieces):
        new = [prompt_tokens(n_piece, 100 * turn + slot) for slot in slots]
        at_once = max(1, MAX_BATCH_TOKENS // n_piece)
        began_s = time.perf_counter()
        for first in range(0, n_lanes, at_once):
            group = slots[first : first + at_once]
            model.decode([Piece(s, model.n_cells(s), new[s], True) for s in group])
        pieces_s += time.perf_counter() - began_s
        began_s = time.perf_counter()
        for index in range(n_output):
            tokens = [[1000 + 31 * index + slot] for slot in slots]
            model.decode([Piece(s, model.n_cells(s), tokens[s], True) for s in slots])
        decode_s += time.perf_counter() - began_s
    model.close()
    return {"shared_s": shared_s, "pieces_s": pieces_s, "decode_s": decode_s}


def switch(path: Path, lengths: list[int]) -> dict[str, dict[str, float]]:
    """Per length {read_s, park_s, resume_s, bytes}."""
    model = LlamaModel(path, n_slots=2, slot_tokens=max(lengths) + 64, n_threads=n_cores())
    slot = SlotId(0)
    read(model, slot, prompt_tokens(64, 7))
    figures = {}
    for n_tokens in lengths:
        model.truncate(slot, 0)
        read_s = read(model, slot, prompt_tokens(n_tokens, n_tokens))
        buffer = memoryview(bytearray(model.snapshot_bytes(slot)))  # touched, as the daemon's are
        park_s, resume_s = [], []
        for _ in range(N_SWITCHES):
            began_s = time.perf_counter()
            used = model.save(slot, buffer)
            parked_s = time.perf_counter()
            assert model.restore(slot, buffer[:used])
            park_s.append(parked_s - began_s)
            resume_s.append(time.perf_counter() - parked_s)
        figures[str(n_tokens)] = {
            "read_s": read_s,
            "park_s": statistics.median(park_s),
            "resume_s": statistics.median(resume_s),
            "bytes": used,
        }
    model.close()
    return figures


def read(model: LlamaModel, slot: SlotId, tokens: list[int]) -> float:
    began_s = time.perf_counter()
    for first in range(0, len(tokens), PREFILL_TOKENS):
        piece = tokens[first : first + PREFILL_TOKENS]
        model.decode([Piece(slot, model.n_cells(slot), piece, True)])
    return time.perf_counter() - began_s


def main() -> None:
    match sys.argv[1:]:
        case ["rates", path, n_lanes, n_shared, pieces, n_output]:
            turns = [int(n) for n in pieces.split(",")]
            figures: object = rates(Path(path), int(n_lanes), int(n_shared), turns, int(n_output))
        case ["switch", path, lengths]:
            figures = switch(Path(path), [int(n) for n in lengths.split(",")])
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
