"""Words leave whole, once, and never with a part of a stop string."""

from __future__ import annotations

import codecs
from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiosd.engine.base import TokenLogprob
from aiosd.engine.text import TextStream, Words


class Pieces:
    """A vocabulary of the pieces it was given; tokenises by the longest piece that fits."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def tokenize(self, text: str, *, special: bool) -> array[int]:
        assert not special
        tokens = array("i")
        data = text.encode()
        while data:
            fitting = [t for t, p in enumerate(self.pieces) if p and data.startswith(p)]
            if not fitting:
                return array("i")  # as a tokenizer that can't give the text back
            token = max(fitting, key=lambda t: len(self.pieces[t]))
            tokens.append(token)
            data = data[len(self.pieces[token]) :]
        return tokens


def said(stream: TextStream, tokens: list[int]) -> list[Words | None]:
    words = [stream.push(token) for token in tokens]
    return words if stream.stop_string is not None else [*words, stream.finish()]


def test_plain_text_leaves_at_once() -> None:
    assert said(TextStream(Pieces(b"Hello", b" you")), [0, 1]) == [
        Words("Hello", (0,)),
        Words(" you", (1,)),
        None,
    ]


def test_a_character_in_two_tokens_leaves_with_the_second() -> None:
    stream = TextStream(Pieces(b"\xf0\x9f", b"\x98\x80", b"!"))
    assert said(stream, [0, 1, 2]) == [None, Words("😀", (0, 1)), Words("!", (2,)), None]


def test_bytes_that_are_no_character_show_as_one_sign_each_run() -> None:
    stream = TextStream(Pieces(b"\xe2\x82", b"a", b"\x98"))
    assert said(stream, [0, 1, 2]) == [
        None,
        Words("\ufffda", (0, 1)),
        Words("\ufffd", (2,)),
        None,
    ]


def test_half_a_character_at_the_end_is_shown_as_u_fffd_and_its_tokens_stay() -> None:
    stream = TextStream(Pieces(b"a", b"\xe2\x82"))
    assert said(stream, [0, 1]) == [Words("a", (0,)), None, Words("\ufffd", (1,))]


def test_a_stop_string_over_three_tokens_is_never_shown() -> None:
    stream = TextStream(Pieces(b"so", b"\n", b"Us", b"er:"), ("\nUser:",))
    assert said(stream, [0, 1, 2, 3]) == [Words("so", (0,)), None, None, None]
    assert stream.stop_string == "\nUser:"


def test_what_only_looked_like_a_stop_string_is_shown_when_that_is_clear() -> None:
    stream = TextStream(Pieces(b"so", b"\n", b"Us", b"ual"), ("\nUser:",))
    assert said(stream, [0, 1, 2, 3]) == [
        Words("so", (0,)),
        None,
        None,
        Words("\nUsual", (1, 2, 3)),
        None,
    ]
    assert stream.stop_string is None


def test_what_is_held_back_at_the_end_is_shown_after_all() -> None:
    stream = TextStream(Pieces(b"so", b"\n"), ("\nUser:",))
    assert said(stream, [0, 1]) == [Words("so", (0,)), None, Words("\n", (1,))]


def test_text_before_a_stop_string_inside_a_token_becomes_other_tokens() -> None:
    stream = TextStream(Pieces(b"all done. END", b"all", b" done", b". "), ("END",))
    assert said(stream, [0]) == [Words("all done. ", (1, 2, 3))]


def test_text_that_does_not_come_back_from_the_tokenizer_is_dropped() -> None:
    class AddsBlank(Pieces):
        def tokenize(self, text: str, *, special: bool) -> array[int]:
            return super().tokenize(" " + text, special=special)

    stream = TextStream(AddsBlank(b"all", b"done. END", b" ", b"done. "), ("END",))
    assert said(stream, [0, 1]) == [Words("all", (0,)), None]
    assert stream.stop_string == "END"


def test_a_stop_string_of_wide_characters_split_inside_one_of_them() -> None:
    stop = "é😀"
    stream = TextStream(Pieces(b"x\xc3", b"\xa9\xf0\x9f", b"\x98\x80y", b"x"), (stop,))
    assert said(stream, [0, 1, 2]) == [None, None, Words("x", (3,))]
    assert stream.stop_string == stop


def test_the_stop_string_that_begins_first_counts_and_the_longest_of_those() -> None:
    stream = TextStream(Pieces(b"a", b"-bcd"), ("cd", "bc", "bcd", "-x"))
    assert said(stream, [0, 1])[0] == Words("a", (0,))
    assert stream.stop_string == "bcd"


def test_overlapping_stop_strings_end_at_the_first_that_is_complete() -> None:
    stream = TextStream(Pieces(b"a", b"b", b"c", b"d"), ("abcd", "bc"))
    assert said(stream, [0, 1, 2]) == [None, None, Words("a", (0,))]
    assert stream.stop_string == "bc"


def test_a_stop_string_that_repeats_itself_is_found() -> None:
    stream = TextStream(Pieces(b"a", b"b"), ("aab",))
    assert said(stream, [0, 0, 0, 1]) == [None, None, Words("a", (0,)), None]
    assert stream.stop_string == "aab"


def test_control_tokens_have_no_text_and_stay_in_their_place() -> None:
    stream = TextStream(Pieces(b"a", b"", b"-END"), ("-END",))
    assert said(stream, [0, 1, 2]) == [Words("a", (0,)), Words("", (1,)), None]


def test_logprobs_leave_with_their_tokens_and_not_with_made_up_ones() -> None:
    def logprob(token: int) -> TokenLogprob:
        return TokenLogprob(token, "", -1.0, ())

    stream = TextStream(Pieces(b"a", b"b END", b"b "), ("END",))
    assert stream.push(0, logprob(0)) == Words("a", (0,), (logprob(0),))
    assert stream.push(1, logprob(1)) == Words("b ", (2,), ())


BYTES = Pieces(
    *(bytes([n]) for n in b"ab\n\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9"), b"", b"ab", b"\na"
)


def plain_reading(tokens: list[int], stop: tuple[str, ...]) -> tuple[str, str | None, int]:
    """The same by brute force: the text, the stop string, and how many tokens were looked at."""
    for n_tokens in range(1, len(tokens) + 1):
        data = b"".join(BYTES.pieces[t] for t in tokens[:n_tokens])
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
        found = [(text.index(s), -len(s), s) for s in stop if s in text]
        if found:
            return text[: min(found)[0]], min(found)[2], n_tokens
    return b"".join(map(BYTES.piece, tokens)).decode(errors="replace"), None, len(tokens)


@given(
    tokens=st.lists(st.integers(0, len(BYTES.pieces) - 1), max_size=30),
    stop=st.lists(st.text("ab\n€é😀\ufffd", min_size=1, max_size=4), max_size=3).map(tuple),
)
@example(tokens=[3, 4, 0], stop=("\ufffd",))
def test_joined_words_are_the_text_and_their_tokens_say_it(
    tokens: list[int], stop: tuple[str, ...]
) -> None:
    stream = TextStream(BYTES, stop)
    words: list[Words] = []
    n_pushed = 0
    for token in tokens:
        n_pushed += 1
        new = stream.push(token)
        words += [new] if new else []
        if stream.stop_string is not None:
            break
    if stream.stop_string is None:
        rest = stream.finish()
        words += [rest] if rest else []
    text = "".join(w.text for w in words)
    kept = [t for w in words for t in w.tokens]
    expected, stop_string, n_expected = plain_reading(tokens, stop)
    assert (stream.stop_string, n_pushed) == (stop_string, n_expected)
    assert b"".join(map(BYTES.piece, kept)).decode(errors="replace") == text
    if "\ufffd" in expected[-3:] and stop_string is not None:
        assert expected.startswith(text)  # a part that can't be tokenised again may be dropped
    else:
        assert text == expected


@pytest.mark.parametrize("n_tokens", range(1, 5))
def test_each_release_is_detokenised_to_its_own_text(n_tokens: int) -> None:
    stream = TextStream(BYTES, ("\na€",))
    tokens = [0, 2, 0, 3, 4, 5, 1][:n_tokens]
    for words in said(stream, tokens):
        if words is not None:
            assert b"".join(map(BYTES.piece, words.tokens)).decode(errors="replace") == words.text


# ---------------------------------------------------------------- calls


def test_what_follows_the_marker_is_no_text() -> None:
    stream = TextStream(Pieces(b"so ", b".<ca", b"ll>", b"a stop", b"!"), ("stop",), "<call>")
    assert said(stream, [0, 1, 2, 3, 4]) == [
        Words("so ", (0,)),
        None,
        Words(".", (1, 2), calls="<call>"),
        Words("", (3,), calls="a stop"),
        Words("", (4,), calls="!"),
        None,
    ]
    assert stream.stop_string is None


def test_a_stop_string_before_the_marker_ends_the_job() -> None:
    stream = TextStream(Pieces(b"so ", b"stop"), ("stop",), "<call>")
    assert said(stream, [0, 1]) == [Words("so ", (0,)), None]
    assert stream.stop_string == "stop"


def test_a_marker_that_is_a_control_token_has_no_text() -> None:
    stream = TextStream(Pieces(b"so st", b"", b"op"), ("stop",), 1)
    assert said(stream, [0, 1, 2]) == [
        None,
        Words("so st", (0, 1)),
        Words("", (2,), calls="op"),
        None,
    ]


def test_half_a_marker_is_text_unless_the_job_was_cut_there() -> None:
    ended, cut = (TextStream(Pieces(b"a", b"<ca"), (), "<call>") for _ in range(2))
    assert [stream.push(token) for stream in (ended, cut) for token in (0, 1)][1::2] == [None, None]
    assert ended.finish() == Words("<ca", (1,))
    assert cut.finish(is_cut=True) == Words("", (1,), calls="<ca")


def test_without_a_marker_to_wait_for_all_is_calls() -> None:
    stream = TextStream(Pieces(b"<", b"{}"), ("{",), "")
    assert said(stream, [0, 1]) == [Words("", (0,), calls="<"), Words("", (1,), calls="{}"), None]
