"""A log's entries: they say what committing said, and every earlier state can be cut out again."""

from __future__ import annotations

import copy
from array import array
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosd.services import entries
from aiosd.services.entries import Entry, Part, Place, cut, entry, place, place_of_message

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}

# 4 tokens appended; then 10 of which 3 are a reply that was cut by length; then 2 that go on.
GIVEN = entry([], 4, [SYSTEM, HELLO], is_open=False, wants_reply=True)
ANSWER = entry([GIVEN], 10, [], is_open=True, wants_reply=False, reply="Hi the", n_reply_tokens=3)
MORE = entry([GIVEN, ANSWER], 2, [], is_open=True, wants_reply=False, reply="re!", n_reply_tokens=2)
LOG = [GIVEN, ANSWER, MORE]


def words(first: int, end: int) -> str:
    return f"<{first}:{end}>"


def test_an_entry_says_where_its_messages_end() -> None:
    assert Entry(4, (Part(SYSTEM), Part(HELLO, end=4)), wants_reply=True) == GIVEN
    assert (
        Entry(10, (Part({"role": "assistant", "content": "Hi the"}, 7, 10),), is_open=True)
        == ANSWER
    )
    assert Entry(2, (Part({"content": "re!"}, 0, 2, goes_on=True),), is_open=True) == MORE


def test_a_reply_that_goes_on_belongs_to_the_message_before() -> None:
    assert entries.messages(LOG) == [SYSTEM, HELLO, {"role": "assistant", "content": "Hi there!"}]
    assert entries.n_messages(LOG) == 3
    assert ANSWER.parts[0].message == {"role": "assistant", "content": "Hi the"}  # unchanged


@pytest.mark.parametrize(
    ("n_tokens", "expected"),
    [
        (0, Place(0, 0)),
        (3, Place(0, 3)),
        (4, Place(1, 0)),
        (13, Place(1, 9)),
        (14, Place(2, 0)),
        (16, Place(3, 0)),
    ],
)
def test_tokens_are_found_in_their_turn(n_tokens: int, expected: Place) -> None:
    assert place(LOG, n_tokens) == expected


@pytest.mark.parametrize("n_tokens", [-1, 17])
def test_there_is_no_place_outside_the_log(n_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{n_tokens} tokens, the log has 16"):
        place(LOG, n_tokens)


def test_messages_end_where_their_last_part_does() -> None:
    assert place_of_message(LOG, 0) == Place(0, 0)
    assert place_of_message(LOG, 2) == Place(1, 0)
    assert place_of_message(LOG, 3) == Place(3, 0)
    with pytest.raises(ValueError, match="4 messages, the log has 3"):
        place_of_message(LOG, 4)


def test_an_end_that_is_not_known_is_asked_for_and_can_be_told() -> None:
    assert place_of_message(LOG, 1) == (0, 0)
    told = [entries.with_end(GIVEN, 0, 2), ANSWER, MORE]
    assert place_of_message(told, 1) == Place(0, 2)
    assert cut(told, Place(0, 2), words) == (0, Entry(2, (Part(SYSTEM, end=2),), wants_reply=True))


def test_a_message_rewound_to_leaves_what_appending_it_alone_would_have() -> None:
    asked = entry([], 9, [HELLO], is_open=True, wants_reply=False, reply="Hi", n_reply_tokens=2)
    told = [entries.with_end(asked, 0, 4)]
    at = place_of_message(told, 1)
    assert at == Place(0, 4)
    alone = entry([], 4, [HELLO], is_open=False, wants_reply=True)
    assert cut(told, Place(0, 4), words) == (0, alone)


def test_a_cut_in_the_words_that_open_a_reply_wants_none_of_its_own() -> None:
    asked = entry([], 9, [HELLO], is_open=True, wants_reply=False, reply="Hi", n_reply_tokens=2)
    told = [entries.with_end(asked, 0, 4)]
    assert cut(told, Place(0, 5), words) == (0, Entry(5, (Part(HELLO, end=4),)))


def test_a_reply_in_an_open_turn_without_a_message_is_one_of_its_own() -> None:
    made = entry(
        [Entry(2, is_open=True)],
        3,
        [],
        is_open=True,
        wants_reply=False,
        reply="Hi",
        n_reply_tokens=1,
    )
    assert made.parts == (Part({"role": "assistant", "content": "Hi"}, 2, 3),)


def test_messages_before_the_one_rewound_to_stay_though_their_ends_are_not_known() -> None:
    asked = entry(
        [], 9, [SYSTEM, HELLO, HELLO], is_open=True, wants_reply=False, reply="", n_reply_tokens=0
    )
    told = [entries.with_end(asked, 1, 5)]
    assert cut(told, Place(0, 5), words) == (
        0,
        Entry(5, (Part(SYSTEM), Part(HELLO, end=5)), wants_reply=True),
    )


def test_a_cut_between_turns_keeps_them_as_they_were() -> None:
    assert cut(LOG, Place(2, 0), words) == (2, None)


def test_a_cut_reply_keeps_the_words_of_its_tokens_and_is_open() -> None:
    n_whole, rest = cut(LOG, Place(1, 9), words)
    assert n_whole == 1
    reply = {"role": "assistant", "content": "<11:13>"}
    assert rest == Entry(9, (Part(reply, 7, 9),), is_open=True)
    n_whole, rest = cut(LOG, Place(2, 1), words)
    assert rest is not None
    assert entries.messages([*LOG[:n_whole], rest])[-1]["content"] == "Hi the<14:15>"


def test_a_cut_before_the_replys_first_token_is_an_open_turn_without_words() -> None:
    _, rest = cut(LOG, Place(1, 7), words)
    assert rest == Entry(
        7, (Part({"role": "assistant", "content": "<11:11>"}, 7, 7),), is_open=True
    )


def test_a_cut_inside_given_messages_leaves_tokens_that_no_message_accounts_for() -> None:
    assert cut(LOG, Place(0, 3), words) == (0, Entry(3))
    assert cut(LOG, Place(1, 5), words) == (1, Entry(5))


def test_a_cut_in_raw_tokens_of_an_open_turn_leaves_it_open() -> None:
    raw = entry(LOG, 6, [], is_open=True, wants_reply=False, reply="?", n_reply_tokens=1)
    assert cut([*LOG, raw], Place(3, 2), words) == (3, Entry(2, is_open=True))


SPEECH = st.text(max_size=6)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": SPEECH}),
    max_size=3,
)
TURNS = st.lists(
    st.tuples(MESSAGES, st.integers(0, 5), st.integers(0, 5), st.none() | SPEECH), max_size=8
)


