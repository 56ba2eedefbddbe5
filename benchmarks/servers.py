"""The servers that serve the same work: each started afresh for a measurement, ended after it.

Rule: all get the same file and number of threads, and OpenMP's own settings unless they choose
others themselves (as aiosd does).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import ROOT, n_cores
from benchmarks.peer import EXAMPLE_SERVER, bin_dir

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05


def plain_environment(**more: str) -> dict[str, str]:
    """Ours without what we set for OpenMP."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | more


@contextlib.contextmanager
def llama_server(
    program: Path, model: Path, *, n_slots: int | None, slot_tokens: int = 2048
) -> Iterator[str]:
    """Its address.  n_slots None: all its own defaults."""
    port = free_port()
    command = [str(program), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--offline", "--no-ui"]
    if n_slots is not None:
        command += ["-np", str(n_slots), "-c", str(n_slots * slot_tokens)]
        command += ["-t", str(n_cores()), "-tb", str(n_cores())]
    with _process(command, plain_environment()) as process:
        yield _ready(process, f"http://127.0.0.1:{port}", "/health")


@contextlib.contextmanager
def example_server(script: Path, model: Path, *, n_slots: int) -> Iterator[str]:
    """llama-cpp-python's examples/server; its address."""
    port = free_port()
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "model": {
            "path": str(model),
            "n_ctx": n_slots * 2048,
            "n_seq_max": n_slots,
            "threads": n_cores(),
            "threads_batch": n_cores(),
            "store_logits": False,
        },
    }
    with tempfile.TemporaryDirectory(prefix="example-server-") as place:
        path = Path(place) / "config.json"
        path.write_text(json.dumps(config))
        # It wants libmtmd, which aiosd's build goes without, beside the rest of the same build.
        libraries = str(bin_dir())
        environment = plain_environment(
            PYTHONPATH=str(EXAMPLE_SERVER), LLAMA_CPP_LIB_PATH=libraries, MTMD_CPP_LIB=libraries
        )
        command = [sys.executable, str(script), "-C", str(path)]
        with _process(command, environment) as process:
            yield _ready(process, f"http://127.0.0.1:{port}", "/v1/models")


def in_child(module: str, *args: str, plain: bool = False) -> dict[str, float]:
    """What `python -m MODULE ARGS` prints, as JSON.  plain: with OpenMP's own settings."""
    command = [sys.executable, "-m", module, *args]
    environment = plain_environment() if plain else None
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _process(
    command: Sequence[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-2000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: subprocess.Popen[bytes], url: str, path: str) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(url + path, timeout=5),  # noqa: S310 - ours
        ):
            return url
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{process.args!r} was not ready within {START_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
