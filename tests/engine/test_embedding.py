"""Turning texts into vectors: the contract on the fake and the real model, and the thread."""

from __future__ import annotations

import queue
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from aiosd import models
from aiosd.engine.base import EmbeddingContext, EngineError, Vectors
from aiosd.engine.embedding import MAX_CALL_TEXTS, Embedded, EmbeddingThread
from aiosd.engine.fake_embedding import FakeEmbedding

WAIT_S = 60


@pytest.fixture(scope="session")
def embedder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedding model that comes along, ready to load; made here if set-up hasn't."""
    prepared = models.packaged_dir() / models.EMBEDDER.target
    if prepared.exists():
        return prepared
    return models.prepare_embedder(tmp_path_factory.mktemp("models"), lambda _: None)


@pytest.fixture(params=["fake", pytest.param("llama", marks=pytest.mark.slow)])
def context(request: pytest.FixtureRequest) -> Iterator[EmbeddingContext]:
    if request.param == "fake":
        yield FakeEmbedding().context()
        return
    from aiosd.engine.llama import LlamaEmbedding

    model = LlamaEmbedding(request.getfixturevalue("embedder_path"))
    made = model.context()
    yield made
    made.close()
    model.close()


def vectors(context: EmbeddingContext, *texts: str) -> Vectors:
    return context.embed([context.tokenize(text)[0] for text in texts])


def test_a_text_has_the_same_vector_alone_and_among_others(context: EmbeddingContext) -> None:
    texts = ["a man eats", "words", "a man eats bread", "a"]
    together = vectors(context, *texts)
    for row, text in zip(together, texts, strict=True):
        assert np.abs(row - vectors(context, text)[0]).max() < 1e-5
        assert float(np.linalg.norm(row)) == pytest.approx(1, abs=1e-5)
    assert together[0] @ together[2] > together[0] @ together[1]


def test_a_long_text_is_cut_and_says_so(context: EmbeddingContext) -> None:
    tokens, is_cut = context.tokenize("word " * 2 * context.max_tokens)
    assert (len(tokens), is_cut) == (context.max_tokens, True)
    assert context.embed([tokens]).shape[0] == 1
    assert context.tokenize("word")[1] is False
    tokens, is_cut = context.tokenize("x" * 10**6)
    assert len(tokens) <= context.max_tokens


def test_texts_without_words_and_no_texts_at_all_are_no_failure(context: EmbeddingContext) -> None:
    rows = vectors(context, "", "word", " \0 ")
    assert np.isfinite(rows).all()
    assert len(context.embed([])) == 0


def test_what_would_end_the_process_is_refused(context: EmbeddingContext) -> None:
    tokens, _ = context.tokenize("word " * 2 * context.max_tokens)
    with pytest.raises(EngineError, match=f"{len(tokens) + 1} tokens in one call"):
        context.embed([tokens, tokens[:1]])
    with pytest.raises(EngineError, match="65 texts"):
        context.embed([tokens[:1]] * 65)
    for bad in (10**6, -1):
        with pytest.raises(EngineError, match="vocabulary"):
            context.embed([array("i", [bad])])
    context.close()
    with pytest.raises(EngineError, match="closed"):
        context.embed([tokens[:1]])


@pytest.mark.slow
def test_the_converted_model_knows_what_is_alike(embedder_path: Path) -> None:
    from aiosd.engine.llama import LlamaEmbedding

    model = LlamaEmbedding(embedder_path)
    context = model.context()
    eats, bread, cluster = vectors(
        context,
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "Kubernetes cluster autoscaling",
    )
    assert float(eats @ bread) == pytest.approx(0.755, abs=0.005)
    assert float(eats @ cluster) == pytest.approx(0.07, abs=0.005)
    assert (model.n_dims, context.max_tokens) == (384, 512)
    context.close()
    model.close()


@pytest.mark.slow
def test_a_model_that_generates_is_refused_as_an_embedder(model_path: Path, tmp_path: Path) -> None:
    from aiosd.engine.llama import LlamaEmbedding

    model = LlamaEmbedding(model_path)
    with pytest.raises(EngineError, match="no vector for a whole text"):
        model.context()
    model.close()
    with pytest.raises(EngineError, match="does not exist"):
        LlamaEmbedding(tmp_path / "none.gguf")


# ---------------------------------------------------------------- the thread

Home = tuple[Embedded | None, Exception | None]


def home() -> tuple[queue.Queue[Home], Callable[[Embedded | None, Exception | None], None]]:
    box: queue.Queue[Home] = queue.Queue()
    return box, lambda embedded, error: box.put((embedded, error))


