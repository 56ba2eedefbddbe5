"""Agents as processes, attacked: by themselves, by who spawned them, by others of the machine."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from aiosd.confine import landlock
from aiosd.server.daemon import Daemon
from aiosd.server.life import Share
from aiosd.spawn_config import SpawnConfig
from tests.server.harness import RawPeer, served
from tests.server.test_spawn import HELLO, output, result, spawn

if landlock.abi() == 0:
    pytest.skip("this kernel has no Landlock", allow_module_level=True)

SPAWN = SpawnConfig(processes_per_uid=6, log_bytes=16 * 1024, restarts=2, grace_s=20)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("spawn"), spawn=SPAWN) as daemon:
        yield daemon


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[RawPeer]:
    with RawPeer(daemon.config.socket, "boss") as peer:
        peer.sock.settimeout(60)
        yield peer
        for process in result(peer, "agent.processes")["processes"]:
            peer.ask("agent.signal", agent=process["agent"], signal="kill")
            result(peer, "agent.wait", agent=process["agent"])


def test_what_it_grants_of_its_own_leads_nowhere_else_when_it_is_used(
    peer: RawPeer, tmp_path: Path
) -> None:
    """It grants its child a directory of its own, and puts a link there before the next start."""
    (tmp_path / "words").write_text("secret")
    source = f"""
    from aios_sdk import AiosError
    own = os.environ["HOME"] + "/data"
    os.mkdir(own)
    made = client.call(
        "agent.spawn", name="child", command="/bin/sh", detach=True, restart="always",
        args=["-c", f"cat {{own}}/words; sleep 0.3"],
        grants={{"read": [own]}})
    os.rename(own, own + ".was")
    os.symlink({str(tmp_path)!r}, own)
    ended = client.call("agent.wait", agent=made["agent"])
    lines = client.call("agent.logs", agent=made["agent"])["lines"]
    print("secret" in str(lines), ended.get("reason"))
    """
    spawn(peer, "parent", HELLO + textwrap.dedent(source))
    [line] = output(peer, "parent")
    assert line.startswith("False granted path"), line
    assert line.endswith(f"/data: it has become a link, to {tmp_path}")


def test_who_was_given_so_much_gives_no_more_to_who_it_spawns(peer: RawPeer) -> None:
    """Tokens are counted along the line; a limit that isn't asked for is what the spawner has."""
    source = """
    from aios_sdk import AiosError
    use = "from aios_sdk import Client; Client().generate('Go on', max_tokens=100, ignore_eos=True)"
    def child(name, detach=False, **limits):
        try:
            return client.call("agent.spawn", name=name, command=sys.executable, args=["-c", use],
                               env={"PYTHONPATH": os.environ["PYTHONPATH"]}, limits=limits,
                               detach=detach)
        except AiosError as error:
            print(name, error.code, error)
    child("more", wall_s=10_000)
    child("many", tokens=61)
    child("gone", detach=True)
    made = child("one")
    client.call("agent.wait", agent=made["agent"])
    print(client.call("agent.inspect", agent=made["agent"])["limits"]["tokens"])
    child("two")
    try: client.generate("Go on", max_tokens=1)
    except AiosError as error: print(error.code)
    """
    spawn(peer, "parent", HELLO + textwrap.dedent(source), limits={"tokens": 60, "wall_s": 9000})
    more, many, gone, tokens, two, own = output(peer, "parent")
    assert more.startswith("more invalid_params")
    assert many == "many invalid_params limits.tokens is 61, and its spawner has 60 left itself"
    assert gone.startswith("gone denied agent parent has limits")
    assert tokens == "60"
    assert two == "two quota_exceeded agent parent has no tokens left to give"
    assert own == "quota_exceeded"


def test_what_processes_write_without_end_leaves_the_loop_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They have it in turn, and none while the others come first."""
    done: list[str | float] = []
    clock = count()

    async def sleep(s: float) -> None:
        done.append(s)

    async def run() -> None:
        share = Share()
        async with asyncio.TaskGroup() as group:
            for who in "abc":
                group.create_task(share.take(partial(done.append, who)))

    monkeypatch.setattr("aiosd.server.life.time.thread_time", lambda: next(clock) / 100)
    monkeypatch.setattr("aiosd.server.life.asyncio.sleep", sleep)
    asyncio.run(run())
    wait_s = pytest.approx(0.1)
    assert done == ["a", wait_s, "b", wait_s, "c", wait_s]
