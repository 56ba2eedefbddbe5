"""Memory with real models and a real daemon: found by meaning, recalled, enriched, and kept when
the daemon is killed in the middle of it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from aios_sdk import AiosError, Client
from tests.e2e.conftest import Start

pytestmark = pytest.mark.slow

FLAGS = ("--slots", "4", "--slot-tokens", "1024")


def until_embedded(client: Client) -> None:
    while client.memory.stats()["without_vector"]:
        client.ping()


def test_notes_are_found_by_meaning_recalled_and_written_about(start: Start) -> None:
    daemon = start(*FLAGS)
    with Client(daemon.socket, agent="ada") as client:
        tea = client.memory.add("Ada drinks green tea in the morning, never coffee.")
        backup = client.memory.add("The backups run at three in the night.")
        until_embedded(client)
        found = client.memory.search("When is data saved?", k=1, mode="vectors")
        assert [hit["memory"] for hit in found["results"]] == [backup]
        answer = client.ask("What is Ada's breakfast drink?", max_tokens=8, recall={"k": 1})
        assert answer.recalled == [tea]
        rows = [
            np.frombuffer(row, "<f4")
            for row in client.embed(["A man is eating food.", "A man eats bread."])["embeddings"]
        ]
        assert float(rows[0] @ rows[1]) > 0.5
        id_ = client.memory.add("Ada likes green tea with milk.", tags=["user"], agentic=True)
        while (note := client.memory.get(id_))["enrichment"] == "waiting":
            client.ping()
        assert (note["content"], note["tags"][0]) == ("Ada likes green tea with milk.", "user")
        if note["enrichment"] == "done":  # a small model may fail; then the note is as it was
            assert 1 <= len(note["keywords"]) <= 6


def test_what_was_acknowledged_is_there_after_a_kill(start: Start) -> None:
    daemon = start(*FLAGS)
    kept: dict[str, dict[str, str]] = {f"agent-{n}": {} for n in range(4)}
    enough = threading.Event()

    def write(agent: str) -> None:
        with Client(daemon.socket, agent=agent) as client:
            try:
                for n in range(10_000):
                    content = f"note {n} of {agent}"
                    kept[agent][client.memory.add(content, tags=[f"t{n % 3}"])] = content
                    if n == 30:
                        enough.set()
            except AiosError:
                pass  # the daemon is gone

    threads = [threading.Thread(target=write, args=(agent,)) for agent in kept]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    daemon.kill()
    for thread in threads:
        thread.join(60)
    daemon = daemon.again()
    try:
        for agent, notes in kept.items():
            with Client(daemon.socket, agent=agent) as client:
                there = {note["memory"]: note["content"] for note in client.memory.list()}
                assert notes.items() <= there.items()
                assert len(there) <= len(notes) + 1  # one may have been kept, unheard
                assert client.memory.stats()["notes"] == len(there)
                some = next(iter(notes.items()))
                hits = client.memory.search(some[1], k=100, mode="words")["results"]
                assert some[0] in [hit["memory"] for hit in hits]
                assert {hit["memory"] for hit in hits} <= set(there)
    finally:
        assert daemon.stop() == 0
