"""A model that needs no weights: FakeModel keeps every rule of base.Model, fast and deterministic.

Rule 1: a row of logits is a pure function of the exact tokens that the slot holds, so a wrong,
missing or foreign token in a slot changes what is said from there on.
Rule 2: it refuses what the real one refuses, and it is as unkind: rows are overwritten by the next
decode, and the slots of a failed decode hold rubbish until they are emptied.
Rule 3: what the tests turn (fail_next_decode, before_decode, delay_s) is off by default.
"""

from __future__ import annotations

import re
import struct
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aiosd.engine import sampling as arithmetic
from aiosd.engine.base import (
    EngineError,
    Grammar,
    Logits,
    ModelInfo,
    OutOfCells,
    Piece,
    Sampling,
)
from aiosd.engine.gbnf import parse
from aiosd.engine.grammar import TokenTable, VocabularyGrammar
from aiosd.kernel.model import SlotId

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_WORDS = re.findall(
    r"\w+",
    "the of and to in is that it was for on are as with his they at be this from have or by one "
    "had not but what all were when we there can an your which their said if do will each about "
    "how up out them then she many some so these would other into has more her two like him see "
    "time could no make than first been its who now people my made over did down only way find "
    "use may water long little very after words called just where most know get through back",
)
_ENDINGS = ("ing", "ed", "er", "ly", "tion", "ment", "ness", "able", "al", "es", "st", "en", "re")
_CHARACTERS = ("é", "ü", "ñ", "ß", "€", "—", "…", "ж", "漢", "字", "😀", "👍")
_HALVES = {b"\xe2\x82": b"\xac", b"\xf0\x9f": b"\x98\x80", b"\xc3": b"\xa9", b"\xe6\xbc": b"\xa2"}
_PUNCTUATION = (". ", ", ", "? ", "\n\n", '": "', '", "', "{ ", " }", "://", "()", "1.", "::")
_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")
N_VOCAB = 512

_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK64 = 2**64 - 1
_MAGIC = b"FAKEKV1\0"
_HEADER = struct.Struct("<8s16sI")  # magic, fingerprint, number of tokens


def _vocabulary() -> tuple[bytes, ...]:
    """The 256 bytes, then longer pieces, then the control tokens' texts: exactly N_VOCAB."""
    pieces = dict.fromkeys(bytes([n]) for n in range(256))
    for text in (*_PUNCTUATION, *_CHARACTERS, *_ENDINGS):
        pieces[text.encode()] = None
    for half, rest in _HALVES.items():
        pieces[half] = None
        pieces[rest] = None
    words = [form for word in _WORDS for form in (" " + word, word, word.capitalize())]
    for text in words:
        if len(pieces) == N_VOCAB - len(_CONTROLS):
            break
        pieces[text.encode()] = None
    return (*pieces, *(text.encode() for text in _CONTROLS))


VOCABULARY = _vocabulary()
_FIRST_CONTROL = N_VOCAB - len(_CONTROLS)
IM_START = _FIRST_CONTROL + _CONTROLS.index("<|im_start|>")
IM_END = _FIRST_CONTROL + _CONTROLS.index("<|im_end|>")
END_OF_TEXT = _FIRST_CONTROL + _CONTROLS.index("<|endoftext|>")

_TOKEN_OF = {piece: token for token, piece in enumerate(VOCABULARY)}
_PLAIN = re.compile(
    b"|".join(re.escape(p) for p in sorted(VOCABULARY[:_FIRST_CONTROL], key=len, reverse=True)),
    re.DOTALL,
)
_CONTROL = re.compile("(" + "|".join(re.escape(text) for text in _CONTROLS) + ")")


def _likings() -> npt.NDArray[np.float32]:
    """What the fake likes to say: words, seldom single bytes, an end now and then."""
    liking = np.full(N_VOCAB, 1.0, np.float32)
    liking[:256] = -2.5
    liking[ord(" ") : ord("~") + 1] = -0.5
    liking[_FIRST_CONTROL:] = -20.0
    liking[[END_OF_TEXT, IM_END]] = 0.0, 1.5
    for half in _HALVES:
        liking[_TOKEN_OF[half]] = 1.5
    return liking


_LIKING = _likings()
_TABLES = tuple(
    table.astype(np.float32)
    for table in np.random.default_rng(20240301).normal(0.0, 1.1, (3, 1024, N_VOCAB))
)
_COMPLETION = {_TOKEN_OF[half]: _TOKEN_OF[rest] for half, rest in _HALVES.items()}


