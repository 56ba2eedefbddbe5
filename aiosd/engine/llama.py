"""The real model: base.Model over llama.cpp's low-level API, and the only importer of llama_cpp.

Rule 1: whatever would end the process or poison the cache is checked here, before the call.
Rule 2: everything but the Vocabulary members runs on the thread that owns the model.
Rule 3: threads.set_environment() comes before the first import of this file.

Two ways into the library.  Calls that compute (decode, snapshots, tokenising) release the GIL.
Calls that take microseconds keep it (_quick): giving it up beside a busy event loop can cost a
whole switch interval, 5 ms, to get it back.
"""

from __future__ import annotations

import atexit
import ctypes
import platform
import re
import struct
import sys
import threading
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from aiosd import gguf
from aiosd.engine import sampling as arithmetic
from aiosd.engine.base import (
    EngineError,
    Grammar,
    Logits,
    ModelInfo,
    OutOfCells,
    Piece,
    Sampling,
    Vectors,
)
from aiosd.engine.estimate import round_cells
from aiosd.engine.gbnf import parse
from aiosd.engine.grammar import TokenTable, VocabularyGrammar
from aiosd.kernel.model import SlotId

LIBRARY_VERSION: str = llama_cpp.__version__
MAX_SLOTS = 256  # LLAMA_MAX_SEQ: llama_init_from_model refuses more
MAX_TEXT_BYTES = 4 * 2**20  # of one tokenise call: up to 5 s per MiB, which can't be interrupted
CONTROLS_AT_ONCE = 64  # control texts per call: the time for n of them grows with n * n
MAX_THREADS = 512  # GGML_MAX_N_THREADS
MAX_CHAINS = 64  # sampler chains kept, one per set of parameters in use
MAX_SLOT_TOKENS = 2**20
MAX_BATCH_TOKENS = 65536
MAX_EMBED_TOKENS = 512  # of one text, and of one call: a call is short, so that others get a turn
MAX_EMBED_TEXTS = 64  # of one call
MAX_EMBED_CHARS_PER_TOKEN = 32  # far more than text has; the rest couldn't count
_POOLINGS_OF_TEXTS = (1, 2, 3)  # enum llama_pooling_type: mean, cls, last

_LOG_LEVELS = {
    3: "warning",
    4: "error",
}  # enum ggml_log_level; llama_cpp's own table is out of date
_LOG_CONTINUES = 5
_SNAPSHOT_HEAD = struct.Struct("<IiI")
_SNAPSHOT_MAGIC = 0xAF143CD8  # llama-context.cpp, io_magic
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data
_INT32_P = ctypes.POINTER(ctypes.c_int32)


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How the cells lie and of what they are made.  is_exact: with it, on the CPU, what a sequence
    computes depends on its own tokens alone (measured; the contract suite measures it again)."""

    is_unified: bool
    type_k: int
    type_v: int
    is_exact: bool


_F16, _Q8_0, _BF16 = 1, 8, 30  # enum ggml_type

KV_LAYOUTS = {
    # Equal f16 or f32 types take one of three paths through attention, by how many rows come
    # together, and round differently; all other types always take the same one (ops.cpp,
    # kv_is_f32_or_f16).  Of those, with 8 lanes on 2 cores with AVX-512, tokens/s of reading 800
    # tokens and of decoding at that depth: bf16/bf16 385 and 142, bf16/f16 170 and 78, f16/bf16
    # 327 and 125, q8_0/q8_0 334 and 145; f16/f16, which isn't exact, 453 and 71.  (A V in f16 is
    # summed up in f16, number by number.)
    "exact": KvLayout(False, _BF16, _BF16, True),
    "small": KvLayout(False, _Q8_0, _Q8_0, True),
    "fast": KvLayout(False, _F16, _F16, False),
    "unified": KvLayout(True, _F16, _F16, False),
}

# Neither repacked (repack.cpp) nor multiplied in tiles (sgemm.cpp): a batch of such rows costs
# nearly as much as its rows one after the other.
_SLOW_ON_X86 = ("Q4_1", "Q5_1", "Q3_K", "IQ1", "IQ2", "IQ3", "TQ")

LogSink = Callable[[str, str], None]
"""Called with a level ("warning", "error") and a line; from any thread; must not raise."""


def _to_stderr(level: str, line: str) -> None:
    print(f"llama.cpp {level}: {line}", file=sys.stderr)  # noqa: T201 - until the daemon sets a sink


class _Log:
    """llama.cpp's log, routed once.  Warnings and errors go to the sink, the rest is dropped; the
    last ones are kept, since the C calls themselves only say "no"."""

    def __init__(self) -> None:
        self.sink: LogSink = _to_stderr
        self.last: deque[str] = deque(maxlen=4)
        self._level = 0
        self._callback = llama_cpp.llama_log_callback(self._take)  # C holds it: keep a reference
        llama_cpp.llama_log_set(self._callback, None)
        # C may still log while the interpreter goes down: then let it call something that isn't
        # Python.  abs() ignores what it isn't asked about.
        harmless = ctypes.cast(ctypes.CDLL(None).abs, llama_cpp.llama_log_callback)
        atexit.register(llama_cpp.llama_log_set, harmless, None)

    def _take(self, level: int, text: bytes | None, _data: object) -> None:
        if level != _LOG_CONTINUES:
            self._level = level
        line = (text or b"").decode("utf-8", "replace").strip()
        name = _LOG_LEVELS.get(self._level)
        if name is None or not line:
            return
        if name == "error":
            self.last.append(line)
        self.sink(name, line)

    def reason(self) -> str:
        """What was last complained about, for an error's text."""
        said = "; ".join(self.last)
        self.last.clear()
        return said or "no reason given"


