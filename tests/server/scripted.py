"""A model that says what a test wants said: the fake, with its answers written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiosd.engine.calls import GENERIC, Call
from aiosd.engine.fake import IM_END, IM_START, FakeModel, _Slot


class ScriptedModel(FakeModel):
    """The first answer in a context is answers[0], and so on; after the last it is the fake's own.
    A grammar has the last word, and what it says is still a function of the tokens alone."""

    def __init__(self, answers: Sequence[str], **options: Any) -> None:
        super().__init__(n_slots=4, **{"slot_tokens": 2048, **options})
        self._answers = [self.tokenize(answer, special=False) for answer in answers]
        self._heading = self.tokenize("assistant\n", special=False)

    def _fill(self, row: Any, slot: _Slot) -> None:
        super()._fill(row, slot)
        tokens, heading = slot.tokens, self._heading
        starts = [place + 1 for place, token in enumerate(tokens) if token == IM_START]
        said = [at + len(heading) for at in starts if tokens[at : at + len(heading)] == heading]
        if not said or said[-1] < starts[-1] or len(said) > len(self._answers):
            return
        answer, n_said = self._answers[len(said) - 1], len(tokens) - said[-1]
        if tokens[said[-1] :] == answer[:n_said]:
            row[answer[n_said] if n_said < len(answer) else IM_END] += 100.0


def calling(*calls: tuple[str, dict[str, Any]]) -> str:
    """An answer that makes these calls."""
    return GENERIC.write([Call("", name, arguments) for name, arguments in calls])
