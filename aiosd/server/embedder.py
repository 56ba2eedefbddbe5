"""The embedding model as the daemon has it: two threads over one set of weights.

What someone waits for (a query) is computed at once, on a thread like any other.  What nobody waits
for (notes that were added) is computed at background class, on a thread of its own with a niceness:
beside the model's threads it gets what they leave, and takes a tenth of a core when they leave
nothing.  Each is one thread, so that neither spins at barriers with others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import structlog

from aios_sdk.errors import Busy, EngineFailed, Unavailable
from aiosd import models
from aiosd.config import Config
from aiosd.engine.base import EmbeddingContext, EngineError
from aiosd.engine.embedding import Embedded, EmbeddingThread
from aiosd.services.vectors import Matrix

log = structlog.get_logger()

BACKGROUND_NICENESS = 10  # weight 110 of 1024: a tenth, where all cores are busy
MAX_URGENT_TEXTS = 16  # of one llm.embed; a larger one is background work
MAX_WAITING_TEXTS = 8192  # on each thread; past it Busy
MAX_TEXTS_PER_UID = 2048  # of a uid's llm.embed under way; past it Busy
STOP_S = 5.0


class EmbeddingModel(Protocol):
    """The weights (llama.LlamaEmbedding)."""

    name: str
    fingerprint: str
    n_dims: int
    n_params: int
    n_ctx_train: int
    path: Path

    def context(self) -> EmbeddingContext: ...
    def close(self) -> None: ...


class ModelEmbedder:
    """services.search.Embedder over a model, for one event loop."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model
        self._urgent = EmbeddingThread(model.context(), "embed")
        self._background = EmbeddingThread(
            model.context(), "embed-background", niceness=BACKGROUND_NICENESS
        )

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def n_dims(self) -> int:
        return self.model.n_dims

    @property
    def busy_since_ns(self) -> int:
        """When the call that somebody waits for began, 0 if there is none.  The background's may
        take as long as its neighbours leave it no time."""
        return self._urgent.busy_since_ns

    def start(self) -> None:
        self._urgent.start()
        self._background.start()

    def stop(self) -> None:
        """End the threads and free the model."""
        has_ended = self._urgent.stop(STOP_S)
        if self._background.stop(STOP_S) and has_ended:
            self.model.close()
        else:
            log.error("embedder_stuck", waited_s=STOP_S)

    async def embed(self, texts: Sequence[str], *, is_urgent: bool) -> Matrix:
        """A row per text.  Busy, EngineFailed."""
        return (await self.embed_and_tell(texts, is_urgent=is_urgent)).rows

    async def embed_and_tell(self, texts: Sequence[str], *, is_urgent: bool) -> Embedded:
        """As embed(), and which texts were cut."""
        thread = self._urgent if is_urgent else self._background
        n_waiting = thread.n_texts
        if n_waiting + len(texts) > MAX_WAITING_TEXTS:
            raise Busy(
                f"{n_waiting} texts wait to be embedded, limit is {MAX_WAITING_TEXTS}",
                retry_after_ms=1000,
                queue_depth=n_waiting,
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Embedded] = loop.create_future()

        def settle(embedded: Embedded | None, error: Exception | None) -> None:
            if future.done():
                return  # its caller was cancelled
            if embedded is not None:
                future.set_result(embedded)
            elif isinstance(error, EngineError):
                future.set_exception(EngineFailed(str(error)))
            else:
                future.set_exception(error or EngineFailed("the embedding model failed"))

        def done(embedded: Embedded | None, error: Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                loop.call_soon_threadsafe(settle, embedded, error)

        request = thread.put(texts, done)
        try:
            return await future
        finally:
            thread.drop(request)  # of a caller that was cancelled


def load(config: Config) -> ModelEmbedder | None:
    """The embedder of this config; None if it says none, or the default isn't there.

    ModelError or EngineError: one was asked for by name or path and can't be had.
    """
    if config.embedder == "none":
        return None
    is_default = config.embedder == models.EMBEDDER.name
    try:
        path = models.locate(config.embedder, Path(config.models_dir))
    except models.ModelError as error:
        if not is_default:
            raise
        log.warning("no_embedder", reason=str(error), hint="searches use words only")
        return None
    from aiosd.engine.llama import LlamaEmbedding  # noqa: PLC0415 - only where there is a model

    return ModelEmbedder(LlamaEmbedding(path, models.name_of(path)))


def no_embedder() -> Unavailable:
    return Unavailable(
        "no embedding model is loaded; name one with --embedder, or prepare the default with: "
        "python -m aiosd.models prepare"
    )
