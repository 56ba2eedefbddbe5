"""The package as a user gets it: what it imports, what it needs, what its README promises."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import aios_sdk
from aios_sdk import Client
from tests.sdk.peer import Conversation, generation
from tests.sdk.test_client import Serve

SDK = Path(__file__).parents[2] / "sdk"


def readme_agent() -> str:
    [code] = re.findall(r"```python\n(.*?)```", (SDK / "README.md").read_text(), re.DOTALL)
    return str(code)


def test_the_version_is_written_twice_and_the_same() -> None:
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    assert project["version"] == aios_sdk.__version__
    assert project["dependencies"] == ["msgpack>=1.1"]


def test_every_public_name_is_there() -> None:
    for name in aios_sdk.__all__:
        assert getattr(aios_sdk, name) is not None
    assert set(dir(aios_sdk)) == set(aios_sdk.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = aios_sdk.Klient  # type: ignore[attr-defined]  # what is tested


def test_the_blocking_client_never_loads_asyncio_and_the_package_itself_nearly_nothing() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import aios_sdk\n"
        "print(sorted(m for m in set(sys.modules) - before if m.startswith('aios_sdk')))\n"
        "aios_sdk.Client, aios_sdk.Stream, aios_sdk.TABLE\n"
        "print([m for m in ('asyncio', 'concurrent.futures', 'ssl', 'json') if m in sys.modules])\n"
        "aios_sdk.Agent\n"
        "print([m for m in ('asyncio', 'concurrent.futures', 'ssl') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['aios_sdk']", "[]", "[]"]


def test_only_msgpack_and_the_standard_library_are_imported() -> None:
    roots = set()
    for file in (SDK / "src" / "aios_sdk").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add(str(node.module).split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"aios_sdk", "msgpack"}


def test_the_two_clients_have_the_same_surface() -> None:
    for blocking, waiting in (
        ("client.Client", "aio.AsyncClient"),
        ("client.Context", "aio.AsyncContext"),
        ("ownacts.ActSteps", "aioownacts.AsyncActSteps"),
        ("process.Process", "process.AsyncProcess"),
        ("tools.Tools", "tools.AsyncTools"),
        ("agent.Agent", "aioagent.AsyncAgent"),
        ("stream.Stream", "aiostream.AsyncStream"),
        ("stream.TextStream", "aiostream.AsyncTextStream"),
    ):
        names = []
        for path in (blocking, waiting):
            module, name = path.split(".")
            cls = getattr(importlib.import_module(f"aios_sdk.{module}"), name)
            names.append({n for n in vars(cls) if not n.startswith("_")})
        assert names[1] - names[0] <= {"connect"}  # a constructor can't wait
        assert names[0] <= names[1]


def answers(peer: Conversation) -> None:
    peer.hello()
    peer.answer("context.create", {"context": "c1"})
    peer.reply(peer.expect("llm.generate"), generation("Water that goes somewhere."))
    request = peer.expect("llm.generate")
    peer.chunk(request, "Water that ")
    peer.chunk(request, "stays.")
    peer.reply(request, generation("Water that stays."))
    peer.answer("context.info", {"context": "c1", "n_tokens": 63})
    peer.answer("context.delete", {})
    peer.expect_end()


ANSWERS = "Water that goes somewhere.\nWater that stays.\n63 tokens so far\n"


def test_the_readmes_agent_runs(serve: Serve) -> None:
    assert len([line for line in readme_agent().splitlines() if line]) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", readme_agent()],
        env={"AIOSD_SOCKET": serve(answers)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ANSWERS


@pytest.mark.slow
def test_the_wheel_runs_the_readmes_agent_in_a_venv_with_msgpack_alone(
    serve: Serve, tmp_path: Path
) -> None:
    dist, home = tmp_path / "dist", tmp_path / "venv"

    def run(*command: str | Path, **env: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env or None)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", dist, SDK)
    [wheel] = dist.glob("*.whl")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    installed = run(python, "-m", "pip", "list", "--format=freeze").split()
    assert sorted(line.split("==")[0] for line in installed) in (
        ["aios-sdk", "msgpack", "pip", "setuptools"],
        ["aios-sdk", "msgpack", "pip"],
    )
    run(python, "-c", "import aios_sdk.aio; from aios_sdk import *")
    assert run(python, "-c", readme_agent(), AIOSD_SOCKET=serve(answers)) == ANSWERS
    assert "py.typed" in run(python, "-m", "zipfile", "-l", wheel)


def test_client_is_what_the_package_says_it_is() -> None:
    assert aios_sdk.Client is Client
