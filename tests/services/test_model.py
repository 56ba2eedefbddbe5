"""Random operations beside a model in plain dicts, with the file closed and opened at any time."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from aiosd.kernel.model import ContextId
from aiosd.services import entries, retention, saved_contexts
from aiosd.services.database import Database
from aiosd.services.entries import Entry, Place, cut, entry
from aiosd.services.schema import MIGRATIONS
from tests.services.opened import ALICE, new_context

State = tuple[list[int], list[dict[str, str]], bool, bool]
"""Tokens, messages, is_open, wants_reply."""

QUESTION = {"role": "user", "content": "Why?"}


@dataclass
class Modelled:
    """The states that a context has been in, one per turn, the empty one first; the last is now."""

    parent: str | None = None
    used_ms: int = 5
    states: list[State] = field(default_factory=lambda: [([], [], False, False)])


class Contexts(RuleBasedStateMachine):
    ids = Bundle("ids")

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.model: dict[str, Modelled] = {}
        self.logs: dict[str, list[Entry]] = {}  # what a daemon has in memory
        self.n_made = 0
        self.now_ms = 5
        self._open()

    def teardown(self) -> None:
        self._close()
        self.runner.close()
        shutil.rmtree(self.directory)

    def _open(self) -> None:
        self.db = self.runner.run(Database.open(self.directory / "db", MIGRATIONS))
        self.writer = self.runner.get_loop().create_task(self.db.run())

    def _close(self) -> None:
        async def main() -> None:
            await self.db.close()
            await self.writer

        self.runner.run(main())

    def _new_id(self) -> str:
        self.n_made += 1
        return f"c{self.n_made}"

    @rule(target=ids)
    def create(self) -> str:
        id_ = self._new_id()
        self.runner.run(self.db.write(lambda t: saved_contexts.create(t, new_context(id_))))
        self.model[id_] = Modelled()
        self.logs[id_] = []
        return id_

    @rule(
        id_=ids,
        n_prompt=st.integers(0, 6),
        n_questions=st.integers(0, 2),
        reply=st.none() | st.tuples(st.sampled_from(["", "So.", "é"]), st.integers(0, 4)),
    )
    def append(
        self, id_: str, n_prompt: int, n_questions: int, reply: tuple[str, int] | None
    ) -> None:
        if id_ not in self.model:
            return
        self.now_ms += 1
        tokens, messages, was_open, did_want = self.model[id_].states[-1]
        text, n_reply = reply or (None, 0)
        is_raw = not n_questions and not (did_want and reply)
        is_open = was_open if is_raw else reply is not None
        wants_reply = reply is None and n_questions > 0
        added = array("i", [self.now_ms] * (n_prompt + n_reply))

        now = [dict(m) for m in messages] + [dict(QUESTION)] * n_questions
        if text is not None:
            if was_open and not n_questions and now and now[-1]["role"] == "assistant":
                now[-1]["content"] += text
            elif is_open:
                now.append({"role": "assistant", "content": text})
        self.model[id_].states.append(([*tokens, *added], now, is_open, wants_reply))
        self.model[id_].used_ms = self.now_ms

        log = self.logs[id_]
        turn = entry(
            log,
            len(added),
            [QUESTION] * n_questions,
            is_open=is_open,
            wants_reply=wants_reply,
            reply=text,
            n_reply_tokens=n_reply,
        )
        now_ms, id__ = self.now_ms, ContextId(id_)
        self.runner.run(
            self.db.write(
                lambda t: saved_contexts.append(t, id__, len(log), turn, added, used_ms=now_ms),
                lambda _: log.append(turn),
            )
        )

    @rule(id_=ids, at=st.integers(0, 10), is_fork=st.booleans(), target=ids)
    def go_back_to_a_turn(self, id_: str, at: int, is_fork: bool) -> object:
        if id_ not in self.model:
            return multiple()
        n_turns = at % (len(self.logs[id_]) + 1)
        states = self.model[id_].states[: n_turns + 1]
        return self._go_back(id_, cut(self.logs[id_], Place(n_turns, 0), _digits), states, is_fork)

    @rule(id_=ids, at=st.integers(0, 100), is_fork=st.booleans(), target=ids)
    def go_back_to_a_token(self, id_: str, at: int, is_fork: bool) -> object:
        if id_ not in self.model:
            return multiple()
        log = self.logs[id_]
        tokens, messages, _, _ = self.model[id_].states[-1]
        n_tokens = at % (len(tokens) + 1)
        place = entries.place(log, n_tokens)
        kept = cut(log, place, _digits)
        states = self.model[id_].states[: place.turn + 1]
        rest = kept[1]
        if rest is not None:  # the model takes its words, after looking at them
            words = entries.messages([*log[: place.turn], rest])
            n_before = len(states[-1][1])
            assert words[: max(0, n_before - 1)] == states[-1][1][: max(0, n_before - 1)]
            assert n_before <= len(words) <= len(messages)
            assert all(w["role"] == m["role"] for w, m in zip(words, messages, strict=False))
            states = [*states, (tokens[:n_tokens], words, rest.is_open, rest.wants_reply)]
        return self._go_back(id_, kept, states, is_fork)

    def _go_back(
        self, id_: str, kept: tuple[int, Entry | None], states: list[State], is_fork: bool
    ) -> object:
        log = self.logs[id_]
        left = log[: kept[0]] + ([kept[1]] if kept[1] is not None else [])
        self.now_ms += 1
        now_ms, source = self.now_ms, ContextId(id_)
        if not is_fork:
            self.runner.run(
                self.db.write(
                    lambda t: saved_contexts.rewind(t, source, len(log), kept, used_ms=now_ms)
                )
            )
            self.logs[id_] = left
            self.model[id_].states = states
            self.model[id_].used_ms = now_ms
            return multiple()
        new = replace(new_context(self._new_id(), used_ms=now_ms), parent=source)
        self.runner.run(self.db.write(lambda t: saved_contexts.fork(t, source, kept, new)))
        self.logs[new.id] = left
        self.model[new.id] = Modelled(id_, now_ms, states)
        return new.id

    @rule(id_=consumes(ids))
    def delete(self, id_: str) -> None:
        was_there = self.model.pop(id_, None) is not None
        self.logs.pop(id_, None)
        gone = [ContextId(id_)]
        assert self.runner.run(self.db.write(lambda t: saved_contexts.delete(t, gone))) == was_there

    @rule(n_kept=st.integers(1, 6))
    def retain(self, n_kept: int) -> None:
        held = self.runner.run(self.db.read(saved_contexts.held))
        gone = retention.to_drop(held, retention.Retention(per_agent=n_kept), self.now_ms)
        self.runner.run(self.db.write(lambda t: saved_contexts.delete(t, gone)))
        by_use = sorted(self.model, key=lambda id_: (self.model[id_].used_ms, id_))
        assert gone == by_use[: max(0, len(by_use) - n_kept)]
        for id_ in gone:
            del self.model[id_], self.logs[id_]

    @rule()
    def reopen(self) -> None:
        self._close()
        self._open()
        self.logs = {
            c.id: c.log
            for c in self.runner.run(self.db.read(lambda t: [*saved_contexts.load_all(t)]))
        }

    @invariant()
    def the_file_says_what_the_model_says(self) -> None:
        found = self.runner.run(self.db.read(lambda t: list(saved_contexts.load_all(t))))
        assert {c.id for c in found} == set(self.model)
        for context in found:
            expected = self.model[context.id]
            last = context.log[-1] if context.log else Entry(0)
            assert (
                context.tokens.tolist(),
                entries.messages(context.log),
                last.is_open,
                last.wants_reply,
            ) == expected.states[-1]
            assert (context.agent, context.parent, context.used_ms) == (
                ALICE,
                expected.parent,
                expected.used_ms,
            )
            assert len(context.log) == len(expected.states) - 1
            assert context.log == self.logs[context.id]
        n_bytes = sum(context.n_bytes for context in found)
        assert self.runner.run(self.db.read(saved_contexts.count)) == (len(found), n_bytes)


def _digits(first: int, end: int) -> str:
    return f"{first}-{end}"


TestContexts = Contexts.TestCase
TestContexts.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
