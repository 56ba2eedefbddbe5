"""Where local tools are looked for, and what their processes may say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiosd.confine import Confinement, Grant
from aiosd.services.tools import frames, local
from aiosd.services.tools.local import LocalTools, places
from aiosd.services.tools.model import ToolFailed
from aiosd.services.tools.processes import Place
from aiosd.tools_config import ToolRule, Tools

SPEC: dict[str, Any] = {
    "name": "t",
    "description": "A tool.",
    "parameters": {"type": "object"},
    "irreversible": False,
    "ordered": True,
    "max_parallel": 1,
    "timeout_s": 60.0,
    "read": ["/declared"],
    "write": [],
    "network": False,
}


def test_files_of_the_directory_are_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "_c.py", ".d.py", "e.txt"):
        (tmp_path / name).write_text("")
    found = [place for place in places(str(tmp_path)) if place.kind == "file"]
    assert found == [Place("file", str(tmp_path / "a.py")), Place("file", str(tmp_path / "b.py"))]


def test_a_directory_that_everybody_may_write_to_or_that_isnt_there_has_no_tools(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.py").write_text("")
    tmp_path.chmod(0o777)
    assert [place for place in places(str(tmp_path)) if place.kind == "file"] == []
    tmp_path.chmod(0o755)
    names = [Path(place.target).name for place in places(str(tmp_path)) if place.kind == "file"]
    (tmp_path / names[0]).chmod(0o666)
    (tmp_path / "leads_nowhere.py").symlink_to(tmp_path / "no")
    left = [Path(place.target).name for place in places(str(tmp_path)) if place.kind == "file"]
    assert left == names[1:]
    assert [place for place in places(str(tmp_path / "no")) if place.kind == "file"] == []


def test_packages_offer_tools_by_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "weather-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: weather\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[aiosd.tools]\nx = weather.tools:forecast\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Place("module", "weather.tools:forecast") in places("")


@pytest.mark.parametrize(
    "change",
    [
        {"name": 7},
        {"max_parallel": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"timeout_s": 10**9},
        {"parameters": []},
        {"read": "/etc"},
        {"read": [7]},
        {"network": 1},
    ],
)
def test_what_a_process_says_of_its_tools_is_checked(change: dict[str, Any]) -> None:
    assert local._spec(SPEC).name == "t"
    with pytest.raises(ToolFailed):
        local._spec({**SPEC, **change})
    with pytest.raises(ToolFailed):
        local._spec({key: value for key, value in SPEC.items() if key not in change})


@pytest.mark.parametrize(
    ("rule", "grant"),
    [
        (ToolRule(), Grant(("/declared",), (), False)),
        (
            ToolRule(read=("/more",), write=("/w",), network="yes"),
            Grant(("/declared", "/more"), ("/w",), True),
        ),
        (ToolRule(network="no"), Grant(("/declared",), (), False)),
    ],
)
def test_a_tool_may_touch_what_it_declares_and_what_the_configuration_adds(
    rule: ToolRule, grant: Grant
) -> None:
    one = local.local("local", Place("module", "x"), local._spec(SPEC))
    source = LocalTools("local", lambda: Tools(tool={"t": rule}), ("/state",), [one])
    made: Confinement = source.confinement(one.tool)
    assert made.grant == grant
    assert made.hidden == ("/state",)
    assert (
        {"PYTHONDONTWRITEBYTECODE"}
        <= set(made.env)
        <= {
            "PYTHONDONTWRITEBYTECODE",
            "PYTHONPATH",
        }
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xc1", "a frame that can't be read"),
        (b"\x93\x01\x02\x03", "a frame that is no map"),
        (b"\x81\xa1a\x01\x00", "a frame that can't be read"),
        (b"\xdf\xff\xff\xff\xff", "a frame that can't be read"),
        (b"\x91" * 5000, "a frame that can't be read"),
        (b"", "a frame that can't be read"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(frames.BadFrame, match=words):
        frames.decoded(data)


def test_a_place_without_tools_is_left_out_and_harms_no_other(tmp_path: Path) -> None:
    async def run() -> list[str]:
        source = LocalTools("local", Tools, ())
        head = "from aios_sdk.toolbox import tool\n"
        body = '@tool\ndef {}() -> None:\n    """Do."""\n'
        for name, text in (
            ("good", head + body.format("good")),
            ("same", head + body.format("good") + body.format("other")),
            ("empty", ""),
            ("syntax", "def"),
            ("untyped", head + '@tool\ndef f(a) -> None:\n    """Do."""\n'),
            ("exits", "raise SystemExit(3)"),
            ("writes", "import os\nos.write(1, b'x' * 100)\nos._exit(0)"),
        ):
            (tmp_path / f"{name}.py").write_text(text)
        await source.load(places(str(tmp_path)))
        await source.close()
        return [tool.name for tool in source.tools()]

    assert asyncio.run(run()) == ["good", "other"]
