"""`llm.*`: generating, tokens, models."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    Busy,
    NotFound,
    TooLarge,
)
from aios_sdk.syscalls import MAX_TOKENS_IN_CALL
from aiosd import models
from aiosd.server import act, generate
from aiosd.server.calls.base import Result
from aiosd.server.embedder import MAX_TEXTS_PER_UID, MAX_URGENT_TEXTS, no_embedder

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class Llm:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._n_embedding: Counter[int] = Counter()

    async def llm_generate(self, call: Call) -> Result:
        return await generate.run(self._d, call)

    async def llm_act(self, call: Call) -> Result:
        return await act.run(self._d, call)

    async def llm_tokenize(self, call: Call) -> Result:
        generate.check_model(self._d, call.params.get("model"))
        text, special = call.params["text"], call.params["special"]

        def work() -> list[int]:
            tokens = self._d.model.tokenize(text, special=special)
            if len(tokens) > MAX_TOKENS_IN_CALL:
                words = f"the text has {len(tokens)} tokens, limit is {MAX_TOKENS_IN_CALL}"
                raise TooLarge(words, limit=MAX_TOKENS_IN_CALL)
            return tokens.tolist()

        return {"tokens": await self._d.in_worker(work, call.agent.uid, len(text))}

    async def llm_detokenize(self, call: Call) -> Result:
        generate.check_model(self._d, call.params.get("model"))
        tokens = call.params["tokens"]
        return {
            "text": await self._d.in_worker(
                lambda: self._d.prompter.detokenize(tokens), call.agent.uid, 4 * len(tokens)
            )
        }

    async def llm_embed(self, call: Call) -> Result:
        embedder, texts = self._d.embedder, call.params["texts"]
        if embedder is None:
            raise no_embedder()
        if call.params.get("model", embedder.name) != embedder.name:
            name = call.params["model"]
            words = f"embedding model {name!r} is not loaded; {embedder.name!r} is"
            raise NotFound(words, model=name)
        n_bytes, limit = 4 * embedder.n_dims * len(texts), self._d.config.limits.frame_bytes // 2
        if n_bytes > limit:
            raise TooLarge(
                f"{len(texts)} vectors are {n_bytes} bytes, limit is {limit} for one answer",
                limit=limit,
            )
        is_urgent = len(texts) <= MAX_URGENT_TEXTS
        with self._counted(call.agent.uid, len(texts)):
            found = await embedder.embed_and_tell(texts, is_urgent=is_urgent)
        return {
            "embeddings": [row.astype("<f4").tobytes() for row in found.rows],
            "n_dims": embedder.n_dims,
            "model": embedder.name,
            "truncated": list(found.cut),
        }

    @contextlib.contextmanager
    def _counted(self, uid: int, n_texts: int) -> Iterator[None]:
        """A uid's texts under way are limited, so that others' find room."""
        n_before = self._n_embedding[uid]
        if n_before + n_texts > MAX_TEXTS_PER_UID:
            raise Busy(
                f"uid {uid} has {n_before} texts being embedded, limit is {MAX_TEXTS_PER_UID}",
                retry_after_ms=1000,
                queue_depth=n_before,
            )
        self._n_embedding[uid] += n_texts
        try:
            yield
        finally:
            self._n_embedding[uid] -= n_texts
            if not self._n_embedding[uid]:
                del self._n_embedding[uid]

    async def llm_models(self, call: Call) -> Result:
        info = self._d.model.info
        loaded = {
            "name": info.name,
            "path": info.path,
            "n_params": info.n_params,
            "n_ctx_train": info.n_ctx_train,
            "weights": info.weights,
            "bytes": info.n_bytes,
            "has_fast_kernels": info.has_fast_kernels,
            "has_chat_template": info.chat_template is not None,
            "loaded": True,
            "kind": "chat",
        }
        dirs = models.search_dirs(Path(self._d.config.models_dir))
        found = await self._d.in_worker(lambda: models.list_models(dirs))
        also = self._loaded_embedder()
        paths = {info.path, *(one["path"] for one in also)}
        others = [
            {"name": m.name, "path": str(m.path), "loaded": False, "kind": m.kind}
            for m in found
            if str(m.path) not in paths
        ]
        return {"models": [loaded, *also, *others]}

    def _loaded_embedder(self) -> list[Result]:
        if self._d.embedder is None:
            return []
        model = self._d.embedder.model
        return [
            {
                "name": model.name,
                "path": str(model.path),
                "n_params": model.n_params,
                "n_ctx_train": model.n_ctx_train,
                "loaded": True,
                "kind": "embedding",
            }
        ]
