"""The units as files: what systemd-analyze says of them, and what they must and must never say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aios_sdk.paths import SYSTEM_SOCKET
from aiosd import config
from aiosd.server import daemon, embedder

UNITS = Path(__file__).parent.parent.parent / "systemd"
DROP_INS = sorted(path.name for path in (UNITS / "dropins").glob("*.conf"))

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine"
)


def analyze(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *command], capture_output=True, text=True, check=False, timeout=120
    )


def read(name: str) -> dict[str, dict[str, list[str]]]:
    """A unit's sections: each key with all its values, in order."""

    sections: dict[str, dict[str, list[str]]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            section.setdefault(key, []).append(value)
    return sections


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    for path in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        text = path.read_text().replace("/usr/local/bin/aiosd", sys.executable)
        (tmp_path / path.name).write_text(text)
    return tmp_path


@needs_systemd
def test_systemd_finds_no_fault_in_the_units(place: Path) -> None:
    done = analyze("verify", "--man=no", str(place / "aiosd.service"), str(place / "aiosd.socket"))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_a_fault_in_a_unit_would_be_found(place: Path) -> None:
    unit = place / "aiosd.service"
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTemp=yes"))
    assert "PrivateTemp" in analyze("verify", "--man=no", str(unit)).stderr


@needs_systemd
def test_systemd_finds_no_fault_in_the_users_units(tmp_path: Path) -> None:
    for path in (UNITS / "user").iterdir():
        text = path.read_text().replace("/usr/local/bin/aiosd", sys.executable)
        (tmp_path / path.name).write_text(text)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    units = [str(tmp_path / "aiosd.service"), str(tmp_path / "aiosd.socket")]
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", *units],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", DROP_INS)
def test_systemd_finds_no_fault_in_a_drop_in(place: Path, name: str) -> None:
    target = place / "aiosd.service.d" / name
    target.parent.mkdir()
    shutil.copy(UNITS / "dropins" / name, target)
    done = analyze("verify", "--man=no", str(place / "aiosd.service"))
    assert (done.returncode, done.stderr) == (0, "")
    target.write_text("[Service]\nPrivateTemp=yes\n")  # it is read: a fault in it would be found
    assert "PrivateTemp" in analyze("verify", "--man=no", str(place / "aiosd.service")).stderr


@needs_systemd
def test_the_exposure_is_2_0_or_better(place: Path) -> None:
    unit = str(place / "aiosd.service")
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout[-300:]


def test_peers_can_be_told_apart() -> None:
    for name in ("aiosd.service", *(f"dropins/{name}" for name in DROP_INS)):
        service = read(name)["Service"]
        assert service.get("PrivateUsers", ["no"]) == ["no"]
        assert "DynamicUser" not in service


def test_no_core_file_can_hold_what_people_said() -> None:
    for name in ("aiosd.service", "user/aiosd.service"):
        assert read(name)["Service"]["LimitCORE"] == ["0"]


def test_a_wrong_configuration_is_not_started_again() -> None:
    for name in ("aiosd.service", "user/aiosd.service"):
        assert read(name)["Service"]["RestartPreventExitStatus"] == ["2"]


def test_there_is_time_enough_to_stop_in_order() -> None:
    needed_s = 2 * daemon.DRAIN_S + daemon.FLUSH_S + daemon.ENGINE_STOP_S + 2 * embedder.STOP_S
    for name in ("aiosd.service", "user/aiosd.service"):
        (given,) = read(name)["Service"]["TimeoutStopSec"]
        assert 60 * int(given.removesuffix("min")) > needed_s


def test_the_socket_is_for_the_group_alone_and_where_clients_look() -> None:
    socket = read("aiosd.socket")["Socket"]
    assert socket["ListenStream"] == [SYSTEM_SOCKET]
    assert (socket["SocketGroup"], socket["SocketMode"]) == (["aiosd"], ["0660"])
    assert read("user/aiosd.socket")["Socket"]["SocketMode"] == ["0600"]


def test_the_configuration_that_comes_along_fits_the_units() -> None:
    settings = config.load(str(UNITS / "aiosd.toml"), {})
    assert (settings.socket, settings.socket_mode) == (SYSTEM_SOCKET, 0o660)
    directories = read("aiosd.service")["Service"]["StateDirectory"][0].split()
    assert settings.state_dir == f"/var/lib/{directories[0]}"
    assert settings.models_dir == f"/var/lib/{directories[1]}"
    made = re.findall(r"^d (\S+)", (UNITS / "aiosd.tmpfiles").read_text(), re.MULTILINE)
    assert made == ["/run/aiosd", *(f"/var/lib/{name}" for name in directories)]


def test_every_relaxation_is_explained() -> None:
    """What systemd would rather have on, and is off here, has words right above it."""
    lines = (UNITS / "aiosd.service").read_text().splitlines()
    for key in ("PrivateUsers", "PrivateNetwork", "ProcSubset"):
        index = next(i for i, line in enumerate(lines) if line.startswith(f"{key}="))
        assert key in "".join(lines[index - 3 : index])
