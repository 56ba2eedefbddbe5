"""access.* over the socket: groups, grants, rights, and acts that wait for a person."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import AsyncClient, Client, wire
from aios_sdk.errors import DeadlineExceeded, Denied, InvalidParams, NotFound, QuotaExceeded
from aiosd.access_config import Access, AgentRights, ConfirmRule, FixedGroup
from aiosd.server.daemon import Daemon
from tests.server.harness import RawPeer, served

PLAIN = Access(agents={"*": AgentRights(without=("admin",)), "root": AgentRights(rights=())})
"""Nobody is admin, as it is for the users of a system's daemon."""
WITHOUT_LLM = AgentRights(without=("admin", "llm"))
ASKING = Access(confirm=(ConfirmRule(kinds=("context",), acts=("delete",), own=True),))


@contextlib.contextmanager
def agents(tmp_path: Path, access: Access, *names: str) -> Iterator[list[Client]]:
    with served(tmp_path, access=access) as daemon, contextlib.ExitStack() as stack:
        path = daemon.config.socket
        yield [stack.enter_context(Client(path, agent=name)) for name in names]


# ------------------------------------------------------------------ groups, grants, rights


def test_a_group_opens_what_its_members_have_as_far_as_its_mode(tmp_path: Path) -> None:
    with agents(tmp_path, Access(), "ada", "bob", "aiosctl") as (ada, bob, person):
        context = ada.context(system="Be brief.")
        with pytest.raises(Denied, match="a common group or a grant"):
            bob.context_at(context.id).read()
        person.access.group("team", add=["ada", "bob"])
        assert bob.context_at(context.id).read()["messages"][0]["content"] == "Be brief."
        with pytest.raises(Denied):
            bob.context_at(context.id).append("more")
        person.access.group("team", mode="write")
        bob.context_at(context.id).append("more")
        assert bob.generate("x", context=context.id, max_tokens=2).context == context.id
        person.access.group("team", remove=["bob"])
        with pytest.raises(Denied):
            bob.context_at(context.id).read()


def test_a_fork_is_whose_who_made_it_but_a_persons_is_the_owners(tmp_path: Path) -> None:
    with agents(tmp_path, Access(), "ada", "bob", "aiosctl") as (ada, bob, person):
        person.access.group("team", add=["ada", "bob"])
        context = ada.context(system="Be brief.").id
        fork = bob.context_at(context).fork()
        fork.append("more")  # which a reader couldn't in ada's
        by_person = person.context_at(context).fork()
        owners = {c["context"]: c["agent"] for c in person.contexts(all=True)}
        assert owners == {context: "ada", fork.id: "bob", by_person.id: "ada"}


def test_groups_and_grants_and_rights_last_over_a_restart(tmp_path: Path) -> None:
    with agents(tmp_path, Access(), "ada", "root") as (ada, root):
        root.access.group("team", add=["ada", "bob"], mode="write")
        grant = ada.access.grant("memory", "bob", mode="read", expires_s=3600)
        root.call("access.rights", agent="bob", remove=["tool"])
        told = [(e["act"], e["name"]) for e in root.access.audit() if e["event"] == "changed"]
        assert told == [("group", "team +ada +bob mode=write"), ("rights", "bob -tool")]
    with agents(tmp_path, Access(), "ada", "bob") as (ada, bob):
        (group,) = bob.access.groups()
        assert (group["name"], group["mode"], group["members"]) == ("team", "write", ["ada", "bob"])
        assert [g["grant"] for g in bob.access.grants()["held"]] == [grant]
        assert "tool" not in bob.hello["rights"]  # type: ignore[operator]
        ada.access.revoke(grant)
        assert bob.access.grants()["held"] == []
        with pytest.raises(NotFound):
            ada.access.revoke(grant)


def test_a_grant_is_revoked_by_its_owner_alone_and_ends_by_itself(tmp_path: Path) -> None:
    with (
        served(tmp_path) as daemon,
        Client(daemon.config.socket, agent="ada") as ada,
        Client(daemon.config.socket, agent="bob") as bob,
    ):
        note = ada.memory.add("a secret")
        grant = ada.access.grant("memory", "bob", name=note)
        assert bob.memory.get(note)["content"] == "a secret"
        with pytest.raises(NotFound):
            bob.access.revoke(grant)
        with pytest.raises(Denied):
            bob.memory.delete(note)
        ada.access.revoke(grant)
        with pytest.raises(Denied):
            bob.memory.get(note)


