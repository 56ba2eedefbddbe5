"""One job as the engine sees it: its tokens, how far they were ever read, and what it says next.

Rule 1: a sequence knows nothing of slots.  Its tokens (log, prompt, output) are the truth; which of
them some slot holds is the engine's business.
Rule 2: the next token is a pure function of the row of logits, the spec and what was said before.
Rule 3: the token chosen last is always unread: logits are not part of a snapshot.
Rule 4: a job that goes on after a restart takes the tokens it gave before as if it chose them now,
so its draws, its grammar and its held-back text stand where they stood.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from aiosd.engine.base import (
    PENALTY_WINDOW,
    Ending,
    EngineError,
    JobSpec,
    Logits,
    Model,
    TokenLogprob,
)
from aiosd.engine.text import TextStream, Words
from aiosd.kernel.model import JobId


@dataclass(frozen=True, slots=True)
class Leader:
    """A job that is reading, right now, what another one will need: its first n_tokens."""

    job: JobId
    n_tokens: int


def common_prefix(a: array[int], b: array[int]) -> int:
    """How many tokens both begin with; compared exactly, in C."""
    length = min(len(a), len(b))
    if length == 0:
        return 0
    differs = np.frombuffer(a, np.int32, length) != np.frombuffer(b, np.int32, length)
    first = int(differs.argmax())
    return first if differs[first] else length


class Sequence:
    """A job's tokens and everything that decides the next one.  EngineError from the constructor
    says why the job can't run."""

    __slots__ = (
        "alone_until",
        "ending",
        "grammar",
        "is_told",
        "leader",
        "n_cached",
        "n_high",
        "n_output",
        "serial",
        "spec",
        "text",
        "tokens",
        "words",
    )

    def __init__(self, spec: JobSpec, model: Model, serial: int) -> None:
        _check(spec, model)
        self.spec = spec
        self.serial = serial  # the order of arrival, for prefill
        self.tokens = spec.tokens[:]
        self.n_output = 0  # tokens sampled, which is also the number of the next draw
        self.n_high = 0  # high-water mark: positions below it were read (or found read) before
        self.n_cached: int | None = None  # what it didn't have to read; None before its first step
        self.alone_until = 0  # below this position it decodes alone: it was in a failed call
        self.leader: Leader | None = None  # who is reading what this one will need
        self.ending: Ending | None = None
        self.is_told = False  # a report said how it ended
        self.words: Words | None = None  # said before a restart, to be told at the first step
        self.text = TextStream(model, spec.stop, spec.marker)
        self.grammar = None if spec.grammar is None else model.grammar(spec.grammar)
        try:
            self._go_on_after(spec.output, model)
        except EngineError:
            self.close()
            raise

    @property
    def is_starting(self) -> bool:
        """Its first token, since the restart if there was one, is still to come."""
        return self.n_output == len(self.spec.output) and self.spec.max_tokens > 0

    @property
    def n_useful(self) -> int:
        """How many of its tokens are of use in a slot: the last one's logits aren't kept, so it is
        read again, unless nothing will be said."""
        return len(self.tokens) - (self.spec.max_tokens > 0)

    def note_read(self, start: int, end: int) -> tuple[int, int]:
        """Positions start to end-1 were read: how many of the prompt's for the first time, and how
        many (of prompt and output) once more."""
        n_spec, n_before = len(self.spec.tokens), self.n_before
        first_new = max(start, self.n_high)
        n_prompt = max(0, min(end, n_spec) - first_new)
        n_again = max(0, min(end, self.n_high) - start)
        n_again += max(0, min(end, n_before - 1) - max(first_new, n_spec))
        self.n_high = max(self.n_high, end)
        return n_prompt, n_again

    @property
    def n_before(self) -> int:
        """The tokens it began with: log, prompt, and what it gave before a restart."""
        return len(self.spec.tokens) + len(self.spec.output)

    def note_kept(self, n_kept: int) -> int:
        """So many of its tokens are in its slot: how many of the spec's needn't be read for the
        first time."""
        n_spec = len(self.spec.tokens)
        n_gained = max(0, min(n_kept, n_spec) - self.n_high)
        self.n_high = max(self.n_high, n_kept)
        return n_gained

    def end_if_read(self, n_read: int) -> None:
        """A job that says nothing has done its work when its tokens are read."""
        if self.spec.max_tokens == 0 and n_read == len(self.tokens):
            self.ending = Ending(self.spec.job, "length")

    def say(self, model: Model, row: Logits) -> Words | None:
        """Choose the next token from the row of the last one; sets ``ending`` when it is the end.
        EngineError: this job can't go on."""
        token = self._choose(model, row)
        if token in model.info.eog:
            return self._end("stop")
        logprob = self._logprob(model, row, token) if self.spec.n_logprobs else None
        return self._take(model, token, logprob)

    def _go_on_after(self, output: array[int], model: Model) -> None:
        for n, token in enumerate(output):
            if self.ending is not None:
                return
            if token in model.info.eog:
                raise EngineError(f"output token {n} is {token}, which ends an answer")
            if self.grammar is not None:
                if not self.grammar.allows(token):
                    raise EngineError(f"output token {n} is {token}, which the grammar forbids")
                self.grammar.accept(token)
            self.words = joined(self.words, self._take(model, token, None))

    def _take(self, model: Model, token: int, logprob: TokenLogprob | None) -> Words | None:
        self.tokens.append(token)
        self.n_output += 1
        words = self.text.push(token, logprob)
        if self.text.stop_string is not None:
            self.ending = Ending(self.spec.job, "stop_string", self.text.stop_string)
            return words
        is_full = len(self.tokens) >= model.info.slot_tokens
        if self.grammar is not None and self.grammar.is_complete:
            rest = self._end("stop")  # what the model would have to say next: an end token
        elif self.n_output >= self.spec.max_tokens or is_full:
            rest = self._end("length")
        else:
            return words
        return joined(words, rest)

    def fail(self, error: str) -> None:
        self.ending = Ending(self.spec.job, "failed", error=error)

    def close(self) -> None:
        if self.grammar is not None:
            self.grammar.close()
            self.grammar = None

    def _choose(self, model: Model, row: Logits) -> int:
        if self.spec.ignore_eos:
            row = row.copy()
            row[list(model.info.eog)] = -np.inf
        recent = self.tokens[-PENALTY_WINDOW:]
        sampling = self.spec.sampling
        token = model.sample(row, sampling, recent, self.n_output)
        if self.grammar is None:
            return token
        if not self.grammar.allows(token):
            row = self.grammar.mask(row)
            token = model.sample(row, sampling, recent, self.n_output)
        self.grammar.accept(token)
        return token

    def _end(self, finish: str) -> Words | None:
        self.ending = Ending(self.spec.job, finish)
        return self.text.finish(is_cut=finish == "length")

    def _logprob(self, model: Model, row: Logits, token: int) -> TokenLogprob:
        values = row.astype(np.float64)
        values -= values.max()
        values -= np.log(np.exp(values).sum())
        n_top = min(self.spec.n_logprobs, len(values))
        top = np.argpartition(-values, n_top - 1)[:n_top]
        order = np.lexsort((top, -values[top]))  # by probability, the lower id first if equal
        return TokenLogprob(
            token,
            _shown(model, token),
            float(values[token]),
            tuple((int(t), _shown(model, int(t)), float(values[t])) for t in top[order]),
        )


