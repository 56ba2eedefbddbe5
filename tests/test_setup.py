"""scripts/setup.py: what it checks, when it stops at once, what it says.  It is run as `make` runs
it, over a copy of the checkout; only the slow test installs anything."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import setup

ROOT = Path(__file__).resolve().parent.parent
PINS = re.findall(r"^([^#\s].*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads, in a place with a space in its name."""
    root = tmp_path / "a checkout"
    for name in setup.INPUTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


def run_setup(root: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) if path is None else {**os.environ, "PATH": path}
    command = [sys.executable, str(root / "scripts/setup.py")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# ---------------------------------------------------------------- pins


def test_every_pin_is_one_exact_version_and_nothing_else() -> None:
    assert [pin for pin in PINS if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)] == []
    assert sorted(PINS) == sorted(set(PINS))


def test_all_that_is_needed_is_pinned_and_is_what_is_installed() -> None:
    pins = dict(pin.split("==") for pin in PINS)
    wanted: dict[str, set[str]] = {}
    todo = [Requirement("aiosd[dev]")]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        if extras <= wanted.get(name, set()):
            continue
        wanted[name] = wanted.get(name, set()) | extras
        for text in importlib.metadata.requires(name) or []:
            below = Requirement(text)
            marker = below.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in wanted[name]):
                todo.append(below)
    found = {name: importlib.metadata.version(name) for name in wanted if "aios" not in name}
    assert {name: pins.get(name) for name in found} == found


def test_the_tools_that_build_are_pinned_too() -> None:
    names = {pin.split("==")[0] for pin in PINS}
    assert {"pip", "setuptools", "wheel", "scikit-build-core", "ninja", "cmake"} <= names


# ---------------------------------------------------------------- what must be there before


def test_a_bare_system_is_told_all_packages_at_once_before_anything_is_made(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = run_setup(checkout, path=str(tmp_path / "empty"))
    assert done.returncode == 1
    assert "sudo apt install gcc g++ cmake make\n" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_compiler_without_its_headers_counts_as_missing(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    for name in ("gcc", "cmake", "ninja"):
        program(tools / name, "exit 0")
    program(tools / "g++", "echo 'vector: no such file' >&2; exit 1")
    done = run_setup(checkout, path=str(tools))
    assert done.returncode == 1
    assert "a C++ compiler with its library" in done.stderr
    assert "sudo apt install g++\n" in done.stderr


def test_nothing_needs_a_compiler_once_llama_cpp_is_installed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = setup.pinned_version(checkout, "llama-cpp-python")
    packages = checkout / ".venv/lib/python3.11/site-packages"
    (packages / f"llama_cpp_python-{version}.dist-info").mkdir(parents=True)
    monkeypatch.setenv("PATH", "")
    assert setup.missing_tools(checkout) == []


# ---------------------------------------------------------------- once, and then at once


@pytest.fixture
def ready(checkout: Path) -> Path:
    """A checkout that looks set up; its Python fails whatever it is asked."""
    program(checkout / ".venv/bin/python", "exit 9")
    stamp = {"root": str(checkout), "key": setup.fingerprint(checkout)}
    setup.stamp_path(checkout).write_text(json.dumps(stamp))
    return checkout


def test_a_second_run_does_and_says_nothing(ready: Path) -> None:
    done = run_setup(ready)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "sdk/pyproject.toml"])
def test_a_changed_input_sets_up_again(ready: Path, name: str) -> None:
    assert setup.is_ready(ready, setup.fingerprint(ready))
    with (ready / name).open("a") as file:
        file.write("# changed\n")
    assert not setup.is_ready(ready, setup.fingerprint(ready))


def test_another_cpu_sets_up_again(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "cpu_flags", lambda: "flags: sse2")
    assert not setup.is_ready(ready, setup.fingerprint(ready))


def test_a_broken_stamp_is_no_stamp(ready: Path) -> None:
    setup.stamp_path(ready).write_text("{")
    assert not setup.is_ready(ready, setup.fingerprint(ready))


# ---------------------------------------------------------------- building llama.cpp


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("Collecting llama-cpp-python\n", None),
        ("  [3/140] /usr/bin/g++ -O3\n  [17/140] /usr/bin/g++ -O3\n", "step 17 of 140"),
        ("  [  4%] Building C object\n  [ 31%] Building CXX object x.o\n", "31 %"),
        ("  Downloading x[1/2].whl\n", None),
    ],
)
def test_progress_is_read_from_what_ninja_or_make_says(text: str, progress: str | None) -> None:
    assert setup.build_progress(text) == progress


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is an x86-64 extension")
def test_amx_is_left_out_and_the_users_own_flags_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-g")
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_BLAS=ON")
    env = setup.build_flags(setup.compiler("CXX", "g++", "c++"))
    assert env["CFLAGS"] == "-g -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    assert env["CMAKE_ARGS"] == "-DLLAVA_BUILD=OFF -DGGML_BLAS=ON"


def test_a_flag_the_compiler_does_not_know_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CFLAGS", raising=False)
    program(tmp_path / "g++", "exit 1")
    assert "CFLAGS" not in setup.build_flags(str(tmp_path / "g++"))


def fake_venv(root: Path, python: str) -> setup.Venv:
    """A .venv whose Python notes its arguments in `calls` and then does as the script says."""
    venv = setup.Venv(root)
    calls = root / "calls"
    program(venv.python, f'echo "$@" >> "{calls}"\n{python}')
    return venv


def test_a_cached_wheel_of_another_cpu_is_built_anew_once(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuilt = checkout / "rebuilt"
    venv = fake_venv(
        checkout,
        f"""case "$*" in
            *--force-reinstall*) touch "{rebuilt}" ;;
            *"aiosd.models check"*) test -e "{rebuilt}" || exit 132 ;;
        esac""",
    )
    venv.check_llama("llama-cpp-python==1")
    calls = (checkout / "calls").read_text().splitlines()
    assert len(calls) == 3
    assert "--no-cache-dir --force-reinstall --no-deps llama-cpp-python==1" in calls[1]
    assert "dies here of SIGILL" in capsys.readouterr().out


def test_a_check_that_fails_without_a_crash_is_not_answered_with_a_build(checkout: Path) -> None:
    venv = fake_venv(checkout, "echo 'no model here'; exit 1")
    with pytest.raises(setup.SetupError, match=r"no model here\n.*exit code 1"):
        venv.check_llama("llama-cpp-python==1")
    assert len((checkout / "calls").read_text().splitlines()) == 1


def test_a_failed_step_shows_the_end_of_its_log(checkout: Path) -> None:
    venv = fake_venv(checkout, "seq 1 100; exit 3")
    with pytest.raises(setup.SetupError) as caught:
        venv.run("counting", "-c", "count")
    lines = str(caught.value).splitlines()
    assert (lines[0], lines[-2]) == ("71", "100")
    assert lines[-1] == f"counting failed with exit code 3; all of it: {venv.log}"


# ---------------------------------------------------------------- all of it


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_fresh_checkout_with_a_space_in_its_path_serves_by_hand(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "cache", "list", "llama_cpp_python"]
    cached = subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    if setup.pinned_version(ROOT, setup.LLAMA) not in cached:
        pytest.skip("pip's cache has no built llama.cpp; building it takes many minutes")
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in ("aiosd", "aiosctl", "sdk", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    done = run_setup(root)
    assert done.returncode == 0, done.stdout + done.stderr
    for command in ("aiosd", "aiosctl"):
        by_hand = [str(root / ".venv/bin" / command), "--help"]
        assert subprocess.run(by_hand, capture_output=True, check=False).returncode == 0
    assert run_setup(root).stdout == ""
