"""`model.*`: the model directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aios_sdk.errors import (
    Busy,
    InvalidParams,
    NotFound,
)
from aiosd import models
from aiosd.server.calls.base import Result
from aiosd.services.access import Target

if TYPE_CHECKING:
    from aiosd.server.daemon import Daemon
    from aiosd.server.session import Call


class ModelFiles:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    async def model_add(self, call: Call) -> Result:
        source, models_dir = Path(call.params["path"]), Path(self._d.config.models_dir)
        name = call.params.get("name")
        try:
            path = await self._d.in_worker(lambda: models.add(source, name, models_dir))
        except models.ModelError as error:
            raise InvalidParams(str(error), field="path") from error
        return {"name": models.name_of(path), "path": str(path)}

    async def model_remove(self, call: Call) -> Result:
        name, models_dir = call.params["name"], Path(self._d.config.models_dir)
        loaded = [Path(self._d.model.info.path)]
        if self._d.embedder is not None:
            loaded.append(self._d.embedder.model.path)
        if models_dir / f"{name}.gguf" in loaded:
            raise Busy(f"model {name!r} is loaded")
        if not await self._d.in_worker((models_dir / f"{name}.gguf").is_file):
            raise NotFound(f"no model {name!r} in {models_dir}", model=name)
        await self._d.access.admit(call, "delete", Target("model", None, name))
        try:
            await self._d.in_worker(lambda: models.remove(name, models_dir))
        except models.ModelError as error:
            raise NotFound(str(error), model=name) from error
        return {}
