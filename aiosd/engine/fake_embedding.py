"""A verified stand-in for an embedding model: texts with common words are near each other.

Each word adds to dimensions that its hash chooses, so that a cosine can be worked out by hand.  It
keeps to the limits of the real one; the contract suite runs on both.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aiosd.engine.base import EngineError, Vectors

N_DIMS = 128
MAX_TOKENS = 64
MAX_TEXTS = 64


class FakeEmbedding:
    """gate: while it is clear, embedding waits."""

    n_dims = N_DIMS
    n_params = 0
    n_ctx_train = MAX_TOKENS

    def __init__(self, name: str = "fake-embedding") -> None:
        self.name = name
        self.fingerprint = name
        self.path = Path("/nowhere") / name
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    def context(self) -> FakeEmbeddingContext:
        return FakeEmbeddingContext(self.gate)

    def close(self) -> None:
        self.is_closed = True


class FakeEmbeddingContext:
    """A token is a word's dimension."""

    max_tokens = MAX_TOKENS

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate
        self._is_closed = False

    def tokenize(self, text: str) -> tuple[array[int], bool]:
        words = text.casefold().split()
        tokens = array("i", (hashlib.sha256(w.encode()).digest()[0] % N_DIMS for w in words))
        return tokens[:MAX_TOKENS], len(tokens) > MAX_TOKENS

    def embed(self, texts: Sequence[array[int]]) -> Vectors:
        n_tokens = sum(map(len, texts))
        if n_tokens > MAX_TOKENS or len(texts) > MAX_TEXTS:
            raise EngineError(f"{len(texts)} texts of {n_tokens} tokens in one call")
        if self._is_closed:
            raise EngineError("the embedding model is closed")
        self._gate.wait()
        rows = np.zeros((len(texts), N_DIMS), np.float32)
        for number, tokens in enumerate(texts):
            for token in tokens:
                if not 0 <= token < N_DIMS:
                    raise EngineError(f"token {token} is past the vocabulary of {N_DIMS}")
                rows[number, token] += 1
            rows[number] /= float(np.linalg.norm(rows[number])) or 1.0
        return rows

    def close(self) -> None:
        self._is_closed = True
