"""What agent.spawn may ask for: by the configuration, by its spawner, by whose daemon it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from aios_sdk.errors import Denied, InvalidParams, TooLarge
from aiosd.kernel.model import AgentId
from aiosd.server import spawning
from aiosd.server.life import AgentProcess
from aiosd.services.access import Subject
from aiosd.services.processes.model import Spec
from aiosd.services.processes.output import Output
from aiosd.spawn_config import SpawnConfig

RIGHTS = frozenset(("llm", "storage", "spawn", "admin"))
OWNER = Subject(AgentId(os.geteuid(), "boss"), RIGHTS)
OTHER = Subject(AgentId(os.geteuid() + 1000, "boss"), RIGHTS)


def checked(
    subject: Subject = OWNER,
    config: SpawnConfig = SpawnConfig(),  # noqa: B008 - frozen
    spawner: AgentProcess | None = None,
    **params: Any,
) -> Spec:
    least = {"name": "w", "command": "/bin/sh", "restart": "no", "detach": False}
    return spawning.checked({**least, **params}, config, subject, spawner)


def spawned(*read: str) -> AgentProcess:
    spec = Spec("/bin/sh", ("sh",), read=read)
    return AgentProcess("p1", AgentId(1, "boss"), spec, Output(1000))


def test_rights_are_the_spawners_but_admin_or_fewer() -> None:
    assert checked().rights == ("llm", "storage", "spawn")
    assert checked(rights=["storage"]).rights == ("storage",)
    assert checked(rights=[]).rights == ()
    for right in ("admin", "memory"):
        with pytest.raises(Denied, match=right):
            checked(rights=[right])


def test_another_user_grants_what_the_configuration_lists(tmp_path: Path) -> None:
    config = SpawnConfig(read=(f"{tmp_path}/r*",), write=(f"{tmp_path}/w*",))
    assert checked(OTHER, config, grants={"read": [f"{tmp_path}/r1"]}).read == (f"{tmp_path}/r1",)
    assert checked(OTHER, config, grants={"read": [f"{tmp_path}/w1"]})
    assert checked(OTHER, config, grants={"write": [f"{tmp_path}/w1"]})
    for grants in (
        {"read": [f"{tmp_path}/x"]},
        {"read": [f"{tmp_path}/r1/../x"]},
        {"write": [f"{tmp_path}/r1"]},
        {"network": True},
    ):
        with pytest.raises(Denied, match=r"\[spawn\] doesn't list"):
            checked(OTHER, config, grants=grants)
    assert checked(OTHER, SpawnConfig(network=True), grants={"network": True}).is_networked


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "r1").symlink_to("/etc")
    config = SpawnConfig(read=(f"{tmp_path}/*",), commands=(f"{tmp_path}/*",))
    with pytest.raises(Denied):
        checked(OTHER, config, grants={"read": [f"{tmp_path}/r1"]})
    (tmp_path / "sh").symlink_to("/bin/sh")
    with pytest.raises(Denied, match="none of the programs"):
        checked(OTHER, config, command=str(tmp_path / "sh"))


def test_a_spawned_agent_grants_what_it_was_granted() -> None:
    spawner = spawned("/srv/data")
    assert checked(spawner=spawner, grants={"read": ["/srv/data/a"]}).read == ("/srv/data/a",)
    for grants in (
        {"read": ["/srv"]},
        {"read": ["/srv/data2"]},
        {"write": ["/srv/data"]},
        {"network": True},
    ):
        with pytest.raises(Denied, match="agent boss wasn't granted"):
            checked(spawner=spawner, grants=grants)


def test_names_of_a_spawned_agents_own_are_below_it() -> None:
    assert spawning.name_below(None, "w") == "w"
    assert spawning.name_below(spawned(), "w") == "boss.w"
    assert spawning.name_below(spawned(), "boss.w") == "boss.w"
    assert spawning.name_below(spawned(), "bossy.w") == "boss.bossy.w"
    with pytest.raises(InvalidParams, match="the most is 64"):
        spawning.name_below(spawned(), "w" * 60)


def test_arguments_and_environment_are_bounded() -> None:
    with pytest.raises(TooLarge, match="args"):
        checked(args=["x" * 60_000, "y" * 6000])
    with pytest.raises(TooLarge, match="env"):
        checked(env={"A": "x" * 70_000})
    for env in ({"1A": "x"}, {"A": "\0"}, {"A": 1}, {"AIOSD_AGENT": "x"}):
        with pytest.raises(InvalidParams, match="env"):
            checked(env=env)
