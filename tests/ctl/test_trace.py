"""`aiosctl trace`: the file that Perfetto opens, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from aiosctl import drawing, picture
from tests.ctl.conftest import Ctl
from tests.ctl.peer import TRACE, Peer

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own picture


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in parsed(svg).iter(f"{SVG}text")]


def tips(svg: str) -> list[str]:
    root = parsed(svg)
    inner = [
        title for node in root.iter() if node is not root for title in node.findall(f"{SVG}title")
    ]
    return ["".join(title.itertext()) for title in inner]


def test_a_trace_is_written_as_the_daemon_gives_it(ctl: Ctl, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    done = ctl("trace", "--seconds", "3", "-o", str(file))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert json.loads(file.read_text()) == TRACE
    assert peer.asked("sys.trace") == [{"seconds": 3.0}]


def test_a_trace_goes_to_a_pipe_if_no_file_is_named(ctl: Ctl) -> None:
    assert json.loads(ctl("trace").stdout) == TRACE


def test_json_says_what_was_written_where(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "t.svg"
    done = ctl("trace", "--svg", str(file), "--json")
    assert json.loads(done.stdout) == {
        "events": len(TRACE["traceEvents"]), "output": None, "svg": str(file),
    }  # fmt: skip
    assert file.read_text().startswith("<svg ")


def test_a_file_that_cannot_be_written_is_named(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl("trace", "-o", str(tmp_path / "no" / "t.json"))
    assert done.returncode == 2
    assert f"cannot write {tmp_path}/no/t.json: No such file or directory" in done.stderr


def test_the_picture_names_slots_agents_and_what_each_did() -> None:
    svg = picture.svg(TRACE)
    shown = texts(svg)
    assert [text for text in shown if text.startswith("slot ")] == ["slot 0", "slot 1"]
    assert "alice 9" in shown
    assert "bob 1" in shown
    assert shown.index("alice 9") < shown.index("bob 1")  # sorted
    assert "1.0s on 2 slots: 40 tokens read, 10 written, parks: 1" in shown
    assert tips(svg)[1:] == [
        "alice: stay, 800ms from 0ms, 30 tokens read, 9 tokens written",
        "alice: prefill, 300ms from 0ms, j1, 30 tokens read, 1 tokens written",
        "alice: decode, 495ms from 300ms, j1, 8 tokens written",
        "alice: park, 5ms from 795ms",
        "bob: stay, 200ms from 500ms, 10 tokens read, 1 tokens written",
        "bob: prefill, 200ms from 500ms, j2, 10 tokens read, 1 tokens written",
    ]


def test_prefill_decode_and_park_look_different() -> None:
    svg = picture.svg(TRACE)
    rects = list(parsed(svg).iter(f"{SVG}rect"))
    fills = [(rect.get("class"), rect.get("fill")) for rect in rects if rect.get("class")]
    assert ("decode", drawing.PALETTE[0]) in fills
    assert ("prefill", drawing.PALETTE[1]) in fills
    assert ("over", "url(#prefill)") in fills
    paths = [path.get("class") for path in parsed(svg).iter(f"{SVG}path")]
    assert paths.count("mark") == 1


def test_the_time_axis_has_round_figures() -> None:
    assert [text for text in texts(picture.svg(TRACE)) if text.endswith(" ms")] == [
        f"{number}00 ms" for number in range(1, 11)
    ]
    ten = {**TRACE, "otherData": {**TRACE["otherData"], "ended_us": 11_000_000}}
    assert [text for text in texts(picture.svg(ten)) if text.endswith(" s")] == [
        f"{number} s" for number in range(1, 11)
    ]


def test_the_picture_stands_alone_and_takes_names_as_text() -> None:
    evil = json.loads(json.dumps(TRACE).replace("alice", "<script>x&\\u001b"))
    svg = picture.svg(evil)
    assert "<script>" not in svg
    assert "\x1b" not in svg
    assert "href" not in svg
    assert svg.count("http") == 1  # the namespace
    assert "<script>x&  9" in texts(svg)


def test_a_million_short_turns_make_a_small_picture() -> None:
    events: list[dict[str, Any]] = [
        {
            "name": "decode", "cat": "decode", "ph": "X", "ts": 1_000_000 + 100 * n, "dur": 90,
            "pid": 1, "tid": 1, "args": {"uid": 1, "agent": "a", "job": "j", "output_tokens": 1},
        }
        for n in range(10_000)
    ]  # fmt: skip
    svg = picture.svg({**TRACE, "traceEvents": events})
    assert len(svg) < 10_000
    assert any("10000 tokens written" in tip for tip in tips(svg))


def test_nothing_to_show_is_said() -> None:
    assert "nothing of yours ran in this time" in texts(picture.svg({**TRACE, "traceEvents": []}))