def _quick(name: str) -> Any:
    """A function of the library that is called without giving up the GIL."""
    known = getattr(llama_cpp, name)
    found = ctypes.PyDLL(None, handle=llama_cpp.llama_cpp._lib._handle)[name]
    found.argtypes, found.restype = known.argtypes, known.restype
    return found


_log = _Log()
llama_cpp.llama_backend_init()
_sampler_apply = _quick("llama_sampler_apply")
_sampler_init_dist = _quick("llama_sampler_init_dist")
_sampler_free = _quick("llama_sampler_free")
_token_to_piece = _quick("llama_token_to_piece")
_get_logits = _quick("llama_get_logits")


def set_log_sink(sink: LogSink) -> None:
    """Where llama.cpp's warnings and errors go; stderr until this is called."""
    _log.sink = sink


def quantize(source: Path, target: Path, n_threads: int) -> None:
    """Write the source's weights as Q8_0.  EngineError says why not."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    params.allow_requantize = True
    params.nthread = n_threads
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if code != 0:
        raise EngineError(f"{source} can't be quantised (code {code}): {_log.reason()}")


class _Chains:
    """Draws tokens in C: top-k, top-p, min-p and temperature in a chain that has no state, kept per
    set of parameters, then one draw by a generator made for it alone."""

    def __init__(self, n_vocab: int) -> None:
        self._chains: OrderedDict[tuple[float, ...], Any] = OrderedDict()
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._candidates = np.zeros(n_vocab, _CANDIDATE)
        self._data = self._candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        self._array = llama_cpp.llama_token_data_array()
        self._array_ref = ctypes.byref(self._array)

    def draw(self, row: Logits, sampling: Sampling, seed: int) -> int:
        n_candidates = len(row)
        if row.min() == -np.inf:  # a grammar's mask: what is forbidden must not even be listed
            ids = np.flatnonzero(row != -np.inf)
            n_candidates = len(ids)
            self._candidates["id"][:n_candidates] = ids
            self._candidates["logit"][:n_candidates] = row[ids]
        else:
            self._candidates["id"] = self._ids
            self._candidates["logit"] = row
        candidates = self._array
        candidates.data, candidates.size = self._data, n_candidates
        candidates.selected, candidates.sorted = -1, False
        _sampler_apply(self._chain(sampling), self._array_ref)
        dist = _sampler_init_dist(seed)
        _sampler_apply(dist, self._array_ref)
        _sampler_free(dist)
        if not 0 <= candidates.selected < candidates.size:
            raise EngineError(f"the sampler chose candidate {candidates.selected}")
        return int(candidates.data[candidates.selected].id)

    def _chain(self, sampling: Sampling) -> Any:
        key = (sampling.top_k, sampling.top_p, sampling.min_p, sampling.temperature)
        chain = self._chains.get(key)
        if chain is not None:
            self._chains.move_to_end(key)
            return chain
        params = llama_cpp.llama_sampler_chain_default_params()
        chain = llama_cpp.llama_sampler_chain_init(params)
        for sampler in (
            llama_cpp.llama_sampler_init_top_k(sampling.top_k),
            llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
            llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
            llama_cpp.llama_sampler_init_temp(
                max(sampling.temperature, arithmetic.MIN_TEMPERATURE)
            ),
        ):
            llama_cpp.llama_sampler_chain_add(chain, sampler)
        self._chains[key] = chain
        if len(self._chains) > MAX_CHAINS:
            _sampler_free(self._chains.popitem(last=False)[1])
        return chain

    def close(self) -> None:
        while self._chains:
            _sampler_free(self._chains.popitem()[1])


class _Batch:
    """The arrays of llama_decode's batch, in memory that numpy fills and C reads."""

    def __init__(self, n_tokens_max: int) -> None:
        self.token = np.zeros(n_tokens_max, np.int32)
        self.pos = np.zeros(n_tokens_max, np.int32)
        self.slot = np.zeros(n_tokens_max, np.int32)
        self.wants_logits = np.zeros(n_tokens_max, np.int8)
        self._n_slots = np.ones(n_tokens_max, np.int32)  # each token belongs to one slot
        self._slot_p = (
            self.slot.ctypes.data + np.arange(n_tokens_max, dtype=np.uintp) * self.slot.itemsize
        )
        self._counting = np.arange(n_tokens_max, dtype=np.int32)
        self.struct = llama_cpp.llama_batch()
        self.struct.token = self.token.ctypes.data_as(_INT32_P)
        self.struct.pos = self.pos.ctypes.data_as(_INT32_P)
        self.struct.n_seq_id = self._n_slots.ctypes.data_as(_INT32_P)
        self.struct.seq_id = self._slot_p.ctypes.data_as(ctypes.POINTER(_INT32_P))
        self.struct.logits = self.wants_logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(self, pieces: Sequence[Piece]) -> None:
        end = 0
        self.wants_logits.fill(0)
        for piece in pieces:
            begin, end = end, end + len(piece.tokens)
            try:
                self.token[begin:end] = piece.tokens
            except (OverflowError, TypeError, ValueError) as error:
                raise EngineError(f"tokens for slot {piece.slot}: {error}") from None
            np.add(self._counting[: end - begin], piece.start, out=self.pos[begin:end])
            self.slot[begin:end] = piece.slot
            self.wants_logits[end - 1] = piece.wants_logits
        self.struct.n_tokens = end


