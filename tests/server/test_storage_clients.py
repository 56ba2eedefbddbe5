"""Storage through the SDK, blocking and asyncio, on a real daemon: parts, streams, and leaving."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_sdk import AsyncClient, Client, Denied, Exists, InvalidParams, NotFound
from aios_sdk import files as sdk_files
from aiosd.config import Limits
from aiosd.server.daemon import Daemon
from tests.server.harness import served

WAIT_S = 20.0
FRAME = 32 * 1024  # so that a part is 16 KiB
BIG = bytes(range(256)) * 1000  # 256,000 bytes: 16 parts


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with served(tmp_path, limits=Limits(frame_bytes=FRAME)) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.config.socket, agent="alice") as client:
        yield client


def temporary(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "state/storage/tmp").iterdir())


def wait_for_none(tmp_path: Path) -> None:
    until = time.monotonic() + WAIT_S
    while temporary(tmp_path):
        assert time.monotonic() < until


def test_what_is_larger_than_a_frame_goes_and_comes_in_parts(client: Client) -> None:
    made = client.storage.write("big", BIG)
    assert (made["version"], made["size"]) == (1, len(BIG))
    assert client.storage.read("big") == BIG
    assert client.storage.write("big", "end", mode="append")["version"] == 2
    assert client.storage.read("big") == BIG + b"end"
    assert client.storage.read("big", version=1) == BIG
    assert client.storage.write("empty", b"")["size"] == 0
    assert client.storage.read("empty") == b""


def test_an_open_file_is_one_that_the_standard_library_takes(
    client: Client, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG)
    with source.open("rb") as file, client.storage.open("copy", "wb") as target:
        shutil.copyfileobj(file, target)
        assert target.tell() == len(BIG)
    assert target.written is not None
    assert target.written["size"] == len(BIG)
    with client.storage.open("copy") as reader:
        assert reader.read(3) == b"\0\1\2"
        assert reader.seek(-2, io.SEEK_END) == len(BIG) - 2
        assert reader.read() == b"\xfe\xff"
        reader.seek(256 * 300)
        assert reader.read(2) == b"\0\1"
    with client.storage.open("lines", "xb") as target:
        target.write("eins\nzwölf\n".encode() * 5000)
    with io.TextIOWrapper(io.BufferedReader(client.storage.open("lines")), "utf-8") as text:
        assert sum(line == "zwölf\n" for line in text) == 5000
    with client.storage.open("lines", "ab") as target:
        target.write(b"more")
    assert client.storage.stat("lines")["version"] == 2


def test_a_reader_stays_with_its_version(client: Client) -> None:
    client.storage.write("a", BIG)
    with client.storage.open("a") as reader:
        assert reader.read(1) == b"\0"
        client.storage.write("a", b"other")
        assert reader.read() == BIG[1:]
        assert reader.version == 1


def test_a_writer_that_fails_leaves_no_trace(client: Client, tmp_path: Path) -> None:
    target = client.storage.open("a", "wb")

    def write_half() -> None:
        with target:
            target.write(BIG)
            assert temporary(tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    wait_for_none(tmp_path)
    with pytest.raises(NotFound):
        client.storage.stat("a")
    with pytest.raises(ValueError, match="closed"):
        target.write(b"x")
    client.storage.write("a", b"")
    with pytest.raises(Exists):
        client.storage.open("a", "xb").close()
    with pytest.raises(InvalidParams, match="mode is 'w', not one of rb, wb, xb, ab"):
        client.storage.open("a", "w")  # type: ignore[call-overload]  # what a user may type


def test_a_connection_that_ends_takes_its_half_written_files_along(
    daemon: Daemon, tmp_path: Path
) -> None:
    with Client(daemon.config.socket, agent="alice") as client:
        target = client.storage.open("a", "wb")
        target.write(BIG)
        assert temporary(tmp_path)
    wait_for_none(tmp_path)


def test_the_tree_the_history_and_grants_are_there_as_methods(
    daemon: Daemon, client: Client
) -> None:
    storage = client.storage
    for number in range(3):
        storage.write("d/a", str(number))
    storage.mkdir("e")
    assert [f["path"] for f in storage.list()] == ["d", "e"]
    assert [f["path"] for f in storage.list("d", recursive=True)] == ["d/a"]
    assert storage.rollback("d/a", steps=2)["version"] == 4
    assert [v["op"] for v in storage.history("d/a")] == ["rollback"] + ["replace"] * 3
    storage.rename("d/a", "e/b")
    storage.delete("d", recursive=True)
    assert storage.usage()["files"] == 2
    with Client(daemon.config.socket, agent="bob") as bob:
        with pytest.raises(Denied):
            bob.storage.read("alice:/e/b")
        grant = storage.share("e", "bob", "write", expires_s=60)
        assert bob.storage.read("alice:/e/b") == b"0"
        assert bob.storage.write("alice:/e/c", BIG)["version"] == 1
        assert bob.storage.grants()["held"][0]["path"] == "e"
        assert storage.grants()["given"][0]["holder"] == "bob"
        storage.revoke(grant)
        with pytest.raises(Denied):
            bob.storage.read("alice:/e/b")
    assert storage.read("e/c") == BIG


def test_the_asyncio_client_says_the_same(daemon: Daemon, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.config.socket, agent="alice") as client:
            storage = client.storage
            assert (await storage.write("big", BIG))["size"] == len(BIG)
            assert await storage.read("big") == BIG
            async with storage.open("parts", "wb") as target:
                for begin in range(0, len(BIG), 10_000):
                    await target.write(BIG[begin : begin + 10_000])
            assert target.written is not None
            reader = storage.open("parts")
            assert b"".join([part async for part in reader]) == BIG
            reader.seek(5)
            assert await reader.read(2) == b"\5\6"
            assert [f["path"] async for f in storage.list()] == ["big", "parts"]

            async def endless() -> None:
                async with storage.open("endless", "wb") as file:
                    while True:
                        await file.write(BIG)

            async with asyncio.timeout(WAIT_S):
                task = asyncio.ensure_future(endless())  # noqa: TID251 - a test's own task
                while not temporary(tmp_path):  # noqa: ASYNC110 - nothing tells when
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            with pytest.raises(NotFound):
                await storage.stat("endless")
            until = time.monotonic() + WAIT_S
            while temporary(tmp_path):
                await asyncio.sleep(0)
                assert time.monotonic() < until

    asyncio.run(main())


def test_two_hundred_agents_write_and_read_at_once(daemon: Daemon) -> None:
    async def agent(number: int) -> None:
        async with AsyncClient(daemon.config.socket, agent=f"agent{number}") as client:
            mine = f"{number} ".encode() * 100
            await client.storage.write("a", mine)
            await client.storage.write("a", b"!", mode="append")
            assert await client.storage.read("a") == mine + b"!"

    async def main() -> None:
        await asyncio.gather(*(agent(number) for number in range(200)))

    asyncio.run(main())


def test_parts_stay_below_what_the_daemon_takes() -> None:
    hello: dict[str, object] = {"limits": {"frame_bytes": 100}}
    sending = sdk_files.Sending("a", "replace", hello)
    calls = []
    for params in sending.add(b"x" * 120):
        calls.append(len(params["data"]))  # type: ignore[arg-type]  # bytes
        sending.told({"upload": "u1"})
    last = sending.last()
    assert (calls, last["data"], last["upload"]) == ([50, 50], b"x" * 20, "u1")


def test_the_example_runs_twice_on_the_same_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[2] / "sdk/examples/shared_notebook.py"
    spec = importlib.util.spec_from_file_location("shared_notebook", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with served(tmp_path) as daemon:
        for _ in range(2):
            example.main(daemon.config.socket)
    out = capsys.readouterr().out
    assert "has no ink: 'The harbour sleeps at night.\\nAt dawn the fishing boats leave.\\n'" in out
    assert out.count("5000000 bytes came back the same: True") == 2
    assert out.count("about boats: ['notebook/day.txt']") == 2