@dataclass(slots=True)
class _Slot:
    """One slot's cells: each holds its token and the hash of all tokens up to and with it."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))

    def read(self, tokens: Sequence[int]) -> None:
        value = self.hashes[-1] if self.hashes else 0
        for token in tokens:
            value = ((value ^ (token + 1)) * _MULTIPLIER) & _MASK64
            value ^= value >> 29
            self.tokens.append(token)
            self.hashes.append(value)


class FakeModel:
    """base.Model over nothing but hashes.  ``end_liking`` moves how soon it says <|im_end|>."""

    def __init__(
        self,
        *,
        n_slots: int = 8,
        slot_tokens: int = 1024,
        max_batch_tokens: int = 512,
        end_liking: float = 0.0,
        delay_s: float = 0.0,
    ) -> None:
        self._slots = [_Slot() for _ in range(n_slots)]
        self._rows = np.zeros((max(n_slots, 1), N_VOCAB), np.float32)
        self._liking = _LIKING.copy()
        self._liking[[END_OF_TEXT, IM_END]] += end_liking
        self._failing: Counter[SlotId] = Counter()
        self._is_closed = False
        self._token_table = TokenTable(
            [self.piece(token) for token in range(N_VOCAB)], (END_OF_TEXT, IM_END)
        )
        self.delay_s = delay_s
        self.before_decode: Callable[[Sequence[Piece]], None] | None = None
        self.n_decodes = 0
        self.n_threads = 0
        self._info = ModelInfo(
            name="fake",
            path="",
            n_params=0,
            n_vocab=N_VOCAB,
            n_ctx_train=slot_tokens,
            n_slots=n_slots,
            slot_tokens=slot_tokens,
            max_batch_tokens=max_batch_tokens,
            chat_template=CHAT_TEMPLATE,
            bos_text="<|im_start|>",
            eos_text="<|im_end|>",
            adds_bos=False,
            eog=frozenset({END_OF_TEXT, IM_END}),
            control_texts=_CONTROLS,
            is_exact=True,
            weights="F32",
            n_bytes=0,
            has_fast_kernels=True,
            fingerprint=f"fake-{slot_tokens:08x}",
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    # ---------------------------------------------------------------- vocabulary

    def tokenize(self, text: str, *, special: bool) -> array[int]:
        tokens = array("i")
        for part in _CONTROL.split(text) if special else (text,):
            if special and part in _CONTROLS:
                tokens.append(_FIRST_CONTROL + _CONTROLS.index(part))
            else:
                tokens.extend(
                    _TOKEN_OF[piece] for piece in _PLAIN.findall(part.encode("utf-8", "replace"))
                )
        return tokens

    def piece(self, token: int) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise ValueError(f"token {token} is out of range, the vocabulary has {N_VOCAB}")
        return VOCABULARY[token] if token < _FIRST_CONTROL else b""

    # ---------------------------------------------------------------- decode

    def fail_next_decode(self, slots: Sequence[SlotId], times: int = 1) -> None:
        """Let the next ``times`` decodes that hold a piece of one of these slots fail."""
        for slot in slots:
            self._failing[slot] += times

    def decode(self, pieces: Sequence[Piece]) -> list[Logits]:
        self._check_pieces(pieces)
        if self.before_decode is not None:
            self.before_decode(pieces)
        if self.delay_s:
            time.sleep(self.delay_s)
        self.n_decodes += 1
        self._rows.fill(np.nan)  # whoever kept a row of the decode before shall notice
        failing = [piece.slot for piece in pieces if self._failing[piece.slot]]
        if failing:
            self._failing.subtract(failing)
            for piece in pieces:
                self._slots[piece.slot].read((N_VOCAB + 1,))
            raise EngineError(f"decode failed (told to, for slots {failing})")
        rows: list[Logits] = []
        for piece in pieces:
            slot = self._slots[piece.slot]
            slot.read(piece.tokens)
            if piece.wants_logits:
                row = self._rows[len(rows)]
                self._fill(row, slot)
                rows.append(row)
        return rows

    def _check_pieces(self, pieces: Sequence[Piece]) -> None:
        self._check_open()
        limit = self._info.max_batch_tokens
        n_tokens = sum(len(piece.tokens) for piece in pieces)
        if not 0 < n_tokens <= limit:
            raise EngineError(f"batch of {n_tokens} tokens, allowed are 1 to {limit}")
        seen: set[SlotId] = set()
        for piece in pieces:
            n_cells = len(self._slot(piece.slot).tokens)
            if piece.slot in seen:
                raise EngineError(f"slot {piece.slot} is in the batch twice")
            seen.add(piece.slot)
            if not len(piece.tokens):
                raise EngineError(f"empty piece for slot {piece.slot}")
            if piece.start != n_cells:
                raise EngineError(
                    f"slot {piece.slot} holds {n_cells} tokens, the piece starts at {piece.start}"
                )
            if min(piece.tokens) < 0 or max(piece.tokens) >= N_VOCAB:
                raise EngineError(
                    f"tokens {min(piece.tokens)} to {max(piece.tokens)} for slot {piece.slot}, "
                    f"the vocabulary has {N_VOCAB}"
                )
        for piece in pieces:
            n_wanted = piece.start + len(piece.tokens)
            if n_wanted > self._info.slot_tokens:
                raise OutOfCells(
                    f"slot {piece.slot} needs {n_wanted} cells, it has {self._info.slot_tokens}"
                )

    def _fill(self, row: Logits, slot: _Slot) -> None:
        value = slot.hashes[-1]
        a, b, c = _TABLES
        np.add(a[value & 1023], b[(value >> 10) & 1023], out=row)
        np.add(row, c[(value >> 20) & 1023], out=row)
        np.add(row, self._liking, out=row)
        completion = _COMPLETION.get(slot.tokens[-1])
        if completion is not None:
            row[completion] += 14.0

    # ---------------------------------------------------------------- slots

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("the model is closed")

    def _slot(self, slot: SlotId) -> _Slot:
        self._check_open()
        if not 0 <= slot < len(self._slots):
            raise EngineError(f"slot {slot} is out of range, the model has {len(self._slots)}")
        return self._slots[slot]

    def n_cells(self, slot: SlotId) -> int:
        return len(self._slot(slot).tokens)

    def truncate(self, slot: SlotId, n_tokens: int) -> bool:
        cells = self._slot(slot)
        if n_tokens < 0:
            raise EngineError(f"can't truncate slot {slot} to {n_tokens} tokens")
        del cells.tokens[n_tokens:]
        del cells.hashes[n_tokens:]
        return True

    def copy(self, source: SlotId, target: SlotId) -> None:
        cells = self._slot(source)
        self._slot(target)
        if source == target:
            return
        self._slots[target] = _Slot(cells.tokens[:], cells.hashes[:])

    def snapshot_bytes(self, slot: SlotId) -> int:
        return _HEADER.size + 12 * self.n_cells(slot)

    def save(self, slot: SlotId, buffer: memoryview) -> int:
        cells = self._slot(slot)
        needed = self.snapshot_bytes(slot)
        if buffer.nbytes < needed:
            raise EngineError(f"snapshot of {needed} bytes, the buffer has {buffer.nbytes}")
        header = _HEADER.pack(_MAGIC, self._info.fingerprint.encode(), len(cells.tokens))
        buffer[:needed] = header + cells.tokens.tobytes() + cells.hashes.tobytes()
        return needed

    def restore(self, slot: SlotId, data: memoryview) -> bool:
        cells = self._slot(slot)
        self.truncate(slot, 0)
        if data.nbytes < _HEADER.size:
            return False
        magic, fingerprint, n_tokens = _HEADER.unpack_from(data)
        if (
            magic != _MAGIC
            or fingerprint.rstrip(b"\0") != self._info.fingerprint.encode()
            or n_tokens > self._info.slot_tokens
            or data.nbytes < _HEADER.size + 12 * n_tokens
        ):
            return False
        middle = _HEADER.size + 4 * n_tokens
        cells.tokens.frombytes(data[_HEADER.size : middle])
        cells.hashes.frombytes(data[middle : middle + 8 * n_tokens])
        return True

    # ---------------------------------------------------------------- sampling

    def sample(self, logits: Logits, sampling: Sampling, recent: Sequence[int], index: int) -> int:
        arithmetic.check(sampling)
        logits = arithmetic.penalized(logits, sampling, recent)
        best = arithmetic.greedy(logits)
        if sampling.temperature == 0.0 or sampling.top_k == 1:
            return best
        order = np.argsort(-logits, kind="stable")  # the lower id first where logits are equal
        if 0 < sampling.top_k < len(order):
            order = order[: sampling.top_k]
        chosen = logits[order].astype(np.float64)
        chosen = chosen[np.isfinite(chosen)]  # without what a grammar forbids
        shares = np.exp(chosen - chosen[0])
        if sampling.top_p < 1.0:
            total = np.cumsum(shares / shares.sum())
            n_kept = int(np.searchsorted(total, sampling.top_p)) + 1
            chosen, shares = chosen[:n_kept], shares[:n_kept]
        if sampling.min_p > 0.0:
            chosen = chosen[shares >= sampling.min_p * shares[0]]
        temperature = max(sampling.temperature, arithmetic.MIN_TEMPERATURE)
        total = np.cumsum(np.exp((chosen - chosen[0]) / temperature))
        draw = arithmetic.draw_seed(sampling.seed, index) / 2**32
        place = np.searchsorted(total, draw * total[-1], side="right")
        return int(order[min(int(place), len(total) - 1)])

    def grammar(self, gbnf: str) -> Grammar:
        return VocabularyGrammar(parse(gbnf, self._token_of_text, N_VOCAB), self._token_table)

    def _token_of_text(self, text: str) -> int | None:
        tokens = self.tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 else None

    # ---------------------------------------------------------------- the rest

    def set_threads(self, n_threads: int) -> None:
        if n_threads < 1:
            raise EngineError(f"{n_threads} threads, at least 1 is needed")
        self.n_threads = n_threads

    def close(self) -> None:
        self._is_closed = True
