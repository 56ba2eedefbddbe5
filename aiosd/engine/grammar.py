"""Where a job stands in its grammar, and which tokens of the vocabulary may come next.

Rule 1: work is counted, not timed: the same grammar fails at the same token on any machine under
any load, so scheduling never changes an answer.
Rule 2: nothing recurses: neither a deep grammar nor deep output can exhaust the C stack.

llama.cpp has a sampler for this.  It isn't used, because it runs in C without bounds: a few hundred
bytes of ambiguous grammar keep it busy for ever, or fill the memory, and the engine thread with it
(s ::= " " s "b" | " " s "c" | " " has 2^n stacks after n spaces).  This one walks the same stacks,
turns them step by step into a table from byte to next state, as far as they are met, and sends the
bytes of all tokens through it at once, in numpy.  The tests compare the two token by token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from aiosd.engine.base import EngineError, GrammarError, Logits
from aiosd.engine.gbnf import Alternative, ByteSet, Element, ParsedGrammar, TokenSet

MAX_STACKS = 4_000  # of one state: so many alternatives may begin at one place, an enum's values
MAX_DEPTH = 4_000  # of one stack: brackets within brackets in the output
MAX_MASK_STEPS = 3_000  # (state, byte) pairs in one mask; a JSON string takes about 100
STACKS_PER_STEP = 20  # a state with many stacks counts as several steps
MAX_STATES = 4_000  # remembered per grammar, a few KiB each; then only the one in use is kept
MAX_MASKS = 32  # remembered per grammar, 6 KiB each for 49k tokens

Tokens = npt.NDArray[np.int64]


class Frame:
    """A stack: what must come next (element ``place`` of the alternative), then what is below.

    Made once per stack by VocabularyGrammar._frame, so identity is equality.
    """

    __slots__ = ("alternative", "below", "depth", "element", "place")

    def __init__(self, alternative: Alternative, place: int, below: Frame | None) -> None:
        self.alternative = alternative
        self.place = place
        self.below = below
        self.element: Element = alternative[place]
        self.depth: int = 1 if below is None else below.depth + 1


Stacks = frozenset[Frame | None]  # None is the empty stack: the grammar may end here


class State:
    """All stacks that may go on from here, and where each byte leads once that has been asked.

    targets   the states that a byte can lead to; the first is None, for bytes that don't fit
    table     for each byte, the place in targets
    """

    __slots__ = ("allowed", "by_token", "can_end", "stacks", "table", "targets")

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self.can_end = None in stacks
        self.by_token = tuple(f for f in stacks if f and isinstance(f.element, TokenSet))
        self.targets: list[State | None] | None = None
        self.table: npt.NDArray[np.uint16] = _NOWHERE
        self.allowed: npt.NDArray[np.uint8] | None = None  # the mask, packed, once asked for


_NOWHERE = np.zeros(256, np.uint16)


class TokenTable:
    """The bytes of all tokens in one array; shared by all grammars of a model."""

    def __init__(self, pieces: Sequence[bytes], eog: Collection[int]) -> None:
        self.pieces = pieces
        self.eog = frozenset(eog)
        self.n_tokens = len(pieces)
        self.length = np.fromiter(map(len, pieces), np.int64, len(pieces))
        self.start = np.concatenate(([0], np.cumsum(self.length)[:-1])).astype(np.int64)
        self.flat = np.frombuffer(b"".join(pieces), np.uint8)
        self.ends = np.array(sorted(self.eog), np.int64)
        has_text = self.length > 0
        has_text[self.ends] = False
        self.with_text: Tokens = np.flatnonzero(has_text)


class VocabularyGrammar:
    """base.Grammar.  GrammarError when a limit of this file is passed, at any call."""

    def __init__(self, grammar: ParsedGrammar, tokens: TokenTable) -> None:
        self._rules = grammar.rules
        self._tokens = tokens
        self._frames: dict[tuple[int, int, Frame | None], Frame] = {}
        self._after: dict[Frame, Stacks] = {}
        self._states: dict[Stacks, State] = {}
        self._masked: deque[State] = deque()
        self._has_ended = False
        stacks = self._expanded([(a, 0, None) for a in self._rules[grammar.root]])
        if not stacks:
            raise GrammarError("grammar allows nothing, not even the empty text")
        self._state = self._state_of(stacks)

    @property
    def is_complete(self) -> bool:
        """Only an end token can follow, or one has."""
        return self._has_ended or self._state.stacks == {None}

    def allows(self, token: int) -> bool:
        self._check_open()
        if not 0 <= token < self._tokens.n_tokens:
            raise EngineError(
                f"token {token} is out of range, the vocabulary has {self._tokens.n_tokens}"
            )
        if token in self._tokens.eog:
            return self._state.can_end
        return self._after_token(token) is not None

    def mask(self, logits: Logits) -> Logits:
        self._check_open()
        allowed = self._allowed()
        if not allowed.any():
            raise GrammarError("no token of this model fits the grammar here")
        return np.where(allowed, logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        if not self.allows(token):
            raise EngineError(f"the grammar doesn't allow token {token} here")
        if token in self._tokens.eog:
            self._has_ended = True
            return
        following = self._after_token(token)
        assert following is not None
        self._state = following
        if len(self._states) > MAX_STATES:
            self._forget_all_but_here()

    def close(self) -> None:
        self._has_ended = True
        self._state = State(frozenset())
        self._forget_all_but_here()

    def _check_open(self) -> None:
        if self._has_ended:
            raise EngineError("the grammar has ended")

    # ---------------------------------------------------------------- stacks

    def _frame(self, alternative: Alternative, place: int, below: Frame | None) -> Frame:
        key = (id(alternative), place, below)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = Frame(alternative, place, below)
            if frame.depth > MAX_DEPTH:
                raise GrammarError(f"output nested deeper than {MAX_DEPTH} by the grammar")
        return frame

    def _expanded(self, todo: list[tuple[Alternative, int, Frame | None]]) -> Stacks:
        """The stacks that these stand for, each with bytes or a token on top."""
        found: set[Frame | None] = set()
        seen: set[Frame] = set()
        while todo:
            alternative, place, below = todo.pop()
            if place == len(alternative):
                if below is None:
                    found.add(None)
                else:
                    todo.append((below.alternative, below.place, below.below))
                continue
            frame = self._frame(alternative, place, below)
            if frame in seen:
                continue
            seen.add(frame)
            if len(seen) > MAX_STACKS:
                raise _too_many_stacks()
            element = frame.element
            if isinstance(element, int):
                # A last element leaves nothing to come back to, so a list doesn't grow the stack.
                rest = below
                if place + 1 < len(alternative):
                    rest = self._frame(alternative, place + 1, below)
                todo += [(a, 0, rest) for a in self._rules[element]]
            elif isinstance(element, TokenSet) or element.bits:
                found.add(frame)  # what allows no byte at all is a dead end
        return frozenset(found)

    def _after_frame(self, frame: Frame) -> Stacks:
        """What may follow once the frame's element is read."""
        known = self._after.get(frame)
        if known is None:
            known = self._expanded([(frame.alternative, frame.place + 1, frame.below)])
            self._after[frame] = known
        return known

    # ---------------------------------------------------------------- states

    def _state_of(self, stacks: Stacks) -> State:
        if len(stacks) > MAX_STACKS:
            raise _too_many_stacks()
        state = self._states.get(stacks)
        if state is None:
            state = self._states[stacks] = State(stacks)
        return state

    def _targets(self, state: State) -> list[State | None]:
        """Fill in where the bytes lead.  Bytes that fit the same stacks are one class."""
        if state.targets is not None:
            return state.targets
        frames = [
            (frame, frame.element.bits)
            for frame in state.stacks
            if frame is not None and isinstance(frame.element, ByteSet)
        ]
        classes = {(1 << 256) - 1}
        for bits in {bits for _, bits in frames}:
            classes = {part for c in classes for part in (c & bits, c & ~bits) if part}
        targets: list[State | None] = [None]
        table = np.zeros(256, np.uint16)
        for byte_class in classes:
            following: set[Frame | None] = set()
            for frame, bits in frames:
                if bits & byte_class:
                    following |= self._after_frame(frame)
            if following:
                target = self._state_of(frozenset(following))
                if target not in targets:
                    targets.append(target)
                table[_byte_table(byte_class)] = targets.index(target)
        state.table = table
        state.targets = targets
        return targets

    def _after_token(self, token: int) -> State | None:
        """Where the token leads; None if it doesn't fit."""
        data = self._tokens.pieces[token]
        state: State | None = self._state if data else None
        for byte in data:
            targets = self._targets(state) if state is not None else [None]
            state = targets[int(state.table[byte])] if state is not None else None
            if state is None:
                break
        chosen = [f for f in self._state.by_token if token in cast(TokenSet, f.element)]
        if not chosen:
            return state
        found = set(state.stacks) if state is not None else set()
        for frame in chosen:
            found |= self._after_frame(frame)
        return self._state_of(frozenset(found)) if found else None

    def _forget_all_but_here(self) -> None:
        self._frames.clear()
        self._after.clear()
        self._masked.clear()
        self._state = State(self._state.stacks)
        self._states = {self._state.stacks: self._state}
        for stack in self._state.stacks:
            frame = stack
            while frame is not None:
                self._frames[id(frame.alternative), frame.place, frame.below] = frame
                frame = frame.below

    # ---------------------------------------------------------------- masks

    def _allowed(self) -> npt.NDArray[np.bool_]:
        state = self._state
        if state.allowed is None:
            state.allowed = np.packbits(self._walk())
            self._masked.append(state)
            if len(self._masked) > MAX_MASKS:
                self._masked.popleft().allowed = None
        return np.unpackbits(state.allowed, count=self._tokens.n_tokens).view(np.bool_)

    def _walk(self) -> npt.NDArray[np.bool_]:
        """All tokens through the states, one byte of each at a time."""
        tokens = self._tokens
        allowed = np.zeros(tokens.n_tokens, np.bool_)
        level: dict[State, list[Tokens]] = {self._state: [tokens.with_text]}
        depth, n_steps = 0, 0
        while level:
            n_steps += sum(1 + len(state.stacks) // STACKS_PER_STEP for state in level)
            if n_steps > MAX_MASK_STEPS:
                raise GrammarError(
                    f"grammar is ambiguous: more than {MAX_MASK_STEPS} steps for one token"
                )
            following: dict[State, list[Tokens]] = {}
            for state, parts in level.items():
                self._walk_byte(state, np.concatenate(parts), depth, allowed, following)
            level = following
            depth += 1
        for frame in self._state.by_token:
            element = cast(TokenSet, frame.element)
            if element.is_negated:
                listed = bool(allowed[element.token])
                allowed[:] = True
                allowed[element.token] = listed
            else:
                allowed[element.token] = True
        allowed[tokens.ends] = self._state.can_end
        return allowed

    def _walk_byte(
        self,
        state: State,
        candidates: Tokens,
        depth: int,
        allowed: npt.NDArray[np.bool_],
        following: dict[State, list[Tokens]],
    ) -> None:
        tokens = self._tokens
        targets = self._targets(state)
        places = state.table[tokens.flat[tokens.start[candidates] + depth]]
        fits = places != 0
        candidates, places = candidates[fits], places[fits]
        ends = tokens.length[candidates] == depth + 1
        allowed[candidates[ends]] = True
        going_on = ~ends
        candidates, places = candidates[going_on], places[going_on]
        for place in np.flatnonzero(np.bincount(places)):
            target = targets[int(place)]
            assert target is not None
            following.setdefault(target, []).append(candidates[places == place])


def _byte_table(bits: int) -> npt.NDArray[np.bool_]:
    packed = np.frombuffer(bits.to_bytes(32, "little"), np.uint8)
    return np.unpackbits(packed, bitorder="little").view(np.bool_)


def _too_many_stacks() -> GrammarError:
    return GrammarError(f"grammar is ambiguous: more than {MAX_STACKS} ways to go on")
