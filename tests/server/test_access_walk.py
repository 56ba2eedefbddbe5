"""Every syscall, by every identity, on another's things: who is served, who is denied, and to whom
it doesn't exist.  A syscall that is in no list here fails the walk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from aios_sdk import wire
from aios_sdk.syscalls import TABLE
from aiosd.access_config import Access, AgentRights, FixedGroup
from aiosd.confine import landlock
from aiosd.engine.fake import FakeModel
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer, served
from tests.server.peers import place_for_all

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")

UID, OTHER_UID = 4001, 4002
OK, DENIED, NOT_FOUND = "ok", "denied", "not_found"
IDENTITIES = {
    "owner": (UID, "ada"),
    "neighbour": (UID, "bob"),
    "reader": (UID, "rita"),
    "writer": (UID, "wes"),
    "operator": (UID, "aiosctl"),
    "stranger": (OTHER_UID, "ada"),  # of the same name
    "admin": (0, "root"),
}
ACCESS = Access(
    groups={
        "readers": FixedGroup(uid=UID, members=("ada", "rita"), mode="read"),
        "writers": FixedGroup(uid=UID, members=("ada", "wes"), mode="write"),
    },
    agents={
        f"{UID}:ada": AgentRights(rights=("spawn",)),
        "nobody": AgentRights(without=("llm", "context", "memory", "storage", "tool", "ipc")),
    },
)


@dataclass(frozen=True)
class Things:
    """What the owner has: made anew for each call."""

    context: str
    job: str
    ended_job: str
    note: str
    path: str


Params = Callable[[Things], dict[str, Any]]
Make = Callable[[str], Things]
READ = (OK, DENIED, OK, OK, OK, NOT_FOUND, NOT_FOUND)
WRITE = (OK, DENIED, DENIED, OK, OK, NOT_FOUND, NOT_FOUND)
SHOWN = (OK, OK, OK, OK, OK, NOT_FOUND, NOT_FOUND)
STEERED = (OK, OK, OK, OK, OK, NOT_FOUND, OK)  # an admin may stop anybody
FREE = (OK,) * 7  # nobody's things, or one's own: rights alone decide
ADMIN = (DENIED,) * 6 + (OK,)


def context(t: Things) -> dict[str, Any]:
    return {"context": t.context}


def job(t: Things) -> dict[str, Any]:
    return {"job": t.job}


def note(t: Things) -> dict[str, Any]:
    return {"memory": t.note}


def file(t: Things) -> dict[str, Any]:
    return {"path": t.path}


def process(_: Things) -> dict[str, Any]:
    return {"agent": "kid"}  # which the owner has spawned, and which runs all the time


def nothing(_: Things) -> dict[str, Any]:
    return {}


def also(params: Params, **more: Any) -> Params:
    return lambda t: {**params(t), **more}


# An owner of memory and files is named within one's own uid, so another uid's can't even be said:
# ada:/x is one's own ada's, and what a stranger of that name sees is itself.
ON_THINGS: dict[str, tuple[Params, tuple[str, ...]]] = {
    "llm.generate": (also(context, prompt="x", max_tokens=1), WRITE),
    "llm.act": (also(context, messages=[{"role": "user", "content": "x"}], max_tokens=1), WRITE),
    "context.append": (also(context, prompt="x"), WRITE),
    "context.info": (context, SHOWN),
    "context.read": (context, READ),
    "context.fork": (context, READ),
    "context.rewind": (also(context, n_tokens=0), WRITE),
    "context.snapshot": (context, WRITE),
    "context.prefetch": (context, WRITE),
    "context.delete": (context, WRITE),
    "job.story": (job, STEERED),
    "job.cancel": (job, STEERED),
    "job.pause": (job, STEERED),
    "job.resume": (job, STEERED),
    "job.priority": (also(job, priority="background"), STEERED),
    "job.attach": (lambda t: {"job": t.ended_job}, READ),
    "memory.get": (note, READ),
    "memory.update": (also(note, content="y"), WRITE),
    "memory.delete": (note, WRITE),
    "storage.read": (file, (*READ[:5], NOT_FOUND, DENIED)),
    "storage.stat": (file, (*READ[:5], NOT_FOUND, DENIED)),
    "storage.history": (file, (*READ[:5], NOT_FOUND, DENIED)),
    "storage.write": (lambda _: {"path": "ada:/new.txt", "data": b"y"}, (*WRITE[:5], OK, DENIED)),
    "storage.delete": (file, (*WRITE[:5], NOT_FOUND, DENIED)),
    "storage.rollback": (file, (*WRITE[:5], NOT_FOUND, DENIED)),
    "storage.rename": (also(file, to="ada:/y"), (*WRITE[:5], NOT_FOUND, DENIED)),
    "storage.mkdir": (lambda _: {"path": "ada:/d"}, (*WRITE[:5], OK, DENIED)),
    "storage.list": (lambda _: {"path": "ada:/"}, (*READ[:5], OK, DENIED)),
    "storage.search": (lambda _: {"path": "ada:/", "query": "x"}, (*READ[:5], OK, DENIED)),
    "memory.add": (lambda _: {"agent": "ada", "content": "x"}, (*WRITE[:5], OK, DENIED)),
    "memory.list": (lambda _: {"agent": "ada"}, (*READ[:5], OK, DENIED)),
    "memory.search": (lambda _: {"agent": "ada", "query": "x"}, (*READ[:5], OK, DENIED)),
    "memory.stats": (lambda _: {"agent": "ada"}, (*READ[:5], OK, DENIED)),
    "ipc.send": (lambda _: {"to": "ada", "body": 1}, (OK, DENIED, OK, OK, OK, OK, DENIED)),
    "ipc.clear": (lambda _: {"agent": "ada"}, (OK, DENIED, DENIED, DENIED, OK, OK, DENIED)),
    "agent.info": (lambda _: {"agent": "ada"}, FREE),  # a stranger's own ada; an admin sees all
    "agent.limits": (lambda _: {"agent": "ada"}, FREE),
    "agent.wait": (also(process, timeout_ms=0), STEERED),
    "agent.signal": (also(process, signal="cont"), STEERED),
    "agent.logs": (process, (OK, DENIED, DENIED, DENIED, OK, NOT_FOUND, NOT_FOUND)),
    "agent.inspect": (process, (OK, DENIED, DENIED, DENIED, OK, NOT_FOUND, NOT_FOUND)),
    "access.rights": (lambda _: {"agent": "ada"}, FREE),
}
ON_NOTHING: dict[str, tuple[Params, tuple[str, ...]]] = {
    **dict.fromkeys(
        (
            "sys.ping",
            "sys.describe",
            "sys.status",
            "sys.metrics",
            "sys.trace",
            "sys.policy",
            "llm.models",
            "context.create",
            "context.list",
            "job.list",
            "agent.list",
            "ipc.receive",
            "ipc.list",
            "storage.grants",
            "access.pending",
            "access.groups",
            "access.grants",
            "access.rules",
            "access.audit",
        ),
        (nothing, FREE),
    ),
    "ipc.ack": (lambda _: {"message": "enone"}, FREE),
    "llm.tokenize": (lambda _: {"text": "x"}, FREE),
    "llm.embed": (lambda _: {"texts": ["x"]}, FREE),
    "llm.detokenize": (lambda _: {"tokens": [1]}, FREE),
    "storage.share": (lambda _: {"path": "", "with": "zed"}, FREE),
    "tool.list": (nothing, FREE),
    "tool.check": (lambda _: {"name": "nosuch"}, (NOT_FOUND,) * 7),
    "tool.call": (lambda _: {"name": "nosuch"}, (NOT_FOUND,) * 7),
    "tool.call_all": (lambda _: {"calls": [{"name": "nosuch", "arguments": {}}]}, FREE),
    "tool.load": (lambda _: {"name": "x", "command": "/bin/false"}, ADMIN),
    "tool.unload": (lambda _: {"name": "nosuch"}, (*ADMIN[:6], NOT_FOUND)),
    "tool.servers": (nothing, ADMIN),
    "access.check": (lambda _: {"action": "sys.ping"}, FREE),
    "access.request": (lambda _: {"right": "llm", "reason": "x"}, FREE),
    "access.grant": (lambda _: {"kind": "memory", "with": "zed"}, FREE),
    "agent.processes": (nothing, FREE),
    "agent.spawn": (
        lambda _: {"name": "other", "command": "/nowhere/x"},
        (OK, DENIED, DENIED, DENIED, DENIED, DENIED, OK),
    ),
    "sys.journal": (nothing, ADMIN),
    "sys.backup": (lambda _: {"path": "/nowhere/x"}, ADMIN),
    "model.add": (lambda _: {"path": "/nowhere/x"}, ADMIN),
    "model.remove": (lambda _: {"name": "nosuch"}, (*ADMIN[:6], NOT_FOUND)),
    "access.group": (
        lambda _: {"name": "own", "add": ["zed"]},
        (DENIED, DENIED, DENIED, DENIED, OK, DENIED, OK),
    ),
    # What isn't there, for all alike.
    **dict.fromkeys(
        ("access.approve", "access.deny"), (lambda _: {"request": "qnone"}, (NOT_FOUND,) * 7)
    ),
    **dict.fromkeys(
        ("access.revoke", "storage.revoke"), (lambda _: {"grant": "gnone"}, (NOT_FOUND,) * 7)
    ),
    "access.forget": (lambda _: {"rule": "rnone"}, (NOT_FOUND,) * 7),
    "storage.abandon": (lambda _: {"upload": "unone"}, (NOT_FOUND,) * 7),
}
TRIED_ELSEWHERE = {"sys.hello", "sys.events", "agent.kill"}  # they end or hold the connection
WALK = {**ON_THINGS, **ON_NOTHING}
SETTING: dict[
    str, dict[str, Any]
] = {  # of calls that only tell without these params: what changes takes admin
    "sys.policy": {"quantum_tokens": 3},
    "agent.limits": {"agent": "ada", "weight": 2},
    "access.rights": {"agent": "ada", "add": ["llm"]},
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    model = FakeModel(n_slots=4, slot_tokens=2048)
    model.delay_s = 0.002  # so that a job can be met while it runs
    with (
        place_for_all() as path,
        served(path, model, slot_tokens=2048, access=ACCESS, socket_mode=0o666) as daemon,
    ):
        yield daemon


@pytest.fixture(scope="module")
def peers(daemon: Daemon) -> Iterator[dict[str, RawPeer]]:
    made = {
        who: RawPeer(daemon.config.socket, name, uid=uid or None)
        for who, (uid, name) in IDENTITIES.items()
    }
    made["owner"].ask("agent.spawn", name="kid", command="/bin/sleep", args=["1000"])
    yield made
    for peer in made.values():
        peer.close()


def result(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is None, response.error
    return response.result


@pytest.fixture
def make(peers: dict[str, RawPeer]) -> Iterator[Make]:
    """Makes the owner's things; what is left of them is let go."""
    owner = peers["owner"]
    contexts: list[str] = []

    def things(method: str) -> Things:
        """Those that the call is about."""
        noun = method.partition(".")[0]
        context = job = note = ""
        if noun in ("context", "llm"):
            context = result(owner, "context.create", system="A secret.")["context"]
            contexts.append(context)
        if noun == "job":
            job = result(owner, "llm.generate", prompt="x", max_tokens=1, detach=True)["job"]
        if noun == "memory":
            note = result(owner, "memory.add", content="a secret")["memory"]
        if noun == "storage":
            for data in (b"a secret", b"another secret"):
                result(owner, "storage.write", path="x.txt", data=data)
        return Things(context, job, job, note, "ada:/x.txt")

    yield things
    for context in contexts:
        owner.ask("context.delete", context=context)
    owner.ask("storage.delete", path="y")