def test_a_grant_goes_with_what_it_was_about(tmp_path: Path) -> None:
    with agents(tmp_path, Access(), "ada") as (ada,):
        note, context = ada.memory.add("x"), ada.context()
        ada.access.grant("memory", "bob", name=note)
        ada.access.grant("context", "bob", name=context.id)
        kept = ada.access.grant("memory", "bob")
        ada.memory.delete(note)
        context.delete()
        assert [g["grant"] for g in ada.access.grants()["given"]] == [kept]


def test_a_right_that_is_taken_is_gone_at_once_and_comes_back(tmp_path: Path) -> None:
    with agents(tmp_path, Access(), "bob", "root") as (bob, root):
        bob.tokenize("x")
        root.call("access.rights", agent="bob", remove=["llm"])
        with pytest.raises(Denied) as caught:
            bob.tokenize("x")
        assert caught.value.data == {"right": "llm"}
        root.call("access.rights", agent="bob", reset=["llm"])
        bob.tokenize("x")


def test_who_is_neither_operator_nor_admin_changes_no_groups_and_no_rights(tmp_path: Path) -> None:
    with agents(tmp_path, PLAIN, "bob", "aiosctl") as (bob, person):
        for method, params in (
            ("access.group", {"name": "team", "add": ["bob", "ada"]}),
            ("access.rights", {"agent": "bob", "add": ["spawn"]}),
        ):
            with pytest.raises(Denied) as caught:
                bob.call(method, **params)
            assert caught.value.data == {"right": "admin"}
        person.access.group("team", add=["bob"])  # an operator arranges its own uid's
        with pytest.raises(Denied):
            person.call("access.group", name="team", rights=["admin"])  # but gives no rights
        with pytest.raises(Denied):
            person.call("access.rights", agent="bob", add=["admin"])
        with pytest.raises(Denied):
            person.call("access.group", name="team", uid=4321, add=["x"])


def test_groups_of_the_file_have_rights_and_are_changed_there(tmp_path: Path) -> None:
    fixed = Access(
        rights=("context",),
        agents={"*": AgentRights(without=("admin",))},
        groups={"talkers": FixedGroup(members=("bob",), rights=("llm",))},
    )
    with agents(tmp_path, fixed, "ada", "bob", "aiosctl") as (ada, bob, person):
        bob.tokenize("x")
        with pytest.raises(Denied):
            ada.tokenize("x")
        with pytest.raises(Denied, match="in the configuration file"):
            person.access.group("talkers", add=["ada"])


def test_limits_of_groups_and_grants_are_errors(tmp_path: Path) -> None:
    few = Access(groups_per_uid=1, members_per_group=2, grants_per_agent=1)
    with agents(tmp_path, few, "root") as (root,):
        root.access.group("one", add=["a", "b"])
        with pytest.raises(QuotaExceeded):
            root.access.group("two", add=["a"])
        with pytest.raises(QuotaExceeded):
            root.access.group("one", add=["c"])
        root.access.grant("memory", "a")
        with pytest.raises(QuotaExceeded) as caught:
            root.access.grant("memory", "b")
        assert caught.value.data == {"limit": 1, "used": 1}


def test_check_says_what_would_be(tmp_path: Path) -> None:
    with agents(tmp_path, ASKING, "ada", "bob") as (ada, bob):
        context = ada.context()
        assert ada.access.check("llm.generate")["allowed"]
        assert ada.access.check("context.read", context.id)["allowed"]
        deleting = ada.access.check("context.delete", f"context:{context.id}")
        assert (deleting["allowed"], deleting["asks"]) == (False, True)
        assert not bob.access.check("read", f"context:{context.id}")["allowed"]
        assert not bob.access.check("read", "context:cnone")["allowed"]
        assert not bob.access.check("storage.read", "ada:/x")["allowed"]
        assert not bob.access.check("memory.search", "ada")["allowed"]
        assert bob.access.check("memory.search", "bob")["allowed"]
        assert bob.access.check("llm")["allowed"]
        assert bob.access.check("read", "bob")["allowed"]
        assert not bob.access.check("read", "ada")["allowed"]
        for action, target in (("nope", "x:y"), ("no.call", ""), ("read", ""), ("read", "x:y")):
            with pytest.raises(InvalidParams):
                bob.access.check(action, target)