class Recording:
    """A context that tells what it was asked in one call; "bad" in a text makes the call fail."""

    max_tokens = 40

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[list[int]] = []
        self.closed = threading.Event()

    def tokenize(self, text: str) -> tuple[array[int], bool]:
        return array("i", map(ord, text))[:40], len(text) > 40

    def embed(self, texts: Sequence[array[int]]) -> Vectors:
        assert self.gate.wait(WAIT_S)
        self.calls.append([text[0] for text in texts])
        if any(ord("!") in text for text in texts):
            raise EngineError("bad text")
        return np.array([[text[0], len(text)] for text in texts], np.float32)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def recording() -> Iterator[tuple[Recording, EmbeddingThread]]:
    context = Recording()
    thread = EmbeddingThread(context, "test", niceness=1)
    thread.start()
    yield context, thread
    context.gate.set()
    assert thread.stop(WAIT_S)
    assert context.closed.is_set()


def test_requests_take_turns_so_that_a_long_one_holds_up_no_short_one(
    recording: tuple[Recording, EmbeddingThread],
) -> None:
    context, thread = recording
    first, done_first = home()
    thread.put(["F" * 40], done_first)  # keeps the thread while the others come
    long, done_long = home()
    thread.put(["L" * 20] * 6, done_long)
    short, done_short = home()
    thread.put(["S" * 20], done_short)
    context.gate.set()
    embedded, error = long.get(timeout=WAIT_S)
    assert embedded is not None
    assert (embedded.rows.tolist(), error) == ([[ord("L"), 20]] * 6, None)
    assert first.get(timeout=WAIT_S)[0] is not None
    assert short.get(timeout=WAIT_S)[0] is not None
    places = [call for call in context.calls if ord("S") in call]
    assert context.calls.index(places[0]) <= 2  # with or right after the first of the long ones


def test_a_text_that_fails_fails_its_request_alone(
    recording: tuple[Recording, EmbeddingThread],
) -> None:
    context, thread = recording
    boxes = []
    for texts in (["a", "b!", "c"], ["d"], []):
        box, done = home()
        thread.put(texts, done)
        boxes.append(box)
    context.gate.set()
    embedded, error = boxes[0].get(timeout=WAIT_S)
    assert embedded is None
    assert str(error) == "bad text"
    embedded, error = boxes[1].get(timeout=WAIT_S)
    assert embedded is not None
    assert embedded.rows.tolist() == [[ord("d"), 1]]
    embedded, _ = boxes[2].get(timeout=WAIT_S)
    assert embedded is not None
    assert len(embedded.rows) == 0


def test_what_was_dropped_is_not_computed_and_not_told(
    recording: tuple[Recording, EmbeddingThread],
) -> None:
    context, thread = recording
    first, done = home()
    thread.put(["a" * 40], done)
    dropped, done = home()
    request = thread.put(["b" * 40] * 3, done)
    last, done = home()
    thread.put(["c" * 40], done)
    thread.drop(request)
    thread.drop(request)
    context.gate.set()
    assert first.get(timeout=WAIT_S)[0] is not None
    assert last.get(timeout=WAIT_S)[0] is not None
    assert dropped.empty()
    assert sum(ord("b") in call for call in context.calls) <= 1  # one may have been under way
    assert thread.n_texts == 0


def test_calls_are_filled_up_to_their_limits(recording: tuple[Recording, EmbeddingThread]) -> None:
    context, thread = recording
    box, done = home()
    context.gate.set()
    thread.put(["x"] * (3 * MAX_CALL_TEXTS) + ["y" * 50], done)
    embedded, _ = box.get(timeout=WAIT_S)
    assert embedded is not None
    assert embedded.cut == (3 * MAX_CALL_TEXTS,)
    assert [len(call) for call in context.calls] == [16, 16, 16, 1]


def test_what_waits_at_the_end_is_told(recording: tuple[Recording, EmbeddingThread]) -> None:
    context, thread = recording
    begun, done = home()
    thread.put(["a" * 40], done)
    waiting, done = home()
    thread.put(["b" * 40], done)
    stopping = threading.Thread(target=thread.stop, args=(WAIT_S,))
    stopping.start()
    while not thread._is_stopping:  # nothing tells when it was told
        pass
    context.gate.set()
    stopping.join(WAIT_S)
    results = [begun.get(timeout=WAIT_S), waiting.get(timeout=WAIT_S)]
    assert any("shutting down" in str(error) for _, error in results)
