"""What only the real model has: loading, llama.cpp's own samplers as oracles, threads, the log."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aiosd.engine import sampling as arithmetic
from aiosd.engine.base import EngineError, GrammarError, Logits, Piece, Sampling
from aiosd.engine.estimate import estimate_bytes
from aiosd.kernel.model import SlotId

if TYPE_CHECKING:
    from aiosd.engine.llama import LlamaModel

pytestmark = pytest.mark.slow

A, B = SlotId(0), SlotId(1)


def a_row(llama: LlamaModel, text: str = "The capital of France is") -> Logits:
    llama.truncate(A, 0)
    return llama.decode([Piece(A, 0, llama.tokenize(text, special=False), True)])[0].copy()


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_slots": 0}, "0 slots, allowed are 1 to 256"),
        ({"n_slots": 257}, "257 slots, allowed are 1 to 256"),
        ({"slot_tokens": 0}, "slots of 0 tokens"),
        ({"n_slots": 8, "n_batch": 7}, "batch of 7 tokens, allowed are 8"),
        ({"kv": "turbo"}, "kv is 'turbo', known are exact, small, fast, unified"),
    ],
)
def test_options_that_would_end_the_process_are_refused(
    model_path: Path, options: dict[str, Any], message: str
) -> None:
    from aiosd.engine.llama import LlamaModel

    with pytest.raises(EngineError, match=message):
        LlamaModel(model_path, **options)


def test_files_that_are_no_models_are_refused_with_the_reason(
    tmp_path: Path, model_path: Path
) -> None:
    from aiosd.engine import llama

    llama.set_log_sink(lambda _level, _line: None)
    (tmp_path / "text").write_text("hello")
    whole = model_path.read_bytes()
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head").write_bytes(whole[:100])
    embedding = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    for key, kind, value in (
        (b"general.architecture", 8, struct.pack("<Q", 4) + b"bert"),
        (b"bert.attention.causal", 7, b"\0"),
    ):
        embedding += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
    (tmp_path / "bert").write_bytes(embedding)
    for name, message in (
        ("missing", "does not exist"),
        ("", "is a directory"),
        ("text", "is not a GGUF file: it begins with b'hell'"),
        ("head", "is cut short"),
        ("short", "can't be loaded: .*"),
        ("bert", "is an embedding model"),
    ):
        with pytest.raises(EngineError, match=message):
            llama.LlamaModel(tmp_path / name)


def test_the_estimate_is_what_llama_cpp_takes(model_path: Path) -> None:
    needs = estimate_bytes(model_path, 8, 1000, "exact")
    assert needs["model"] == model_path.stat().st_size
    assert needs["kv"] == 180 * 2**20  # 8 slots of 1024 cells, 30 layers, 3 heads of 64, K and V
    assert 10 * 2**20 < needs["compute"] < 40 * 2**20
    assert estimate_bytes(model_path, 8, 1000, "small")["kv"] == 95.625 * 2**20
    with pytest.raises(EngineError, match="kv is 'x'"):
        estimate_bytes(model_path, 1, 1, "x")
    with pytest.raises(EngineError, match="does not exist"):
        estimate_bytes(Path("/nowhere"), 1, 1, "exact")


@pytest.mark.parametrize("kv", ["small", "fast", "unified"])
def test_other_layouts_work_and_say_whether_they_are_exact(model_path: Path, kv: str) -> None:
    from aiosd.engine.llama import LlamaModel

    model = LlamaModel(model_path, n_slots=3, slot_tokens=256, kv=kv, n_batch=300)
    assert model.info.is_exact is (kv == "small")
    assert model.info.slot_tokens == (768 if kv == "unified" else 256)
    tokens = model.tokenize("one two three four five six", special=False)
    [row] = model.decode([Piece(A, 0, tokens, True)])
    expected = model.sample(row, Sampling(temperature=0), (), 0)
    model.truncate(A, 4)
    model.copy(A, B)
    room = memoryview(bytearray(model.snapshot_bytes(B)))
    model.save(B, room)
    model.truncate(B, 0)
    assert model.restore(SlotId(2), room)
    pieces = [Piece(slot, 4, tokens[4:], True) for slot in (A, SlotId(2))]
    assert {model.sample(row, Sampling(temperature=0), (), 0) for row in model.decode(pieces)} == {
        expected
    }
    model.close()


def test_a_unified_model_that_is_full_says_so_and_keeps_what_it_has(model_path: Path) -> None:
    from aiosd.engine.base import OutOfCells
    from aiosd.engine.llama import LlamaModel, set_log_sink

    set_log_sink(lambda _level, _line: None)
    model = LlamaModel(model_path, n_slots=2, slot_tokens=256, kv="unified")
    model.decode([Piece(A, 0, [1000] * 300, False)])
    with pytest.raises(OutOfCells, match="no room for 300 tokens"):
        model.decode([Piece(B, 0, [1000] * 300, False)])
    assert (model.n_cells(A), model.n_cells(B)) == (300, 0)
    model.decode([Piece(B, 0, [1000] * 200, False)])
    model.close()


def test_a_closed_model_answers_with_errors(model_path: Path) -> None:
    from aiosd.engine.llama import LlamaModel

    model = LlamaModel(model_path, n_slots=1, slot_tokens=256)
    model.close()
    model.close()
    for call in (
        lambda: model.tokenize("a", special=False),
        lambda: model.decode([Piece(A, 0, [1], True)]),
        lambda: model.n_cells(A),
        lambda: model.snapshot_bytes(A),
        lambda: model.set_threads(1),
    ):
        with pytest.raises(EngineError, match="the model is closed"):
            call()


def test_the_fingerprint_tells_layouts_apart_and_files(model_path: Path) -> None:
    from aiosd.engine.llama import LlamaModel

    prints = set()
    for options in ({}, {}, {"kv": "small"}, {"slot_tokens": 512}, {"n_slots": 2}):
        model = LlamaModel(
            model_path,
            **{"n_slots": 1, "slot_tokens": 256, **options},  # type: ignore[arg-type]
        )
        prints.add(model.info.fingerprint)
        model.close()
    assert len(prints) == 4


# ---------------------------------------------------------------- promise 1 for other weights


@pytest.mark.parametrize("use_extra_buffers", [False, True])
def test_packed_and_plain_kernels_are_exact_for_the_weights_as_they_came(
    use_extra_buffers: bool,
) -> None:
    from aiosd import models
    from aiosd.engine.llama import LlamaModel

    model = LlamaModel(
        models.packaged_source(), n_slots=4, slot_tokens=768, use_extra_buffers=use_extra_buffers
    )
    tokens = list(range(1000, 1600))
    assert model.decode([Piece(A, 0, tokens[:512], False)]) == []
    [row] = model.decode([Piece(A, 512, tokens[512:], True)])
    expected = row.copy()
    for slot in (1, 2, 3):
        for begin in range(0, 599, 37):
            end = min(begin + 37, 599)
            model.decode([Piece(SlotId(slot), begin, tokens[begin:end], False)])
    pieces = [Piece(SlotId(slot), 599, tokens[599:], True) for slot in (1, 2, 3)]
    assert [row.tobytes() == expected.tobytes() for row in model.decode(pieces)] == [True] * 3
    model.close()


# ---------------------------------------------------------------- oracles in C


def test_penalties_are_bit_for_bit_those_of_llama_cpp(llama: LlamaModel) -> None:
    import llama_cpp

    row = a_row(llama)
    recent = llama.tokenize("Paris is the the the capital capital of, of France", special=False)
    sampling = Sampling(repeat_penalty=1.17, frequency_penalty=0.31, presence_penalty=0.77)
    candidates = np.zeros(len(row), [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    candidates["id"], candidates["logit"] = np.arange(len(row)), row
    penalties = llama_cpp.llama_sampler_init_penalties(len(row), 64, 1.17, 0.31, 0.77)
    for token in recent:
        llama_cpp.llama_sampler_accept(penalties, token)
    array = llama_cpp.llama_token_data_array()
    array.data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    array.size, array.selected, array.sorted = len(row), -1, False
    llama_cpp.llama_sampler_apply(penalties, ctypes.byref(array))
    llama_cpp.llama_sampler_free(penalties)
    ours = arithmetic.penalized(row, sampling, recent)
    assert ours.tobytes() == candidates["logit"].tobytes()


GRAMMARS = (
    'root ::= "{" ws "\\"name\\"" ws ":" ws string "}"\n'
    'string ::= "\\"" ([^"\\\\\\x7F\\x00-\\x1F] | "\\\\" ["\\\\bfnrt])* "\\""\nws ::= [ \\t\\n]*',
    'root ::= ("yes" | "no" | "maybe") ("," " "? root)?',
    "root ::= [a-zA-Z ,.]+ [0-9]{2,4}",
    'root ::= "The" [^q]* "end"',
    "root ::= (a | b)+\na ::= [ -~]\nb ::= [à-ÿ] .",
)


@pytest.mark.parametrize("text", GRAMMARS)
def test_masks_are_those_of_llama_cpp(llama: LlamaModel, text: str) -> None:
    """Step by step along what the model would say.  Control tokens aside, whose texts llama.cpp
    takes for words, and pieces that aren't ASCII, where it lets some invalid UTF-8 pass."""
    import llama_cpp

    comparable = np.array(
        [len(p) > 0 and p.isascii() and b"\0" not in p for p in llama._pieces], np.bool_
    )
    comparable[list(llama.info.eog)] = True
    oracle = llama_cpp.llama_sampler_init_grammar(llama._vocab, text.encode(), b"root")
    assert oracle
    grammar = llama.grammar(text)
    row = a_row(llama)
    candidates = np.zeros(len(row), [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    array = llama_cpp.llama_token_data_array()
    for index in range(12):
        candidates["id"], candidates["logit"] = np.arange(len(row)), row
        array.data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        array.size, array.selected, array.sorted = len(row), -1, False
        llama_cpp.llama_sampler_apply(oracle, ctypes.byref(array))
        masked = grammar.mask(row)
        assert ((masked == -np.inf) == (candidates["logit"] == -np.inf))[comparable].all()
        token = llama.sample(
            np.where(comparable, masked, np.float32(-np.inf)), Sampling(seed=3), (), index
        )
        if token in llama.info.eog:
            break
        grammar.accept(token)
        llama_cpp.llama_sampler_accept(oracle, token)
        [row] = llama.decode([Piece(A, llama.n_cells(A), [token], True)])
    llama_cpp.llama_sampler_free(oracle)


@pytest.mark.parametrize(
    "text",
    [
        's ::= " " s "b" | " " s "c" | " "\nroot ::= s',
        's ::= [^z] s "b" | [^z] s "c" | [^z] s "d" | [^z]\nroot ::= s',
        'root ::= ([a-z]* [a-z]* [a-z]* " "?)*',
        "root ::= " + "[a-z]? " * 1000,
    ],
)
def test_grammars_that_would_hang_llama_cpp_do_not_hang_this(llama: LlamaModel, text: str) -> None:
    begin = time.process_time()
    try:
        llama.grammar(text).mask(a_row(llama))
    except GrammarError as error:
        assert "ambiguous" in str(error)  # noqa: PT017 - an answer is fine as well
    assert time.process_time() - begin < 20


# ---------------------------------------------------------------- sampling


def test_a_thousand_sets_of_parameters_keep_the_chains_bounded(llama: LlamaModel) -> None:
    from aiosd.engine.llama import MAX_CHAINS

    row = a_row(llama)
    first = llama.sample(row, Sampling(temperature=0.5, seed=1), (), 0)
    for n in range(1000):
        llama.sample(row, Sampling(temperature=0.5 + n / 1000, seed=1), (), 0)
    assert len(llama._chains._chains) == MAX_CHAINS
    assert llama.sample(row, Sampling(temperature=0.5, seed=1), (), 0) == first


def test_draw_seeds_are_spread_and_never_the_one_that_means_random() -> None:
    seeds = [arithmetic.draw_seed(seed, index) for seed in range(100) for index in range(100)]
    assert len(set(seeds)) > 9980
    assert max(seeds) < 2**32 - 1
    assert arithmetic.draw_seed(7, 3) == 4247925832


# ---------------------------------------------------------------- threads, log, vocabulary


def test_tokenising_on_other_threads_while_decoding(llama: LlamaModel) -> None:
    text = "Grüße from many threads, <|im_end|> 😀 " * 50
    expected = llama.tokenize(text, special=True)
    wrong: list[int] = []
    stop = threading.Event()

    def tokenise() -> None:
        while not stop.is_set():
            if llama.tokenize(text, special=True) != expected:
                wrong.append(1)

    others = [threading.Thread(target=tokenise) for _ in range(3)]
    for thread in others:
        thread.start()
    rows = []
    for _ in range(20):
        rows.append(a_row(llama).tobytes())
    stop.set()
    for thread in others:
        thread.join()
    assert not wrong
    assert len(set(rows)) == 1


def test_a_mebibyte_of_text_is_tokenised_and_more_than_the_limit_refused(
    llama: LlamaModel,
) -> None:
    from aiosd.engine.llama import MAX_TEXT_BYTES

    for text in ("hello world " * 87_381, "<|im_start|>" * 87_381):
        assert llama.tokenize(text, special=True)
    with pytest.raises(EngineError, match=f"limit is {MAX_TEXT_BYTES}"):
        llama.tokenize("a" * (MAX_TEXT_BYTES + 1), special=False)


def test_only_complaints_reach_the_log_and_nothing_is_called_after_the_end(
    model_path: Path,
) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom aiosd.engine import llama\n"
        "lines = []\nllama.set_log_sink(lambda level, line: lines.append((level, line)))\n"
        f"model = llama.LlamaModel(Path({str(model_path)!r}), n_slots=1, slot_tokens=256)\n"
        "assert not lines, lines\n"
        "try:\n    llama.quantize(Path('/nowhere/a'), Path('/nowhere/b'), 1)\n"
        "except Exception as error:\n    print(error)\n"
        "assert lines and {level for level, _ in lines} <= {'warning', 'error'}\n"
        "print('end')\n"  # and leaves without close()
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "end"
    assert "/nowhere/a can't be quantised" in done.stdout
