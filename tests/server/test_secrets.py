"""Nothing that people say gets into the log: marked secrets go through every syscall."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from aios_sdk import types, wire
from aios_sdk.syscalls import TABLE, Param
from aiosd import logs
from aiosd.engine.fake import FakeModel
from aiosd.server.daemon import Daemon
from aiosd.server.startup import speaker
from tests.server.harness import RawPeer, served

MARK = "zqXsecretXqz"
FORMS = ("console", "json", "journal")


@pytest.fixture
def said() -> Iterator[list[str]]:
    """All that is logged, at every level, in all three forms."""
    lines: list[str] = []

    def keep(logger: Any, method: str, event: Any) -> Any:
        for form in FORMS:
            line = dict(event)
            for processor in logs.processors(form):
                line = processor(logger, method, line)
            lines.append(line.decode("latin-1") if isinstance(line, bytes) else str(line))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        cache_logger_on_first_use=False,
    )
    try:
        yield lines
    finally:
        structlog.configure(**before)


def secret(of: types.Type) -> Any:
    """A value of the type, with the secret in it wherever there can be one."""
    match of:
        case types.Str(choices=choices) if choices:
            return choices[0]
        case types.Str(pattern=None):
            return MARK
        case types.Str(pattern=pattern):
            assert pattern is not None
            tries = (MARK, f"/{MARK}", f"{MARK}:/{MARK}", f"@{MARK}")
            return next((text for text in tries if re.fullmatch(pattern, text)), MARK)
        case types.Bytes():
            return MARK.encode()
        case types.List():
            return [secret(of.of)] * max(1, of.min_items)
        case types.Map():
            return {f.name: secret(f.type) for f in of.fields}
        case types.AnyMap():
            return {MARK: MARK}
        case types.Any() | types.Value():
            return MARK
        case types.Union():
            return secret(of.options[0])
        case types.Int():
            return max(of.min, 1)
        case types.Float():
            return of.max
        case types.Bool():
            return False
    raise AssertionError(f"what does a secret look like as {of!r}?")


def ways(params: tuple[Param, ...]) -> Iterator[dict[str, Any]]:
    """The required params; then each other one beside them; then each one of a wrong type."""
    needed = {p.name: secret(p.type) for p in params if p.is_required}
    yield needed
    for param in params:
        if param.name not in ("deadline_ms", "stream"):
            yield needed | {param.name: secret(param.type)}
            yield needed | {param.name: [{MARK: MARK}]}
    yield needed | {MARK: MARK}


def check(said: list[str], *more: str) -> None:
    """Neither the secret nor what is made of it was logged, but something was."""
    traces = [
        MARK,
        MARK.lower(),
        base64.b64encode(MARK.encode()).decode(),
        MARK.encode().hex(),
        hashlib.sha256(MARK.encode()).hexdigest(),
        repr(list(MARK.encode())).strip("[]"),
        *more,
    ]
    everything = "\n".join(said)
    assert "syscall" in everything
    for trace in traces:
        assert trace not in everything, everything[max(0, everything.find(trace) - 500) :][:1000]


def ask(peer: RawPeer, method: str, params: dict[str, Any]) -> wire.Response:
    """The answer, whatever is told before it."""
    peer.send(wire.encode_request(7, method, params))
    while not isinstance(message := peer.receive(), wire.Response):
        assert message is not None, f"{method} ended the connection"
    return message


def test_no_call_of_the_table_logs_what_it_was_given(tmp_path: Path, said: list[str]) -> None:
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        for name, call in TABLE.items():
            if name in ("sys.hello", "agent.kill"):
                continue  # an agent's name is no secret, and to be killed ends the peer
            for params in ways(call.params):
                if name == "tool.load":  # what a server is called is no secret either
                    params["name"] = "server"
                # What would wait for ever, or for a person, has its time limited.
                ask(peer, name, {"deadline_ms": 500, **params})
        peer.send(wire.encode_notification(MARK, {MARK: MARK}))
        assert peer.receive() is not None
        peer.ask(MARK, text=MARK)
    check(said)
    names = {line for line in said if '"event": "syscall"' in line}
    assert all(any(f'"name": "{name}"' in line for line in names) for name in TABLE if name not in
               ("sys.hello", "agent.kill"))  # fmt: skip


def test_what_succeeds_is_not_logged_either(tmp_path: Path, said: list[str]) -> None:
    texts: list[str] = []
    with served(tmp_path) as daemon, RawPeer(daemon.config.socket) as peer:
        created: Any = peer.ask("context.create", name=MARK, system=MARK).result
        context = created["context"]
        for params in (
            {"messages": [{"role": "user", "content": MARK}], "context": context},
            {"prompt": MARK, "stop": [MARK], "ignore_eos": True},
            {"prompt": MARK, "schema": {"const": MARK}},
            {"prompt": MARK, "grammar": f'root ::= "{MARK}"'},
            {"prompt": MARK, "grammar": f"{MARK} {MARK}"},
            {"prompt": MARK, "detach": True, "logprobs": 3},
            {"prompt": MARK, "stream": True, "tag": MARK},
        ):
            answer = ask(peer, "llm.generate", {"max_tokens": 8, **params})
            result: Any = answer.result or {}
            texts += [result["text"]] if len(result.get("text", "")) > 7 else []
        for method, params in (
            ("llm.tokenize", {"text": MARK}),
            ("context.append", {"context": context, "prompt": MARK}),
            ("context.read", {"context": context}),
            ("context.fork", {"context": context, "name": MARK}),
        ):
            assert ask(peer, method, params).error is None
        for tool, arguments, is_fine in (
            ("python", {"code": f"print('{MARK}')"}, True),
            ("python", {"code": f"raise SystemExit('{MARK}')"}, True),
            ("calculator", {"expression": MARK}, True),
            ("storage_search", {"query": MARK}, True),
            ("calculator", {MARK: MARK}, False),
            (MARK, {MARK: MARK}, False),
        ):
            answer = ask(peer, "tool.call", {"name": tool, "arguments": arguments})
            assert (answer.error is None) == is_fine, answer.error
    assert texts
    check(said, *texts)


def test_a_bug_is_logged_by_its_place_not_by_its_words(tmp_path: Path, said: list[str]) -> None:
    model = FakeModel(n_slots=4, slot_tokens=256)
    with served(tmp_path, model) as daemon, RawPeer(daemon.config.socket) as peer:

        def wrong(*_: Any) -> Any:
            raise KeyError(MARK)

        daemon.syscalls.handlers["sys.ping"] = wrong
        error: Any = peer.ask("sys.ping").error
        assert error["code"] == "internal"
        model.before_decode = wrong
        error = peer.ask("llm.generate", prompt=MARK).error
        assert error["code"] == "engine_failed"
        model.before_decode = None
        on_loop(daemon, wrong)
        assert peer.ask("sys.describe").error is None
    check(said)
    bugs = [line for line in said if "KeyError" in line]
    assert len(bugs) == 3 * len(FORMS)
    assert all("in wrong" in line for line in bugs)


def on_loop(daemon: Daemon, callback: Any) -> None:
    daemon.loop.call_soon_threadsafe(callback)


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ("llama_decode: failed to decode, ret = -1", "llama_decode"),
        ("ggml_backend_alloc: no memory", "ggml_backend_alloc"),
        ('parse: error parsing grammar: expecting newline at "my words"', None),
        ("root ::= my words", None),
        ("my words: and more", None),
    ],
)
def test_of_llama_cpps_words_only_its_functions_name_is_logged(line: str, who: str | None) -> None:
    assert speaker(line) == who