@dataclass
class Conversation:
    """What a log says, kept the plain way: one list of messages that is changed turn by turn."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    messages: list[dict[str, str]] = field(default_factory=list)
    is_open: bool = False
    wants_reply: bool = False

    def say(
        self,
        tokens: array[int],
        messages: list[dict[str, str]],
        *,
        is_open: bool,
        wants_reply: bool,
        reply: str | None,
    ) -> None:
        goes_on = not messages and self.is_open
        self.tokens.extend(tokens)
        self.messages.extend(messages)
        if reply is not None:
            last = self.messages[-1] if self.messages else None
            if goes_on and last is not None and last["role"] == "assistant":
                self.messages[-1] = {**last, "content": last["content"] + reply}
            elif is_open:
                self.messages.append({"role": "assistant", "content": reply})
        self.is_open = is_open
        self.wants_reply = wants_reply


@given(TURNS)
def test_entries_say_what_committing_turns_one_by_one_says(
    turns: list[tuple[list[dict[str, str]], int, int, str | None]],
) -> None:
    context = Conversation()
    log: list[Entry] = []
    states = [copy.deepcopy((context.messages, context.is_open, context.wants_reply))]
    for messages, n_prompt, n_reply_tokens, reply in turns:
        n_reply = 0 if reply is None else n_reply_tokens
        is_open = reply is not None and (bool(messages) or context.wants_reply or context.is_open)
        wants_reply = reply is None and bool(messages)
        tokens = array("i", range(n_prompt + n_reply))
        log.append(
            entry(
                log,
                len(tokens),
                messages,
                is_open=is_open,
                wants_reply=wants_reply,
                reply=reply,
                n_reply_tokens=n_reply,
            )
        )
        context.say(tokens, messages, is_open=is_open, wants_reply=wants_reply, reply=reply)
        states.append(copy.deepcopy((context.messages, context.is_open, context.wants_reply)))
    assert sum(turn.n_tokens for turn in log) == len(context.tokens)
    for n_turns, (messages_then, is_open, wants_reply) in enumerate(states):
        kept = log[:n_turns]
        assert entries.messages(kept) == messages_then
        if kept:
            assert (kept[-1].is_open, kept[-1].wants_reply) == (is_open, wants_reply)
