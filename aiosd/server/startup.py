"""What happens before serving: find the model, compare it with the memory there is, load it."""

from __future__ import annotations

import re
from pathlib import Path

import structlog

from aiosd import models
from aiosd.config import MIB, Config
from aiosd.engine.base import EngineError, Model
from aiosd.engine.estimate import estimate_bytes
from aiosd.engine.llama import LlamaModel, set_log_sink

log = structlog.get_logger()


def load_model(config: Config) -> Model:
    """The model of this config, loaded.  EngineError or ModelError says why not."""
    path = models.locate(config.model, Path(config.models_dir))
    check_memory(
        estimate_bytes(path, config.slots, config.slot_tokens, config.kv, n_batch(config)),
        config.snapshot_ram + config.prefix_ram,
        available_bytes(),
    )
    log.info("loading", path=str(path), slots=config.slots, slot_tokens=config.slot_tokens)
    set_log_sink(lambda level, line: log.warning("llama.cpp", severity=level, line=line))
    model = LlamaModel(
        path,
        name=models.name_of(path),
        n_slots=config.slots,
        slot_tokens=config.slot_tokens,
        kv=config.kv,
        n_threads=config.n_threads,
        n_batch=n_batch(config),
    )
    # From here on what it says may quote a grammar or a prompt: who speaks is all that's logged.
    set_log_sink(
        lambda level, line: log.warning("llama.cpp", severity=level, function=speaker(line))
    )
    return model


def speaker(line: str) -> str | None:
    """The function that a line of llama.cpp's log begins with, if it does."""
    match = re.match(r"(?:llama|ggml|gguf)[a-z0-9_]*(?=: )", line)
    return match[0] if match else None


def n_batch(config: Config) -> int:
    """Tokens of the largest decode call: a step's prefill, or a token of every lane."""
    return max(config.prefill_tokens, config.slots)


def check_memory(needs: dict[str, int], snapshot_ram: int, available: int | None) -> None:
    """Refuse what can't fit (EngineError), warn about what may not, each with its figures."""
    if available is None:
        return  # no /proc/meminfo here, so nothing to compare with
    fixed = sum(needs.values())
    figures = {f"{name}_mib": n // MIB for name, n in needs.items()}
    if fixed > available:
        parts = ", ".join(f"{name} {n // MIB} MiB" for name, n in needs.items())
        raise EngineError(
            f"the model needs {fixed // MIB} MiB ({parts}), {available // MIB} MiB are available; "
            "use fewer --slots, a smaller --slot-tokens, or a smaller model"
        )
    if fixed + snapshot_ram > available:
        log.warning(
            "memory_tight",
            **figures,
            snapshot_ram_mib=snapshot_ram // MIB,
            available_mib=available // MIB,
            hint="use a smaller --snapshot-ram, fewer --slots or a smaller --slot-tokens",
        )


def available_bytes() -> int | None:
    """MemAvailable, or None where it can't be read."""
    try:
        with Path("/proc/meminfo").open() as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
