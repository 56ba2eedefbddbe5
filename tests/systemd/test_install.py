"""`make install` and `make uninstall` below a DESTDIR, as who makes a package uses them, and what
they refuse.  What they do to a real system: test_service.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import install
from scripts.install import InstallError, Place

ROOT = Path(__file__).parent.parent.parent
VENV = Path(sys.prefix)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(ROOT), *arguments, f"VENV={VENV}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def files_in(top: Path) -> list[str]:
    return sorted(f"/{path.relative_to(top)}" for path in top.rglob("*") if not path.is_dir())


@pytest.mark.slow
def test_it_installs_below_a_destdir_with_its_prefix_and_uninstalls_again(tmp_path: Path) -> None:
    if not list((VENV / "share/aiosd/models").glob("*.gguf")):
        pytest.skip(f"set-up has not prepared a model in {VENV}")
    try:
        install.service_python(Path(os.path.realpath(VENV / "bin/python")))
    except InstallError as error:
        pytest.skip(str(error))
    arguments = (f"DESTDIR={tmp_path}", "PREFIX=/opt/aiosd")
    done = make("install", *arguments)
    assert done.returncode == 0, done.stderr
    home = tmp_path / "opt/aiosd/lib/aiosd"
    here = [path for path in files_in(tmp_path) if not path.startswith("/opt/aiosd/lib/aiosd/")]
    assert {"/opt/aiosd/share/man/man1/aiosctl-run.1", "/opt/aiosd/share/man/man8/aiosd.8"} <= {
        *here
    }
    assert [path for path in here if "/share/doc/" not in path and "/man/" not in path] == [
        "/etc/aiosd/aiosd.toml",
        "/etc/systemd/system/aiosd.service",
        "/etc/systemd/system/aiosd.socket",
        "/etc/systemd/user/aiosd.service",
        "/etc/systemd/user/aiosd.socket",
        "/etc/sysusers.d/aiosd.conf",
        "/etc/tmpfiles.d/aiosd.conf",
        "/opt/aiosd/bin/aiosctl",
        "/opt/aiosd/bin/aiosd",
        "/opt/aiosd/share/aiosd/aiosd.toml",
        *(f"/opt/aiosd/share/aiosd/dropins/{n}.conf" for n in ("gpu", "home-models", "tools")),
        "/opt/aiosd/share/bash-completion/completions/aiosctl",
        "/opt/aiosd/share/fish/vendor_completions.d/aiosctl.fish",
        "/opt/aiosd/share/zsh/site-functions/_aiosctl",
    ]
    unit = (tmp_path / "etc/systemd/system/aiosd.service").read_text()
    assert "ExecStart=/opt/aiosd/bin/aiosd --config /etc/aiosd/aiosd.toml" in unit
    assert "/usr/local" not in unit
    assert (home / "bin/aiosd").read_text().startswith("#!/opt/aiosd/lib/aiosd/bin/python3 -I\n")
    said = subprocess.run(
        [home / "bin/python3", "-Im", "aiosd", "--check-config"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "slots = 8" in said.stdout
    assert not list(home.glob("lib/*/site-packages/pytest*"))  # what only tests need stays out

    grep = ["grep", "-rlIF", "-e", str(tmp_path), "-e", str(ROOT), "-e", str(VENV), str(tmp_path)]
    found = subprocess.run(grep, capture_output=True, text=True, check=False)
    assert found.stdout == ""  # nothing remembers where it was made

    (tmp_path / "etc/aiosd/aiosd.toml").write_text("# mine\n")
    (home / "left-over").touch()
    old = tmp_path / "opt/aiosd/share/doc/aiosd/OLD.md"  # of a version before this
    old.touch()
    with (home / "installed.txt").open("a") as manifest:
        manifest.write("/opt/aiosd/share/doc/aiosd/OLD.md\n")
    assert make("install", *arguments).returncode == 0
    assert (tmp_path / "etc/aiosd/aiosd.toml").read_text() == "# mine\n"
    assert not old.exists()
    assert not (home / "left-over").exists()

    done = make("uninstall", *arguments)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path) == ["/etc/aiosd/aiosd.toml"]
    done = make("uninstall", *arguments)
    assert done.returncode == 2
    assert "nothing is installed in /opt/aiosd" in done.stderr


@pytest.mark.parametrize("prefix", ["/home/me/aiosd", "/root", "/tmp/x", "here", "/opt/../home"])  # noqa: S108
def test_a_prefix_that_the_service_could_not_see_is_refused(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.main(["install", "--prefix", prefix, "--destdir", "/nowhere"]) == 1
    assert f"PREFIX is {prefix}" in capsys.readouterr().err


def test_without_root_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for action in ("install", "uninstall"):
        assert install.main([action]) == 1
        assert f"sudo make {action}" in capsys.readouterr().err


def test_a_manifest_leads_nowhere_else(tmp_path: Path) -> None:
    place = Place(Path("/usr/local"), str(tmp_path))
    manifest = place.real(place.manifest)
    manifest.parent.mkdir(parents=True)
    manifest.write_text("/usr/local/bin/aiosd\n/usr/../etc/passwd\nrelative\n\n")
    assert install.installed(place) == {Path("/usr/local/bin/aiosd")}


def test_a_python_in_a_home_directory_is_not_for_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    monkeypatch.setattr(install, "HIDDEN", ("/",))
    with pytest.raises(InstallError, match="in a home directory"):
        install.service_python(link)
    monkeypatch.setattr(install, "HIDDEN", ())
    assert install.service_python(link) == link


def test_a_package_that_set_up_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"set-up's \.venv has no .*run: make setup"):
        list(install.requirements(tmp_path))


def test_what_the_service_needs_is_all_that_is_copied() -> None:
    packages = next(VENV.glob("lib/python3*/site-packages"))
    names = {d.metadata["Name"].lower() for d in install.requirements(packages)}
    assert {"msgpack", "numpy", "structlog", "uvloop"} <= names
    assert not names & {"pytest", "mypy", "ruff", "matplotlib", "pip", "aiosd", "aios-sdk"}


def test_only_empty_directories_of_ours_go(tmp_path: Path) -> None:
    for name in ("share/aiosd/dropins", "bin", "lib/systemd/system"):
        (tmp_path / name).mkdir(parents=True)
        install.remove_empty(tmp_path / name)
    assert not (tmp_path / "share/aiosd").exists()
    assert {path.name for path in tmp_path.rglob("*")} == {
        "share",
        "bin",
        "lib",
        "systemd",
        "system",
    }
    (tmp_path / "share/aiosd").mkdir()
    (tmp_path / "share/aiosd/theirs").touch()
    install.remove_empty(tmp_path / "share/aiosd")
    assert (tmp_path / "share/aiosd/theirs").exists()
    install.remove_empty(tmp_path / "share/doc/aiosd")  # gone already
