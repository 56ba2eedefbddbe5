"""The real model for tests marked slow: prepared once, loaded once, emptied in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiosd import models
from aiosd.engine import threads
from aiosd.kernel.model import SlotId

if TYPE_CHECKING:
    from aiosd.engine.llama import LlamaModel

threads.set_environment()  # before any test imports llama


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, ready to load; made here if set-up hasn't."""
    prepared = models.packaged_dir() / models.DEFAULT.target
    if prepared.exists():
        return prepared
    return models.prepare_default(tmp_path_factory.mktemp("models"), lambda _: None)


@pytest.fixture(scope="session")
def loaded_llama(model_path: Path) -> Iterator[LlamaModel]:
    """8 slots of 1024 tokens in the default layout; use the fixture llama, which empties it."""
    from aiosd.engine.llama import LlamaModel

    model = LlamaModel(model_path, n_slots=8, slot_tokens=1024, n_threads=2)
    yield model
    model.close()


@pytest.fixture
def llama(loaded_llama: LlamaModel) -> LlamaModel:
    for slot in range(loaded_llama.info.n_slots):
        loaded_llama.truncate(SlotId(slot), 0)
    return loaded_llama
