"""How much memory a model with its slots will take, from its file alone.

Measured against llama.cpp's own figures: model and kv are exact for plain decoders, compute is
within a third (small beside the two others).
"""

from __future__ import annotations

from pathlib import Path

from aiosd import gguf
from aiosd.engine.base import EngineError

CELLS_STEP = 256  # llama.cpp rounds a slot's cells up to it

_BYTES_PER_ELEMENT = {  # K and V together
    "exact": 4.0,  # bf16, twice
    "small": 2 * 34 / 32,  # q8_0: 32 values in 34 bytes, twice
    "fast": 4.0,
    "unified": 4.0,
}


def round_cells(slot_tokens: int) -> int:
    """How many cells llama.cpp gives a slot that is to have this many."""
    return -(-slot_tokens // CELLS_STEP) * CELLS_STEP


def estimate_bytes(
    path: Path, n_slots: int, slot_tokens: int, kv: str, n_batch: int = 512
) -> dict[str, int]:
    """{"model", "kv", "compute"} in bytes.  EngineError: not a model file, or an unknown kv."""
    try:
        head = gguf.read_head(path)
    except gguf.ModelFileError as error:
        raise EngineError(str(error)) from None
    if kv not in _BYTES_PER_ELEMENT:
        raise EngineError(f"kv is {kv!r}, known are {', '.join(_BYTES_PER_ELEMENT)}")
    architecture = str(head.get("general.architecture", ""))

    def number(name: str, default: int) -> int:
        value = head.get(f"{architecture}.{name}", default)
        return int(value) if isinstance(value, int | float) else default

    n_layers = number("block_count", 0)
    n_embd = number("embedding_length", 0)
    n_heads = max(1, number("attention.head_count", 1))
    n_heads_kv = number("attention.head_count_kv", n_heads)
    head_k = number("attention.key_length", n_embd // n_heads)
    head_v = number("attention.value_length", n_embd // n_heads)
    n_vocab = number("vocab_size", 0) or int(head.get("tokenizer.ggml.tokens", 0) or 0)
    n_ff = number("feed_forward_length", 4 * n_embd)
    n_cells = round_cells(slot_tokens) * n_slots
    per_cell = n_layers * n_heads_kv * (head_k + head_v) / 2 * _BYTES_PER_ELEMENT[kv]
    rows = 2 * n_slots * n_vocab  # of logits: computed, then copied out
    activations = n_batch * (3 * n_ff + 4 * n_embd)
    mask = n_batch * min(n_cells, round_cells(slot_tokens))
    return {
        "model": path.stat().st_size,
        "kv": int(n_cells * per_cell),
        "compute": 4 * (rows + activations) + 2 * mask,
    }