def code(response: Any) -> str:
    """ok: served, or refused for another reason than access."""
    found = response.error["code"] if response.error else OK
    return found if found in (DENIED, NOT_FOUND) else OK


def test_the_walk_knows_every_syscall() -> None:
    assert set(WALK) | TRIED_ELSEWHERE == set(TABLE)


@pytest.mark.parametrize("method", [m for m in WALK if not m.startswith("job.")])
def test_each_identity_is_served_or_not(method: str, peers: dict[str, RawPeer], make: Make) -> None:
    if any(p.name == "process" for p in TABLE[method].params) and not landlock.abi():
        pytest.skip("no Landlock here, so no agent runs as a process")
    params, expected = WALK[method]
    found = {}
    things = make(method) if method in ON_THINGS else Things("", "", "", "", "")
    for who, peer in peers.items():
        if expected[:3] == WRITE[:3]:  # what one has changed or deleted isn't there for the next
            things = make(method)
        found[who] = code(peer.ask(method, **params(things)))
    assert found == dict(zip(IDENTITIES, expected, strict=True))


@pytest.mark.parametrize("method", [m for m in ON_THINGS if m.startswith("job.")])
def test_jobs_are_seen_and_steered_by_their_uid_and_read_by_who_may(
    method: str, daemon: Daemon, peers: dict[str, RawPeer], make: Make
) -> None:
    params, expected = ON_THINGS[method]
    things, found, job = make(method), {}, ""
    for who, peer in peers.items():
        if method != "job.attach" and (method == "job.cancel" or not job):
            job = paused_job(daemon, peers["owner"])
            things = dataclasses.replace(things, job=job)
        found[who] = code(peer.ask(method, **params(things)))
    peers["owner"].ask("job.cancel", job=job or "jnone")
    assert found == dict(zip(IDENTITIES, expected, strict=True))


