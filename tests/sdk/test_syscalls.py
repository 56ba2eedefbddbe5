"""The table: what is in it, and that every param of every call refuses what it should."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import NotRequired, get_args, get_origin, get_type_hints

import jsonschema
import pytest

from aios_sdk import acting, results
from aios_sdk.errors import ERRORS, InvalidParams
from aios_sdk.signature import ABSENT
from aios_sdk.syscalls import (
    FILE_DATA,
    MAX_FILE_DATA,
    TABLE,
    Param,
    Syscall,
    describe,
    render,
)
from aios_sdk.types import Any, AnyMap, Bool, Float, Int, List, Map, Str, Type, Union, Value

NAMES = [
    "sys.hello",
    "sys.ping",
    "sys.describe",
    "sys.status",
    "sys.metrics",
    "sys.events",
    "sys.trace",
    "sys.journal",
    "sys.policy",
    "sys.backup",
    "llm.generate",
    "llm.act",
    "llm.embed",
    "llm.tokenize",
    "llm.detokenize",
    "llm.models",
    "model.add",
    "model.remove",
    "context.create",
    "context.append",
    "context.info",
    "context.list",
    "context.read",
    "context.fork",
    "context.rewind",
    "context.snapshot",
    "context.prefetch",
    "context.delete",
    "job.list",
    "job.story",
    "job.cancel",
    "job.pause",
    "job.resume",
    "job.priority",
    "job.attach",
    "memory.add",
    "memory.get",
    "memory.update",
    "memory.delete",
    "memory.list",
    "memory.search",
    "memory.stats",
    "storage.write",
    "storage.abandon",
    "storage.read",
    "storage.list",
    "storage.stat",
    "storage.mkdir",
    "storage.delete",
    "storage.rename",
    "storage.history",
    "storage.rollback",
    "storage.search",
    "storage.share",
    "storage.grants",
    "storage.revoke",
    "ipc.send",
    "ipc.receive",
    "ipc.ack",
    "ipc.list",
    "ipc.clear",
    "agent.list",
    "agent.info",
    "agent.kill",
    "agent.limits",
    "agent.spawn",
    "agent.wait",
    "agent.signal",
    "agent.logs",
    "agent.processes",
    "agent.inspect",
    "tool.list",
    "tool.check",
    "tool.call",
    "tool.call_all",
    "tool.load",
    "tool.unload",
    "tool.servers",
    "access.check",
    "access.request",
    "access.pending",
    "access.approve",
    "access.deny",
    "access.groups",
    "access.group",
    "access.rights",
    "access.grant",
    "access.grants",
    "access.revoke",
    "access.rules",
    "access.forget",
    "access.audit",
]


def test_the_table_holds_the_calls_of_this_version() -> None:
    assert list(TABLE) == NAMES
    assert all(call.name == name for name, call in TABLE.items())


def test_rights_follow_the_family() -> None:
    rights: dict[str, set[object]] = {}
    for call in TABLE.values():
        rights.setdefault(call.name.split(".")[0], set()).add(call.right)
    assert rights == {
        "sys": {None, "admin"},
        "llm": {"llm"},
        "model": {"admin"},
        "context": {"context"},
        "job": {None, "llm"},
        "memory": {"memory"},
        "storage": {"storage"},
        "ipc": {"ipc"},
        "agent": {None, "spawn"},
        "tool": {"tool", "admin"},
        "access": {None},
    }
    assert [call.name for call in TABLE.values() if call.right == "admin"] == [
        "sys.journal",
        "sys.backup",
        "model.add",
        "model.remove",
        "tool.load",
        "tool.unload",
        "tool.servers",
    ]


def test_only_calls_that_change_nothing_are_repeated() -> None:
    assert [name for name, call in TABLE.items() if not call.is_repeatable] == [
        "sys.hello",
        "sys.policy",
        "sys.backup",
        "llm.generate",
        "llm.act",
        "model.add",
        "model.remove",
        "context.create",
        "context.append",
        "context.fork",
        "context.rewind",
        "context.delete",
        "job.cancel",
        "job.pause",
        "job.resume",
        "job.priority",
        "memory.add",
        "memory.delete",
        "storage.write",
        "storage.abandon",
        "storage.mkdir",
        "storage.delete",
        "storage.rename",
        "storage.rollback",
        "storage.share",
        "storage.revoke",
        "ipc.send",
        "ipc.clear",
        "agent.kill",
        "agent.limits",
        "agent.spawn",
        "agent.signal",
        "tool.call",
        "tool.call_all",
        "tool.load",
        "tool.unload",
        "access.request",
        "access.approve",
        "access.deny",
        "access.grant",
        "access.revoke",
        "access.forget",
    ]


def test_every_call_takes_a_deadline_and_streaming_ones_a_tag() -> None:
    for call in TABLE.values():
        names = [p.name for p in call.params]
        assert "deadline_ms" in names
        assert ("tag" in names) == (call.chunk is not None)
    streaming = [name for name, call in TABLE.items() if call.chunk is not None]
    assert streaming == [
        "sys.events",
        "llm.generate",
        "llm.act",
        "job.attach",
        "agent.logs",
        "tool.call",
        "tool.call_all",
        "access.pending",
    ]


# ---------------------------------------------------------------- params

VALID: dict[str, dict[str, object]] = {
    "sys.hello": {"protocol": 1, "agent": "a"},
    "llm.generate": {"prompt": "x"},
    "llm.act": {"context": "c"},
    "llm.embed": {"texts": ["x"]},
    "llm.tokenize": {"text": "x"},
    "llm.detokenize": {"tokens": [1]},
    "context.append": {"context": "c", "prompt": "x"},
    "context.info": {"context": "c"},
    "context.read": {"context": "c"},
    "context.fork": {"context": "c"},
    "context.rewind": {"context": "c", "n_tokens": 1},
    "context.snapshot": {"context": "c"},
    "context.prefetch": {"context": "c"},
    "context.delete": {"context": "c"},
    "sys.backup": {"path": "/b"},
    "model.add": {"path": "/m.gguf"},
    "model.remove": {"name": "m"},
    "job.story": {"job": "j"},
    "job.cancel": {"job": "j"},
    "job.pause": {"job": "j"},
    "job.resume": {"job": "j"},
    "job.priority": {"job": "j", "priority": "normal"},
    "job.attach": {"job": "j"},
    "memory.add": {"content": "x"},
    "memory.get": {"memory": "m"},
    "memory.update": {"memory": "m", "content": "x"},
    "memory.delete": {"memory": "m"},
    "memory.search": {"query": "x"},
    "storage.write": {"path": "a", "data": "x"},
    "storage.abandon": {"upload": "u"},
    "storage.read": {"path": "a"},
    "storage.mkdir": {"path": "a"},
    "storage.delete": {"path": "a"},
    "storage.rename": {"path": "a", "to": "b"},
    "storage.history": {"path": "a"},
    "storage.rollback": {"path": "a"},
    "storage.search": {"query": "x"},
    "storage.share": {"with": "a"},
    "storage.revoke": {"grant": "g"},
    "ipc.send": {"to": "a"},
    "ipc.ack": {"message": "e"},
    "agent.info": {"agent": "a"},
    "agent.kill": {"agent": "a"},
    "tool.check": {"name": "clock"},
    "tool.call": {"name": "clock"},
    "tool.call_all": {"calls": [{"name": "clock", "arguments": {}}]},
    "tool.load": {"name": "time"},
    "tool.unload": {"name": "time"},
    "access.check": {"action": "read"},
    "access.request": {"right": "tool", "reason": "x"},
    "access.approve": {"request": "q"},
    "access.deny": {"request": "q"},
    "access.group": {"name": "g"},
    "access.rights": {"agent": "a"},
    "access.grant": {"kind": "memory", "with": "b"},
    "access.revoke": {"grant": "g"},
    "access.forget": {"rule": "r"},
    "agent.limits": {"agent": "a"},
    "agent.spawn": {"name": "a", "command": "/bin/true"},
    "agent.wait": {"agent": "a"},
    "agent.signal": {"agent": "a", "signal": "term"},
    "agent.logs": {"agent": "a"},
    "agent.inspect": {"agent": "a"},
}
EVERY_PARAM = [(call, param) for call in TABLE.values() for param in call.params]
EVERY_ID = [f"{call.name}-{param.name}" for call, param in EVERY_PARAM]


def valid(call: Syscall) -> dict[str, object]:
    return dict(VALID.get(call.name, {}))


@pytest.mark.parametrize("call", TABLE.values(), ids=NAMES)
def test_the_least_params_are_valid_and_required_ones_are_needed(call: Syscall) -> None:
    params = valid(call)
    assert call.validate(params).items() >= params.items()
    for name in [p.name for p in call.params if p.is_required]:
        with pytest.raises(InvalidParams, match=f"needs {name}, which is missing") as caught:
            call.validate({k: v for k, v in params.items() if k != name})
        assert caught.value.data == {"field": name}


def deep() -> object:
    value: object = None
    for _ in range(80):
        value = [value]
    return value


def wrong_values(type_: Type) -> list[object]:
    """Values of every wire type that this type is not, and some past its limits."""
    wrong: list[object] = [None, b"\xff", [[[]]], {"a": {}}, object()]
    match type_:
        case Int(min=least, max=most):
            wrong += [True, 1.5, "1", math.nan, least - 1, most + 1, 2**70]
        case Float(min=least, max=most):
            wrong += [True, "1", math.nan, math.inf, -math.inf, least - 1, most + 1, 10**400]
        case Bool():
            wrong += [0, 1, "true", 1.0]
        case Str(choices=()) if type_.pattern is None:
            wrong += [1, True, 1.5, "x" * (type_.max_chars + 1)]
        case Str():
            wrong += [1, True, 1.5, "", "\x00", "\ud800", "a\n", "x" * 1000]
        case List():
            wrong += [1, "text", [None], [True] * 3, [1.5], [0] * (type_.max_items + 1)]
        case Union() if type_ == FILE_DATA:
            wrong = [None, 1, True, 1.5, [], {}, b"x" * (MAX_FILE_DATA + 1)]
        case Value():
            wrong = [deep()]
        case AnyMap():
            wrong = [None, 1, "x", [], {1: 2}, {"a": b""}, {"a": math.nan}]
        case _:
            wrong += [1.5, True, "x" * 129]
    return wrong


@pytest.mark.parametrize(("call", "param"), EVERY_PARAM, ids=EVERY_ID)
def test_every_param_refuses_wrong_values_and_names_itself(call: Syscall, param: Param) -> None:
    for value in wrong_values(param.type):
        with pytest.raises(InvalidParams) as caught:
            call.validate(valid(call) | {param.name: value})
        assert param.name in caught.value.message
        assert str(caught.value.data["field"]).startswith(param.name)
        assert len(caught.value.message) < 400


@pytest.mark.parametrize("call", TABLE.values(), ids=NAMES)
def test_params_that_are_no_map_are_refused(call: Syscall) -> None:
    for params in ([], [{}], "x", 5, True, b"", object()):
        with pytest.raises(InvalidParams) as caught:
            call.validate(params)
        assert caught.value.data == {"field": "params"}


def test_defaults_are_filled_in_and_others_stay_away() -> None:
    assert TABLE["sys.ping"].validate(None) == {}
    assert TABLE["context.create"].validate({}) == {}
    assert TABLE["context.list"].validate({}) == {"all": False}
    assert TABLE["llm.generate"].validate({"prompt": "x", "temperature": 0, "deadline_ms": 9}) == {
        "prompt": "x",
        "deadline_ms": 9,
        "max_tokens": 256,
        "temperature": 0.0,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "priority": "normal",
        "ignore_eos": False,
        "logprobs": 0,
        "keep_partial": False,
        "detach": False,
        "stream": False,
    }


def test_what_was_given_is_not_changed() -> None:
    given: dict[str, object] = {"context": "c", "messages": [{"role": "user", "content": "x"}]}
    checked = TABLE["llm.generate"].validate(given)
    assert given == {"context": "c", "messages": [{"role": "user", "content": "x"}]}
    assert checked["messages"] == given["messages"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"prmpt": "x"}, "llm.generate doesn't know 'prmpt' (did you mean prompt?)"),
        (
            {"prompt": "x", "max_token": 1, "zzz": 2},
            "'max_token' (did you mean max_tokens?), 'zzz'",
        ),
        ({"prompt": "x", 5: 1}, "doesn't know 5"),
        ({"prompt": "x", b"seed": 1}, "doesn't know b'seed'"),
        ({"prompt": "x", "y" * 10**6: 1}, "…"),
        ({f"k{i}": i for i in range(20)}, "and 12 more"),
        *[({"prompt": "x", later: 1}, later) for later in ("tools", "tool_choice", "recall")],
        ({}, "give at least one of messages, prompt, tokens, context"),
        ({"prompt": "x", "tokens": [1]}, "prompt and tokens exclude each other"),
        ({"prompt": "x", "schema": {}, "grammar": "root ::= x"}, "schema and grammar exclude"),
        ({"prompt": "x", "schema": {}, "ignore_eos": True}, "schema and ignore_eos exclude"),
        ({"prompt": "x", "schema": {}, "tools": []}, "schema and tools exclude"),
        ({"prompt": "x", "tools": [{"name": "a b"}]}, "tools[0].name is 'a b', it must match"),
        ({"prompt": ""}, "prompt has 0 characters, the least is 1"),
        ({"messages": []}, "messages has 0 items, the least is 1"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages[0].role is 'boss', not one of"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        ({"prompt": "x", "seed": 2**32 - 1}, "seed is 4294967295, the most is 4294967294"),
        ({"prompt": "x", "stop": [""]}, "stop[0] has 0 characters, the least is 1"),
        ({"prompt": "x", "stop": ["a"] * 17}, "stop has 17 items, the most is 16"),
        ({"prompt": "x", "repeat_penalty": 0}, "repeat_penalty is 0, it must be more than 0"),
    ],
)
def test_llm_generate_says_what_is_wrong(params: object, says: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        TABLE["llm.generate"].validate(params)
    assert says in caught.value.message
    assert len(caught.value.message) < 600


def test_a_flag_that_is_false_excludes_nothing() -> None:
    params = {"prompt": "x", "schema": {"type": "object"}, "ignore_eos": False}
    assert TABLE["llm.generate"].validate(params)["schema"] == {"type": "object"}


def test_context_append_needs_exactly_one_way() -> None:
    with pytest.raises(InvalidParams, match="exactly one of messages, prompt, tokens"):
        TABLE["context.append"].validate({"context": "c"})
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(InvalidParams, match="messages and prompt exclude each other"):
        TABLE["context.append"].validate({"context": "c", "messages": messages, "prompt": "x"})


def test_context_rewind_needs_exactly_one_measure() -> None:
    with pytest.raises(InvalidParams, match="exactly one of n_tokens, n_messages"):
        TABLE["context.rewind"].validate({"context": "c"})
    with pytest.raises(InvalidParams, match="n_tokens and n_messages exclude each other"):
        TABLE["context.rewind"].validate({"context": "c", "n_tokens": 0, "n_messages": 0})
    assert TABLE["context.rewind"].validate({"context": "c", "n_messages": 0})["n_messages"] == 0


@pytest.mark.parametrize("path", ["", "b.db", "~/b.db", "./b.db", "/b\0.db", "/" + "x" * 4096])
def test_a_path_is_absolute_and_one_that_can_be(path: str) -> None:
    with pytest.raises(InvalidParams, match="path"):
        TABLE["sys.backup"].validate({"path": path})


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "x" * 129])
def test_a_models_name_leads_out_of_no_folder(name: str) -> None:
    with pytest.raises(InvalidParams, match="name"):
        TABLE["model.add"].validate({"path": "/m.gguf", "name": name})
    with pytest.raises(InvalidParams, match="name"):
        TABLE["model.remove"].validate({"name": name})


# ---------------------------------------------------------------- describe


def test_describe_is_json_and_its_schemas_are_schemas() -> None:
    said = json.loads(json.dumps(describe()))
    assert said["protocol"] == 1
    assert [call["name"] for call in said["syscalls"]] == NAMES
    assert [error["code"] for error in said["errors"]] == list(ERRORS)
    for call in said["syscalls"]:
        assert set(call) == {"name", "summary", "params", "chunk", "result", "right"}
        for schema in (call["params"], call["result"], call["chunk"] or {}):
            jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("call", TABLE.values(), ids=NAMES)
def test_the_schema_agrees_with_validate(call: Syscall) -> None:
    schema = jsonschema.Draft202012Validator(call.params_schema())
    cases = [valid(call), {}, {"nope": 1}] + [
        valid(call) | {p.name: value}
        for p in call.params
        for value in (None, True, 1, -1, 2**70, 0.5, "a", "", [], [1], ["a"], {}, {"a": 1})
    ]
    if call.name == "llm.generate":
        ways: list[dict[str, object]] = [
            {"schema": {}},
            {"grammar": "x"},
            {"ignore_eos": True},
            {"tools": [{"name": "a"}]},
        ]
        cases += [{"prompt": "x"} | one | other for one in ways for other in ways]
        cases += [{"context": "c"}, {"context": "c", "tokens": [1]}, {"prompt": "x", "tokens": [1]}]
    for params in cases:
        try:
            call.validate(params)
            is_valid = True
        except InvalidParams:
            is_valid = False
        assert schema.is_valid(params) == is_valid, params


def test_defaults_pass_their_own_types() -> None:
    for call, param in EVERY_PARAM:
        if param.default is not ABSENT:
            assert param.type.check(param.default, param.name) == param.default, call.name


def test_the_typed_results_name_the_tables_keys() -> None:
    def keys(typed: type) -> dict[str, bool]:
        hints = get_type_hints(typed, include_extras=True)
        return {name: get_origin(hint) is not NotRequired for name, hint in hints.items()}

    def fields(type_: Type) -> dict[str, bool]:
        assert isinstance(type_, Map)
        return {f.name: f.is_required for f in type_.fields}

    def item(type_: Type, name: str) -> Type:
        assert isinstance(type_, Map)
        [found] = [f.type for f in type_.fields if f.name == name]
        return found.of if isinstance(found, List) else found

    generation = TABLE["llm.generate"].result
    assert keys(results.ToolInfo) == fields(item(TABLE["tool.list"].result, "tools"))
    assert keys(results.ToolResult) == fields(TABLE["tool.call"].result)
    outcome = item(TABLE["tool.call_all"].result, "results")
    assert keys(results.ToolOutcome) == fields(outcome)
    assert keys(results.ContextInfo) == fields(TABLE["context.info"].result)
    messages = item(TABLE["context.read"].result, "messages")
    assert keys(results.ChatMessage) == fields(messages)
    assert keys(results.CallMessage) == fields(item(messages, "tool_calls"))
    assert keys(results.ToolSpec) == fields(item(messages, "tools"))
    assert keys(results.ContextText) == fields(TABLE["context.read"].result)
    assert keys(results.Rewound) == fields(TABLE["context.rewind"].result)
    assert keys(results.Snapshot) == fields(TABLE["context.snapshot"].result)
    assert keys(results.Prefetched) == fields(TABLE["context.prefetch"].result)
    assert TABLE["job.attach"].result == generation
    assert keys(results.ModelInfo) == fields(item(TABLE["llm.models"].result, "models"))
    assert keys(results.Embeddings) == fields(TABLE["llm.embed"].result)
    assert keys(results.Note) == fields(TABLE["memory.get"].result)
    assert keys(results.NotePage) == fields(TABLE["memory.list"].result)
    assert keys(results.Note) == fields(item(TABLE["memory.list"].result, "notes"))
    written = fields(TABLE["storage.write"].result)
    assert keys(results.Written) == {k: True for k in written if k != "upload"}
    assert keys(results.Written) == fields(TABLE["storage.rollback"].result)
    assert keys(results.FileInfo) == fields(item(TABLE["storage.list"].result, "entries"))
    assert keys(results.FilePage) == fields(TABLE["storage.list"].result)
    assert keys(results.RootUsage) == fields(item(TABLE["storage.stat"].result, "usage"))
    assert keys(results.FileVersion) == fields(item(TABLE["storage.history"].result, "versions"))
    assert keys(results.FoundFile) == fields(item(TABLE["storage.search"].result, "results"))
    assert keys(results.FoundFiles) == fields(TABLE["storage.search"].result)
    assert keys(results.FileGrant) == fields(item(TABLE["storage.grants"].result, "given"))
    assert keys(results.FileGrants) == fields(TABLE["storage.grants"].result)
    assert keys(results.FoundNotes) == fields(TABLE["memory.search"].result)
    assert keys(results.FoundNote) == fields(item(TABLE["memory.search"].result, "results"))
    assert keys(results.Message) == fields(item(TABLE["ipc.receive"].result, "messages"))
    assert keys(results.ProcessInfo) == fields(TABLE["agent.wait"].result)
    assert keys(results.OutputLine) == fields(item(TABLE["agent.logs"].result, "lines"))
    assert keys(results.Mailbox) == fields(item(TABLE["ipc.list"].result, "mailboxes"))
    assert keys(results.MemoryStats) == fields(TABLE["memory.stats"].result)
    assert list(results.Usage.__slots__) == list(fields(item(generation, "usage")))
    assert set(results.Generation.__slots__) == set(fields(generation))
    taken = {p.name for p in TABLE["llm.generate"].params}
    assert set(results.GenerateOptions.__annotations__) == taken - {
        *("messages", "prompt", "tokens", "context", "stream")
    }
    acted = TABLE["llm.act"].result
    assert set(acting.Acted.__slots__) == set(fields(acted)) | {"tools_ms"}
    assert set(fields(item(acted, "usage"))) == {*results.Usage.__slots__, "tools_ms"}
    taken = {p.name for p in TABLE["llm.act"].params}
    assert set(acting.ActOptions.__annotations__) == taken - {
        *("messages", "context", "tools", "client_tools", "stream")
    }
    taken = {p.name for p in TABLE["context.create"].params}
    assert set(results.ContextOptions.__annotations__) == taken - {"deadline_ms"}
    assert get_args(results.Priority) == ("interactive", "normal", "background")
    assert item(TABLE["context.info"].result, "residence") == Str(
        choices=get_args(results.Residence)
    )
    assert isinstance(item(generation, "logprobs"), Map | Any)


def test_the_reference_has_a_section_for_every_call_and_a_row_for_every_param() -> None:
    text = render()
    for call in TABLE.values():
        section = text.split(f"## {call.name}\n")[1].split("\n## ")[0]
        for param in call.params:
            assert f"| `{param.name}` |" in section
    assert all(f"| `{code}` |" in text for code in ERRORS)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "aios_sdk.syscalls"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == text
