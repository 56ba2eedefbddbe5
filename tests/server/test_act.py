"""llm.act over the socket: rounds of calls until an answer, with all that can come between."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import AsyncClient, Client, wire
from aios_sdk.acting import CallResult, Step
from aios_sdk.results import ToolSpec
from aiosd import config
from aiosd.access_config import Access, ConfirmRule
from aiosd.kernel.model import AgentId
from aiosd.server.act import Act
from aiosd.server.daemon import Daemon
from aiosd.services.tools.model import Progress, Tool, ToolFailed, ToolResult
from tests.server.harness import RawPeer, served
from tests.server.scripted import ScriptedModel, calling

ASKED = {"role": "user", "content": "What is 6 times 7?"}
NUMBER: dict[str, object] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
}


@dataclass
class Probes:
    """Tools that tests look into: double, broken, and slow, which waits until it is let go."""

    name: str = "probes"
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: list[str] = field(default_factory=list)
    is_free: asyncio.Event = field(default_factory=asyncio.Event)

    def tools(self) -> Sequence[Tool]:
        names = ("double", "broken", "slow", "long", "final")
        return [
            Tool(name, f"{name} a number", NUMBER, self.name, is_irreversible=name == "final")
            for name in names
        ]

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: AgentId,
        on_progress: Callable[[Progress], None],
    ) -> ToolResult:
        self.begun.release()
        on_progress(Progress(0.5, 1.0, caller.name))
        try:
            if tool.name == "broken":
                raise ToolFailed("it fell apart")
            if tool.name == "slow":
                await self.is_free.wait()
            if tool.name == "long":
                return ToolResult("word " * 20_000)
            return ToolResult(str(2 * arguments["n"]))
        finally:
            self.ended.append(tool.name)

    async def close(self) -> None:
        pass


@contextlib.contextmanager
def acting(
    tmp_path: Path, *answers: str, slot_tokens: int = 2048, **flags: Any
) -> Iterator[tuple[Daemon, RawPeer, Probes]]:
    model = ScriptedModel(answers, slot_tokens=slot_tokens)
    probes = Probes()
    with served(tmp_path, model, slot_tokens=slot_tokens, **flags) as daemon:
        daemon.loop.call_soon_threadsafe(daemon.tools.add, probes)
        with RawPeer(daemon.config.socket, "ada") as peer:
            yield daemon, peer, probes


def ok(response: Any) -> Any:
    assert response.error is None, response.error
    return response.result


def act(peer: RawPeer, **params: Any) -> Any:
    return ok(peer.ask("llm.act", **asked(params)))


def asked(params: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [ASKED], "tools": ["*"], "max_tokens": 400, "seed": 1, **params}


def streamed(peer: RawPeer, id_: int, until: str, **params: Any) -> list[Any]:
    """Begins a call, and gives what comes up to the first chunk with that key."""
    peer.send(wire.encode_request(id_, "llm.act", asked({"stream": True, **params})))
    return chunks(peer, until)


def chunks(peer: RawPeer, until: str = "") -> list[Any]:
    found: list[Any] = []
    while True:
        message = peer.receive()
        if isinstance(message, wire.Response):
            return [*found, message]
        assert isinstance(message, wire.Notification)
        found.append(message.params)
        if until in found[-1]:
            return found


def text_of(peer: RawPeer, context: str) -> list[tuple[str, str]]:
    messages = ok(peer.ask("context.read", context=context))["messages"]
    return [(m["role"], m["content"]) for m in messages if m["role"] != "system"]


def new_context(peer: RawPeer) -> str:
    return str(ok(peer.ask("context.create"))["context"])


def test_it_calls_is_told_and_answers(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 21})), calling(("double", {"n": 4})), "It is 42.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        context = new_context(peer)
        result = act(peer, context=context)
        assert (result["text"], result["finish"], result["rounds"]) == ("It is 42.", "stop", 2)
        made = [(c["name"], c["arguments"], c["content"], c["round"]) for c in result["calls"]]
        assert made == [("double", {"n": 21}, "42", 1), ("double", {"n": 4}, "8", 2)]
        assert len({c["id"] for c in result["calls"]}) == 2
        assert result["context"] == context
        said = [pair for pair in text_of(peer, context) if pair[0] != "user"]
        assert said == [
            ("assistant", ""),
            ("tool", "42"),
            ("assistant", ""),
            ("tool", "8"),
            ("assistant", "It is 42."),
        ]
        usage = result["usage"]
        assert usage["output_tokens"] > 20
        assert usage["prompt_tokens"] > usage["output_tokens"]
        assert usage["tools_ms"] >= 0


def test_without_a_context_it_is_the_same_and_nothing_is_left(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 21})), "It is 42.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        kept, lone = act(peer, context=new_context(peer)), act(peer)
        assert lone["text"] == kept["text"] == "It is 42."
        assert "context" not in lone
        assert len(ok(peer.ask("context.list"))["contexts"]) == 1


def test_what_the_agent_remembers_is_recalled_once(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 21})), "It is 42.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        note = ok(peer.ask("memory.add", content="6 times 7 is what they ask most"))["memory"]
        context = new_context(peer)
        result = act(peer, context=context, recall={"k": 1}, tools=["double"])
        assert (result["recalled"], result["text"]) == ([note], "It is 42.")
        said = ok(peer.ask("context.read", context=context))["messages"]
        assert sum("what they ask most" in message["content"] for message in said) == 1


def test_every_step_is_streamed(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 21}), ("broken", {"n": 1})), "Done.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        *steps, response = streamed(peer, 7, "never")
        result = ok(response)
        assert {step["id"] for step in steps} == {7}
        assert "".join(step.get("text", "") for step in steps) == result["text"] == "Done."
        calls = [one for step in steps for one in step.get("tool_calls", ())]
        assert [(c["name"], c["arguments"]) for c in calls] == [
            ("double", {"n": 21}),
            ("broken", {"n": 1}),
        ]
        brought = [step["tool_result"] for step in steps if "tool_result" in step]
        assert [(b["name"], b["is_error"]) for b in brought] == [
            ("double", False),
            ("broken", True),
        ]
        assert [b["id"] for b in brought] == [c["id"] for c in calls]
        assert "fell apart" in brought[1]["content"]
        progress = [step for step in steps if "progress" in step]
        assert [(p["call"], p["message"]) for p in progress] == [(c["id"], "ada") for c in calls]
        assert {step["job"] for step in steps if "job" in step} != {result["job"]}


def test_what_a_tool_cant_do_is_told_to_the_model_and_it_goes_on(tmp_path: Path) -> None:
    rule = ConfirmRule(kinds=("tool",), acts=("use",), irreversible=True)
    answers = (calling(("broken", {"n": 1})), calling(("final", {"n": 1})), "Sorry.")
    with acting(tmp_path, *answers, access=Access(confirm=(rule,))) as (daemon, peer, probes):
        found = streamed(peer, 1, "request")
        with RawPeer(daemon.config.socket, "aiosctl") as person:
            ok(person.ask("access.deny", request=found[-1]["request"]))
        *_, response = chunks(peer)
        result = ok(response)
        assert (result["text"], result["finish"]) == ("Sorry.", "stop")
        first, second = result["calls"]
        assert first["content"].startswith("tool_failed: broken: it fell apart")
        assert second["content"].startswith("denied: nobody approved")
        assert [first["is_error"], second["is_error"]] == [True, True]
        assert probes.ended == ["broken"]


def test_an_approved_call_is_made(tmp_path: Path) -> None:
    rule = ConfirmRule(kinds=("tool",), acts=("use",), irreversible=True)
    answers = (calling(("final", {"n": 4})), "Done.")
    with acting(tmp_path, *answers, access=Access(confirm=(rule,))) as (daemon, peer, _):
        found = streamed(peer, 1, "request")
        with RawPeer(daemon.config.socket, "aiosctl") as person:
            ok(person.ask("access.approve", request=found[-1]["request"]))
        *_, response = chunks(peer)
        assert [c["content"] for c in ok(response)["calls"]] == ["8"]


def test_after_so_many_rounds_it_has_to_answer(tmp_path: Path) -> None:
    answers = [calling(("double", {"n": n})) for n in range(5)]
    with acting(tmp_path, *answers) as (_, peer, _probes):
        result = act(peer, max_rounds=2)
        assert result["finish"] in ("rounds", "length")
        assert (result["rounds"], len(result["calls"])) == (2, 2)
        first = act(peer, max_rounds=1, tool_choice="double")
        assert (first["rounds"], first["calls"][0]["content"]) == (1, "0")


def test_calls_beyond_the_limit_of_a_round_are_told_so(tmp_path: Path) -> None:
    answers = (calling(*(("double", {"n": n}) for n in range(3))), "Done.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        result = act(peer, max_calls=2)
        contents = [c["content"] for c in result["calls"]]
        assert contents == ["0", "2", "not made: the limit is 2 calls at once"]


def test_all_tokens_together_have_a_limit(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 1})), "word " * 200)
    with acting(tmp_path, *answers) as (_, peer, _probes):
        first = act(peer, max_rounds=1)["usage"]["output_tokens"]
        result = act(peer, max_total_tokens=60)
        assert (result["finish"], result["usage"]["output_tokens"]) == ("length", 60)
        assert first > 60


def test_a_long_answer_of_a_tool_is_cut_to_what_the_context_holds(tmp_path: Path) -> None:
    answers = (calling(("long", {"n": 1})), "Done.")
    with acting(tmp_path, *answers, slot_tokens=1024) as (_, peer, _probes):
        context = new_context(peer)
        result = act(peer, context=context, tools=["long"])
        assert result["text"] == "Done."
        assert len(result["calls"][0]["content"]) == 4096
        [told] = [text for role, text in text_of(peer, context) if role == "tool"]
        assert told.endswith("[cut: it had 100000 characters]")
        assert ok(peer.ask("context.info", context=context))["n_tokens"] < 1024


def test_calls_of_the_clients_tools_end_the_act_and_another_goes_on(tmp_path: Path) -> None:
    own = {"name": "ask_user", "description": "Ask the user.", "parameters": NUMBER}
    answers = (calling(("double", {"n": 1}), ("ask_user", {"n": 2})), "They said yes.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        context = new_context(peer)
        first = act(peer, context=context, client_tools=[own])
        assert first["finish"] == "tool_calls"
        [pending] = first["tool_calls"]
        assert (pending["name"], pending["arguments"]) == ("ask_user", {"n": 2})
        assert [c["name"] for c in first["calls"]] == ["double"]
        told = {"role": "tool", "tool_call_id": pending["id"], "name": "ask_user", "content": "yes"}
        second = act(peer, context=context, client_tools=[own], messages=[told])
        assert (second["text"], second["finish"], second["rounds"]) == ("They said yes.", "stop", 0)
        roles = [role for role, _ in text_of(peer, context)]
        assert roles[-4:] == ["assistant", "tool", "tool", "assistant"]


def test_the_clients_own_tool_goes_before_one_that_a_pattern_finds(tmp_path: Path) -> None:
    own = {"name": "double", "description": "Mine.", "parameters": NUMBER}
    with acting(tmp_path, calling(("double", {"n": 1}))) as (_, peer, probes):
        result = act(peer, context=new_context(peer), client_tools=[own])
        assert [call["name"] for call in result["tool_calls"]] == ["double"]
        assert probes.ended == []


@pytest.mark.parametrize(
    ("params", "code", "says"),
    [
        ({"tools": ["nosuch"]}, "not_found", "no tool 'nosuch'"),
        ({"client_tools": [{"name": "x"}]}, "invalid_params", "client_tools needs a context"),
        (
            {"context": "", "tools": ["double"], "client_tools": [{"name": "double"}]},
            "invalid_params",
            "client_tools[0].name is 'double', as one of tools",
        ),
        ({"tool_choice": "nosuch"}, "invalid_params", "tool_choice"),
        ({"max_tokens": 100_000}, "invalid_params", "max_tokens is 100000"),
        ({"context": "cnone"}, "not_found", "no context 'cnone'"),
    ],
)
def test_what_cant_be_done_is_said_before_anything_happens(
    tmp_path: Path, params: dict[str, Any], code: str, says: str
) -> None:
    with acting(tmp_path) as (_, peer, _probes):
        if params.get("context") == "":
            params = params | {"context": new_context(peer)}
        error: Any = peer.ask("llm.act", **asked(params)).error
        assert error["code"] == code
        assert says in error["message"]


def test_a_cancel_while_a_tool_runs_ends_it_and_leaves_a_whole_context(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 1}), ("slow", {"n": 1})), "Never.")
    with acting(tmp_path, *answers) as (_, peer, probes):
        context = new_context(peer)
        streamed(peer, 1, "tool_result", context=context)
        assert probes.begun.acquire(timeout=20)
        assert probes.begun.acquire(timeout=20)
        peer.send(wire.encode_notification("cancel", {"id": 1}))
        *_, response = chunks(peer)
        assert response.error["code"] == "cancelled"
        assert probes.ended == ["double", "slow"]
        assert text_of(peer, context)[-3:] == [
            ("assistant", ""),
            ("tool", "2"),
            ("tool", "cancelled: the act ended before this call did"),
        ]
        assert not ok(peer.ask("context.info", context=context))["busy"]


@pytest.mark.parametrize("n_steps", range(12))
def test_a_cancel_while_answers_are_written_loses_none(
    tmp_path: Path, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"name": "ask_user", "description": "Ask.", "parameters": NUMBER}
    answers = (calling(("double", {"n": 1}), ("ask_user", {"n": 2})), "Never.")
    append = Act._append

    async def cancelled_soon(self: Act, made: Any) -> None:
        """So many turns of the loop after the writing began."""

        def count_down(left: int) -> None:
            if left:
                self._d.loop.call_soon(count_down, left - 1)
            else:
                self.cancel()

        count_down(n_steps)
        await append(self, made)

    monkeypatch.setattr(Act, "_append", cancelled_soon)
    with acting(tmp_path, *answers) as (_, peer, _probes):
        context = new_context(peer)
        peer.ask("llm.act", **asked({"context": context, "client_tools": [own]}))
        messages = ok(peer.ask("context.read", context=context))["messages"]
        called = [c["id"] for m in messages for c in m.get("tool_calls", ())]
        told = {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}
        assert len(called) == 2
        assert told[called[0]] == "2"
        assert [*told] in (called, called[:1])  # with the client's, unless it was its turn already


def test_a_job_whose_tools_run_is_listed_and_can_be_cancelled(tmp_path: Path) -> None:
    answers = (calling(("slow", {"n": 1})), "Never.")
    with acting(tmp_path, *answers) as (daemon, peer, probes):
        context = new_context(peer)
        streamed(peer, 1, "progress", context=context)
        with RawPeer(daemon.config.socket, "aiosctl") as person:
            [job] = ok(person.ask("job.list", all=True))["jobs"]
            assert (job["state"], job["context"]) == ("calling", context)
            assert job["waits_for"] == {"kind": "tools"}
            busy: Any = person.ask("context.append", context=context, prompt="x").error
            assert (busy["code"], busy["data"]) == ("busy", {"job": job["job"]})
            ok(person.ask("job.cancel", job=job["job"]))
        *_, response = chunks(peer)
        assert response.error["code"] == "cancelled"
        assert probes.ended == ["slow"]
        assert ok(peer.ask("job.list"))["jobs"] == []


def test_the_result_has_as_many_calls_as_a_frame_holds(tmp_path: Path) -> None:
    answers = (*(calling(("long", {"n": n})) for n in range(4)), "Done.")
    limits = config.Limits(frame_bytes=64 * 1024)
    with acting(tmp_path, *answers, limits=limits, slot_tokens=4096) as (_, peer, _probes):
        result = act(peer, max_tokens=100)
        assert (result["text"], result["n_calls"]) == ("Done.", 4)
        assert [call["arguments"]["n"] for call in result["calls"]] == [1, 2, 3]


def test_a_cancel_while_the_model_speaks_leaves_the_rounds_before(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 1})), "word " * 400)
    with acting(tmp_path, *answers) as (_, peer, _probes):
        context = new_context(peer)
        streamed(peer, 1, "tool_result", context=context, max_tokens=1000)
        while not chunks(peer, "text")[-1].get("text"):
            pass
        peer.send(wire.encode_notification("cancel", {"id": 1}))
        *_, response = chunks(peer)
        assert response.error["code"] == "cancelled"
        assert text_of(peer, context)[-2:] == [("assistant", ""), ("tool", "2")]


@pytest.mark.parametrize("n_chunks", [*range(0, 90, 9), 200])
def test_wherever_a_cancel_comes_the_context_is_whole_and_goes_on(
    tmp_path: Path, n_chunks: int
) -> None:
    answers = (calling(("double", {"n": 1}), ("double", {"n": 2})), "The answer is 4.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        context = new_context(peer)
        params = asked({"stream": True, "context": context, "tag": "t"})
        peer.send(wire.encode_request(1, "llm.act", params))
        found = [] if n_chunks == 0 else [peer.receive()]
        while len(found) < n_chunks and not isinstance(found[-1], wire.Response):
            found.append(peer.receive())
        if not found or not isinstance(found[-1], wire.Response):
            peer.send(wire.encode_notification("cancel", {"tag": "t"}))
            *_, response = chunks(peer)
            assert response.error is None or response.error["code"] == "cancelled"
        messages = ok(peer.ask("context.read", context=context))["messages"]
        called = [c["id"] for m in messages for c in m.get("tool_calls", ())]
        told = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        assert called == told
        assert [m["role"] for m in messages].count("user") <= 1
        assert act(peer, context=context, tool_choice="none", max_tokens=8)["rounds"] == 0


def test_many_acts_at_once_end_each_once_and_leave_nothing(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 3})), calling(("double", {"n": 4})), "Done.")

    async def one(socket: str, number: int) -> str:
        async with AsyncClient(socket, agent=f"agent-{number % 5}") as client:
            context = await client.context()
            begun = context.act_stream("Go on.", tools=["double"], max_tokens=100)
            async with begun as stream:
                n_seen = 0
                async for step in stream:
                    n_seen += isinstance(step, CallResult)
                    if number % 3 == 0 and n_seen == 1:
                        return "left"
                return (await stream.result()).text

    async def all_of(socket: str) -> list[str]:
        return await asyncio.gather(*(one(socket, number) for number in range(30)))

    with acting(tmp_path, *answers) as (daemon, peer, probes):
        ended = asyncio.run(all_of(daemon.config.socket))
        assert ended == ["left" if number % 3 == 0 else "Done." for number in range(30)]
        with RawPeer(daemon.config.socket, "aiosctl") as person:
            while any(c["busy"] for c in ok(person.ask("context.list", all=True))["contexts"]):
                pass
            assert ok(person.ask("job.list", all=True))["jobs"] == []
        assert daemon.acts == {}
        assert 50 <= len(probes.ended) <= 60
        [tool] = [t for t in ok(peer.ask("tool.list"))["tools"] if t["name"] == "double"]
        assert (tool["running"], tool["waiting"]) == (0, 0)


def test_a_cancel_while_a_person_is_asked_makes_no_call(tmp_path: Path) -> None:
    rule = ConfirmRule(kinds=("tool",), acts=("use",), irreversible=True)
    answers = (calling(("final", {"n": 1})), "Never.")
    with acting(tmp_path, *answers, access=Access(confirm=(rule,))) as (daemon, peer, probes):
        streamed(peer, 1, "request")
        peer.send(wire.encode_notification("cancel", {"id": 1}))
        *_, response = chunks(peer)
        assert response.error["code"] == "cancelled"
        assert probes.ended == []
        with RawPeer(daemon.config.socket, "aiosctl") as person:
            assert ok(person.ask("access.pending"))["requests"] == []


def test_a_deadline_ends_it(tmp_path: Path) -> None:
    answers = (calling(("slow", {"n": 1})), "Never.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        late: Any = peer.ask("llm.act", **asked({"deadline_ms": 300})).error
        assert late["code"] == "deadline_exceeded"


def test_a_dead_client_ends_it_as_a_cancel_does(tmp_path: Path) -> None:
    answers = (calling(("slow", {"n": 1})), "Never.")
    with acting(tmp_path, *answers) as (daemon, peer, probes):
        with RawPeer(daemon.config.socket, "ada") as dead:
            context = new_context(dead)
            streamed(dead, 1, "tool_calls", context=context)
            assert probes.begun.acquire(timeout=20)
        while ok(peer.ask("context.info", context=context))["busy"]:
            pass
        assert probes.ended == ["slow"]
        assert text_of(peer, context)[-1][0] == "tool"


def test_the_end_of_the_daemon_ends_it_and_the_context_says_so(tmp_path: Path) -> None:
    answers = (calling(("slow", {"n": 1})), "Never.")
    with acting(tmp_path, *answers) as (daemon, peer, probes):
        context = new_context(peer)
        streamed(peer, 1, "tool_calls", context=context)
        assert probes.begun.acquire(timeout=20)
        daemon.loop.call_soon_threadsafe(daemon.stop)
        *_, response = chunks(peer)
        assert response.error["code"] == "unavailable"
    with acting(tmp_path) as (_, peer, _probes):
        assert text_of(peer, context)[-1][1].startswith("cancelled")


def test_whole_calls_of_an_answer_that_was_cut_are_made(tmp_path: Path) -> None:
    answers = (calling(("double", {"n": 21}), ("double", {"n": 4})), "It is 42.")
    with acting(tmp_path, *answers) as (_, peer, _probes):
        result = act(peer, context=new_context(peer), max_tokens=60)
        assert [c["content"] for c in result["calls"]] == ["42"]
        assert (result["text"], result["finish"]) == ("It is 42.", "stop")


def test_without_the_right_to_tools_it_is_denied(tmp_path: Path) -> None:
    access = Access(rights=("llm", "context"), admins=())
    with acting(tmp_path, "Hello.", access=access) as (_, peer, _probes):
        error: Any = peer.ask("llm.act", **asked({})).error
        assert (error["code"], error["data"]) == ("denied", {"right": "tool"})
        assert act(peer, tools=[])["text"] == "Hello."


def test_the_clients_give_it_step_by_step(tmp_path: Path) -> None:
    own: ToolSpec = {"name": "ask_user", "description": "Ask.", "parameters": NUMBER}
    answers = (calling(("double", {"n": 1})), calling(("ask_user", {"n": 2})), "Yes.")

    async def awaited(socket: str) -> list[Step]:
        async with AsyncClient(socket, agent="ada") as client:
            context = await client.context()
            begun = context.act_stream("Ask them.", tools=["double", own], max_tokens=400)
            async with begun as stream:
                found = [step async for step in stream]
                assert (await stream.result()).finish == "tool_calls"
            return found

    with acting(tmp_path, *answers) as (daemon, _peer, _probes):
        with Client(daemon.config.socket, agent="ada") as client:
            context = client.context()
            with context.act_stream("Ask them.", tools=["double", own], max_tokens=400) as stream:
                steps = list(stream)
                first = stream.result
            kinds = [type(step).__name__ for step in steps]
            assert kinds == ["ToolCall", "CallProgress", "CallResult", "ToolCall"]
            assert first.calls[0].content == "2"
            told = [call.answer("yes") for call in first.tool_calls]
            second = context.act(told, tools=["double", own], max_tokens=400)
            assert (str(second), second.finish, second.rounds) == ("Yes.", "stop", 0)
            assert second.usage.output_tokens > 0
        assert [type(step) for step in asyncio.run(awaited(daemon.config.socket))] == [
            type(step) for step in steps
        ]
