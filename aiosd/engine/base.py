"""What the engine is made of: the Model protocol, and the plain values that cross the thread.

Rule 1: tokens are the truth, cells (KV) are a derived prefix of them.
Rule 2: everything here is blocking and is called on the engine thread, except the members of
Vocabulary, which read only the vocabulary and may be called from any thread.

Two implementations of Model exist, llama.LlamaModel and fake.FakeModel, and one contract suite
(tests/engine/test_model_contract.py) runs on both.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aiosd.kernel.model import ContextId, JobId, Lane, LaneReport, SlotId

Logits = npt.NDArray[np.float32]
"""One row, shape (n_vocab,), a view that the next decode overwrites."""

Vectors = npt.NDArray[np.float32]
"""Rows of unit length, shape (n_texts, n_dims)."""

MAX_SEED = 2**32 - 2  # llama.cpp reads 0xFFFFFFFF as "random"


class EngineError(Exception):
    """The model refused or failed; str() says what, for the client and the log."""


class OutOfCells(EngineError):  # noqa: N818 - it says what is, and nothing is broken
    """llama_decode returned 1: no room for the batch, state unchanged."""


class GrammarError(EngineError):
    """A grammar that can't be compiled, or is past a limit."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampler's parameters, as in llm.generate.  temperature 0 is greedy."""

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


PENALTY_WINDOW = 64
"""Penalties look at the last 64 tokens of the context, the prompt included."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """All the engine needs to run one job; it travels with the job's first Run.

    uid         whose it is: work is shared within a uid only
    tokens      the context's log followed by this call's prompt (C int32), never changed afterwards
    n_log       how many of them were in the log before this call
    max_tokens  most tokens it gives, ``output`` included; 0: read all tokens and end, say nothing
    grammar     GBNF text, or None
    marker      what begins calls of tools in the output: a text, or a control token; "": they
                begin at once; None: nothing
    output      the tokens of the Outputs that the job gave before a restart.  It goes on as if it
                had just given them: their words come once more, without logprobs, what follows
                is what would have followed.  Only of a job that had not ended: the Output that
                comes with an Ending may hold tokens that the model didn't say (text.py, rule 4).
    """

    job: JobId
    context: ContextId
    tokens: array[int]
    n_log: int
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    marker: str | int | None = None
    n_logprobs: int = 0
    ignore_eos: bool = False
    uid: int = 0
    output: array[int] = field(default_factory=lambda: array("i"))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What the model (before temperature and penalties) thought of one token it gave."""

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, slots=True)
class Output:
    """Words of one job that may be shown now: held back while they could still become a stop
    string or half a UTF-8 character.  Joined they are exactly the job's final text and tokens.
    calls: what the tokens say from the marker on; it isn't part of the text."""

    job: JobId
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended in the engine: finish is "stop", "length" or "stop_string"; error only for
    a failed one.  is_open says that the log ends inside the turn (anything but an end token)."""

    job: JobId
    finish: str
    stop_string: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: per lane what it cost, what may be shown, which jobs ended.

    n_cached  how many of its spec's tokens a job did not have to read so far: at its first step,
              and if it grows
    rereading those whose lane read again what it had lost, beyond the last token
    leaders   who waits for whose reading: job -> the job that reads what it will need
    """

    lanes: tuple[LaneReport, ...]
    outputs: tuple[Output, ...] = ()
    endings: tuple[Ending, ...] = ()
    n_cached: dict[JobId, int] = field(default_factory=dict)
    first_tokens: tuple[JobId, ...] = ()
    rereading: frozenset[JobId] = frozenset()
    leaders: dict[JobId, JobId] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a loaded model, read once."""

    name: str
    path: str
    n_params: int
    n_vocab: int
    n_ctx_train: int
    n_slots: int
    slot_tokens: int  # cells of one slot
    max_batch_tokens: int  # of one decode
    chat_template: str | None
    bos_text: str
    eos_text: str
    adds_bos: bool  # the tokenizer wants BOS at the start of a sequence
    eog: frozenset[int]  # end-of-generation tokens
    control_texts: tuple[str, ...]  # the texts of control tokens, e.g. <|im_start|>
    is_exact: bool  # KV layout and types for which scheduling never changes an answer
    weights: str  # what kind they are of, e.g. "Q8_0", as the library names it
    n_bytes: int  # of the weights
    has_fast_kernels: bool  # this CPU has kernels that take several of such a row at once
    fingerprint: str  # model file, library version, KV types, layout, slot size


class Vocabulary(Protocol):
    """Text <-> tokens.  Safe on any thread."""

    def tokenize(self, text: str, *, special: bool) -> array[int]:
        """Tokens of the text, no BOS added.  special: whether control tokens' texts become them."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of one token as shown to a person (control tokens: nothing).  ValueError if
        the id is out of range."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens to read in one decode: they go to positions start, start+1, … of the slot."""

    slot: SlotId
    start: int
    tokens: Sequence[int]
    wants_logits: bool  # of its last token