# ------------------------------------------------------------------ waiting for a person


def waiting(peer: RawPeer, method: str, **params: Any) -> str:
    """Send a call that has to wait; the id of its request, from its chunk."""
    peer.send(wire.encode_request(1, method, params))
    message = peer.receive()
    assert isinstance(message, wire.Notification), message
    told: Any = message.params
    assert (told["id"], told["state"]) == (1, "waiting_approval")
    return str(told["request"])


def answered(peer: RawPeer) -> Any:
    message = peer.receive()
    assert isinstance(message, wire.Response), message
    assert message.id == 1
    error: Any = message.error
    return error["code"] if error else message.result


@contextlib.contextmanager
def asking(
    tmp_path: Path, access: Access = ASKING
) -> Iterator[tuple[Daemon, RawPeer, str, Client]]:
    """A daemon, an agent with a context of its own, and a person."""
    with served(tmp_path, access=access) as daemon:
        path = daemon.config.socket
        with RawPeer(path, "ada") as ada, Client(path, agent="aiosctl") as person:
            created: Any = ada.ask("context.create").result
            yield daemon, ada, created["context"], person


def events(person: Client) -> list[tuple[str, str, str]]:
    return [(e["event"], e["act"], e["by"]) for e in person.access.audit() if e["agent"] == "ada"]


def test_an_act_waits_until_a_person_says_yes(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, ada, context, person):
        request = waiting(ada, "context.delete", context=context)
        (pending,) = person.access.pending()
        assert (pending["request"], pending["agent"], pending["act"]) == (request, "ada", "delete")
        assert (pending["kind"], pending["name"]) == ("context", context)
        assert person.contexts(all=True)
        person.access.approve(request)
        assert answered(ada) == {}
        assert not person.contexts(all=True)
        assert person.access.pending() == []
        with pytest.raises(NotFound):
            person.access.approve(request)
        user = person.hello["uid"]
        assert events(person) == [
            ("asked", "delete", "confirm"),
            ("approved", "delete", f"{user}:aiosctl"),
        ]


def test_a_no_is_denied_and_changes_nothing(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, ada, context, person):
        person.access.deny(waiting(ada, "context.delete", context=context))
        assert answered(ada) == "denied"
        assert [c["context"] for c in person.contexts(all=True)] == [context]
        assert [event for event, _, _ in events(person)] == ["asked", "refused"]


def test_no_answer_in_time_is_a_no(tmp_path: Path) -> None:
    quick = Access(confirm=ASKING.confirm, approval_s=1)
    with asking(tmp_path, quick) as (_, ada, context, person):
        waiting(ada, "context.delete", context=context)
        assert answered(ada) == "denied"
        assert person.access.pending() == []
        assert events(person)[-1] == ("refused", "delete", "timeout")


def test_a_cancel_and_a_deadline_end_the_waiting(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, ada, context, person):
        waiting(ada, "context.delete", context=context)
        ada.send(wire.encode_notification("cancel", {"id": 1}))
        assert answered(ada) == "cancelled"
        assert person.access.pending() == []
        waiting(ada, "context.delete", context=context, deadline_ms=50)
        assert answered(ada) == "deadline_exceeded"
        assert person.access.pending() == []
        assert person.contexts(all=True)


def test_a_caller_that_leaves_takes_its_request_along(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, ada, context, person):
        waiting(ada, "context.delete", context=context)
        watch = person.access.watch()
        assert len(next(watch)) == 1
        ada.close()
        assert next(watch) == []
        watch.close()  # type: ignore[attr-defined]


def test_after_a_restart_what_waited_counts_as_refused(tmp_path: Path) -> None:
    with asking(tmp_path) as (daemon, ada, context, _):
        waiting(ada, "context.delete", context=context)
        daemon.loop.call_soon_threadsafe(daemon.stop)
        while ada.receive() is not None:
            pass  # it is the daemon that goes, not the one that waits
    with agents(tmp_path, ASKING, "aiosctl") as (person,):
        assert person.access.pending() == []
        assert [c["context"] for c in person.contexts(all=True)] == [context]
        assert events(person)[-1] == ("refused", "delete", "restart")


