"""The man pages: made of the command line itself, and without a warning from groff."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiosctl.__main__ import ENTRIES
from aiosd import config
from scripts import manpages

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    command = [sys.executable, str(ROOT / "scripts" / "manpages.py"), str(directory)]
    subprocess.run(command, check=True, timeout=60)
    return directory


def shown(page: Path) -> str:
    """As a reader sees it, on a wide terminal, without bold."""
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
    )
    assert done.stderr == ""
    return re.sub("\x1b\\[[0-9;]*m|.\x08", "", done.stdout)


def test_there_is_a_page_for_each_command_for_the_daemon_and_for_its_settings(pages: Path) -> None:
    expected = {f"aiosctl-{name}.1" for name in ENTRIES}
    assert {page.name for page in pages.iterdir()} == expected | {
        "aiosctl.1", "aiosd.8", "aiosd.toml.5",
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_has_nothing_to_warn_of(pages: Path) -> None:
    every = sorted(map(str, pages.iterdir()))
    done = subprocess.run(
        ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z", *every],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_pages_say_what_the_help_says(pages: Path) -> None:
    run = shown(pages / "aiosctl-run.1")
    assert "aiosctl-run - send one prompt, print the answer as it comes" in run
    assert "-n, --max-tokens N" in run
    assert "Stop after so many tokens." in run
    assert 'aiosctl run --schema person.json "Invent a person."' in run
    context = shown(pages / "aiosctl-context.1")
    assert "aiosctl context fork" in context
    assert "--socket PATH" in context
    overview = shown(pages / "aiosctl.1")
    assert all(f"aiosctl-{name}(1)" in overview for name in ENTRIES)
    daemon = shown(pages / "aiosd.8")
    assert "--snapshot-ram BYTES" in daemon
    assert "SIGHUP" in daemon
    keys = shown(pages / "aiosd.toml.5")
    assert "metrics" in keys.lower()
    tables: list[type[Any]] = [config.Config, *config.TABLES.values()]
    for of in tables:
        assert [name for name in config.keys(of) if name not in keys] == []


def test_text_cant_become_a_request_or_an_escape() -> None:
    assert manpages.escape(".SH it") == "\\&.SH it"
    assert manpages.escape("it's a \\n--x") == "it\\(aqs a \\en\\-\\-x"
    assert manpages.prose("give `--json`, if you like") == ("give \\fB\\-\\-json\\fR, if you like")
    assert manpages.prose("'x'") == "\\(aqx\\(aq"