def _check(spec: JobSpec, model: Model) -> None:
    """EngineError: the job can't run."""
    n_cells, n_vocab = model.info.slot_tokens, model.info.n_vocab
    if not 0 < len(spec.tokens) < n_cells:
        raise EngineError(
            f"{len(spec.tokens)} tokens to read, a slot takes 1 to {n_cells - 1} and an answer"
        )
    if spec.max_tokens < 0:
        raise EngineError(f"max_tokens is {spec.max_tokens}, at least 0 is needed")
    if len(spec.output) > min(spec.max_tokens, n_cells - len(spec.tokens)):
        raise EngineError(
            f"{len(spec.output)} tokens of output so far, max_tokens is {spec.max_tokens} and "
            f"the slot has {n_cells - len(spec.tokens)} cells for them"
        )
    if spec.output and not 0 <= min(spec.output) <= max(spec.output) < n_vocab:
        raise EngineError(
            f"output tokens {min(spec.output)} to {max(spec.output)}, the vocabulary has {n_vocab}"
        )
    if not all(spec.stop):
        raise EngineError("an empty stop string would end every job at once")


def _shown(model: Model, token: int) -> str:
    return model.piece(token).decode(errors="replace")


def joined(first: Words | None, second: Words | None) -> Words | None:
    if first is None or second is None:
        return first or second
    return Words(
        first.text + second.text,
        first.tokens + second.tokens,
        first.logprobs + second.logprobs,
        first.calls + second.calls,
    )
