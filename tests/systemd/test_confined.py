"""Confined processes inside the real unit: its hardening and theirs get along."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.systemd.conftest import HERE, ROOT, Lab

pytestmark = pytest.mark.slow

OWN = ("Type=", "NotifyAccess=", "ExecStart=", "ExecReload=", "WatchdogSec=", "Restart")


def probed(lab: Lab, *dropins: str) -> dict[str, Any]:
    """What the probe found, run by the unit as it is but for what makes it a service."""
    unit = lab.path(lab.show("FragmentPath")).read_text().splitlines()
    kept = [line for line in unit if not line.startswith(OWN)]
    at = kept.index("[Service]") + 1
    # A directory of its own: the daemon's would go with the probe.
    kept = [line.replace("RuntimeDirectory=aiosd", "RuntimeDirectory=probe") for line in kept]
    python = "/usr/local/lib/aiosd/bin/python3"
    kept[at:at] = [
        "Type=oneshot",
        f"ExecStart={python} -I /usr/local/share/probe.py",
        "StandardOutput=file:/run/probe.json",
    ]
    for name in dropins:
        at_unit = lab.path("/etc/systemd/system/probe.service.d")
        at_unit.mkdir()
        shutil.copy(ROOT / "systemd/dropins" / name, at_unit)
    lab.path("/etc/systemd/system/probe.service").write_text("\n".join(kept) + "\n")
    shutil.copy(HERE / "probe.py", lab.path("/usr/local/share/probe.py"))
    shutil.copy(HERE.parent / "confine/attacks.py", lab.path("/usr/local/share/attacks.py"))
    lab.path("/run/probe.json").unlink(missing_ok=True)
    lab.must("systemctl", "daemon-reload")
    done = lab.do("systemctl", "start", "probe.service")
    words = lab.path("/run/probe.json").read_text()
    assert done.returncode == 0, words + done.stderr
    found: dict[str, Any] = json.loads(words)
    return found


def test_processes_are_confined_inside_the_hardened_unit(lab: Lab) -> None:
    found = probed(lab)
    assert "works" in found["shell"]
    assert "secret: Permission denied" in found["shell"]
    assert found["python"] == "42 [exit code 0]"
    assert "MemoryError" in found["memory"]
    assert found["landlock"] > 0
    assert found["unharmed"] == "secret"
    for group in ("files", "processes", "network", "networked"):
        found[group].pop("setuid program", None)  # which the plain suite tries
        assert found[group] == {}, group
    if shutil.which("node"):  # it compiles as it runs, which the drop-in permits
        assert found["node"] != "42 [exit code 0]"
        assert probed(lab, "tools.conf")["node"] == "42 [exit code 0]"
