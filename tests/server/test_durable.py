"""What outlives a connection and a daemon: contexts, forks, rewinds, detached jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aios_sdk import wire
from aiosd.engine.fake import FakeModel
from tests.server.harness import RawPeer, served

HELLO = [{"role": "user", "content": "Hello there"}]
MORE = [{"role": "user", "content": "And then?"}]


def ok(response: wire.Response | None) -> Any:
    assert response is not None
    assert response.error is None, response.error
    return response.result


def failed(response: wire.Response) -> Any:
    assert response.error is not None, response.result
    return response.error


def generate(peer: RawPeer, **params: Any) -> Any:
    return ok(peer.ask("llm.generate", **{"temperature": 0, "max_tokens": 12, **params}))


def slow_model(slot_tokens: int = 2048) -> FakeModel:
    model = FakeModel(n_slots=4, slot_tokens=slot_tokens)
    model.delay_s = 0.002
    return model


def test_contexts_are_there_after_a_restart_and_go_on_alike(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="Be brief.", name="kept"))["context"]
        twin = ok(peer.ask("context.create", system="Be brief."))["context"]
        for one in (context, twin):
            generate(peer, context=one, messages=HELLO)
        straight = generate(peer, context=twin, messages=MORE)
        before = ok(peer.ask("context.read", context=context, tokens=True))
        info = ok(peer.ask("context.info", context=context))
        agent = ok(peer.ask("agent.info", agent="raw"))
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert ok(peer.ask("context.read", context=context, tokens=True)) == before
        again = ok(peer.ask("context.info", context=context))
        same = ("name", "agent", "n_tokens", "n_messages", "created_ms", "used_ms")
        assert {k: again[k] for k in same} == {k: info[k] for k in same}
        assert again["residence"] == "file"
        after = generate(peer, context=context, messages=MORE)
        assert after["tokens"] == straight["tokens"]
        assert after["usage"]["cached_tokens"] >= info["n_tokens"] - 1  # nothing is read again
        known = ok(peer.ask("agent.info", agent="raw"))
        assert (known["contexts"], known["since_ms"]) == (2, agent["since_ms"])
        assert known["tokens"] > agent["tokens"] > 0


def test_damaged_snapshot_files_cost_a_re_read_and_no_answer(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="Be brief."))["context"]
        generate(peer, context=context, messages=HELLO)
        fork = ok(peer.ask("context.fork", context=context))["context"]
        straight = generate(peer, context=fork, messages=MORE)
    for file in (tmp_path / "state" / "snapshots").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x55
        file.write_bytes(data)
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert generate(peer, context=context, messages=MORE)["tokens"] == straight["tokens"]


def test_a_snapshot_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="Be brief."))["context"]
        generate(peer, context=context, messages=HELLO)
        assert ok(peer.ask("context.info", context=context))["snapshot_bytes"] == 0
        in_ram = ok(peer.ask("context.snapshot", context=context, to="ram"))
        assert in_ram["snapshot_bytes"] > 0
        ok(peer.ask("context.snapshot", context=context, to="file"))
        assert ok(peer.ask("sys.status"))["cores"][0]["snapshots"]["file_bytes"] > 0


def test_a_deleted_context_stays_deleted(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="x"))["context"]
        ok(peer.ask("context.delete", context=context))
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert failed(peer.ask("context.info", context=context))["code"] == "not_found"


def test_a_fork_goes_on_as_its_source_would_and_both_are_apart(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        source = ok(peer.ask("context.create", system="Be brief."))["context"]
        generate(peer, context=source, messages=HELLO)
        fork = ok(peer.ask("context.fork", context=source, name="branch"))["context"]
        info = ok(peer.ask("context.info", context=fork))
        assert (info["parent"], info["name"]) == (source, "branch")
        one = generate(peer, context=fork, messages=MORE)
        two = generate(peer, context=source, messages=MORE)
        assert one["tokens"] == two["tokens"]
        assert one["usage"]["cached_tokens"] > one["usage"]["prompt_tokens"]
        ok(peer.ask("context.delete", context=source))
        assert len(ok(peer.ask("context.read", context=fork))["messages"]) == 5
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert ok(peer.ask("context.info", context=fork))["parent"] == source


def test_a_fork_at_a_token_holds_exactly_those(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        source = ok(peer.ask("context.create"))["context"]
        generate(peer, context=source, prompt="Once upon a time", ignore_eos=True)
        tokens = ok(peer.ask("context.read", context=source, tokens=True))["tokens"]
        fork = ok(peer.ask("context.fork", context=source, n_tokens=7))["context"]
        assert ok(peer.ask("context.read", context=fork, tokens=True))["tokens"] == tokens[:7]
        error = failed(peer.ask("context.fork", context=source, n_tokens=1000))
        assert (error["code"], error["data"]["field"]) == ("invalid_params", "n_tokens")


def test_rewind_to_a_message_and_say_it_again(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="Be brief."))["context"]
        first = generate(peer, context=context, messages=HELLO)
        at_first = ok(peer.ask("context.read", context=context, tokens=True))
        second = generate(peer, context=context, messages=MORE)
        for n_messages in (3, 3):
            state = ok(peer.ask("context.rewind", context=context, n_messages=n_messages))
            assert state["n_messages"] == 3
            assert ok(peer.ask("context.read", context=context, tokens=True)) == at_first
            again = generate(peer, context=context, messages=MORE)
            assert again["tokens"] == second["tokens"]
        # Within a turn: after the question, before the answer.
        assert ok(peer.ask("context.rewind", context=context, n_messages=2))["n_messages"] == 2
        assert generate(peer, context=context)["tokens"] == first["tokens"]
        assert failed(peer.ask("context.rewind", context=context, n_messages=9))["code"] == (
            "invalid_params"
        )
        assert ok(peer.ask("context.rewind", context=context, n_tokens=0))["n_tokens"] == 0


def test_a_rewind_is_kept(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create"))["context"]
        generate(peer, context=context, prompt="Once upon a time", ignore_eos=True)
        ok(peer.ask("context.rewind", context=context, n_tokens=5))
        tokens = ok(peer.ask("context.read", context=context, tokens=True))["tokens"]
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        assert ok(peer.ask("context.read", context=context, tokens=True))["tokens"] == tokens
        assert len(tokens) == 5


def test_prefetch_reads_ahead_of_the_next_job(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create"))["context"]
        n_tokens = ok(peer.ask("context.append", context=context, prompt="long " * 30))["n_tokens"]
        assert ok(peer.ask("context.info", context=context))["residence"] == "tokens"
        ready = ok(peer.ask("context.prefetch", context=context))
        assert (ready["residence"], ready["cached_tokens"]) == ("slot", n_tokens - 1)
        usage = generate(peer, context=context)["usage"]
        assert usage["cached_tokens"] == n_tokens - 1


# ------------------------------------------------------------------ detached


def begin(peer: RawPeer, **params: Any) -> str:
    """A detached, streaming job; returns its id once it is told."""
    more = {"prompt": "Go", "temperature": 0, "ignore_eos": True, "stream": True, "detach": True}
    peer.send(wire.encode_request(1, "llm.generate", {**more, **params}))
    message = peer.receive()
    assert isinstance(message, wire.Notification), message
    return str(message.params["job"])


def until_done(peer: RawPeer, job: str, **params: Any) -> Any:
    return ok(peer.ask("job.attach", job=job, **params))


def test_a_detached_job_goes_on_without_its_client(tmp_path: Path) -> None:
    with served(tmp_path, slow_model(), slot_tokens=2048) as daemon:
        path = daemon.config.socket
        with RawPeer(path) as other:
            expected = generate(other, prompt="Go", max_tokens=150, ignore_eos=True)
            context = ok(other.ask("context.create"))["context"]
            with RawPeer(path) as peer:
                job = begin(peer, max_tokens=150, context=context)
            reply = until_done(other, job)
            assert reply["tokens"] == expected["tokens"]
            assert reply["text"] == expected["text"]
            rest = until_done(other, job, from_token=100)  # ended by now: from the database
            assert rest["tokens"] == expected["tokens"][100:]
            assert ok(other.ask("context.info", context=context))["n_tokens"] > 150


def test_attaching_streams_from_the_token_asked_for(tmp_path: Path) -> None:
    with (
        served(tmp_path, slow_model(), slot_tokens=2048) as daemon,
        RawPeer(daemon.config.socket) as peer,
        RawPeer(daemon.config.socket) as other,
    ):
        job = begin(peer, max_tokens=120)
        other.send(
            wire.encode_request(5, "job.attach", {"job": job, "from_token": 20, "stream": True})
        )
        tokens: list[object] = []
        while isinstance(message := other.receive(), wire.Notification):
            tokens.extend(message.params.get("tokens", []))  # type: ignore[arg-type]
        assert isinstance(message, wire.Response)
        reply = ok(message)
        assert tokens == reply["tokens"]
        assert len(tokens) == 100


def test_a_cancel_ends_a_detached_job_and_attaching_says_so(tmp_path: Path) -> None:
    with (
        served(tmp_path, slow_model(), slot_tokens=2048) as daemon,
        RawPeer(daemon.config.socket) as peer,
        RawPeer(daemon.config.socket) as other,
    ):
        job = begin(peer, max_tokens=1500)
        ok(other.ask("job.cancel", job=job))
        assert failed(other.ask("job.attach", job=job))["code"] == "cancelled"
        assert failed(other.ask("job.attach", job="jnone"))["code"] == "not_found"


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 1.0, "seed": 5}])
def test_a_detached_job_goes_on_after_a_restart_with_the_same_tokens(
    tmp_path: Path, params: dict[str, Any]
) -> None:
    with served(tmp_path, slow_model(), slot_tokens=2048) as daemon:
        with RawPeer(daemon.config.socket) as peer:
            expected = generate(peer, prompt="Go", max_tokens=300, ignore_eos=True, **params)
            context = ok(peer.ask("context.create"))["context"]
        with RawPeer(daemon.config.socket) as peer:
            job = begin(peer, max_tokens=300, context=context, **params)
            n_seen = 0
            while n_seen < 100:
                message = peer.receive()
                assert isinstance(message, wire.Notification)
                n_seen += len(message.params.get("tokens", []))  # type: ignore[arg-type]
    with (
        served(tmp_path, slow_model(), slot_tokens=2048) as daemon,
        RawPeer(daemon.config.socket) as peer,
    ):
        error = failed(peer.ask("llm.generate", context=context, prompt="x"))
        assert (error["code"], error["data"]["job"]) == ("busy", job)
        reply = until_done(peer, job)
        assert reply["tokens"] == expected["tokens"]
        assert reply["text"] == expected["text"]
        tokens = ok(peer.ask("context.read", context=context, tokens=True))["tokens"]
        assert tokens[-300:] == expected["tokens"]


def test_a_backup_is_a_whole_database(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="Kept."))["context"]
        copy = tmp_path / "copy" / "state"
        copy.mkdir(parents=True)
        done = ok(peer.ask("sys.backup", path=str(copy / "aiosd.db")))
        assert done["bytes"] > 0
    with served(tmp_path / "copy") as daemon, RawPeer(daemon.config.socket) as peer:
        messages = ok(peer.ask("context.read", context=context))["messages"]
        assert messages == [{"role": "system", "content": "Kept."}]


def test_status_counts_contexts_and_their_bytes(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        context = ok(peer.ask("context.create", system="x"))["context"]
        counted = ok(peer.ask("sys.status"))["contexts"]
        assert counted["n"] == 1
        assert 0 < counted["bytes"] < counted["limit_bytes"]
        ok(peer.ask("context.delete", context=context))
        assert ok(peer.ask("sys.status"))["contexts"]["bytes"] == 0
