"""The asyncio client against a scripted peer."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from aios_sdk import (
    AsyncClient,
    Busy,
    Cancelled,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    NoDaemon,
    NotFound,
    VersionMismatch,
    aiolink,
)
from aios_sdk.wire import encode_notification
from tests.sdk.peer import Conversation, generation
from tests.sdk.test_client import (
    REWOUND,
    gives_all,
    gives_the_rest,
    is_left_behind,
    three_tokens_then_dies,
)

Serve = Callable[..., str]


def run(main: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


def test_calls_run_side_by_side_on_one_connection(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        requests = [peer.expect("llm.detokenize") for _ in range(8)]
        for request in reversed(requests):
            peer.reply(request, {"text": str(request.params["tokens"][0])})
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script)) as client, asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(client.detokenize([i])) for i in range(8)]
        assert [task.result() for task in asked] == [str(i) for i in range(8)]

    run(main())


def test_calls_before_the_first_hello_share_one_connection(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.answer("sys.ping", {})
        peer.answer("sys.ping", {})
        peer.expect_end()

    async def main() -> None:
        client = AsyncClient(serve(script))
        assert client.hello == {}
        await asyncio.gather(client.ping(), client.ping())
        assert client.hello["uid"] == 1000
        await client.close()
        with pytest.raises(ClientError, match="closed"):
            await client.ping()

    run(main())


def test_an_error_becomes_its_class_and_the_client_goes_on(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.refuse(peer.expect("context.info"), "not_found", "no context c9")
        peer.reply(peer.expect("llm.models"), {"models": [{"name": "m"}]})
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script)) as client:
            with pytest.raises(NotFound):
                await client.context_at("c9").info()
            assert (await client.models())[0]["name"] == "m"

    run(main())


def test_a_context_is_a_handle(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.answer("context.create", {"context": "c1"})
        for method, params, result in (
            ("context.append", {"context": "c1", "prompt": "x"}, {"n_tokens": 9}),
            ("llm.generate", {"context": "c1", "tokens": [1]}, generation("y")),
            ("context.read", {"context": "c1", "tokens": False}, {"messages": []}),
            ("context.delete", {"context": "c1"}, {}),
        ):
            request = peer.expect(method)
            assert request.params == params
            peer.reply(request, result)
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script)) as client:
            context = await client.context(name="talk")
            assert await context.append("x") == 9
            assert (await context.generate([1])).text == "y"
            assert await context.read() == {"messages": []}
            await context.delete()

    run(main())


def test_a_context_forks_rewinds_and_says_where_it_is(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        for method, params, result in (
            ("context.fork", {"context": "c1"}, {"context": "c2"}),
            (
                "context.fork",
                {"context": "c2", "n_tokens": 0, "name": "anew"},
                {"context": "c3"},
            ),
            ("context.rewind", {"context": "c3", "n_tokens": 5}, REWOUND),
            ("context.rewind", {"context": "c3", "n_messages": 0}, REWOUND),
            ("context.snapshot", {"context": "c3", "to": "ram"}, {"snapshot_bytes": 7}),
            ("context.snapshot", {"context": "c3", "to": "file"}, {"residence": "file"}),
            ("context.prefetch", {"context": "c3"}, {"cached_tokens": 5}),
        ):
            request = peer.expect(method)
            assert request.params == params
            peer.reply(request, result)
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script)) as client:
            fork = await (await client.context_at("c1").fork()).fork(0, name="anew")
            assert fork.id == "c3"
            assert await fork.rewind(n_tokens=5) == REWOUND
            assert await fork.rewind(n_messages=0) == REWOUND
            assert (await fork.snapshot())["snapshot_bytes"] == 7
            assert (await fork.snapshot("file"))["residence"] == "file"
            assert (await fork.prefetch())["cached_tokens"] == 5

    run(main())


# ---------------------------------------------------------------- streams


def test_a_stream_gives_text_and_then_its_result(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        assert request.params == {"prompt": "x", "stream": True}
        for word in ("a", "b", "c"):
            peer.chunk(request, word)
        peer.reply(request, generation("abc"))
        peer.expect_end()

    async def main() -> None:
        async with (
            AsyncClient(serve(script)) as client,
            client.generate_stream("x") as stream,
        ):
            assert [text async for text in stream] == ["a", "b", "c"]
            assert (await stream.result()).text == "abc"

    run(main())


def endless(peer: Conversation) -> None:
    """A generation that ends only when it is cancelled; then a ping."""
    peer.hello()
    request = peer.expect("llm.generate")
    peer.chunk(request, "a")
    assert peer.expect("cancel").params == {"id": request.id}
    peer.chunk(request, "too late")
    peer.refuse(request, "cancelled", "by its caller")
    peer.answer("sys.ping", {})
    peer.expect_end()


def test_leaving_the_with_block_cancels_in_the_daemon(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(endless)) as client:
            async with client.stream("llm.generate", prompt="x") as stream:
                assert (await anext(stream))["text"] == "a"
            await client.ping()
            with pytest.raises(Cancelled):
                await stream.result()

    run(main())


def test_breaking_out_of_the_loop_cancels_in_the_daemon(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(endless)) as client:
            stream = client.generate_stream("x")
            async for text in stream:
                assert text == "a"
                break
            await client.ping()

    run(main())


def test_dropping_the_last_reference_cancels_in_the_daemon(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(endless)) as client:
            stream = client.stream("llm.generate", prompt="x")
            assert (await anext(stream))["text"] == "a"
            del stream
            gc.collect()
            await client.ping()

    run(main())


@pytest.mark.parametrize("is_stream", [False, True])
def test_cancelling_the_task_cancels_the_call(serve: Serve, is_stream: bool) -> None:
    async def main() -> None:
        loop, is_asked = asyncio.get_running_loop(), asyncio.Event()

        def script(peer: Conversation) -> None:
            peer.hello()
            request = peer.expect("llm.generate")
            loop.call_soon_threadsafe(is_asked.set)
            assert peer.expect("cancel").params == {"id": request.id}
            peer.refuse(request, "cancelled", "by its caller")
            peer.answer("sys.ping", {})
            peer.expect_end()

        async with AsyncClient(serve(script)) as client:

            async def generate() -> None:
                if not is_stream:
                    await client.generate("x")
                async for _ in client.generate_stream("x"):
                    pass

            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(generate())
                await is_asked.wait()
                task.cancel()
            assert task.cancelled()
            await client.ping()

    run(main())


def test_a_call_on_the_context_of_a_stream_that_was_left_waits_for_its_end(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        peer.chunk(request, "a")
        peer.expect("cancel")
        peer.answer("sys.ping", {})  # asked after the append, which must wait
        peer.refuse(request, "cancelled", "by its caller")
        peer.answer("context.append", {"n_tokens": 1})
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script)) as client, asyncio.TaskGroup() as tasks:
            context = client.context_at("c1")
            async for text in context.generate_stream("x"):
                assert text == "a"
                break
            append = tasks.create_task(context.append("y"))
            await asyncio.sleep(0)
            await client.ping()
            assert await append == 1

    run(main())


def test_reading_stops_while_a_stream_is_not_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer fills the socket's buffer; what it can't send is sent once the client reads."""
    monkeypatch.setattr(aiolink, "PAUSE_CHUNKS", 4)
    is_full = threading.Event()
    n_chunks = 400  # of 10 kB: far more than a socket's buffer takes

    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        for i in range(n_chunks):
            peer.sock.settimeout(0.2)
            try:
                peer.chunk(request, f"{i:05}" + "x" * 10_000)
            except TimeoutError:  # part of the frame may have left, so this peer is done
                is_full.set()
                return
        raise AssertionError("the client took everything")

    async def main() -> None:
        async with (
            AsyncClient(serve(script)) as client,
            client.stream("llm.generate", prompt="x") as stream,
        ):
            await anext(stream)
            await asyncio.to_thread(is_full.wait, 10)
            assert is_full.is_set()
            n = 1
            try:
                while True:
                    await anext(stream)
                    n += 1
            except ConnectionLost:
                assert 4 <= n < n_chunks

    run(main())


