"""A thread that embeds: requests in, rows out, several texts of several requests in one call.

Rule 1: every request comes home exactly once, through its done(), called on this thread, unless
it was dropped.
Rule 2: requests take turns, one text each, so that a long one holds up no short one.
Rule 3: a text that fails, fails its request alone: a call that fails is tried text by text.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from aiosd.engine.base import EmbeddingContext, EngineError, Vectors

MAX_CALL_TEXTS = 16


@dataclass(frozen=True, slots=True)
class Embedded:
    """A row per text, and the numbers of those that were cut to what the model reads."""

    rows: Vectors
    cut: tuple[int, ...]


Done = Callable[[Embedded | None, Exception | None], None]


@dataclass(slots=True, eq=False)
class Request:
    """Texts on their way."""

    texts: Sequence[str]
    done: Done
    n_begun: int = 0
    rows: list[Vectors] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    is_over: bool = False


class EmbeddingThread:
    """One context and its thread.  niceness: of the thread alone, as nice(1) has it.

    busy_since_ns  when the call under way began (monotonic), 0 if there is none; readable anywhere
    """

    def __init__(self, context: EmbeddingContext, name: str, niceness: int = 0) -> None:
        self._context = context
        self._niceness = niceness
        self._requests: deque[Request] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self.busy_since_ns = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def n_texts(self) -> int:
        """Texts that wait."""
        with self._changed:
            return sum(len(request.texts) - request.n_begun for request in self._requests)

    def start(self) -> None:
        self._thread.start()

    def put(self, texts: Sequence[str], done: Done) -> Request:
        with self._changed:
            request = Request(texts, done)
            self._requests.append(request)
            self._changed.notify()
            return request

    def drop(self, request: Request) -> None:
        """Nobody waits for it any more: its done() is not called, if it hasn't been."""
        with self._changed:
            request.is_over = True
            self._take_out(request)

    def _take_out(self, request: Request) -> None:
        if request in self._requests:
            self._requests.remove(request)

    def stop(self, timeout_s: float) -> bool:
        """End after the call under way; what waits fails.  Whether the thread has ended."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        has_ended = not self._thread.is_alive()
        if has_ended:
            self._context.close()
        return has_ended

    def _run(self) -> None:
        if self._niceness:
            # Linux: a thread is a process of its own here, and this changes this one alone.
            with contextlib.suppress(OSError):  # a courtesy that some sandboxes refuse
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests or self._is_stopping)
                if self._is_stopping:
                    break
            self.busy_since_ns = time.monotonic_ns()
            self._turn()
            self.busy_since_ns = 0
        for request in list(self._requests):
            self._end(request, EngineError("the daemon is shutting down"))

    def _turn(self) -> None:
        """One call, filled with the next text of each request in turn."""
        batch: list[tuple[Request, array[int]]] = []
        n_tokens = 0
        while len(batch) < MAX_CALL_TEXTS:
            with self._changed:
                request = self._requests[0] if self._requests else None
            if request is None:
                break
            if request.n_begun < len(request.texts):
                tokens, is_cut = self._tokenize(request)
                if n_tokens + len(tokens) > self._context.max_tokens:
                    break  # it begins the next call
                if is_cut:
                    request.cut.append(request.n_begun)
                request.n_begun += 1
                n_tokens += len(tokens)
                batch.append((request, tokens))
            with self._changed:
                self._requests.rotate(-1)
                if request.n_begun == len(request.texts):
                    self._take_out(request)
            if not request.texts:
                self._end(request, None)
        self._embed(batch)

    def _tokenize(self, request: Request) -> tuple[array[int], bool]:
        try:
            return self._context.tokenize(request.texts[request.n_begun])
        except Exception:  # whatever it is: without tokens its vector is zero, and others go on
            return array("i"), True

    def _embed(self, batch: list[tuple[Request, array[int]]]) -> None:
        if not batch:
            return
        try:
            rows = self._context.embed([tokens for _, tokens in batch])
        except Exception as error:  # whatever it is, those who wait must hear of it
            if len(batch) > 1:
                for one in batch:
                    self._embed([one])
            else:
                self._end(batch[0][0], error)
            return
        for (request, _), row in zip(batch, rows, strict=True):
            request.rows.append(row)
            if len(request.rows) == len(request.texts):
                self._end(request, None)

    def _end(self, request: Request, error: Exception | None) -> None:
        if request.is_over:
            return
        self.drop(request)
        if error is not None:
            request.done(None, error)
        else:
            rows = np.stack(request.rows) if request.rows else np.empty((0, 0), np.float32)
            request.done(Embedded(rows, tuple(request.cut)), None)
