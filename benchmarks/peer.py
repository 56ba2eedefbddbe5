"""The peers: llama.cpp's own programs, built from the source package that aiosd's llama.cpp is of.

Rule: same source, same compiler flags, same model file and threads as the daemon; llama-batched-
bench has its KV types and layout too, so that what differs is only who drives it.

`python -m benchmarks.peer [SOURCE]` builds them all beforehand, which takes some minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT, WORK, Options, note
from scripts.setup import LLAMA, build_flags, compiler, pinned_version

BUILD_LOG = WORK / "build.log"
BATCHED_BENCH = "llama-batched-bench"
LLAMA_SERVER = "llama-server"
EXAMPLE_SERVER = WORK / "example-server"  # llama-cpp-python's examples/server and what it imports
EXAMPLE_NEEDS = ("fastapi", "uvicorn", "openai", "websockets", "safetensors")


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What it says of one run; per second, over all lanes."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


def bin_dir() -> Path:
    """Where the build's programs and libraries are."""
    return WORK / f"build-{pinned_version(ROOT, LLAMA)}" / "bin"


def build(options: Options, name: str) -> Path:
    """The program; built at the first call, which takes some minutes."""
    program = bin_dir() / name
    target = bin_dir().parent
    if program.exists():
        return program
    source = options.llama_source or _download()
    print(f"building {name} (some minutes; log in {BUILD_LOG})", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    env = build_flags(compiler("CXX", "g++", "c++"))
    configure = ["cmake", "-S", str(source / "vendor/llama.cpp"), "-B", str(target)]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_TESTS=OFF"]
    configure += ["-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]
    configure += ["-DLLAMA_USE_PREBUILT_UI=OFF"]  # which would be downloaded
    make = ["cmake", "--build", str(target), "--target", name]
    with BUILD_LOG.open("ab") as log:
        for command in (configure, make):
            subprocess.run(
                command, env=env, stdout=log, stderr=subprocess.STDOUT, check=True, cwd=WORK
            )
    return program


def example_server(options: Options) -> Path | None:
    """llama-cpp-python's own examples/server, with what it imports beside it; None if that can't
    be had here, which is no reason to do without the others."""
    script = EXAMPLE_SERVER / "server.py"
    if script.exists():
        return script
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(EXAMPLE_SERVER)]
    try:
        source = options.llama_source or _download()
        subprocess.run([*install, *EXAMPLE_NEEDS], check=True)
        shutil.copy(source / "examples" / "server" / "server.py", script)
    except (OSError, subprocess.CalledProcessError) as error:
        note(f"no examples/server: {error}")
        return None
    return script


def _download() -> Path:
    """llama-cpp-python's source package, unpacked."""
    pin = f"{LLAMA}=={pinned_version(ROOT, LLAMA)}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    WORK.mkdir(parents=True, exist_ok=True)
    subprocess.run([*command, "--dest", str(WORK), pin], check=True, stdout=subprocess.DEVNULL)
    archive = next(WORK.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(WORK, filter="data")
    return WORK / archive.name.removesuffix(".tar.gz")


def run(
    program: Path,
    model: Path,
    *,
    n_lanes: int,
    n_prompt: int,
    n_output: int,
    n_threads: int,
    slot_tokens: int,
) -> PeerFigures:
    """One measurement in a process of its own, with as many sequences as lanes."""
    command = [str(program), "-m", str(model), "-c", str(n_lanes * slot_tokens)]
    command += ["-b", "2048", "-ub", "512", "-npp", str(n_prompt), "-ntg", str(n_output)]
    command += ["-npl", str(n_lanes), "-t", str(n_threads), "-tb", str(n_threads)]
    command += ["-ctk", "bf16", "-ctv", "bf16", "-fa", "on", "-no-kvu", "--output-format", "jsonl"]
    # Spinning at barriers is what suits it best on an idle machine, and is OpenMP's own default.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            figures = json.loads(line)
            assert figures["pl"] == n_lanes
            return PeerFigures(figures["speed_pp"], figures["speed_tg"])
    raise RuntimeError(
        f"llama-batched-bench gave no figures, exit code {done.returncode}:\n{done.stderr[-2000:]}"
    )


def prepare(options: Options) -> None:
    """All there is to build and to install, before anything is measured."""
    for name in (BATCHED_BENCH, LLAMA_SERVER):
        print(build(options, name))
    print(example_server(options))


if __name__ == "__main__":
    prepare(Options(llama_source=Path(sys.argv[1]) if sys.argv[1:] else None))