def test_a_call_is_answered_past_a_stream_that_is_not_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiolink, "PAUSE_CHUNKS", 2)

    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        for _ in range(10):
            peer.chunk(request, "a")
        ping = peer.expect("sys.ping")
        for _ in range(10):
            peer.chunk(request, "b")
        peer.reply(ping, {})
        peer.reply(request, generation("ab"))
        peer.expect_end()

    async def main() -> None:
        async with (
            AsyncClient(serve(script)) as client,
            client.generate_stream("x") as stream,
        ):
            texts = aiter(stream)
            assert await anext(texts) == "a"
            await client.ping()
            assert [text async for text in texts] == ["a"] * 9 + ["b"] * 10

    run(main())


# ---------------------------------------------------------------- detached jobs


def test_a_detached_stream_that_breaks_off_goes_on_by_attaching(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(three_tokens_then_dies, gives_the_rest)) as client:
            texts: list[str] = []

            async def read() -> None:
                async for text in client.generate_stream("x", detach=True):
                    texts.append(text)

            with pytest.raises(ConnectionLost, match="its job j7 is detached") as caught:
                await read()
            lost = caught.value
            assert (texts, lost.job, lost.from_token) == (["a", "b", "c"], "j7", 3)
            async with client.attach_stream("j7", lost.from_token) as rest:
                assert [text async for text in rest] == ["d"]
                assert (await rest.result()).job == "j7"

    run(main())