def _checked_layout(kv: str, n_slots: int, slot_tokens: int, n_batch: int) -> KvLayout:
    if kv not in KV_LAYOUTS:
        raise EngineError(f"kv is {kv!r}, known are {', '.join(KV_LAYOUTS)}")
    if not 1 <= n_slots <= MAX_SLOTS:
        raise EngineError(f"{n_slots} slots, allowed are 1 to {MAX_SLOTS}")
    if not 1 <= slot_tokens <= MAX_SLOT_TOKENS:
        raise EngineError(f"slots of {slot_tokens} tokens, allowed are 1 to {MAX_SLOT_TOKENS}")
    if not n_slots <= n_batch <= MAX_BATCH_TOKENS:
        # llama.cpp sizes its rows by n_seq_max and dies if a batch can't hold as many
        raise EngineError(
            f"batch of {n_batch} tokens, allowed are {n_slots} (one a slot) to {MAX_BATCH_TOKENS}"
        )
    return KV_LAYOUTS[kv]


def _refuse_unfit(model: Any, path: Path) -> None:
    """EngineError for models whose contexts can't be cut, saved and taken up again exactly."""
    window = llama_cpp.llama_model_n_swa(model)
    reasons = {
        "is recurrent": llama_cpp.llama_model_is_recurrent(model),
        "is a hybrid of attention and a recurrent state": llama_cpp.llama_model_is_hybrid(model),
        f"uses sliding-window attention ({window} tokens)": window > 0,
        "is a diffusion model": llama_cpp.llama_model_is_diffusion(model),
        "has an encoder": llama_cpp.llama_model_has_encoder(model),
        "has no decoder": not llama_cpp.llama_model_has_decoder(model),
        "has no vocabulary": llama_cpp.llama_vocab_type(llama_cpp.llama_model_get_vocab(model))
        == 0,
    }
    for reason, holds in reasons.items():
        if holds:
            raise EngineError(
                f"{path} {reason}: its contexts can't be parked and resumed exactly, "
                "so it can't be shared; use a plain decoder-only model"
            )


def _weights_of(model: Any) -> str:
    """The third word of llama_model_desc and what follows: architecture, size, kind of weights."""
    room = ctypes.create_string_buffer(128)
    llama_cpp.llama_model_desc(model, room, len(room))
    return room.value.decode("utf-8", "replace").split(" ", 2)[-1]