class Grammar(Protocol):
    """A compiled grammar and where it stands.  Belongs to one job; survives parking."""

    @property
    def is_complete(self) -> bool:
        """Only an end token can follow, or one has."""
        ...

    def allows(self, token: int) -> bool: ...
    def mask(self, logits: Logits) -> Logits:
        """A copy in which what the grammar forbids is -inf."""
        ...

    def accept(self, token: int) -> None: ...
    def close(self) -> None: ...


class Model(Vocabulary, Protocol):
    """One loaded model with its slots.  Checks in Python every precondition that would end the
    process (FACTS: calls that kill) and raises EngineError instead."""

    @property
    def info(self) -> ModelInfo: ...

    def decode(self, pieces: Sequence[Piece]) -> list[Logits]:
        """Read the pieces in one batch; one row for each that wants logits, in their order.
        Raises OutOfCells (nothing changed) or EngineError (the pieces' slots are undefined)."""
        ...

    def n_cells(self, slot: SlotId) -> int:
        """How many tokens the slot holds (positions 0 to n-1)."""
        ...

    def truncate(self, slot: SlotId, n_tokens: int) -> bool:
        """Forget all positions from n_tokens on.  False if this model can't (recurrent)."""
        ...

    def copy(self, source: SlotId, target: SlotId) -> None:
        """Make the target hold what the source holds."""
        ...

    def snapshot_bytes(self, slot: SlotId) -> int: ...

    def save(self, slot: SlotId, buffer: memoryview) -> int:
        """Write the slot's cells into the buffer, return the bytes used.  Raises EngineError."""
        ...

    def restore(self, slot: SlotId, data: memoryview) -> bool:
        """Fill the slot from bytes that save() wrote.  False: the slot is empty, re-read."""
        ...

    def sample(self, logits: Logits, sampling: Sampling, recent: Sequence[int], index: int) -> int:
        """Choose a token: a pure function of its arguments.  recent: the last PENALTY_WINDOW
        tokens; index: how many this job has sampled before (the draw's number)."""
        ...

    def grammar(self, gbnf: str) -> Grammar:
        """Compile.  GrammarError says why not."""
        ...

    def set_threads(self, n_threads: int) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class EngineStats:
    """Counted on the engine thread, read anywhere (each field is written by one thread only)."""

    steps: int = 0
    prompt_tokens: int = 0  # read for the first time
    reread_tokens: int = 0  # read again after a lost snapshot, or a restart in mid-answer
    cached_tokens: int = 0  # did not have to be read
    output_tokens: int = 0
    snapshot_ram_bytes: int = 0
    prefix_ram_bytes: int = 0
    snapshot_file_bytes: int = 0
    snapshot_files: int = 0
    snapshots_lost: int = 0
    snapshot_files_bad: int = 0  # damaged, unreadable or refused when they were to be used
    snapshot_writes_failed: int = 0  # e.g. a full disk
    busy_ns: int = 0
    n_threads: int = 0


class Stepper(Protocol):
    """What the engine thread drives: engine.Engine (on any Model)."""

    stats: EngineStats

    def open(self, spec: JobSpec) -> None:
        """Make a job known.  Raises EngineError (e.g. its grammar doesn't compile): the job
        then ends as FAILED and nothing has changed."""
        ...

    def close(self, job: JobId) -> None:
        """Forget a job, finished or not."""
        ...

    def load(self, context: ContextId, slot: SlotId) -> None: ...
    def save(self, context: ContextId, slot: SlotId) -> None: ...
    def clear(self, slot: SlotId) -> None:
        """Empty the slot."""
        ...

    def release(self, slot: SlotId) -> None:
        """The slot is nobody's now; what it holds may serve others of its uid until it is used."""
        ...

    def move(self, context: ContextId, source: SlotId, target: SlotId) -> None: ...

    def forget(self, context: ContextId) -> None:
        """The context was deleted: drop its snapshots."""
        ...

    def tidy(self, idle_s: float) -> float | None:
        """Do a small piece of work that can wait, there having been no command for idle_s.  In how
        many seconds (0: now) to call again; None: not before another command."""
        ...

    def step(self, lanes: Sequence[Lane]) -> StepReport: ...


class EmbeddingContext(Protocol):
    """Turns texts into vectors; on one thread.  max_tokens: of one embed() call, and of one text.
    EngineError: what can't be embedded."""

    @property
    def max_tokens(self) -> int: ...

    def tokenize(self, text: str) -> tuple[array[int], bool]:
        """The tokens that count, and whether the text was cut to them."""
        ...

    def embed(self, texts: Sequence[array[int]]) -> Vectors: ...

    def close(self) -> None: ...
