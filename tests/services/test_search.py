"""Search: by words, by vectors, fused; whose documents are found, and what becomes of vectors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosd.kernel.model import AgentId
from aiosd.services import documents, search
from aiosd.services.database import Database, Transaction
from aiosd.services.documents import Kind, Mode, Owner
from aiosd.services.search import Embedder, Found, Search
from aiosd.services.vectors import MAX_ROWS, VectorSet, nearest
from tests.services.embedder import WordsEmbedder
from tests.services.opened import in_memory, opened

T = TypeVar("T")
MINE = Owner(Kind.MEMORY, AgentId(1000, "alice"))
HERS = Owner(Kind.MEMORY, AgentId(1000, "bob"))
STRANGERS = Owner(Kind.MEMORY, AgentId(2000, "alice"))
FILES = Owner(Kind.STORAGE, AgentId(1000, "alice"))


async def in_place(work: Callable[[], T]) -> T:
    return work()


@contextlib.asynccontextmanager
async def searching(
    path: Path, embedder: Embedder | None = None, ram_bytes: int = 2**20
) -> AsyncIterator[tuple[Database, Search]]:
    async with opened(path) as db, asyncio.TaskGroup() as tasks:
        found = Search(db, embedder, in_place, ram_bytes=ram_bytes)
        await found.start()
        task = tasks.create_task(found.run())
        try:
            yield db, found
        finally:
            task.cancel()


async def put(
    db: Database, asked: Search, owner: Owner, *texts: str, tags: Sequence[str] = ()
) -> list[int]:
    await asked.ready(owner)
    return await db.write(
        lambda t: [documents.put(t, owner, text, tags) for text in texts],
        lambda _: asked.committed(),
    )


async def remove(db: Database, asked: Search, owner: Owner, docs: Sequence[int]) -> None:
    await db.write(lambda t: documents.remove(t, owner, docs), asked.committed)


async def embedded(db: Database, asked: Search, *owners: Owner) -> None:
    """Wait until all documents of the owners have vectors."""
    async with asyncio.timeout(60):
        for owner in owners:
            while await asked.n_pending(owner):  # noqa: ASYNC110 - each turn is a read
                await asyncio.sleep(0)
    await db.write(lambda _: None)  # and what was told of the last commit has been told


def docs_of(found: Found) -> list[int]:
    return [hit.doc for hit in found.hits]


def test_words_are_found_in_any_form_best_match_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db") as (db, asked):
            docs = await put(
                db, asked, MINE, "the cat sat", "cats and CATS running", "a Café, no animals"
            )
            found = await asked.search(MINE, "cat run", 5, Mode.WORDS)
            assert docs_of(found) == [docs[1], docs[0]]
            assert found.hits[0].score > found.hits[1].score > 0
            assert docs_of(await asked.search(MINE, "cafe", 5, Mode.WORDS)) == [docs[2]]
            assert docs_of(await asked.search(MINE, "cat", 1, Mode.WORDS)) == [docs[1]]
            assert docs_of(await asked.search(MINE, "dog", 5, Mode.WORDS)) == []
            text = "STRASSE, Straße, snake_case, İstanbul, e\u0301tude"
            (street,) = await put(db, asked, MINE, text)
            for query in ("Straße", "strasse", "snake", "İstanbul", "étude", "snake_case"):
                assert docs_of(await asked.search(MINE, query, 5, Mode.WORDS)) == [street]

    asyncio.run(main())


@pytest.mark.parametrize("mode", list(Mode))
def test_nobody_elses_documents_are_found(tmp_path: Path, mode: Mode) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db", WordsEmbedder()) as (db, asked):
            others = (HERS, STRANGERS, FILES)
            for owner in others:
                await put(db, asked, owner, "a secret word", "another secret")
            await embedded(db, asked, *others)
            assert (await asked.search(MINE, "secret", 9, mode)).hits == ()
            docs = await put(db, asked, MINE, "my secret")
            await embedded(db, asked, MINE)
            assert docs_of(await asked.search(MINE, "secret", 9, mode)) == docs

    asyncio.run(main())


def test_a_score_does_not_tell_of_another_uids_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db") as (db, asked):
            await put(db, asked, MINE, "a rare word", "and something else", "and more of it")
            before = await asked.search(MINE, "rare word", 9, Mode.WORDS)
            await put(db, asked, STRANGERS, *["a rare word, again"] * 20)
            await put(db, asked, FILES, *["a rare word, again"] * 20)
            assert await asked.search(MINE, "rare word", 9, Mode.WORDS) == before

    asyncio.run(main())


@pytest.mark.parametrize("mode", list(Mode))
def test_only_documents_with_all_the_tags_count(tmp_path: Path, mode: Mode) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db", WordsEmbedder()) as (db, asked):
            both = await put(db, asked, MINE, "red apple", tags=["fruit", "red", "red"])
            await put(db, asked, MINE, "red apple", tags=["fruit"])
            await put(db, asked, HERS, "red apple", tags=["fruit", "red"])
            await embedded(db, asked, MINE, HERS)
            found = await asked.search(MINE, "apple", 9, mode, ["red", "fruit", "red"])
            assert docs_of(found) == both
            assert (await asked.search(MINE, "apple", 9, mode, ["blue"])).hits == ()

    asyncio.run(main())


def test_without_an_embedder_it_says_that_it_used_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db") as (db, asked):
            docs = await put(db, asked, MINE, "one two")
            for mode in (Mode.HYBRID, Mode.VECTORS):
                found = await asked.search(MINE, "two", 5, mode)
                assert (found.mode, docs_of(found)) == (Mode.WORDS, docs)
                assert found.reason == "no embedder is loaded: found by words only"

    asyncio.run(main())


def test_a_document_without_a_vector_yet_is_found_by_its_words(tmp_path: Path) -> None:
    async def main() -> None:
        embedder = WordsEmbedder()
        embedder.gate.clear()
        async with searching(tmp_path / "db", embedder) as (db, asked):
            docs = await put(db, asked, MINE, "one two")
            found = await asked.search(MINE, "two", 5, Mode.HYBRID)
            assert (found.mode, docs_of(found)) == (Mode.HYBRID, docs)
            assert found.hits[0].similarity is None
            assert await asked.n_pending(MINE) == 1
            embedder.gate.set()
            await embedded(db, asked, MINE)
            (hit,) = (await asked.search(MINE, "two", 5, Mode.VECTORS)).hits
            assert hit.similarity == pytest.approx(0.7071, abs=1e-3)
            found = await asked.search(MINE, "one two", 5, Mode.HYBRID)
            assert found.hits[0].score == 1.0  # first both ways

    asyncio.run(main())


def test_vectors_that_find_no_room_in_ram_are_read_every_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db", WordsEmbedder(), ram_bytes=0) as (db, asked):
            docs = await put(db, asked, MINE, "one two", "three four")
            await embedded(db, asked, MINE)
            for _ in range(2):
                found = await asked.search(MINE, "three", 1, Mode.VECTORS)
                assert (docs_of(found), found.reason) == ([docs[1]], None)
            assert asked._shelf.n_bytes == 0

    asyncio.run(main())


def test_a_search_by_vectors_says_how_many_are_still_to_be_made(tmp_path: Path) -> None:
    async def main() -> None:
        embedder = WordsEmbedder()
        embedder.gate.clear()
        async with searching(tmp_path / "db", embedder) as (db, asked):
            await put(db, asked, MINE, "one", "two")
            await put(db, asked, HERS, "three")
            found = await asked.search(MINE, "one", 5, Mode.VECTORS)
            assert (found.hits, found.reason) == ((), "2 documents have no vector yet")

    asyncio.run(main())


def test_what_is_removed_is_found_no_more_and_its_number_not_used_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db", WordsEmbedder()) as (db, asked):
            first, second = await put(db, asked, MINE, "one two", "two three")
            await embedded(db, asked, MINE)
            assert len((await asked.search(MINE, "two", 5, Mode.VECTORS)).hits) == 2
            await remove(db, asked, HERS, [first])  # not hers: nothing happens
            await remove(db, asked, MINE, [second, 12345])
            for mode in Mode:
                assert docs_of(await asked.search(MINE, "two", 5, mode)) == [first]
            (third,) = await put(db, asked, MINE, "two four")
            assert third not in (first, second)

    asyncio.run(main())


def test_vectors_of_another_embedder_are_made_again_in_the_background(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "db"
        async with searching(path, WordsEmbedder("words-1")) as (db, asked):
            docs = await put(db, asked, MINE, "one two", "three four")
            await embedded(db, asked, MINE)
        again = WordsEmbedder("words-2")
        again.gate.clear()
        async with searching(path, again) as (db, asked):
            assert (await asked.search(MINE, "one", 5, Mode.VECTORS)).hits == ()
            assert docs_of(await asked.search(MINE, "one", 5, Mode.HYBRID)) == [docs[0]]
            again.gate.set()
            await embedded(db, asked, MINE)
            assert docs_of(await asked.search(MINE, "one", 1, Mode.VECTORS)) == [docs[0]]
        kept = WordsEmbedder("words-2")
        async with searching(path, kept) as (db, asked):
            await embedded(db, asked, MINE)
            assert docs_of(await asked.search(MINE, "one", 1, Mode.VECTORS)) == [docs[0]]
            assert kept.batches == []  # all of them were on the disk

    asyncio.run(main())


def test_owners_take_turns_when_vectors_are_made(tmp_path: Path) -> None:
    async def main() -> None:
        embedder = WordsEmbedder()
        embedder.gate.clear()
        async with searching(tmp_path / "db", embedder) as (db, asked):
            await put(db, asked, MINE, *[f"mine {n}" for n in range(3 * documents.BATCH_DOCS)])
            await put(db, asked, HERS, "hers")
            embedder.gate.set()
            await embedded(db, asked, MINE, HERS)
        assert ["hers"] in embedder.batches[:3]

    asyncio.run(main())


def test_a_text_that_cant_be_embedded_holds_up_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        embedder = WordsEmbedder()
        async with searching(tmp_path / "db", embedder) as (db, asked):
            docs = await put(db, asked, MINE, "one", "unreadable two", "three")
            await embedded(db, asked, MINE)
            found = await asked.search(MINE, "three", 1, Mode.VECTORS)
            assert docs_of(found) == [docs[2]]
            assert docs_of(await asked.search(MINE, "two", 1, Mode.WORDS)) == [docs[1]]

    asyncio.run(main())


def test_what_is_committed_while_vectors_are_read_counts(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "db"
        async with searching(path, WordsEmbedder()) as (db, asked):
            kept, gone = await put(db, asked, MINE, "one kept", "one gone")
            await embedded(db, asked, MINE)
        async with searching(path, WordsEmbedder()) as (db, asked), asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(asked.search(MINE, "one", 9, Mode.VECTORS))
            await remove(db, asked, MINE, [gone])
            (new,) = await put(db, asked, MINE, "one new")
            await looking
            await embedded(db, asked, MINE)
            assert sorted(docs_of(await asked.search(MINE, "one", 9, Mode.VECTORS))) == [kept, new]

    asyncio.run(main())


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_query_is_taken_for_syntax(query: str) -> None:
    with in_memory() as t:
        t.execute("CREATE VIRTUAL TABLE texts USING fts5 (text)")
        t.execute("INSERT INTO texts VALUES ('near and or not text: star*')")
        expression = documents.match_expression(query)
        if expression is not None:
            t.execute("SELECT * FROM texts WHERE texts MATCH ?", (expression,)).fetchall()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('say "hi" AND (go) NEAR/3 text:x* -y', '"say" OR "hi" OR "AND" OR "go" OR "NEAR" OR "3"'),
        ("\0 ; --", None),
        ("", None),
        ("A a ä", '"a" OR "ä"'),
    ],
)
def test_a_query_becomes_its_words(query: str, expected: str | None) -> None:
    made = documents.match_expression(query)
    assert made is not None if expected else made is None
    assert made == expected or (expected and made and made.startswith(expected))
    many = " ".join(f"w{n}" for n in range(1000))
    assert (documents.match_expression(many) or "").count("OR") == documents.MAX_TERMS - 1


def test_fusion_adds_the_reciprocal_ranks() -> None:
    docs, scores = zip(*search.fuse([7, 8], [8, 9]), strict=True)
    assert docs == (8, 7, 9)
    assert scores == pytest.approx([(1 / 62 + 1 / 61) * 61 / 2, 1 / 2, 61 / 62 / 2])


def test_an_updated_document_is_in_the_index_of_words_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db") as (db, asked):
            (old,) = await put(db, asked, MINE, "old words here")

            def replace(t: Transaction) -> int:
                documents.remove(t, MINE, [old])
                return documents.put(t, MINE, "new words here")

            new = await db.write(replace, lambda _: asked.committed([old]))
            assert docs_of(await asked.search(MINE, "words", 9, Mode.WORDS)) == [new]
            assert docs_of(await asked.search(MINE, "old", 9, Mode.WORDS)) == []
            assert await asked.texts([old, new]) == {new: "new words here"}

    asyncio.run(main())


def test_a_write_that_fails_leaves_nothing_to_find(tmp_path: Path) -> None:
    async def main() -> None:
        async with searching(tmp_path / "db") as (db, asked):

            def fail(t: Transaction) -> None:
                documents.put(t, MINE, "never said")
                raise ValueError("no")

            async def failing() -> None:
                with pytest.raises(ValueError, match="no"):
                    await db.write(fail)

            await asked.ready(MINE)
            async with asyncio.TaskGroup() as tasks:  # in one batch, beside tables that are made
                tasks.create_task(failing())
                tasks.create_task(asked.ready(STRANGERS))
                said = tasks.create_task(put(db, asked, MINE, "said"))
                tasks.create_task(failing())
                tasks.create_task(asked.ready(FILES))
            docs = said.result()
            await put(db, asked, STRANGERS, "said")
            assert docs_of(await asked.search(MINE, "never said", 9, Mode.WORDS)) == docs

    asyncio.run(main())


def test_the_vectors_that_are_found_are_the_nearest() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = VectorSet(8)
    vectors.put(list(range(100, 400)), rows)
    vectors.remove(range(100, 200))
    vectors.put([150, 399], rows[[0, 1]])
    kept = {doc: rows[doc - 100] for doc in range(200, 399)} | {150: rows[0], 399: rows[1]}
    query = rows[7]
    cosines = {doc: float(row @ query) for doc, row in kept.items()}
    expected = sorted(kept, key=lambda doc: (-cosines[doc], doc))[:10]
    found = nearest(vectors.view(), query, 10)
    assert [doc for doc, _ in found] == expected
    assert [score for _, score in found] == pytest.approx([cosines[doc] for doc in expected])
    among = np.array([150, 201, 120], np.int64)
    assert {doc for doc, _ in nearest(vectors.view(), query, 10, among)} == {150, 201}


def test_a_large_set_lies_in_blocks_and_shrinks_with_what_is_removed() -> None:
    vectors = VectorSet(2)
    for first in range(0, 10_000, 1000):
        docs = list(range(first, first + 1000))
        vectors.put(docs, np.array([[1.0, doc] for doc in docs], np.float32))
    assert max(len(rows) for rows in vectors.view().rows) <= MAX_ROWS
    full = vectors.n_bytes
    vectors.remove(doc for doc in range(10_000) if doc % 10)
    assert len(vectors) == 1000
    assert vectors.n_bytes < full / 2
    query = np.array([0.0, 1.0], np.float32)
    assert nearest(vectors.view(), query, 2) == [(9990, 9990.0), (9980, 9980.0)]
    vectors.remove(range(10_000))
    assert (len(vectors), nearest(vectors.view(), query, 2)) == (0, [])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=200))
def test_a_set_of_vectors_holds_what_was_put_and_not_removed(steps: list[tuple[bool, int]]) -> None:
    vectors, model = VectorSet(2), dict[int, float]()
    for number, (is_put, doc) in enumerate(steps):
        before = vectors.view()
        said = [rows.copy() for rows in before.rows]
        if is_put:
            vectors.put([doc], np.array([[1.0, float(number)]], np.float32))
            model[doc] = float(number)
        else:
            vectors.remove([doc])
            model.pop(doc, None)
        pairs = zip(before.rows, said, strict=True)
        assert all((rows == then).all() for rows, then in pairs)  # a view taken stays true
    view = vectors.view()
    values = [float(row[1]) for rows in view.rows for row in rows]
    rows = zip(view.docs.tolist(), values, view.is_live.tolist(), strict=True)
    assert {doc: value for doc, value, is_live in rows if is_live} == model
    assert len(vectors) == len(model)
