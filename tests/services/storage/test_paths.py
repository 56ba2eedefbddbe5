"""What a path may be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sdk.errors import InvalidParams
from aiosd.services.storage.paths import Address, agent_name, directory_name, parse

NAME = st.text(alphabet="aZ0._-", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a", Address(None, ("a",))),
        ("a/b.txt", Address(None, ("a", "b.txt"))),
        ("./a//b/", Address(None, ("a", "b"))),
        ("ä ö/…", Address(None, ("ä ö", "…"))),
        ("...", Address(None, ("...",))),
        ("bob:/a/b", Address("bob", ("a", "b"))),
        ("..:/a", Address("..", ("a",))),
        ("a b:/c", Address(None, ("a b:", "c"))),
        ("a:b", Address(None, ("a:b",))),
    ],
)
def test_a_path_is_its_names(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/etc/passwd", "leave out the first /"),
        ("bob://etc", "leave out the first /"),
        ("..", "'..' is not allowed"),
        ("a/../../b", "'..' is not allowed"),
        ("bob:/../x", "'..' is not allowed"),
        ("a\0b", "no NUL"),
        ("a\nb", "no other control character"),
        ("a\x7f", "no other control character"),
        ("a\ud800", "no other control character"),
        ("", "names the root"),
        ("./.", "names the root"),
        ("bob:/", "names the root"),
        ("x" * 256, "has 256 bytes, the most is 255"),
        ("ä" * 128, "has 256 bytes, the most is 255"),
        ("a/" * 33 + "a", "34 names deep, the most is 32"),
        ("a/" * 600, "has 1200 bytes, the most is 1024"),
    ],
)
def test_what_could_lead_elsewhere_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidParams, match=re.escape(why)) as caught:
        parse(text, "to")
    assert caught.value.data["field"] == "to"


def test_the_root_is_a_place_to_list() -> None:
    assert parse("", is_root_allowed=True) == Address(None, ())
    assert parse("bob:/", is_root_allowed=True) == Address("bob", ())


@given(st.text(max_size=40) | st.text(alphabet="./:a\\\0", max_size=12))
def test_whatever_comes_the_parts_are_plain_names_or_it_is_refused(text: str) -> None:
    try:
        parts = parse(text, is_root_allowed=True).parts
    except InvalidParams:
        return
    for part in parts:
        assert part not in ("", ".", "..")
        assert not set(part) & {"/", "\0"}
        assert len(part.encode()) <= 255


@given(NAME)
def test_an_agents_directory_is_its_own_and_visible(name: str) -> None:
    directory = directory_name(name)
    assert agent_name(directory) == name
    assert not directory.startswith(".")
    assert "/" not in directory


def test_agents_called_dots_have_plain_directories() -> None:
    assert directory_name(".") == "%2E"
    assert directory_name("..") == "%2E."
    assert directory_name("a.b") == "a.b"
