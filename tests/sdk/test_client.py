"""The blocking client against a scripted peer."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_sdk import (
    Busy,
    Cancelled,
    Client,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    InvalidParams,
    NoDaemon,
    NotFound,
    ProtocolError,
    SocketDenied,
    TooLarge,
    ToolCall,
    VersionMismatch,
    calls,
    dialing,
)
from aios_sdk.wire import Notification, Request, encode_notification
from tests.sdk.peer import Conversation, generation

Serve = Callable[..., str]
REWOUND = {"context": "c3", "n_tokens": 5, "n_messages": 1}

# ---------------------------------------------------------------- calls


def test_a_call_gives_the_daemons_result(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        hello = peer.expect("sys.hello")
        assert hello.params["agent"] == "poet"
        assert hello.params["protocol"] == 1
        peer.reply(hello, {"protocol": 1, "uid": 3})
        request = peer.expect("llm.tokenize")
        assert request.params == {"text": "hi", "special": False}  # model=None is left out
        peer.reply(request, {"tokens": [1, 2]})
        peer.expect_end()

    with Client(serve(script), agent="poet") as client:
        assert client.hello == {"protocol": 1, "uid": 3}
        assert client.tokenize("hi") == [1, 2]


def test_an_error_becomes_its_class_and_the_client_goes_on(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.refuse(peer.expect("context.info"), "not_found", "no context c9", id="c9")
        peer.answer("sys.ping", {})
        peer.expect_end()

    with Client(serve(script)) as client:
        with pytest.raises(NotFound, match="no context c9") as caught:
            client.context_at("c9").info()
        assert caught.value.data == {"id": "c9"}
        client.ping()


def test_a_generation_is_typed(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        assert request.params == {"prompt": "Once", "max_tokens": 4, "stop": ["."]}
        peer.reply(request, generation(" upon", stop_string=".", finish="stop_string"))
        asked = peer.expect("llm.generate")
        assert asked.params == {"messages": [{"role": "user", "content": "hi"}], "seed": 1}
        peer.reply(asked, generation("hello"))
        assert peer.expect("llm.generate").params == {"tokens": [1, 2]}

    with Client(serve(script)) as client:
        made = client.generate("Once", max_tokens=4, stop=["."])
        assert (made.text, made.finish, made.stop_string) == (" upon", "stop_string", ".")
        assert (made.usage.prompt_tokens, made.usage.parks) == (1, 2)
        assert str(client.ask("hi", seed=1)) == "hello"
        with pytest.raises(ConnectionLost, match="unknown"):
            client.generate([1, 2])


def test_calls_of_tools_are_typed_and_answered(serve: Serve) -> None:
    call = {"id": "j1.0", "name": "weather", "arguments": {"city": "Oslo"}}
    answer = {"role": "tool", "content": "12", "tool_call_id": "j1.0", "name": "weather"}

    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        assert request.params["tools"] == [{"name": "weather"}]
        assert request.params["tool_choice"] == "required"
        peer.reply(request, generation("", finish="tool_calls", tool_calls=[call]))
        appended = peer.expect("context.append")
        assert appended.params["messages"] == [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            answer,
        ]
        peer.reply(appended, {"context": "c1", "n_tokens": 1})
        peer.reply(peer.expect("llm.generate"), generation("", tool_calls=[{"id": "x"}]))

    with Client(serve(script)) as client:
        said = client.ask("Warm?", tools=[{"name": "weather"}], tool_choice="required")
        assert said.tool_calls == (ToolCall("j1.0", "weather", {"city": "Oslo"}),)
        [made] = said.tool_calls
        assert made.answer("12") == answer
        called = {"role": "assistant", "content": "", "tool_calls": [made.to_wire()]}
        client.call("context.append", context="c1", messages=[called, made.answer("12")])
        with pytest.raises(ProtocolError, match="which is no tool call"):
            client.ask("Warm?")


def test_a_result_of_another_shape_is_a_protocol_error(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.reply(peer.expect("llm.generate"), {"txt": "x"})
        peer.reply(peer.expect("sys.status"), [1, 2])
        peer.expect_end()

    with Client(serve(script)) as client:
        with pytest.raises(ProtocolError, match=r"\['txt'\], which is no generation"):
            client.generate("x")
        with pytest.raises(ProtocolError, match="an array of 2 items, it must be a map"):
            client.status()


def test_params_that_msgpack_cannot_carry_are_refused_before_they_are_sent(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.answer("sys.ping", {})
        peer.expect_end()

    with Client(serve(script)) as client:
        with pytest.raises(InvalidParams, match=r"llm\.generate: .*object"):
            client.call("llm.generate", prompt=object())
        with pytest.raises(InvalidParams, match="nothing to generate from"):
            client.generate([])
        client.ping()


def test_a_context_is_a_handle(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        created = peer.expect("context.create")
        assert created.params == {"system": "Be brief."}
        peer.reply(created, {"context": "c1"})
        for method, params, result in (
            ("context.append", {"context": "c1", "prompt": "x"}, {"n_tokens": 9}),
            ("llm.generate", {"context": "c1"}, generation("y")),
            ("context.read", {"context": "c1", "tokens": True}, {"messages": [], "tokens": [1]}),
            ("context.delete", {"context": "c1"}, {}),
        ):
            request = peer.expect(method)
            assert request.params == params
            peer.reply(request, result)
        peer.expect_end()

    with Client(serve(script)) as client:
        context = client.context(system="Be brief.")
        assert context.id == "c1"
        assert context.append("x") == 9
        assert context.generate().text == "y"
        assert context.read(tokens=True)["tokens"] == [1]
        context.delete()


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

    with Client(serve(script)) as client:
        fork = client.context_at("c1").fork().fork(0, name="anew")
        assert fork.id == "c3"
        assert fork.rewind(n_tokens=5) == REWOUND
        assert fork.rewind(n_messages=0) == REWOUND
        assert fork.snapshot()["snapshot_bytes"] == 7
        assert fork.snapshot("file")["residence"] == "file"
        assert fork.prefetch()["cached_tokens"] == 5


def test_many_threads_share_one_client(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        requests = [peer.expect("llm.detokenize") for _ in range(8)]
        for request in reversed(requests):  # the last one asked is answered first
            peer.reply(request, {"text": str(request.params["tokens"][0])})
        peer.expect_end()

    with Client(serve(script)) as client:
        texts: dict[int, str] = {}

        def ask(i: int) -> None:
            texts[i] = client.detokenize([i])

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == {i: str(i) for i in range(8)}


def test_a_daemon_that_says_nothing_is_given_up_after_timeout_s(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("sys.ping")
        assert peer.expect("cancel").params == {"id": request.id}
        peer.expect_end()

    with (
        Client(serve(script), timeout_s=0.05) as client,
        pytest.raises(DeadlineExceeded, match=r"sys\.ping for 0\.05 s"),
    ):
        client.ping()


# ---------------------------------------------------------------- streams


def three_words(peer: Conversation) -> None:
    peer.hello()
    request = peer.expect("llm.generate")
    assert request.params["stream"] is True
    peer.send(encode_notification("stream", {"id": request.id, "job": "j1", "state": "queued"}))
    for word in ("a", "b", "c"):
        peer.chunk(request, word)
    peer.reply(request, generation("abc"))
    peer.expect_end()


def test_a_stream_gives_text_and_then_its_result(serve: Serve) -> None:
    with Client(serve(three_words)) as client, client.generate_stream("x") as stream:
        assert list(stream) == ["a", "b", "c"]
        assert stream.result.text == "abc"


def test_the_result_can_be_waited_for_before_the_chunks_are_read(serve: Serve) -> None:
    with Client(serve(three_words)) as client:
        stream = client.stream("llm.generate", prompt="x")
        assert stream.result["text"] == "abc"
        assert [chunk.get("state") or chunk["text"] for chunk in stream] == [
            "queued",
            "a",
            "b",
            "c",
        ]


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
    with Client(serve(endless)) as client:
        with client.stream("llm.generate", prompt="x") as stream:
            assert next(stream)["text"] == "a"
        client.ping()
        with pytest.raises(Cancelled, match="by its caller"):
            _ = stream.result
        assert list(stream) == []


def test_breaking_out_of_the_loop_cancels_in_the_daemon(serve: Serve) -> None:
    with Client(serve(endless)) as client:
        stream = client.generate_stream("x")
        for text in stream:
            assert text == "a"
            break
        client.ping()


def test_dropping_the_last_reference_cancels_in_the_daemon(serve: Serve) -> None:
    with Client(serve(endless)) as client:
        stream = client.stream("llm.generate", prompt="x")
        assert next(stream)["text"] == "a"
        del stream
        gc.collect()
        client.ping()


def test_cancel_lets_the_daemon_end_the_call(serve: Serve) -> None:
    with Client(serve(endless)) as client:
        stream = client.stream("llm.generate", prompt="x")
        assert next(stream)["text"] == "a"
        stream.cancel()
        assert next(stream)["text"] == "too late"
        with pytest.raises(Cancelled):
            next(stream)
        client.ping()


def test_a_call_on_the_context_of_a_stream_that_was_left_waits_for_its_end(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        peer.chunk(request, "a")
        peer.expect("cancel")
        peer.answer("sys.ping", {})  # another call needn't wait
        peer.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):  # the append isn't sent while the context is busy
            peer.next()
        peer.sock.settimeout(20)
        peer.refuse(request, "cancelled", "by its caller")
        peer.answer("context.append", {"n_tokens": 1})
        peer.expect_end()

    with Client(serve(script)) as client:
        context = client.context_at("c1")
        for _ in context.generate_stream("x"):
            break
        client.ping()
        assert context.append("y") == 1


def test_an_exception_while_waiting_cancels_the_call(serve: Serve) -> None:
    """As Ctrl-C does.  If it comes while bytes leave, the connection ends, which cancels too."""

    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        os.kill(os.getpid(), signal.SIGINT)
        assert peer.next() in (None, Notification("cancel", {"id": request.id}))

    with Client(serve(script)) as client, pytest.raises(KeyboardInterrupt):
        client.generate("x")


def test_other_calls_go_on_while_a_stream_waits_to_be_read(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        peer.chunk(request, "a")
        ping = peer.expect("sys.ping")
        peer.chunk(request, "b")
        peer.reply(ping, {})
        peer.reply(request, generation("ab"))
        peer.expect_end()

    with Client(serve(script)) as client, client.generate_stream("x") as stream:
        client.ping()
        assert list(stream) == ["a", "b"]


def test_a_stream_that_overflows_ends_alone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CHUNKS", 3)

    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        ping = peer.expect("sys.ping")
        for _ in range(5):
            peer.chunk(request, "a")
        peer.reply(ping, {})
        assert peer.expect("cancel").params == {"id": request.id}
        peer.refuse(request, "cancelled", "by its caller")
        peer.answer("sys.ping", {})
        peer.expect_end()

    with Client(serve(script)) as client, client.stream("llm.generate", prompt="x") as stream:
        client.ping()
        with pytest.raises(TooLarge, match="3 chunks"):
            _ = stream.result
        client.ping()


# ---------------------------------------------------------------- detached jobs


def three_tokens_then_dies(peer: Conversation) -> None:
    peer.hello()
    request = peer.next()
    assert isinstance(request, Request)
    assert request.params["stream"] is True
    peer.news(request, "j7", "queued")
    for word in ("a", "b", "c"):
        peer.chunk(request, word)


def gives_the_rest(peer: Conversation) -> None:
    peer.hello()
    request = peer.expect("job.attach")
    assert request.params == {"job": "j7", "from_token": 3, "stream": True}
    peer.chunk(request, "d")
    peer.reply(request, generation("d", job="j7"))
    peer.expect_end()


def gives_all(peer: Conversation) -> None:
    peer.hello()
    request = peer.expect("job.attach")
    assert request.params == {"job": "j7", "from_token": 0}
    peer.reply(request, generation("abcd", job="j7"))
    peer.expect_end()


def test_a_detached_stream_that_breaks_off_goes_on_by_attaching(serve: Serve) -> None:
    with Client(serve(three_tokens_then_dies, gives_the_rest)) as client:
        texts: list[str] = []
        with pytest.raises(ConnectionLost, match="its job j7 is detached: attach to it") as caught:
            texts += client.generate_stream("x", detach=True)
        lost = caught.value
        assert (texts, lost.job, lost.from_token) == (["a", "b", "c"], "j7", 3)
        assert lost.may_have_happened
        with client.attach_stream("j7", lost.from_token) as rest:
            assert list(rest) == ["d"]
            assert rest.result.job == "j7"


def test_a_detached_generation_that_breaks_off_names_its_job(serve: Serve) -> None:
    with Client(serve(three_tokens_then_dies, gives_all)) as client:
        with pytest.raises(ConnectionLost) as caught:
            client.generate("x", detach=True)
        assert (caught.value.job, caught.value.from_token) == ("j7", 0)  # no words reached us
        assert client.attach("j7", caught.value.from_token).text == "abcd"


def test_a_detached_generation_is_a_generation(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        request = peer.expect("llm.generate")
        assert request.params == {"prompt": "x", "detach": True, "stream": True}
        peer.news(request, "j7")
        peer.chunk(request, "fine")
        peer.reply(request, generation("fine", job="j7"))
        peer.expect_end()

    with Client(serve(script)) as client:
        assert client.generate("x", detach=True).text == "fine"


def test_attaching_is_repeated_over_a_lost_connection(serve: Serve) -> None:
    def dies(peer: Conversation) -> None:
        peer.hello()
        peer.expect("job.attach")

    with Client(serve(dies, gives_all)) as client:
        assert client.attach("j7").text == "abcd"
    with Client(serve(dies, dies)) as client:
        with pytest.raises(ConnectionLost) as caught:
            client.attach("j7", 3)
        assert (caught.value.job, caught.value.from_token) == ("j7", 3)


def test_a_job_that_ends_with_its_connection_is_none_to_attach_to(serve: Serve) -> None:
    with Client(serve(three_tokens_then_dies)) as client:
        with pytest.raises(ConnectionLost, match="unknown") as caught:
            list(client.generate_stream("x"))
        assert caught.value.job is None


def is_left_behind(peer: Conversation) -> None:
    """A detached job that nobody cancels; its context is busy, which the daemon says at once."""
    peer.hello()
    request = peer.expect("llm.generate")
    peer.news(request, "j7")
    peer.chunk(request, "a")
    peer.refuse(peer.expect("context.append"), "busy", "c1 is busy", job="j7")
    attach = peer.expect("job.attach")
    peer.chunk(request, "dropped")
    peer.reply(request, generation("abcd", job="j7"))
    peer.reply(attach, generation("abcd", job="j7"))
    peer.expect_end()


def test_the_job_is_known_before_its_words_and_goes_on_when_it_is_left(serve: Serve) -> None:
    with Client(serve(is_left_behind)) as client:
        context = client.context_at("c1")
        with context.generate_stream("x", detach=True) as stream:
            job = stream.wait_job()
        with pytest.raises(Busy, match="c1 is busy"):
            context.append("y")
        assert client.attach(job).text == "abcd"


def test_a_detached_job_is_ended_by_cancel(serve: Serve) -> None:
    with Client(serve(endless)) as client:
        with client.generate_stream("x", detach=True) as stream:
            assert next(stream.stream)["text"] == "a"
            stream.cancel()
            with pytest.raises(Cancelled):
                _ = stream.result
        client.ping()


def test_a_client_that_gives_up_leaves_a_detached_job_alone(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.expect("llm.generate")
        peer.expect_end()

    with (
        Client(serve(script), timeout_s=0.05) as client,
        pytest.raises(DeadlineExceeded, match="its job goes on"),
    ):
        client.generate("x", detach=True)


def test_waiting_for_the_job_of_a_call_that_fails_raises_its_error(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.refuse(peer.expect("llm.generate"), "busy", "4096 jobs")
        peer.reply(peer.expect("llm.generate"), generation("", job="j8"))
        peer.reply(peer.expect("llm.generate"), {})
        peer.expect_end()

    with Client(serve(script)) as client:
        with pytest.raises(Busy, match="4096 jobs"):
            client.generate_stream("x", detach=True).wait_job()
        assert client.generate_stream("x", detach=True).wait_job() == "j8"
        with pytest.raises(ProtocolError, match="without naming its job"):
            client.generate_stream("x", detach=True).wait_job()


# ---------------------------------------------------------------- the connection


def test_a_call_that_may_have_happened_is_not_repeated(serve: Serve) -> None:
    def dies(peer: Conversation) -> None:
        peer.hello()
        peer.expect("context.create")

    def lives(peer: Conversation) -> None:
        peer.hello()
        peer.answer("context.create", {"context": "c2"})
        peer.expect_end()

    with Client(serve(dies, lives)) as client:
        with pytest.raises(ConnectionLost, match="whether it took effect is unknown") as caught:
            client.context()
        assert caught.value.may_have_happened
        assert client.context().id == "c2"  # the next call makes another connection


def test_a_call_that_is_safe_to_repeat_is_repeated_once(serve: Serve) -> None:
    def dies(peer: Conversation) -> None:
        peer.hello()
        peer.expect("sys.status")

    def lives(peer: Conversation) -> None:
        peer.hello()
        peer.answer("sys.status", {"pid": 2})
        peer.expect_end()

    with Client(serve(dies, lives)) as client:
        assert client.status() == {"pid": 2}
    with Client(serve(dies, dies)) as client, pytest.raises(ConnectionLost):
        client.status()


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
        request = peer.expect("llm.generate")
        peer.reply(request, generation("fine"))
        peer.expect_end()

    with Client(serve(restarts, lives)) as client:
        assert has_ended.wait(10)
        if is_stream:
            assert client.generate_stream("x").result.text == "fine"
        else:
            assert client.generate("x").text == "fine"


def test_a_daemon_that_dies_in_mid_stream_ends_the_stream(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.chunk(peer.expect("llm.generate"), "a")

    with Client(serve(script)) as client:
        stream = iter(client.generate_stream("x"))
        assert next(stream) == "a"
        with pytest.raises(ConnectionLost, match=r"during llm\.generate"):
            next(stream)


def test_what_the_daemon_says_before_it_hangs_up_is_passed_on(serve: Serve) -> None:
    def full(peer: Conversation) -> None:
        says = "2048 connections, which is the limit"
        peer.send(encode_notification("error", {"code": "busy", "message": says}))

    with pytest.raises(Busy, match="2048 connections"):
        Client(serve(full))


def test_a_peer_that_talks_nonsense_is_left(serve: Serve) -> None:
    def other(peer: Conversation) -> None:
        peer.hello()
        peer.expect("sys.policy")
        peer.send(b"HTTP/1.1 400 Bad Request\r\n")

    with (
        Client(serve(other)) as client,
        pytest.raises(ConnectionLost, match=r"not the protocol: .* byte 0x48"),
    ):
        client.call("sys.policy")


@pytest.mark.parametrize("is_refusal", [False, True])
def test_a_daemon_of_another_version_is_named(serve: Serve, is_refusal: bool) -> None:
    def script(peer: Conversation) -> None:
        hello = peer.expect("sys.hello")
        if is_refusal:
            peer.refuse(hello, "protocol", "protocol 1 is not spoken here", protocol=2)
        else:
            peer.reply(hello, {"protocol": 2})

    with pytest.raises(VersionMismatch, match="speaks protocol 2, this client speaks 1"):
        Client(serve(script))


def test_no_daemon_says_where_and_what_to_do(socket_dir: Path) -> None:
    path = str(socket_dir / "none.sock")
    with pytest.raises(NoDaemon, match=rf"no daemon at {path} \(there is no socket\): start aiosd"):
        Client(path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    with pytest.raises(NoDaemon, match="nobody listens on it"):
        Client(path)
    with pytest.raises(NoDaemon, match="too long"):
        Client(str(socket_dir / ("x" * 200)))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_permission_denied_says_what_to_do(socket_dir: Path) -> None:
    path = socket_dir / "root.sock"
    socket_dir.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        code = (
            "import os, aios_sdk.client, aios_sdk.errors\n"
            "os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
            f"try: aios_sdk.client.Client({str(path)!r})\n"
            "except aios_sdk.errors.SocketDenied as error: print(error)\n"
        )
        says = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    assert says.startswith(f"permission denied at {path}: the system's daemon admits members of")


def test_socket_denied_without_root(socket_dir: Path) -> None:
    assert "group aiosd" in str(SocketDenied("/run/aiosd/aiosd.sock"))


def test_a_closed_client_says_so(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.expect_end()

    client = Client(serve(script))
    client.close()
    client.close()
    with pytest.raises(ClientError, match="closed"):
        client.ping()


def test_closing_in_one_thread_ends_the_call_of_another(serve: Serve) -> None:
    is_asked = threading.Event()

    def script(peer: Conversation) -> None:
        peer.hello()
        peer.expect("sys.ping")
        is_asked.set()
        peer.expect_end()

    client = Client(serve(script))
    faults: list[str] = []

    def ping() -> None:
        try:
            client.ping()
        except ClientError as error:
            faults.append(type(error).__name__)

    thread = threading.Thread(target=ping)
    thread.start()
    assert is_asked.wait(10)
    client.close()
    thread.join(10)
    assert faults == ["ConnectionLost"]


def test_a_forked_child_is_refused_and_does_no_harm(serve: Serve) -> None:
    def script(peer: Conversation) -> None:
        peer.hello()
        peer.answer("sys.ping", {})
        peer.expect_end()

    # In a process without threads: forking one with threads is what this test isn't about.
    code = (
        "import os, aios_sdk\n"
        f"client = aios_sdk.Client({serve(script)!r})\n"
        "if (pid := os.fork()) == 0:\n"
        "    try: client.ping()\n"
        "    except aios_sdk.ClientError as error: print(error, flush=True)\n"
        "    client.close()\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "client.ping()\n"
        "client.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "a forked process makes its own" in done.stdout


def test_a_bad_agent_name_is_found_before_connecting() -> None:
    with pytest.raises(InvalidParams, match="agent is 'a b', it must match"):
        Client("/nowhere", agent="a b")


def test_a_full_backlog_is_tried_again(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(socket_dir / "busy.sock")
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        while (waiting := dialing.dial(path)) is not None:
            open_sockets.enter_context(waiting)
        waits_s: list[float] = []
        monkeypatch.setattr(time, "sleep", waits_s.append)
        with pytest.raises(NoDaemon, match="it took no connection in 5 s"):
            Client(path)
        assert sum(waits_s) == pytest.approx(5.088)

        def accept_one(_: float) -> None:
            accepted, _ = listener.accept()
            accepted.close()

        monkeypatch.setattr(time, "sleep", accept_one)
        with pytest.raises(DeadlineExceeded, match=r"sys\.hello"):  # it is in; nobody answers
            Client(path, timeout_s=0.05)