def _cells_of_snapshot(data: memoryview, n_streams: int, n_cells_max: int) -> int | None:
    """How many cells the snapshot holds, None if it isn't one of ours with positions 0, 1, 2, ….

    The library believes what it reads here, and odd positions can kill it at a later decode; what
    comes after (tensor types and sizes) it checks itself.
    Source: llama-kv-cache.cpp, state_write: magic, slot, n_streams, then for each stream its number
    of cells and, where there are any, (position, 1, slot) for each and the tensors.
    """
    if data.nbytes < _SNAPSHOT_HEAD.size + 4 * n_streams:
        return None
    magic, _slot, n_streams_there = _SNAPSHOT_HEAD.unpack_from(data)
    if magic != _SNAPSHOT_MAGIC or n_streams_there != n_streams:
        return None
    words = np.frombuffer(data[: data.nbytes // 4 * 4], np.int32)[_SNAPSHOT_HEAD.size // 4 :]
    n_empty = 0  # streams of other slots, before ours
    while n_empty < n_streams and words[n_empty] == 0:
        n_empty += 1
    if n_empty == n_streams:
        return 0
    n_cells = int(words[n_empty])
    cells = words[n_empty + 1 : n_empty + 1 + 3 * n_cells]
    if not 0 < n_cells <= n_cells_max or len(cells) != 3 * n_cells:
        return None
    rest = data[data.nbytes - 4 * (n_streams - n_empty - 1) :]
    positions, n_slots, _ = cells.reshape(n_cells, 3).T
    is_ours = (
        bool((positions == np.arange(n_cells)).all())
        and bool((n_slots == 1).all())
        and not any(rest)  # streams of other slots, after ours
    )
    return n_cells if is_ours else None


def _tokenized(vocab: Any, data: bytes, special: bool, *, wants_ends: bool = False) -> array[int]:
    """wants_ends: with the tokens that the model's texts begin and end with."""
    if not data and not wants_ends:
        return array("i")
    n_room = len(data) + 8  # a token has a byte at least; a prefix may come on top
    tokens = array("i", bytes(4 * n_room))
    room = (ctypes.c_int32 * n_room).from_buffer(tokens)
    n_tokens = llama_cpp.llama_tokenize(vocab, data, len(data), room, n_room, wants_ends, special)
    del room  # else the array can't be cut
    if n_tokens < 0:
        raise EngineError(f"text of {len(data)} bytes can't be tokenised (code {n_tokens})")
    del tokens[n_tokens:]
    return tokens


class LlamaModel:
    """One GGUF file with n_slots slots of slot_tokens cells.  EngineError: it can't be loaded, or
    it is of a kind whose contexts can't be saved and taken up again exactly.

    With kv="unified" all slots share all cells, and a slot may hold as many as there are.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        n_slots: int = 8,
        slot_tokens: int = 2048,
        kv: str = "exact",
        n_threads: int = 2,
        n_batch: int = 512,
        n_gpu_layers: int = 0,
        use_extra_buffers: bool = True,
    ) -> None:
        layout = _checked_layout(kv, n_slots, slot_tokens, n_batch)
        self._layout = layout
        self._logits_address, self._logits = 0, list[Logits]()
        self._context: Any = None
        self._model: Any = None
        self._vocab: Any = None
        self._readers = 0
        self._reader_left = threading.Condition()
        try:
            is_bidirectional = gguf.is_bidirectional(path)
        except gguf.ModelFileError as error:
            raise EngineError(str(error)) from None
        if is_bidirectional:
            raise EngineError(f"{path} is an embedding model: it reads, but can't generate")
        _log.last.clear()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        # Kernels for weights packed anew at loading.  As exact as the others (contract suite), and
        # for Q4_0 twice as fast.
        params.use_extra_bufts = use_extra_buffers
        try:
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
            if not self._model:
                raise EngineError(f"{path} can't be loaded: {_log.reason()}")
            _refuse_unfit(self._model, path)
            self._vocab = llama_cpp.llama_model_get_vocab(self._model)
            self._context = self._new_context(n_slots, slot_tokens, n_batch, n_threads, layout)
            self._memory = llama_cpp.llama_get_memory(self._context)
            is_exact = layout.is_exact and n_gpu_layers == 0
            self._info = self._read_info(
                path, name or path.stem, n_slots, slot_tokens, kv=kv, is_exact=is_exact
            )
        except BaseException:
            self.close()
            raise
        self._batch = _Batch(self._info.max_batch_tokens)
        self._n_cells = [0] * n_slots
        self._chains = _Chains(self._info.n_vocab)
        self._pieces = self._read_pieces()
        controls = sorted(filter(None, self._info.control_texts), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, controls)) or "(?!)")
        self._token_table: TokenTable | None = None
        self._checked_sampling: Sampling | None = None
        self._scratch = bytearray()  # for copies; kept, since touched memory is ten times as fast

    def _new_context(
        self, n_slots: int, slot_tokens: int, n_batch: int, n_threads: int, layout: KvLayout
    ) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = round_cells(slot_tokens) * n_slots
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_slots
        params.n_outputs_max = n_slots  # one row a slot; fewer than n_seq_max ends the process
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = 1  # on; "auto" would let the library choose the kernel
        params.type_k, params.type_v = layout.type_k, layout.type_v
        params.kv_unified = layout.is_unified
        params.swa_full = True
        params.offload_kqv = True
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise EngineError(
                f"no context of {n_slots} slots with {slot_tokens} tokens: {_log.reason()}"
            )
        return context

    def _read_info(
        self, path: Path, name: str, n_slots: int, slot_tokens: int, *, kv: str, is_exact: bool
    ) -> ModelInfo:
        model, vocab = self._model, self._vocab
        n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        tokens = range(n_vocab)
        n_cells = llama_cpp.llama_n_ctx_seq(self._context)
        # Rounded up by the library; whoever asked for fewer gets what was asked for.
        slot_tokens = n_cells if self._layout.is_unified else min(slot_tokens, n_cells)
        template = llama_cpp.llama_model_chat_template(model, None)
        # What tokenising with special tokens on turns into one token of its own.
        special = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        controls = (t for t in tokens if llama_cpp.llama_vocab_get_attr(vocab, t) & special)
        parts = (
            gguf.content_digest(path),
            LIBRARY_VERSION,
            llama_cpp.llama_print_system_info().decode(),  # other kernels round differently
            kv,
            str(n_slots),  # a snapshot has an entry per stream
            str(n_cells),
        )
        return ModelInfo(
            name=name,
            path=str(path),
            n_params=llama_cpp.llama_model_n_params(model),
            n_vocab=n_vocab,
            n_ctx_train=llama_cpp.llama_model_n_ctx_train(model),
            n_slots=n_slots,
            slot_tokens=slot_tokens,
            max_batch_tokens=llama_cpp.llama_n_batch(self._context),
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos_text=self._text_of(llama_cpp.llama_vocab_bos(vocab)),
            eos_text=self._text_of(llama_cpp.llama_vocab_eos(vocab)),
            adds_bos=bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
            eog=frozenset(t for t in tokens if llama_cpp.llama_vocab_is_eog(vocab, t)),
            control_texts=tuple(self._text_of(t) for t in controls),
            is_exact=is_exact,
            weights=(weights := _weights_of(model)),
            n_bytes=int(llama_cpp.llama_model_size(model)),
            has_fast_kernels=not (
                platform.machine() == "x86_64" and weights.startswith(_SLOW_ON_X86)
            ),
            fingerprint=gguf.digest_of("\0".join(parts)),
        )

    def _text_of(self, token: int) -> str:
        if token < 0:  # LLAMA_TOKEN_NULL: the vocabulary has none of this kind
            return ""
        return (llama_cpp.llama_vocab_get_text(self._vocab, token) or b"").decode(
            "utf-8", "replace"
        )

    def _read_pieces(self) -> list[bytes]:
        pieces: list[bytes] = []
        room = ctypes.create_string_buffer(256)
        for token in range(self._info.n_vocab):
            n_bytes = _token_to_piece(self._vocab, token, room, len(room), 0, False)
            if n_bytes < 0:
                room = ctypes.create_string_buffer(-n_bytes)
                n_bytes = _token_to_piece(self._vocab, token, room, len(room), 0, False)
            pieces.append(room.raw[:n_bytes])
        return pieces

    @property
    def info(self) -> ModelInfo:
        return self._info

    # ---------------------------------------------------------------- vocabulary (any thread)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """The vocabulary, which close() doesn't free while someone is in here."""
        with self._reader_left:
            vocab = self._vocab
            if not vocab:
                raise EngineError("the model is closed")
            self._readers += 1
        try:
            yield vocab
        finally:
            with self._reader_left:
                self._readers -= 1
                self._reader_left.notify_all()

    def tokenize(self, text: str, *, special: bool) -> array[int]:
        # A lone surrogate has no bytes in UTF-8: it becomes "?".
        n_bytes = len(text.encode("utf-8", "replace"))
        if n_bytes > MAX_TEXT_BYTES:
            raise EngineError(f"text of {n_bytes} bytes, limit is {MAX_TEXT_BYTES}")
        tokens = array("i")
        with self._reading() as vocab:
            for part in self._parts(text) if special else (text,):
                tokens += _tokenized(vocab, part.encode("utf-8", "replace"), special)
        return tokens

    def _parts(self, text: str) -> Iterator[str]:
        """The text, cut before every so-many-th control text.  Those are tokens of their own, so
        the tokens are the same as in one piece."""
        begin = 0
        for number, match in enumerate(self._controls.finditer(text), 1):
            if number % CONTROLS_AT_ONCE == 0:
                yield text[begin : match.start()]
                begin = match.start()
        yield text[begin:]

    def piece(self, token: int) -> bytes:
        if not 0 <= token < len(self._pieces):
            raise ValueError(
                f"token {token} is out of range, the vocabulary has {len(self._pieces)}"
            )
        return self._pieces[token]

    # ---------------------------------------------------------------- decode

    def decode(self, pieces: Sequence[Piece]) -> list[Logits]:
        self._check_pieces(pieces)
        # Sorted, so that neighbours are together: twice as fast.
        by_slot = sorted(range(len(pieces)), key=[piece.slot for piece in pieces].__getitem__)
        batch = self._batch
        batch.fill([pieces[i] for i in by_slot])
        n_vocab = self._info.n_vocab
        tokens = batch.token[: batch.struct.n_tokens]
        if int(tokens.view(np.uint32).max()) >= n_vocab:
            raise EngineError(
                f"tokens {tokens.min()} to {tokens.max()}, the vocabulary has {n_vocab}"
            )
        code = llama_cpp.llama_decode(self._context, batch.struct)
        if code != 0:
            self._recover(code, pieces)
        for piece in pieces:
            self._n_cells[piece.slot] += len(piece.tokens)
        return self._rows([i for i in by_slot if pieces[i].wants_logits])

    def _check_pieces(self, pieces: Sequence[Piece]) -> None:
        limit = self._info.max_batch_tokens
        n_tokens = sum(len(piece.tokens) for piece in pieces)
        if not 0 < n_tokens <= limit:
            raise EngineError(f"batch of {n_tokens} tokens, allowed are 1 to {limit}")
        seen: set[SlotId] = set()
        for piece in pieces:
            n_cells = self.n_cells(piece.slot)
            if piece.slot in seen:
                raise EngineError(f"slot {piece.slot} is in the batch twice")
            seen.add(piece.slot)
            if not len(piece.tokens):
                raise EngineError(f"empty piece for slot {piece.slot}")
            if piece.start != n_cells:
                raise EngineError(
                    f"slot {piece.slot} holds {n_cells} tokens, the piece starts at {piece.start}"
                )
        for piece in pieces:
            n_wanted = piece.start + len(piece.tokens)
            if n_wanted > self._info.slot_tokens:
                raise OutOfCells(
                    f"slot {piece.slot} needs {n_wanted} cells, it has {self._info.slot_tokens}"
                )

    def _recover(self, code: int, pieces: Sequence[Piece]) -> None:
        """Bring our count in line with what a failed decode left, and raise.

        Source: llama.h, llama_decode.  1: no room, nothing changed; -1: invalid input, nothing
        changed; 2: aborted, what was done stays; below -1: fatal, so nothing in there is trusted.
        """
        slots = [piece.slot for piece in pieces]
        reason = _log.reason()
        if code == 1:
            raise OutOfCells(f"no room for {self._batch.struct.n_tokens} tokens in slots {slots}")
        for slot in slots:
            if code < -1:
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._n_cells[slot] = self._count_cells(slot)
        raise EngineError(f"decode failed with code {code} for slots {slots}: {reason}")

    def _rows(self, wanting: list[int]) -> list[Logits]:
        """The rows in the order of the pieces; in memory they lie in the order of the slots.

        Source: llama-context.cpp, decode: outputs keep the order that they had in the batch.
        """
        if not wanting:
            return []
        address = ctypes.addressof(_get_logits(self._context).contents)
        if address != self._logits_address:
            # It stays until llama.cpp needs a longer one; views of its rows cost 60 us to make.
            n_rows, n_vocab = self._info.n_slots, self._info.n_vocab
            memory = (ctypes.c_float * (n_rows * n_vocab)).from_address(address)
            self._logits = list(np.ctypeslib.as_array(memory).reshape(n_rows, n_vocab))
            self._logits_address = address
        order = sorted(range(len(wanting)), key=wanting.__getitem__)
        return [self._logits[i] for i in order]

    # ---------------------------------------------------------------- slots

    def _check_slot(self, slot: SlotId) -> None:
        if not self._context:
            raise EngineError("the model is closed")
        if not 0 <= slot < self._info.n_slots:
            raise EngineError(f"slot {slot} is out of range, the model has {self._info.n_slots}")

    def _count_cells(self, slot: SlotId) -> int:
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def n_cells(self, slot: SlotId) -> int:
        self._check_slot(slot)
        return self._n_cells[slot]

    def truncate(self, slot: SlotId, n_tokens: int) -> bool:
        if n_tokens < 0:
            raise EngineError(f"can't truncate slot {slot} to {n_tokens} tokens")
        if n_tokens >= self.n_cells(slot):
            return True
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, n_tokens, -1):
            return False
        self._n_cells[slot] = n_tokens
        return True

    def copy(self, source: SlotId, target: SlotId) -> None:
        """By way of a snapshot.  llama_memory_seq_cp between streams only takes note and copies all
        cells of the slot at the next decode; a snapshot taken before that would hold old bytes."""
        self._check_slot(target)
        if source == target:
            self._check_slot(source)
            return
        needed = self.snapshot_bytes(source)
        if len(self._scratch) < needed:
            self._scratch = bytearray(needed)
        used = self.save(source, memoryview(self._scratch))
        if not self.restore(target, memoryview(self._scratch)[:used]):
            raise EngineError(f"slot {source} can't be copied to {target}: {_log.reason()}")

    # ---------------------------------------------------------------- snapshots

    def snapshot_bytes(self, slot: SlotId) -> int:
        self._check_slot(slot)
        return int(llama_cpp.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: SlotId, buffer: memoryview) -> int:
        needed = self.snapshot_bytes(slot)
        if buffer.nbytes < needed:
            raise EngineError(f"snapshot of {needed} bytes, the buffer has {buffer.nbytes}")
        room = (ctypes.c_uint8 * needed).from_buffer(buffer)
        used = int(llama_cpp.llama_state_seq_get_data(self._context, room, needed, slot))
        if used == 0:
            raise EngineError(f"slot {slot} can't be saved: {_log.reason()}")
        return used

    def restore(self, slot: SlotId, data: memoryview) -> bool:
        self._check_slot(slot)
        self._empty(slot)
        n_streams = 1 if self._layout.is_unified else self._info.n_slots
        n_cells = _cells_of_snapshot(data, n_streams, self._info.slot_tokens)
        if n_cells is None:
            return False
        view = np.frombuffer(data, np.uint8)  # takes read-only memory too, as from_buffer doesn't
        pointer = view.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        used = int(llama_cpp.llama_state_seq_set_data(self._context, pointer, data.nbytes, slot))
        if used == 0 or self._count_cells(slot) != n_cells:
            self._empty(slot)
            return False
        self._n_cells[slot] = n_cells
        return True

    def _empty(self, slot: SlotId) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._n_cells[slot] = 0

    # ---------------------------------------------------------------- sampling

    def sample(self, logits: Logits, sampling: Sampling, recent: Sequence[int], index: int) -> int:
        if sampling is not self._checked_sampling:
            arithmetic.check(sampling)
            self._checked_sampling = sampling
        if len(logits) != self._info.n_vocab:
            raise EngineError(f"{len(logits)} logits, the vocabulary has {self._info.n_vocab}")
        row = arithmetic.penalized(logits, sampling, recent)
        best = arithmetic.greedy(row)
        if sampling.temperature == 0.0 or sampling.top_k == 1:
            return best
        return self._chains.draw(row, sampling, arithmetic.draw_seed(sampling.seed, index))

    def grammar(self, gbnf: str) -> Grammar:
        if self._token_table is None:
            self._token_table = TokenTable(self._pieces, self._info.eog)
        return VocabularyGrammar(
            parse(gbnf, self._token_of_text, self._info.n_vocab), self._token_table
        )

    def _token_of_text(self, text: str) -> int | None:
        tokens = self.tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 else None

    # ---------------------------------------------------------------- the rest

    def set_threads(self, n_threads: int) -> None:
        if not 1 <= n_threads <= MAX_THREADS:
            raise EngineError(f"{n_threads} threads, allowed are 1 to {MAX_THREADS}")
        if not self._context:
            raise EngineError("the model is closed")
        llama_cpp.llama_set_n_threads(self._context, n_threads, n_threads)

    def close(self) -> None:
        """Free everything; rows given out by decode must not be read any more."""
        with self._reader_left:
            self._vocab = None
            self._reader_left.wait_for(lambda: self._readers == 0)
        if hasattr(self, "_chains"):
            self._chains.close()
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None


# ---------------------------------------------------------------- embeddings


class LlamaEmbedding:
    """A GGUF file that turns texts into vectors.  EngineError: it can't be loaded, or it is of
    another kind.  Contexts of it compute, each on a thread of its own; the weights are shared."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        try:
            gguf.check_is_gguf(path)
        except gguf.ModelFileError as error:
            raise EngineError(str(error)) from None
        _log.last.clear()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.path = path
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise EngineError(f"{path} can't be loaded: {_log.reason()}")
        if llama_cpp.llama_model_has_encoder(self._model):
            llama_cpp.llama_model_free(self._model)
            raise EngineError(f"{path} has an encoder beside its decoder: no embedding model")
        self.name = name or path.stem
        self.n_dims = int(llama_cpp.llama_model_n_embd(self._model))
        self.n_params = int(llama_cpp.llama_model_n_params(self._model))
        self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self.max_tokens = min(self.n_ctx_train, MAX_EMBED_TOKENS)
        parts = (gguf.content_digest(path), LIBRARY_VERSION, str(self.max_tokens))
        self.fingerprint = gguf.digest_of("\0".join(parts))

    def context(self) -> LlamaEmbeddingContext:
        """One more place to compute.  EngineError: the model has no vector for a whole text."""
        return LlamaEmbeddingContext(self._model, self)

    def close(self) -> None:
        """Free the weights; its contexts must have been closed."""
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None


class LlamaEmbeddingContext:
    """base.EmbeddingContext on llama.cpp: several texts in one call, each a sequence of its own."""

    def __init__(self, model: Any, of: LlamaEmbedding) -> None:
        params = llama_cpp.llama_context_default_params()
        # Attention that looks ahead needs a text in one piece: n_ubatch is no smaller than n_batch.
        params.n_ctx = params.n_batch = params.n_ubatch = of.max_tokens
        params.n_seq_max = MAX_EMBED_TEXTS
        params.n_threads = params.n_threads_batch = 1
        params.embeddings = True
        params.kv_unified = True
        params.no_perf = True
        self.max_tokens = of.max_tokens
        self._n_dims = of.n_dims
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise EngineError(f"no context to embed in: {_log.reason()}")
        if llama_cpp.llama_pooling_type(self._context) not in _POOLINGS_OF_TEXTS:
            self.close()
            raise EngineError(f"{of.path} gives no vector for a whole text: no embedding model")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = _Batch(self.max_tokens)

    def tokenize(self, text: str) -> tuple[array[int], bool]:
        """The text's tokens, with those that the model wants around it, and whether it was cut."""
        is_cut = len(text) > MAX_EMBED_CHARS_PER_TOKEN * self.max_tokens
        data = text[: MAX_EMBED_CHARS_PER_TOKEN * self.max_tokens].encode("utf-8", "replace")
        tokens = _tokenized(self._vocab, data, special=False, wants_ends=True)
        if len(tokens) > self.max_tokens:
            is_cut = True
            # The last one may be the mark of the end, which the model expects there.
            tokens = tokens[: self.max_tokens - 1] + tokens[-1:]
        return tokens, is_cut

    def embed(self, texts: Sequence[array[int]]) -> Vectors:
        """A row of unit length per text; zeros for one without tokens."""
        n_tokens = sum(map(len, texts))
        if n_tokens > self.max_tokens or len(texts) > MAX_EMBED_TEXTS:
            raise EngineError(
                f"{len(texts)} texts of {n_tokens} tokens in one call, allowed are "
                f"{MAX_EMBED_TEXTS} of {self.max_tokens}"
            )
        if not self._context:
            raise EngineError("the embedding model is closed")
        rows = np.zeros((len(texts), self._n_dims), np.float32)
        pieces = [Piece(SlotId(i), 0, text, True) for i, text in enumerate(texts) if len(text)]
        if not pieces:
            return rows
        self._batch.fill(pieces)
        self._batch.wants_logits[:n_tokens] = 1
        if int(self._batch.token[:n_tokens].view(np.uint32).max()) >= self._n_vocab:
            raise EngineError(f"a token past the vocabulary of {self._n_vocab}")
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, True)
            code = llama_cpp.llama_decode(self._context, self._batch.struct)
        else:  # a model that looks ahead keeps nothing
            code = llama_cpp.llama_encode(self._context, self._batch.struct)
        if code != 0:
            raise EngineError(f"embedding failed with code {code}: {_log.reason()}")
        for piece in pieces:
            found = llama_cpp.llama_get_embeddings_seq(self._context, piece.slot)
            if not found:
                raise EngineError("the model gave no vector for a text")
            row = np.ctypeslib.as_array(found, (self._n_dims,))
            norm = float(np.linalg.norm(row))
            if not np.isfinite(norm):
                raise EngineError("the model gave a vector that is not finite")
            rows[piece.slot] = row / (norm or 1.0)
        return rows

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