def test_a_detached_generation_that_breaks_off_names_its_job(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(three_tokens_then_dies, gives_all)) as client:
            with pytest.raises(ConnectionLost) as caught:
                await client.generate("x", detach=True)
            assert (caught.value.job, caught.value.from_token) == ("j7", 0)
            assert (await client.attach("j7")).text == "abcd"

    run(main())


def test_a_detached_generation_is_a_generation(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        assert request.params == {"prompt": "x", "detach": True, "stream": True}
        peer.news(request, "j7")
        peer.chunk(request, "fine")
        peer.reply(request, generation("fine", job="j7"))
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script)) as client:
            assert (await client.generate("x", detach=True)).text == "fine"

    run(main())


def test_the_job_is_known_before_its_words_and_goes_on_when_it_is_left(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(is_left_behind)) as client:
            context = client.context_at("c1")
            async with context.generate_stream("x", detach=True) as stream:
                job = await stream.wait_job()
            with pytest.raises(Busy, match="c1 is busy"):
                await context.append("y")
            assert (await client.attach(job)).text == "abcd"

    run(main())


def test_a_detached_job_is_ended_by_cancel(serve: Serve) -> None:
    async def main() -> None:
        async with AsyncClient(serve(endless)) as client:
            async with client.generate_stream("x", detach=True) as stream:
                assert (await anext(stream.stream))["text"] == "a"
                stream.cancel()
                with pytest.raises(Cancelled):
                    await stream.result()
            await client.ping()

    run(main())


# ---------------------------------------------------------------- the connection


def test_reconnecting_repeats_only_what_is_safe(serve: Serve) -> None:
    def dies(peer: Conversation) -> None:
        peer.hello()
        assert peer.next() is not None

    def lives(peer: Conversation) -> None:
        peer.hello()
        peer.answer("sys.status", {"pid": 2})
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(dies, dies, lives)) as client:
            with pytest.raises(ConnectionLost, match="unknown"):
                await client.context()
            assert await client.status() == {"pid": 2}

    run(main())


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_connection_that_ended_while_idle_is_replaced_unnoticed(
    serve: Serve, is_stream: bool
) -> None:
    has_ended = threading.Event()

    def restarts(peer: Conversation) -> None:
        peer.hello()
        peer.sock.close()
        has_ended.set()

    def lives(peer: Conversation) -> None:
        peer.hello()
        peer.reply(peer.expect("llm.generate"), generation("fine"))
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(restarts, lives)) as client:
            has_ended.wait(10)  # blocks the loop, so that it can't notice
            if is_stream:
                assert (await client.generate_stream("x").result()).text == "fine"
            else:
                assert (await client.generate("x")).text == "fine"

    run(main())


def test_what_goes_wrong_while_connecting_is_named(serve: Serve, socket_dir: Path) -> None:
    def full(peer: Conversation) -> None:
        error = encode_notification("error", {"code": "busy", "message": "2048 connections"})
        peer.send(error)

    def newer(peer: Conversation) -> None:
        peer.reply(peer.expect("sys.hello"), {"protocol": 2})

    async def main() -> None:
        with pytest.raises(NoDaemon, match="start aiosd"):
            await AsyncClient(str(socket_dir / "none")).ping()
        with pytest.raises(Busy, match="2048"):
            await AsyncClient(serve(full)).ping()
        with pytest.raises(VersionMismatch):
            await AsyncClient(serve(newer)).ping()

    run(main())


def test_a_daemon_that_says_nothing_is_given_up_after_timeout_s(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("sys.ping")
        assert peer.expect("cancel").params == {"id": request.id}
        peer.expect_end()

    async def main() -> None:
        async with AsyncClient(serve(script), timeout_s=0.05) as client:
            with pytest.raises(DeadlineExceeded, match=r"sys\.ping for 0\.05 s"):
                await client.ping()

    run(main())
