"""Storage over a real socket: one's own files, another's by grant, large ones by parts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_sdk import Client, wire
from aiosd.access_config import Access, ConfirmRule
from aiosd.config import Limits
from aiosd.server.daemon import Daemon
from aiosd.storage_config import StorageConfig
from tests.server.harness import RawPeer, served

WAIT_S = 20.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with served(tmp_path) as daemon:
        yield daemon


def connect(daemon: Daemon, agent: str = "alice") -> RawPeer:
    return RawPeer(daemon.config.socket, agent=agent)


def result(peer: RawPeer, method: str, **params: Any) -> Any:
    response = peer.ask(method, **params)
    assert response.error is None, response.error
    return response.result


def code(peer: RawPeer, method: str, **params: Any) -> str:
    error = peer.ask(method, **params).error
    assert isinstance(error, dict), "it should have been refused"
    return str(error["code"])


def test_a_files_life_from_the_first_write_to_the_last_rollback(
    daemon: Daemon, tmp_path: Path
) -> None:
    with connect(daemon) as peer:
        made = result(peer, "storage.write", path="notes/a.txt", data=b"one\0\xff")
        assert (made["path"], made["version"], made["size"]) == ("notes/a.txt", 1, 5)
        result(peer, "storage.write", path="notes/a.txt", data="zwölf", mode="append")
        read = result(peer, "storage.read", path="notes/a.txt")
        assert read["data"] == b"one\0\xffzw\xc3\xb6lf"
        assert read["size"] == 11
        part = result(peer, "storage.read", path="notes/a.txt", version=1, offset=1, length=2)
        assert part["data"] == b"ne"
        assert (tmp_path / "state/storage/agents").is_dir()
        result(peer, "storage.rename", path="notes/a.txt", to="b.txt")
        result(peer, "storage.mkdir", path="empty/dir")
        listed = result(peer, "storage.list", recursive=True)["entries"]
        assert [(e["path"], e["kind"]) for e in listed] == [
            ("b.txt", "file"),
            ("empty", "directory"),
            ("empty/dir", "directory"),
            ("notes", "directory"),
        ]
        page = result(peer, "storage.list", recursive=True, limit=3)
        assert page["next"] == "empty/dir"
        rest = result(peer, "storage.list", recursive=True, after=page["next"])
        assert [e["path"] for e in rest["entries"]] == ["notes"]
        result(peer, "storage.delete", path="b.txt")
        assert code(peer, "storage.read", path="b.txt") == "not_found"
        assert code(peer, "storage.delete", path="b.txt") == "not_found"
        back = result(peer, "storage.rollback", path="b.txt", steps=2)
        assert back["version"] == 4
        versions = result(peer, "storage.history", path="b.txt")["versions"]
        assert [(v["version"], v["op"], v["by"]) for v in versions] == [
            (4, "rollback", "alice"),
            (3, "delete", "alice"),
            (2, "append", "alice"),
            (1, "replace", "alice"),
        ]
        assert result(peer, "storage.stat", path="b.txt")["version"] == 4
        usage = result(peer, "storage.stat")["usage"]
        assert (usage["bytes"], usage["files"]) == (5, 4)


def test_errors_have_the_codes_that_the_contract_names(daemon: Daemon) -> None:
    with connect(daemon) as peer:
        result(peer, "storage.write", path="a", data=b"")
        for path in ("../b", "/etc/passwd", "a\0b", "x" * 300, "bob:/../x"):
            assert code(peer, "storage.write", path=path, data=b"") == "invalid_params"
        assert code(peer, "storage.write", path="a", data=b"", mode="create") == "exists"
        assert code(peer, "storage.read", path="none") == "not_found"
        assert code(peer, "storage.history", path="none/at/all") == "not_found"
        assert code(peer, "storage.list", path="none") == "not_found"
        assert code(peer, "storage.rename", path="none", to="b") == "not_found"
        assert code(peer, "storage.rename", path="a", to="bob:/b") == "denied"
        assert code(peer, "storage.revoke", grant="g1") == "not_found"
        assert code(peer, "storage.read", path="bob:/a") == "denied"


def test_quotas_are_told_with_both_numbers(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        storage = StorageConfig(agent_bytes=10, agent_files=2)
        daemon.config = dataclasses.replace(daemon.config, storage=storage)
        with connect(daemon) as peer:
            result(peer, "storage.write", path="a", data=b"x" * 8)
            error = peer.ask("storage.write", path="b", data=b"x" * 3).error
            assert isinstance(error, dict)
            assert error["code"] == "quota_exceeded"
            assert error["data"] == {"limit": 10, "used": 8}
            begun = result(peer, "storage.write", path="b", data=b"x", more=True)
            more = {"path": "b", "upload": begun["upload"], "more": True}
            assert code(peer, "storage.write", data=b"xx", **more) == "quota_exceeded"
            assert code(peer, "storage.write", data=b"x", **more) == "not_found"
            begun = result(peer, "storage.write", path="a", data=b"y" * 4, more=True)
            part = {"path": "a", "upload": begun["upload"], "data": b"y" * 5}
            assert result(peer, "storage.write", **part)["size"] == 9  # in the place of the 8
            result(peer, "storage.write", path="b", data=b"")
            assert code(peer, "storage.mkdir", path="c") == "quota_exceeded"


def test_a_file_in_parts_is_seen_when_the_last_one_has_come(daemon: Daemon, tmp_path: Path) -> None:
    with connect(daemon) as peer, connect(daemon) as other:
        begun = result(peer, "storage.write", path="big", data=b"a" * 1000, more=True)
        upload = begun["upload"]
        assert (begun["size"], "version" in begun) == (1000, False)
        assert code(other, "storage.read", path="big") == "not_found"
        stranger = {"path": "big", "upload": upload}
        assert code(other, "storage.write", data=b"x", **stranger) == "not_found"
        assert code(peer, "storage.write", path="x", upload=upload, data=b"") == "not_found"
        result(peer, "storage.write", path="big", upload=upload, data=b"b" * 10, more=True)
        made = result(peer, "storage.write", path="big", upload=upload, data=b"c")
        assert (made["version"], made["size"]) == (1, 1011)
        assert (
            result(other, "storage.read", path="big", offset=999)["data"] == b"a" + b"b" * 10 + b"c"
        )
        result(peer, "storage.write", path="gone", data=b"half", more=True)
    until = time.monotonic() + WAIT_S
    tmp = tmp_path / "state/storage/tmp"
    while list(tmp.iterdir()):  # its connection is gone, and so is it
        assert time.monotonic() < until


def test_what_no_frame_holds_is_read_by_parts(tmp_path: Path) -> None:
    with (
        served(tmp_path, limits=Limits(frame_bytes=16384)) as daemon,
        connect(daemon) as peer,
    ):
        data = bytes(range(256)) * 40
        result(peer, "storage.write", path="a", data=data)
        result(peer, "storage.write", path="a", data=data, mode="append")
        error = peer.ask("storage.read", path="a").error
        assert isinstance(error, dict)
        assert error["code"] == "too_large"
        assert "offset and length" in error["message"]
        read = b""
        while len(read) < 20480:
            read += result(peer, "storage.read", path="a", offset=len(read), length=12000)["data"]
        assert read == data * 2


def test_a_grant_opens_a_directory_for_reading_or_writing_until_it_ends(daemon: Daemon) -> None:
    with connect(daemon) as alice, connect(daemon, "bob") as bob:
        result(alice, "storage.write", path="open/a", data=b"shared")
        result(alice, "storage.write", path="closed", data=b"mine")
        assert code(bob, "storage.read", path="alice:/open/a") == "denied"
        grant = result(alice, "storage.share", path="open", **{"with": "bob"})["grant"]
        assert result(bob, "storage.read", path="alice:/open/a")["data"] == b"shared"
        listed = result(bob, "storage.list", path="alice:/open")["entries"]
        assert [e["path"] for e in listed] == ["alice:/open/a"]
        for path in ("alice:/closed", "alice:/open/../closed", "alice:/openly"):
            assert code(bob, "storage.read", path=path) in ("denied", "invalid_params")
        assert code(bob, "storage.list", path="alice:/") == "denied"
        assert code(bob, "storage.write", path="alice:/open/a", data=b"x") == "denied"
        assert code(bob, "storage.delete", path="alice:/open/a") == "denied"
        held = result(bob, "storage.grants")["held"]
        assert [(g["agent"], g["path"], g["mode"]) for g in held] == [("alice", "open", "read")]
        write = {"with": "bob", "mode": "write"}
        result(alice, "storage.share", path="open", **write)
        result(bob, "storage.write", path="alice:/open/b", data=b"from bob")
        versions = result(alice, "storage.history", path="open/b")["versions"]
        assert [v["by"] for v in versions] == ["bob"]
        result(alice, "storage.revoke", grant=grant)
        for given in result(alice, "storage.grants")["given"]:
            result(alice, "storage.revoke", grant=given["grant"])
        assert code(bob, "storage.read", path="alice:/open/a") == "denied"
        result(alice, "storage.share", path="open", **{"with": "bob"})
        result(alice, "storage.delete", path="open", recursive=True)
        result(alice, "storage.write", path="open/a", data=b"another")
        assert code(bob, "storage.read", path="alice:/open/a") == "denied"
        assert code(alice, "storage.share", path="none", **{"with": "bob"}) == "not_found"
        assert code(alice, "storage.share", path="bob:/x", **{"with": "bob"}) == "invalid_params"


def test_what_a_person_puts_there_is_listed_read_and_versioned(
    daemon: Daemon, tmp_path: Path
) -> None:
    with connect(daemon) as peer:
        result(peer, "storage.write", path="a", data=b"1")
        (root,) = (tmp_path / "state/storage/agents").glob("*/alice")
        (root / "b").write_bytes(b"by hand")
        (root / "a").write_bytes(b"changed")
        listed = result(peer, "storage.list")["entries"]
        assert [(e["path"], "version" in e) for e in listed] == [("a", False), ("b", False)]
        assert result(peer, "storage.read", path="b")["data"] == b"by hand"
        assert result(peer, "storage.stat", path="a")["version"] == 2
        assert result(peer, "storage.read", path="a", version=1)["data"] == b"1"


def test_search_finds_what_is_there_and_says_how(daemon: Daemon) -> None:
    with connect(daemon) as alice, connect(daemon, "bob") as bob:
        result(alice, "storage.write", path="sea.txt", data="The harbour sleeps at night.")
        result(alice, "storage.write", path="d/land.txt", data="A field of barley.\n" * 200)
        result(alice, "storage.write", path="raw", data=b"harbour\0\xff")
        result(bob, "storage.write", path="bobs.txt", data="Bob's harbour.")

        def found(query: str, peer: RawPeer = alice, **params: Any) -> list[str]:
            until = time.monotonic() + WAIT_S
            while True:
                answer = result(peer, "storage.search", query=query, **params)
                if not answer["pending"]:
                    break
                assert time.monotonic() < until
            assert answer["mode"] == "words"
            return [r["path"] for r in answer["results"]]

        assert found("harbour") == ["sea.txt"]
        assert found("barley field") == ["d/land.txt"]
        assert found("barley", path="d") == ["d/land.txt"]
        assert found("harbour", path="d") == []
        answer = result(alice, "storage.search", query="harbour", mode="hybrid")
        assert answer["results"][0]["snippet"] == "The harbour sleeps at night."
        assert "embedder" in answer["reason"]
        result(alice, "storage.write", path="sea.txt", data="The port wakes.")
        assert found("harbour") == []
        result(alice, "storage.rename", path="sea.txt", to="d/port.txt")
        assert found("port") == ["d/port.txt"]
        result(alice, "storage.delete", path="d", recursive=True)
        assert found("port") == []
        assert code(bob, "storage.search", query="port", path="alice:/d") == "denied"
        result(alice, "storage.rollback", path="d/port.txt", steps=1)
        result(alice, "storage.share", path="d", **{"with": "bob"})
        assert found("port", bob, path="alice:/d") == ["alice:/d/port.txt"]


def test_files_and_their_versions_outlive_the_daemon(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, connect(daemon) as peer:
        for data in (b"1", b"2", b"3"):
            result(peer, "storage.write", path="d/a", data=data)
    with served(tmp_path) as daemon, connect(daemon) as peer:
        assert result(peer, "storage.read", path="d/a")["data"] == b"3"
        assert result(peer, "storage.rollback", path="d/a", version=1)["version"] == 4
        assert result(peer, "storage.read", path="d/a")["data"] == b"1"


def test_what_destroys_waits_for_a_person_where_the_configuration_says_so(tmp_path: Path) -> None:
    rule = ConfirmRule(kinds=("storage",), acts=("delete", "replace"), own=True)
    with (
        served(tmp_path, access=Access(confirm=(rule,))) as daemon,
        connect(daemon) as alice,
        Client(daemon.config.socket, agent="aiosctl") as person,
    ):

        def asked(method: str, *, approve: bool, **params: Any) -> Any:
            alice.send(wire.encode_request(1, method, params))
            told = alice.receive()
            assert isinstance(told, wire.Notification), told
            assert told.params["state"] == "waiting_approval"
            answer = person.access.approve if approve else person.access.deny
            answer(str(told.params["request"]))
            message = alice.receive()
            assert isinstance(message, wire.Response), message
            return message.error or message.result

        for path in ("a", "b"):
            result(alice, "storage.write", path=path, data=b"1")  # there was nothing to replace
        result(alice, "storage.write", path="a", data=b"2", mode="append")
        result(alice, "storage.rename", path="b", to="c")
        for method, params in (
            ("storage.write", {"path": "a", "data": b"3"}),
            ("storage.write", {"path": "a", "data": b"3", "more": True}),
            ("storage.rename", {"path": "c", "to": "a", "replace": True}),
            ("storage.rollback", {"path": "a"}),
            ("storage.delete", {"path": "a"}),
        ):
            assert asked(method, approve=False, **params)["code"] == "denied"
        assert result(alice, "storage.read", path="a")["data"] == b"12"
        assert asked("storage.write", approve=True, path="a", data=b"3")["version"] == 3
        assert asked("storage.delete", approve=True, path="a") == {}
        assert code(alice, "storage.delete", path="a") == "not_found"  # nobody is asked in vain
