"""The policies by their names."""

from __future__ import annotations

from aiosd.kernel.fair import Fair
from aiosd.kernel.policy import Fifo, RoundRobin

POLICIES: dict[str, type[Fifo]] = {policy.name: policy for policy in (Fifo, RoundRobin, Fair)}


def make(name: str, quantum_tokens: int) -> Fifo:
    """Raises ValueError for a name or a quantum that can't be."""
    if name not in POLICIES:
        raise ValueError(f"policy {name!r} is not one of {', '.join(POLICIES)}")
    if quantum_tokens < 1:
        raise ValueError(f"quantum_tokens is {quantum_tokens}, the least is 1")
    return POLICIES[name](quantum_tokens)
