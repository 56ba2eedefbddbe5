"""The half of sampling that is arithmetic on one row: checks, penalties, the seed of a draw.

Rule 1: a row that came in is never written to.
Rule 2: pure functions; nothing here remembers anything between two tokens.

There is no sampler state.  Penalties look at the tokens the caller hands in, and every draw gets a
generator of its own, seeded by (seed, index).  So a job that was parked, moved, copied or brought
back after a restart goes on with nothing rebuilt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from aiosd.engine.base import MAX_SEED, PENALTY_WINDOW, EngineError, Logits, Sampling

MIN_TEMPERATURE = 1e-6  # below it logits / temperature would leave float32
_MASK64 = 2**64 - 1


def check(sampling: Sampling) -> None:
    """EngineError names the first parameter that can't be computed with.

    Looser than what a caller of llm.generate may say: this only keeps nonsense from C.
    """
    numbers = {
        "temperature": (sampling.temperature, 0.0, 1e6),
        "top_p": (sampling.top_p, 0.0, 1e6),
        "min_p": (sampling.min_p, 0.0, 1.0),
        "repeat_penalty": (sampling.repeat_penalty, 1e-6, 1e6),
        "presence_penalty": (sampling.presence_penalty, -1e6, 1e6),
        "frequency_penalty": (sampling.frequency_penalty, -1e6, 1e6),
        "top_k": (sampling.top_k, -1, 2**31 - 1),
        "seed": (sampling.seed, 0, MAX_SEED),
    }
    for name, (value, low, high) in numbers.items():
        if not (math.isfinite(value) and low <= value <= high):
            raise EngineError(f"{name} is {value}, allowed are {low:g} to {high:g}")


def penalized(logits: Logits, sampling: Sampling, recent: Sequence[int]) -> Logits:
    """The row with penalties for the last PENALTY_WINDOW of ``recent``; a copy if anything changes.

    Source: llama-sampler.cpp, llama_sampler_penalties_apply, whose arithmetic this is.
    """
    repeat = sampling.repeat_penalty
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    if not len(recent) or (repeat == 1.0 and presence == 0.0 and frequency == 0.0):
        return logits
    counts = Counter(recent[-PENALTY_WINDOW:])
    tokens = np.fromiter(counts.keys(), np.int64, len(counts))
    if int(tokens.min()) < 0 or int(tokens.max()) >= len(logits):
        raise EngineError(
            f"recent tokens {tokens.min()} to {tokens.max()}, the vocabulary has {len(logits)}"
        )
    times = np.fromiter(counts.values(), np.float32, len(counts))
    row = logits.copy()
    values = row[tokens]
    factor = np.float32(repeat)
    values = np.where(values <= 0, values * factor, values / factor)
    row[tokens] = values - (times * np.float32(frequency) + np.float32(presence))
    return row


def greedy(logits: Logits) -> int:
    """The most likely token, the lowest id where several are.  EngineError for a row that is none:
    NaN or infinity in it, or nothing allowed."""
    best = int(logits.argmax())  # a NaN, if there is one
    value = float(logits[best])
    if math.isfinite(value):
        return best
    if value == -math.inf:
        raise EngineError("no token is possible here: all logits are -inf")
    raise EngineError(f"the model computed {value} for token {best}")


def draw_seed(seed: int, index: int) -> int:
    """A 32-bit seed for the draw number ``index`` of a job: splitmix64's output function over a
    counter.  Never 0xFFFFFFFF, which llama.cpp reads as "random"."""
    z = (seed << 32 | (index & 0xFFFFFFFF)) + 0x9E3779B97F4A7C15 & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    z ^= z >> 31
    return min(z >> 32, MAX_SEED)