def test_what_is_remembered_is_not_asked_again_until_it_is_forgotten(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, ada, context, person):
        person.access.approve(waiting(ada, "context.delete", context=context), remember=True)
        assert answered(ada) == {}
        created: Any = ada.ask("context.create").result
        assert ada.ask("context.delete", context=created["context"]).result == {}
        rules: Any = person.call("access.rules")["rules"]
        assert [(r["agent"], r["act"], r["kind"]) for r in rules] == [("ada", "delete", "context")]
        person.call("access.forget", rule=rules[0]["rule"])
        created = ada.ask("context.create").result
        person.access.deny(waiting(ada, "context.delete", context=created["context"]))
        assert answered(ada) == "denied"


def test_an_agent_does_not_answer_its_own_request(tmp_path: Path) -> None:
    with asking(tmp_path) as (daemon, ada, context, _):
        request = waiting(ada, "context.delete", context=context)
        with Client(daemon.config.socket, agent="ada") as twin:
            with pytest.raises(Denied, match="can't answer its own"):
                twin.access.approve(request)
            twin.access.deny(request)  # but may take it back
        assert answered(ada) == "denied"


def test_what_may_not_be_anyway_is_refused_without_asking(tmp_path: Path) -> None:
    with asking(tmp_path) as (daemon, _, context, person):
        with Client(daemon.config.socket, agent="bob") as bob:
            with pytest.raises(Denied):
                bob.context_at(context).delete()
            with pytest.raises(NotFound):
                bob.context_at("cnone").delete()
        assert person.access.pending() == []


def test_what_was_revoked_while_it_waited_is_refused_all_the_same(tmp_path: Path) -> None:
    with asking(tmp_path) as (_, ada, context, person):
        request = waiting(ada, "context.delete", context=context)
        person.call("access.rights", agent="ada", remove=["context"])
        person.access.approve(request)
        assert answered(ada) == "denied"
        assert person.contexts(all=True)


def test_requests_of_a_uid_are_limited(tmp_path: Path) -> None:
    few = Access(confirm=ASKING.confirm, pending_per_uid=1)
    with asking(tmp_path, few) as (daemon, ada, context, person):
        request = waiting(ada, "context.delete", context=context)
        with Client(daemon.config.socket, agent="bob") as bob:
            own = bob.context()
            with pytest.raises(QuotaExceeded):
                own.delete()
        person.access.deny(request)
        assert answered(ada) == "denied"


def test_a_right_is_asked_for_and_lent_or_given(tmp_path: Path) -> None:
    lean = Access(rights=("context",), agents={"bob": AgentRights(without=("admin",))})
    with agents(tmp_path, lean, "bob", "aiosctl") as (bob, person):
        assert bob.hello["rights"] == ["context"]
        with pytest.raises(Denied):
            bob.tokenize("x")
        asked = bob.access.request("llm", reason="to count tokens")
        assert asked["state"] == "pending"
        (pending,) = person.access.pending()
        assert pending["reason"] == "to count tokens"
        person.access.approve(asked["request"])
        bob.tokenize("x")
        rights: Any = person.call("access.rights", agent="bob")
        (lent,) = rights["changes"]
        assert (lent["right"], lent["is_held"], "expires_ms" in lent) == ("llm", True, True)
        assert bob.access.request("llm", reason="again")["state"] == "approved"


def test_a_grant_is_asked_for_and_the_owner_may_answer(tmp_path: Path) -> None:
    with agents(tmp_path, PLAIN, "ada", "bob") as (ada, bob):
        note = ada.memory.add("a secret")
        done: list[Any] = []
        target = "memory:ada"
        thread = threading.Thread(
            target=lambda: done.append(
                bob.access.request("read", reason="to know", target=target, wait=True)
            )
        )
        watch = ada.access.watch()
        assert next(watch) == []
        thread.start()
        (pending,) = next(watch)
        assert (pending["agent"], pending["act"], pending["owner"]) == ("bob", "read", "ada")
        ada.access.approve(pending["request"], remember=True)
        thread.join(20)
        assert done[0]["state"] == "approved"
        assert bob.memory.get(note)["content"] == "a secret"
        (grant,) = ada.access.grants()["given"]
        assert (grant["holder"], grant["mode"], "expires_ms" in grant) == ("bob", "read", False)


