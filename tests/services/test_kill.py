"""kill -9 at any moment: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from aiosd.services import entries, saved_contexts
from aiosd.services.entries import Entry
from aiosd.services.saved_contexts import SavedContext
from tests.services.opened import opened
from tests.services.writer import made_turn

ROOT = Path(__file__).parents[2]
N_CONTEXTS = 6


def acknowledged_until_killed(path: Path, rng: random.Random) -> dict[str, int]:
    """Kill the writer some time after some acknowledgements; the last one of each context."""
    command = [sys.executable, "-m", "tests.services.writer", str(path), str(N_CONTEXTS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 60))]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0, 0.01))
        process.kill()
        lines += process.stdout.readlines()
        assert process.wait() == -9
    assert all(line.endswith(b"\n") for line in lines)
    return {context: int(n) for context, n in (line.decode().split() for line in lines)}


def read_back(path: Path) -> dict[str, SavedContext]:
    async def main() -> dict[str, SavedContext]:
        async with opened(path) as db:  # which also checks the file's structure
            found = await db.read(lambda t: list(saved_contexts.load_all(t)))
            sums = await db.read(
                lambda t: t.execute(
                    "SELECT c.id, c.n_turns, c.n_tokens, c.n_bytes,"
                    " count(t.seq), total(t.n_tokens), total(t.n_bytes)"
                    " FROM contexts AS c LEFT JOIN turns AS t ON t.context = c.key GROUP BY c.key"
                ).fetchall()
            )
        assert [row[1:4] for row in sums] == [row[4:7] for row in sums]
        return {context.id: context for context in found}

    return asyncio.run(main())


def check(found: dict[str, SavedContext], acknowledged: dict[str, int]) -> None:
    assert set(acknowledged) <= set(found)
    for id_, context in found.items():
        n_turns = len(context.log)
        if id_ in acknowledged:  # one more may be there: it was killed before it could say so
            n_acknowledged = acknowledged[id_]
            assert n_turns in (n_acknowledged, n_acknowledged % 10 + 1)
        log: list[Entry] = []
        tokens = array("i")
        for index in range(n_turns):
            made, its_tokens = made_turn(log, id_, index)
            log.append(made)
            tokens.extend(its_tokens)
        assert context.log == log
        assert context.tokens == tokens
        assert len(entries.messages(context.log)) == 2 * n_turns


@pytest.mark.parametrize(
    "n_kills", [5, pytest.param(60, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path, n_kills: int) -> None:
    rng = random.Random(n_kills)
    path = tmp_path / "db"
    last_known: dict[str, int] = {}
    for _ in range(n_kills):
        last_known.update(acknowledged_until_killed(path, rng))
        found = read_back(path)
        check(found, last_known)
        last_known = {id_: len(context.log) for id_, context in found.items() if context.log}
