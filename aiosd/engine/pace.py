"""How much of a prompt one step reads, so that the step keeps to its time.  Pure: times are told.

While anyone talks, a step takes the talkers' call and then a piece of prompt that fits into what is
left of step_ms: so a long prompt delays nobody's next word by more than that.  When nobody talks a
piece may take SILENT_STEPS times as long, which a model that is slow for its machine needs too: an
interrupt waits for the end of a step.  With step_ms = 0 a piece is as long as it may be.
"""

from __future__ import annotations

FIRST_PIECE = 32
"""Read before anything is known of the model's speed."""
LEAST_PIECE = 8
"""Smaller ones cost nearly as much: a pass over the weights each."""
SILENT_STEPS = 4
MEMORY = 0.3
"""How much of what is believed comes from the newest measurement: the cost of a token changes with
the depth, the number of threads and with who else is busy."""


class Pace:
    """What a token of prompt and a step of the talkers have cost lately."""

    def __init__(self, step_ms: int, most_tokens: int) -> None:
        self._step_ns = step_ms * 10**6
        self._most_tokens = most_tokens
        self._ns_per_token: float | None = None
        self._talking_ns = 0.0

    def piece(self, *, is_anyone_talking: bool) -> int:
        """Prompt tokens that the next step may read, at least one."""
        if not self._step_ns:
            return self._most_tokens
        if self._ns_per_token is None:
            return min(FIRST_PIECE, self._most_tokens)
        left_ns = (
            self._step_ns - self._talking_ns if is_anyone_talking else SILENT_STEPS * self._step_ns
        )
        n_fitting = max(LEAST_PIECE, int(left_ns / self._ns_per_token))
        return min(n_fitting, self._most_tokens)

    def note_reading(self, n_tokens: int, elapsed_ns: int) -> None:
        """A call read so many tokens of prompts in that time."""
        if n_tokens < min(LEAST_PIECE, self._most_tokens):
            return  # its fixed cost would be taken for the tokens'
        per_token = elapsed_ns / n_tokens
        known = self._ns_per_token
        self._ns_per_token = per_token if known is None else known + MEMORY * (per_token - known)

    def note_talking(self, elapsed_ns: int) -> None:
        """The talkers' call of a step took that long."""
        self._talking_ns += MEMORY * (elapsed_ns - self._talking_ns)
