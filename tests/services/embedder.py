"""An embedder for tests: a text's vector is made of its words, so that texts with common words are
near each other, and what is expected can be worked out by hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from aios_sdk.errors import EngineFailed
from aiosd.services.vectors import Matrix

N_DIMS = 64


def vector_of(text: str) -> Matrix:
    """Each word adds 1 in a dimension of its own (as far as 64 are enough); of unit length."""
    row = np.zeros(N_DIMS, np.float32)
    for word in text.casefold().split():
        row[hashlib.sha256(word.encode()).digest()[0] % N_DIMS] += 1
    norm = float(np.linalg.norm(row))
    return row / norm if norm else row


class WordsEmbedder:
    """gate: cleared, background work waits.  Texts with "unreadable" in them fail."""

    n_dims = N_DIMS

    def __init__(self, fingerprint: str = "words-1") -> None:
        self.fingerprint = fingerprint
        self.name = fingerprint
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    async def embed(self, texts: Sequence[str], *, is_urgent: bool) -> Matrix:
        if not is_urgent:
            await self.gate.wait()
            self.batches.append(list(texts))
        if any("unreadable" in text for text in texts):
            raise EngineFailed("a text can't be embedded")
        return np.stack([vector_of(text) for text in texts])