def paused_job(daemon: Daemon, owner: RawPeer) -> str:
    """A job of the owner's that waits, and outlives the connection it came from."""
    with RawPeer(daemon.config.socket, "ada", uid=UID) as peer:
        more = {"max_tokens": 2000, "ignore_eos": True, "stream": True, "detach": True}
        peer.send(wire.encode_request(1, "llm.generate", {"prompt": "Go", **more}))
        message: Any = peer.receive()
        job = str(message.params["job"])
        result(owner, "job.pause", job=job)
        return job


@pytest.mark.parametrize("method", SETTING)
def test_changing_takes_admin(method: str, peers: dict[str, RawPeer]) -> None:
    for who, peer in peers.items():
        error: Any = peer.ask(method, **SETTING[method]).error
        if who == "admin":
            assert error is None
        else:
            assert (error["code"], error["data"]) == (DENIED, {"right": "admin"})


@pytest.mark.parametrize("method", [m for m in ON_THINGS if m.startswith(("context", "memory"))])
def test_to_a_stranger_it_is_as_if_it_were_not_there(
    method: str, peers: dict[str, RawPeer], make: Make
) -> None:
    if "agent" in ON_THINGS[method][0](Things("", "", "", "", "")):
        return  # it names an agent of one's own uid
    things = make(method)
    made_up = Things("c" + "0" * 16, "", "", "m" + "0" * 21, "")
    params = ON_THINGS[method][0]
    for who in ("stranger", "admin"):
        real: Any = peers[who].ask(method, **params(things)).error
        none: Any = peers[who].ask(method, **params(made_up)).error
        swapped = str(none).replace(made_up.context, things.context)
        assert str(real) == swapped.replace(made_up.note, things.note)


