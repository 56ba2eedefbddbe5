"""The lines of a process: whole, in order, the last of them, within a bound."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from aiosd.services.processes.output import LINE_COST_BYTES, MAX_LINE_BYTES, Output, Source


def texts(output: Output) -> list[tuple[Source, str]]:
    return [(line.source, line.text) for line in output.after(0, 10**6)]


def test_a_line_is_there_when_it_is_whole_or_all_is_over() -> None:
    output = Output(10_000)
    changed = output.changed
    output.feed("stdout", b"one\ntw", 1)
    assert changed.is_set()
    output.feed("stderr", b"oops", 2)
    output.feed("stdout", b"o\n\n", 3)
    assert texts(output) == [("stdout", "one"), ("stdout", "two"), ("stdout", "")]
    output.finish(4)
    assert texts(output)[3:] == [("stderr", "oops")]
    assert [line.seq for line in output.after(0, 10)] == [1, 2, 3, 4]
    assert [line.at_ms for line in output.after(2, 1)] == [3]


def test_what_is_no_utf8_is_shown_as_well_as_it_can_be() -> None:
    output = Output(10_000)
    output.feed("stdout", b"a\xffb\n", 1)
    assert texts(output) == [("stdout", "a\ufffdb")]


def test_a_line_without_end_is_cut() -> None:
    output = Output(10**6)
    output.feed("stdout", b"x" * (2 * MAX_LINE_BYTES + 5), 1)
    assert [len(text) for _, text in texts(output)] == [MAX_LINE_BYTES] * 2
    output.feed("stdout", b"\n", 1)
    assert len(texts(output)[2][1]) == 5


def test_the_oldest_lines_go_and_are_counted() -> None:
    output = Output(3 * (LINE_COST_BYTES + 1))
    output.feed("stdout", b"".join(b"%d\n" % n for n in range(6)), 1)
    assert texts(output) == [("stdout", "3"), ("stdout", "4"), ("stdout", "5")]
    assert (output.n_dropped, output.n_lines) == (3, 6)
    assert [line.text for line in output.after(4, 10)] == ["4", "5"]
    assert output.after(6, 10) == []


def test_a_reader_that_is_to_have_all_holds_up_who_writes_until_it_leaves() -> None:
    async def main() -> None:
        output = Output(10 * (LINE_COST_BYTES + 1))
        reader = object()
        output.read(reader, 0)
        output.feed("stdout", b"1\n2\n3\n4\n", 1)
        await asyncio.wait_for(output.room(), 5)  # less than half of it is unread
        output.feed("stdout", b"5\n6\n", 1)
        assert not has_room(output)
        output.read(reader, 5)
        assert has_room(output)
        output.feed("stdout", b"1\n2\n3\n4\n5\n6\n", 1)
        assert not has_room(output)
        output.release()
        output.read(reader, 5)
        assert has_room(output)

    asyncio.run(main())


def has_room(output: Output) -> bool:
    waiting = output.room()
    try:
        waiting.send(None)
    except StopIteration:
        return True
    waiting.close()
    return False


@given(st.lists(st.binary(max_size=300)), st.integers(200, 2000))
def test_however_it_comes_it_is_within_its_bound_and_in_order(
    pieces: list[bytes], limit: int
) -> None:
    output, whole = Output(limit), Output(10**9)
    for piece in pieces:
        output.feed("stdout", piece, 1)
    whole.feed("stdout", b"".join(pieces), 1)
    output.finish(1)
    whole.finish(1)
    kept = texts(output)
    assert sum(LINE_COST_BYTES + len(text) for _, text in kept) <= limit
    assert texts(whole)[whole.n_lines - len(kept) :] == kept