def test_a_deadline_ends_a_request_for_a_right(tmp_path: Path) -> None:
    with agents(tmp_path, PLAIN, "bob") as (bob,):
        with pytest.raises(DeadlineExceeded):
            bob.call("access.request", right="spawn", reason="x", wait=True, deadline_ms=50)
        assert bob.access.pending() == []


def test_who_waits_for_a_person_is_told_so(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    with asking(tmp_path) as (daemon, _, context, person):
        watch = person.access.watch()
        assert next(watch) == []

        def delete() -> None:
            with Client(daemon.config.socket, agent="ada", on_waiting=told.append) as ada:
                ada.context_at(context).delete()

        thread = threading.Thread(target=delete)
        thread.start()
        (pending,) = next(watch)
        person.access.approve(pending["request"])
        thread.join(20)
        assert [chunk["request"] for chunk in told] == [pending["request"]]
        assert person.contexts(all=True) == []


def test_the_asyncio_client_says_the_same(tmp_path: Path) -> None:
    async def main(path: str) -> None:
        async with AsyncClient(path, agent="ada") as ada, AsyncClient(path, agent="root") as root:
            assert (await ada.access.check("llm.generate"))["allowed"]
            group = await root.access.group("team", add=["ada", "bob"], mode="write")
            assert await ada.access.groups() == [group]
            grant = await ada.access.grant("memory", "bob")
            assert [g["grant"] for g in (await ada.access.grants())["given"]] == [grant]
            await ada.access.revoke(grant)
            asked = await root.access.request("admin", reason="have it")
            assert asked["state"] == "approved"
            asked = await ada.access.request("write", reason="x", target="memory:zed")
            async for requests in root.access.watch():
                assert [r["request"] for r in requests] == [asked["request"]]
                break
            await root.access.deny(asked["request"])
            assert await ada.access.pending() == []
            assert "changed" in {e["event"] for e in await root.access.audit()}

    with served(tmp_path) as daemon:
        asyncio.run(main(daemon.config.socket))


def test_the_access_table_is_put_into_force_by_a_reload(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.config.socket, agent="bob") as bob:
        bob.tokenize("x")
        lean = dataclasses.replace(daemon.config, access=Access(agents={"bob": WITHOUT_LLM}))

        async def reload() -> None:
            await daemon.reload(lambda: lean)

        asyncio.run_coroutine_threadsafe(reload(), daemon.loop).result(20)
        with pytest.raises(Denied):
            bob.tokenize("x")


def test_a_change_of_policy_may_have_to_be_confirmed(tmp_path: Path) -> None:
    rule = ConfirmRule(kinds=("daemon", "access"), acts=("admin",))
    with agents(tmp_path, Access(confirm=(rule,)), "aiosctl") as (person,):
        assert person.call("sys.policy")["quantum_tokens"] == 16
        with RawPeer(str(tmp_path / "s.sock"), "ada") as ada:
            request = waiting(ada, "sys.policy", quantum_tokens=3)
            assert person.call("sys.policy")["quantum_tokens"] == 16
            person.access.approve(request)
            assert answered(ada)["quantum_tokens"] == 3
            request = waiting(ada, "access.rights", agent="bob", add=["spawn"])
            person.access.approve(request, remember=True)
            assert answered(ada)["agent"] == "bob"
            assert ada.ask("access.rights", agent="bob", reset=["spawn"]).error is None
            person.access.deny(waiting(ada, "access.rights", agent="eve", add=["spawn"]))
            assert answered(ada) == "denied"  # what was remembered was about bob


def test_reading_may_have_to_be_confirmed_also_from_above(tmp_path: Path) -> None:
    rule = ConfirmRule(kinds=("storage",), acts=("read", "delete"), name="secrets/*", own=True)
    with (
        agents(tmp_path, Access(confirm=(rule,)), "aiosctl") as (person,),
        RawPeer(str(tmp_path / "s.sock"), "ada") as ada,
    ):
        for path in ("secrets/a.txt", "plain.txt"):
            assert ada.ask("storage.write", path=path, data=b"x").error is None
        assert ada.ask("storage.read", path="plain.txt").error is None
        for method, params in (
            ("storage.read", {"path": "secrets/a.txt"}),
            ("storage.list", {"path": "secrets"}),
            ("storage.search", {"query": "x"}),
            ("storage.delete", {"path": "secrets", "recursive": True}),
        ):
            person.access.deny(waiting(ada, method, **params))
            assert answered(ada) == "denied"
