"""llama.cpp's own llama-batched-bench, built from the source package that aiosd's llama.cpp is of.

Rule: same source, same compiler flags, same model file, threads, KV types and layout as the
daemon; what differs is only who drives it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT, WORK, Options
from scripts.setup import LLAMA, build_flags, compiler, pinned_version

BUILD_LOG = WORK / "build.log"


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What it says of one run; per second, over all lanes."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


def build(options: Options) -> Path:
    """The program; built at the first call, which takes some minutes."""
    program = WORK / f"build-{pinned_version(ROOT, LLAMA)}" / "bin" / "llama-batched-bench"
    if program.exists():
        return program
    source = options.llama_source or _download()
    print(f"building llama-batched-bench (some minutes; log in {BUILD_LOG})", flush=True)
    target = program.parent.parent
    target.mkdir(parents=True, exist_ok=True)
    env = build_flags(compiler("CXX", "g++", "c++"))
    configure = ["cmake", "-S", str(source / "vendor/llama.cpp"), "-B", str(target)]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_TESTS=OFF"]
    configure += ["-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]
    make = ["cmake", "--build", str(target), "--target", program.name]
    with BUILD_LOG.open("wb") as log:
        for command in (configure, make):
            subprocess.run(
                command, env=env, stdout=log, stderr=subprocess.STDOUT, check=True, cwd=WORK
            )
    return program


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
    command += ["-ctk", "bf16", "-ctv", "f16", "-fa", "on", "-no-kvu", "--output-format", "jsonl"]
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