@pytest.mark.parametrize("right", ["llm", "context", "memory", "storage"])
def test_a_missing_right_is_named_whatever_the_call_is_about(
    right: str, daemon: Daemon, peers: dict[str, RawPeer], make: Make
) -> None:
    things = make(right)
    with RawPeer(daemon.config.socket, "nobody", uid=UID) as nobody:
        for method, syscall in TABLE.items():
            if syscall.right == right and method in WALK:
                error: Any = nobody.ask(method, **WALK[method][0](things)).error
                assert (error["code"], error["data"]) == (DENIED, {"right": right}), method


def test_what_a_stranger_sees_of_others_is_nothing(peers: dict[str, RawPeer], make: Make) -> None:
    make("context")
    make("memory")
    stranger = peers["stranger"]
    contexts = result(stranger, "context.list", all=True)["contexts"]
    assert {c["uid"] for c in contexts} <= {OTHER_UID}
    assert result(stranger, "job.list", all=True)["jobs"] == []
    assert {a["uid"] for a in result(stranger, "agent.list")["agents"]} == {OTHER_UID}
    assert result(stranger, "agent.processes", all=True, ended=True)["processes"] == []
    assert result(stranger, "access.groups")["groups"] == []
    assert result(stranger, "access.pending")["requests"] == []
    entries = result(stranger, "access.audit", limit=10_000)["entries"]
    assert {e["uid"] for e in entries} <= {OTHER_UID}
    assert "hidden" not in {e["event"] for e in entries}
    assert not any("seq" in e for e in entries)
    assert "4001" not in result(stranger, "sys.metrics")["text"]
    shown = result(peers["admin"], "access.audit", limit=10_000, event="hidden")["entries"]
    assert {e["uid"] for e in shown} == {OTHER_UID, 0}
