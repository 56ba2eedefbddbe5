"""The grammar parser and walker on hostile input: an error with words, in bounded time, always."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.engine import gbnf
from aiosd.engine.base import EngineError, GrammarError
from aiosd.engine.grammar import TokenTable, VocabularyGrammar

PIECES = [bytes([n]) for n in range(256)] + [b"ab", b"abc", b"\xc3", b"a" * 64, b"  ", b'{"', b""]
END = len(PIECES) - 1
TABLE = TokenTable(PIECES, {END})
ROW = np.zeros(len(PIECES), np.float32)


def compiled(text: str) -> VocabularyGrammar:
    named = {"<think>": 256}.get
    return VocabularyGrammar(gbnf.parse(text, named, len(PIECES)), TABLE)


def takes(text: str, data: bytes) -> bool:
    grammar = compiled(text)
    for byte in data:
        if not grammar.allows(byte):
            return False
        grammar.accept(byte)
    return grammar.allows(END)


WORDS = ("root", " ::= ", '"a"', '"', "[", "]", "^", "a-z", "(", ")", "|", "*", "+", "?", "{2}",
         "{0,3}", "{1,}", "{2000}", "\n", " ", "x", "<[3]>", "!<think>", ".", "\\x41", "é", "#",
         "😀", "x ::= ", "[^\\n]", '""', "{", "}", ",", "\\", "-")  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=25))
def test_only_grammar_errors_leave_the_parser_and_the_walker(words: list[str]) -> None:
    try:
        grammar = compiled("root ::= " + "".join(words))
        for _ in range(6):
            allowed = np.flatnonzero(grammar.mask(ROW) == 0)
            token = int(allowed[len(allowed) // 2])
            assert grammar.allows(token)
            grammar.accept(token)
            if token == END:
                return
    except GrammarError:
        pass


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_at_all_is_a_grammar_or_an_error(text: str) -> None:
    with contextlib.suppress(GrammarError):
        compiled(text)


@pytest.mark.parametrize(
    "text",
    [
        's ::= "a" s "b" | "a" s "c" | "a"\nroot ::= s',  # 2 ** n stacks after n letters
        's ::= [^z] s "b" | [^z] s "c" | [^z] s "d" | [^z]\nroot ::= s',
        "\n".join(f'r{n} ::= r{n + 1} "x" | r{n + 1} "y"' for n in range(40))
        + '\nr40 ::= "a"\nroot ::= r0',  # 2 ** 40 stacks before the first letter
        "\n".join(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(40))
        + '\nr40 ::= "a"\nroot ::= r0',
        "root ::= " + "(" * 60 + '"a"?' + ")*" * 60,
        'root ::= (("a"{0,2000}){0,2000}){0,2000}',
        'root ::= ((("a"*)*)*)*',
        'root ::= ("a"* "a"* "a"* "a"*)*',
        "root ::= " + '"a"? ' * 5000,
        'root ::= "[" root "]" | "a"',
        'root ::= "a" root',  # never ends
        "root ::= " + " ".join("[" + chr(0x4E00 + n) + "-\U0001ffff]" for n in range(900)),
        "\n".join(f"r{n} ::= r{n + 1}" for n in range(4000)) + '\nr4000 ::= "a"\nroot ::= r0',
        "root ::= " + '("a"|' * 64 + '"b"' + ")" * 64,
    ],
)
def test_hostile_grammars_end_in_seconds_with_an_answer_or_an_error(text: str) -> None:
    begin = time.process_time()
    try:
        grammar = compiled(text)
        for token in (259, ord("a"), 259, 259):
            grammar.mask(ROW)
            if not grammar.allows(token):
                break
            grammar.accept(token)
    except GrammarError:
        pass
    assert time.process_time() - begin < 20.0  # for ever, in llama.cpp


def test_the_same_grammar_fails_at_the_same_token() -> None:
    for _ in range(2):
        grammar = compiled('s ::= "a" s "b" | "a" s "c" | "a"\nroot ::= s')
        for _ in range(10):  # three ways to go on after one letter, 2 ** 11 + 1 after ten
            grammar.accept(ord("a"))
        with pytest.raises(GrammarError, match="ambiguous: more than 4000 ways to go on"):
            grammar.accept(ord("a"))


def test_deep_output_is_bounded_and_a_long_list_is_not_deep() -> None:
    nested = compiled('root ::= "[" root "]" | "a"')
    for _ in range(3999):
        nested.accept(ord("["))
    with pytest.raises(GrammarError, match="nested deeper than 4000"):
        nested.mask(ROW)
    listing = compiled('root ::= "[" ("a" ",")* "]"')
    listing.accept(ord("["))
    for _ in range(5000):
        listing.accept(ord("a"))
        listing.accept(ord(","))
    listing.accept(ord("]"))
    assert listing.is_complete


@pytest.mark.parametrize(
    ("text", "data", "is_taken"),
    [
        ("root ::= [a-c]+", b"abc", True),
        ("root ::= [a-c]+", b"abd", False),
        ("root ::= [^a-c]", "é".encode(), True),
        ("root ::= [^a-cé]", "é".encode(), False),
        ("root ::= [à-ü]", "é".encode(), True),
        ("root ::= [à-ü]", "ý".encode(), False),
        ("root ::= [\\u4e00-\\U0001F64F]", "😀".encode(), True),
        ("root ::= [\\u4e00-\\U0001F64F]", "㐀".encode(), False),
        ("root ::= .", b"\n", True),
        ("root ::= .", "😀".encode(), True),
        ("root ::= .", b"\xed\xa0\x80", False),  # a surrogate is no character
        ("root ::= .", b"\xc0\x80", False),  # nor is an overlong form
        ('root ::= "\\x41\\n\\"\\\\"', b'A\n"\\', True),
        ("root ::= [\\]\\-a]", b"-", True),
        ("root ::= [a-]", b"-", True),
        ('root ::= "a"{2}', b"a", False),
        ('root ::= "a"{2,}', b"aaaa", True),
        ('root ::= "a"{0,2}', b"aaa", False),
        ('root ::= "a"{0}', b"", True),
        ('root ::= "ab"?', b"", True),
        ('root ::= ("a" | "b")* "c"', b"abbac", True),
        ('root ::= ("a"? | "b"?)* "c"', b"abc", True),
        ('root ::= x | y # no\nx ::=\n "a"\ny ::= "b" |\n "c"', b"c", True),
        ('root ::= (\n"a"\n)', b"a", True),
        ('root ::= "a"\nroot ::= "b"', b"b", True),  # the last one counts
    ],
)
def test_the_language(text: str, data: bytes, is_taken: bool) -> None:
    assert takes(text, data) is is_taken


def test_tokens_by_id_and_by_text() -> None:
    grammar = compiled('root ::= <think> "x" !<[257]>')
    assert list(np.flatnonzero(grammar.mask(ROW) == 0)) == [256]
    grammar.accept(256)
    grammar.accept(ord("x"))
    allowed = set(np.flatnonzero(grammar.mask(ROW) == 0))
    assert allowed == set(range(len(PIECES))) - {257, END}
    for text, message in (
        ("root ::= <nothing>", "<nothing> is not one token"),
        ("root ::= <[999]>", "token 999 is out of range"),
        ("root ::= <", "expected <.id.> or <text>"),
    ):
        with pytest.raises(GrammarError, match=message):
            compiled(text)


def test_memory_of_states_is_bounded() -> None:
    grammar = compiled("root ::= " + " ".join(f'"{n:05d}"' for n in range(1500)))
    for n in range(1500):
        for digit in f"{n:05d}":
            grammar.mask(ROW)
            grammar.accept(ord(digit))
            assert len(grammar._states) <= 4100
            assert sum(s.allowed is not None for s in grammar._states.values()) <= 33
    assert grammar.is_complete


def test_a_token_out_of_range_is_an_error() -> None:
    with pytest.raises(EngineError, match="token 999 is out of range"):
        compiled('root ::= "a"').allows(999)
