"""Text files in parts: all of the text, none too long, and few that change with an edit."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aiosd.services.storage.chunks import MAX_CHARS, chunks, snippet, text_of


def prose(n_lines: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    words = ("the", "harbour", "sleeps", "while", "a", "boat", "of", "old", "timber", "leaves")
    return "".join(
        " ".join(rng.choice(words) for _ in range(rng.randint(3, 14))) + "\n"
        for _ in range(n_lines)
    )


@given(st.text(max_size=5000) | st.text(alphabet="a \n", max_size=5000))
def test_the_parts_are_the_text_but_for_space_and_none_is_too_long(text: str) -> None:
    made = chunks(text)
    data = text.encode()
    covered = 0
    for chunk in made:
        part = chunk.text.encode()
        assert data[chunk.start : chunk.start + len(part)] == part
        assert chunk.start >= covered
        assert data[covered : chunk.start].decode().strip() == ""
        assert 0 < len(chunk.text) <= MAX_CHARS
        covered = chunk.start + len(part)
    assert data[covered:].decode().strip() == ""


def test_an_edit_in_the_middle_leaves_most_parts_as_they_were() -> None:
    before = prose(400)
    lines = before.splitlines(keepends=True)
    after = "".join([*lines[:200], "one more line\n", *lines[200:]])
    old = {chunk.text for chunk in chunks(before)}
    new = {chunk.text for chunk in chunks(after)}
    assert len(old) > 15
    assert len(new - old) <= 3


def test_what_is_no_text_isn_t_searched() -> None:
    assert text_of(b"a\0b") is None
    assert text_of(b"\xff\xfe") is None
    assert text_of("zwölf".encode()) == "zwölf"
    assert chunks(" \n\n ") == []


def test_a_snippet_is_one_line_around_what_was_found() -> None:
    text = "x " * 300 + "the harbour\nat night " + "y " * 300
    shown = snippet(text, "Harbour?")
    assert "the harbour at night" in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(shown) <= 302
    assert snippet("short", "nothing (of it") == "short"
