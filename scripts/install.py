"""Installs aiosd into the system, and takes it out again: `make install`, `make uninstall`.

Rule 1: nothing is asked.  What set-up made and tried (.venv) is copied, so nothing is fetched or
compiled as root, and nothing of the checkout is changed.
Rule 2: with DESTDIR files are written, no more; without it the user is made and systemd told.
Rule 3: an upgrade appears at once (a rename); a daemon that runs keeps running what it has loaded.
Rule 4: the administrator's /etc/aiosd/aiosd.toml is never overwritten; contexts, models and backups
stay when the program goes, unless PURGE=1 says otherwise.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = {"aiosd": ROOT, "aiosctl": ROOT, "aios_sdk": ROOT / "sdk/src"}
CONFIG = Path("/etc/aiosd/aiosd.toml")
STATE = ("/var/lib/aiosd", "/var/lib/aiosd-models", "/var/lib/aiosd-backups")
UNITS = ("aiosd.socket", "aiosd.service")
HIDDEN = ("/home", "/root", "/run", "/tmp", "/var/tmp")  # noqa: S108 - what the unit hides from itself
DEFAULT_PREFIX = "/usr/local/"  # what the units say
SHELLS = {
    "bash": "share/bash-completion/completions/aiosctl",
    "zsh": "share/zsh/site-functions/_aiosctl",
    "fish": "share/fish/vendor_completions.d/aiosctl.fish",
}


class InstallError(Exception):
    """It can't go on; str() says why and what to do."""


@dataclass(frozen=True)
class Place:
    """Where everything goes: paths of the running system; real() is where they are written."""

    prefix: Path
    destdir: str = ""

    @property
    def home(self) -> Path:
        """The program: a Python environment of its own."""
        return self.prefix / "lib/aiosd"

    @property
    def manifest(self) -> Path:
        """What else was installed, a path per line."""
        return self.home / "installed.txt"

    def real(self, path: Path | str) -> Path:
        return Path(f"{self.destdir}{path}") if self.destdir else Path(path)

    def systemd(self, what: str) -> Path:
        """A directory in which systemd looks: below its own prefixes, or in /etc."""
        if str(self.prefix) in ("/usr", "/usr/local"):
            return self.prefix / "lib" / what
        return Path("/etc") / what

    def check(self) -> None:
        if not self.prefix.is_absolute() or ".." in self.prefix.parts:
            raise InstallError(f"PREFIX is {self.prefix}, it must be an absolute path")
        if is_hidden(self.prefix):
            raise InstallError(
                f"PREFIX is {self.prefix}, which the service can't see (it is kept out of "
                f"{', '.join(HIDDEN)}); use /usr/local, /usr or /opt/aiosd"
            )


def is_hidden(path: Path) -> bool:
    return any(path == Path(place) or Path(place) in path.parents for place in HIDDEN)


def say(text: str) -> None:
    sys.stdout.write(f"install: {text}\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- the program


def service_python(base: Path) -> Path:
    """The interpreter for the service: set-up's own, or a system one of the same version if a home
    directory holds set-up's, where the service can't see it."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = sysconfig.get_config_var("SOABI")
    for path in (base, Path("/usr/bin") / name, Path("/usr/local/bin") / name):
        if is_hidden(path.resolve()) or not os.access(path, os.X_OK):
            continue
        ask = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
        said = subprocess.run([str(path), "-Ic", ask], capture_output=True, text=True, check=False)
        if said.stdout.strip() == wanted:
            return path
    raise InstallError(
        f"set-up used {base}, which is in a home directory, where the service can't see it, and "
        f"there is no {name} in /usr/bin; install it, or set up anew with a Python that is there: "
        "make distclean && make setup PYTHON=/usr/bin/python3"
    )


def requirements(packages: Path) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that aiosd needs, without what tests and checks need."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = {
        canonicalize_name(d.metadata["Name"]): d
        for d in importlib.metadata.distributions(path=[str(packages)])
    }
    todo: list[str] = []
    for project in (ROOT / "pyproject.toml", ROOT / "sdk/pyproject.toml"):
        with project.open("rb") as file:
            todo += tomllib.load(file)["project"]["dependencies"]
    seen = set(map(canonicalize_name, OURS))
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        if name not in found or found[name].version not in requirement.specifier:
            raise InstallError(f"set-up's .venv has no {requirement}; run: make setup")
        yield found[name]
        todo += found[name].requires or []


def copy_packages(source: Path, target: Path) -> None:
    """The needed packages with their compiled files, and our own from the checkout."""
    for distribution in requirements(source):
        for file in distribution.files or ():
            if ".." in file.parts:  # programs of its own
                continue
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / file, place)  # with its time: .pyc files hold it
    for package, folder in OURS.items():
        shutil.copytree(
            folder / package, target / package, ignore=shutil.ignore_patterns("__pycache__")
        )
        compileall.compile_dir(target / package, quiet=1, stripdir=str(target))
    for name in ("aiosd", "aios_sdk"):  # what importlib.metadata reads: names and versions
        for info in source.glob(f"{name}-*.dist-info"):
            (target / info.name).mkdir()
            shutil.copy2(info / "METADATA", target / info.name / "METADATA")


def make_program(place: Place, venv: Path) -> None:
    """place.home, whole or not at all."""
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    model = venv / "share/aiosd/models"
    if not any(model.glob("*.gguf")):
        raise InstallError(f"there is no model in {model}; run: make setup")
    python = service_python(Path(os.path.realpath(venv / "bin/python")))
    home = place.real(place.home)
    new, old = home.with_name(".aiosd.new"), home.with_name(".aiosd.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    say(f"the program and its model, to {place.home}, with {python}")
    home.parent.mkdir(parents=True, exist_ok=True)
    run(str(python), "-I", "-m", "venv", "--without-pip", "--symlinks", str(new))
    for script in (new / "bin").glob("[Aa]ctivate*"):
        script.unlink()
    settings = (new / "pyvenv.cfg").read_text().splitlines(keepends=True)
    (new / "pyvenv.cfg").write_text("".join(s for s in settings if not s.startswith("command")))
    lib = new / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    copy_packages(packages, lib)
    shutil.copytree(model, new / "share/aiosd/models", ignore=shutil.ignore_patterns(".*"))
    for name in ("aiosd", "aiosctl"):
        program = new / "bin" / name
        program.write_text(
            f"#!{place.home}/bin/python3 -I\n"
            f"import sys\n\nfrom {name}.__main__ import main\n\nsys.exit(main())\n"
        )
        program.chmod(0o755)
    if place.real(place.manifest).exists():
        shutil.copy2(place.real(place.manifest), new / place.manifest.name)
    if home.exists():
        home.rename(old)
    new.rename(home)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- everything else


def files(place: Place) -> dict[Path, bytes]:
    """What is installed beside the program."""
    found: dict[Path, bytes] = {}

    def add(source: Path, target: Path) -> None:
        text = source.read_text()
        found[target] = text.replace(DEFAULT_PREFIX, f"{place.prefix}/").encode()

    systemd, share = ROOT / "systemd", place.prefix / "share"
    for unit in UNITS:
        add(systemd / unit, place.systemd("systemd/system") / unit)
        add(systemd / "user" / unit, place.systemd("systemd/user") / unit)
    add(systemd / "aiosd.sysusers", place.systemd("sysusers.d") / "aiosd.conf")
    add(systemd / "aiosd.tmpfiles", place.systemd("tmpfiles.d") / "aiosd.conf")
    add(systemd / "aiosd.toml", share / "aiosd/aiosd.toml")
    for drop_in in sorted((systemd / "dropins").glob("*.conf")):
        add(drop_in, share / "aiosd/dropins" / drop_in.name)
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "LICENSE"):
        found[share / "doc/aiosd" / page.name] = page.read_bytes()
    program = str(place.real(place.home) / "bin/python3")
    with tempfile.TemporaryDirectory() as made:
        run(program, "-I", str(ROOT / "scripts/manpages.py"), made)
        for page in Path(made).iterdir():
            found[share / f"man/man{page.suffix[1:]}" / page.name] = page.read_bytes()
    for shell, target in SHELLS.items():
        found[place.prefix / target] = run(program, "-Im", "aiosctl", "completion", shell).encode()
    return found


def write(path: Path, content: bytes) -> None:
    """A file that everybody may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.rename(path)


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(path)


def install(place: Place, venv: Path) -> None:
    os.umask(0o022)  # the service's user must read it, whatever root's umask is
    make_program(place, venv)
    before = installed(place)
    here = files(place)
    for path, content in here.items():
        write(place.real(path), content)
    programs = [place.prefix / "bin" / name for name in ("aiosd", "aiosctl")]
    for path in programs:
        link(place.real(path), f"../lib/aiosd/bin/{path.name}")
    now = {*here, *programs}
    write(place.real(place.manifest), "".join(f"{path}\n" for path in sorted(now)).encode())
    for path in before - now:  # of an older version
        place.real(path).unlink(missing_ok=True)
    config = place.real(CONFIG)
    if config.exists():
        say(f"{CONFIG} is left as it is; the default is in {place.prefix}/share/aiosd")
    else:
        write(config, (ROOT / "systemd/aiosd.toml").read_bytes())
        say(f"{CONFIG}: the configuration")
    if place.destdir:
        say(
            f"written below {place.destdir}; on the target: systemd-sysusers, "
            "systemd-tmpfiles --create, systemctl daemon-reload"
        )
        return
    activate(place)


def activate(place: Place) -> None:
    """The user, the directories, and systemd's knowledge of the units."""
    if shutil.which("systemd-sysusers") is None:
        say("there is no systemd here: make a user aiosd, and start it as you start services:")
        say(f"  {place.prefix}/bin/aiosd --config {CONFIG}")
        return
    run("systemd-sysusers", str(place.systemd("sysusers.d") / "aiosd.conf"))
    run("systemd-tmpfiles", "--create", str(place.systemd("tmpfiles.d") / "aiosd.conf"))
    is_running = Path("/run/systemd/system").is_dir()
    if is_running:
        run("systemctl", "daemon-reload")
    say("done.  What is left to do:")
    if is_running and is_active("aiosd.service"):
        say("  systemctl restart aiosd            # it still runs what it was started as")
    else:
        say("  systemctl enable --now aiosd.socket  # it starts when somebody connects")
    say("  adduser NAME aiosd                   # who may use it; then log in anew")
    say('  aiosctl run "Why is the sky blue?"')


def is_active(unit: str) -> bool:
    command = ["systemctl", "is-active", "--quiet", unit]
    return subprocess.run(command, check=False).returncode == 0


def installed(place: Place) -> set[Path]:
    """What the manifest lists: only what an installation may have put where it says."""
    try:
        lines = place.real(place.manifest).read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {Path(line) for line in lines if line.startswith("/") and ".." not in Path(line).parts}


def uninstall(place: Place, *, purge: bool) -> None:
    """Stop it, and take out what was installed."""
    listed = installed(place)
    if not listed:
        raise InstallError(f"nothing is installed in {place.prefix}: there is no {place.manifest}")
    is_running = not place.destdir and Path("/run/systemd/system").is_dir()
    if is_running:
        run("systemctl", "disable", "--now", *UNITS)
    for path in sorted(listed):
        place.real(path).unlink(missing_ok=True)
        remove_empty(place.real(path).parent)
    shutil.rmtree(place.real(place.home))
    if is_running:
        run("systemctl", "daemon-reload")
    if not purge:
        say(f"aiosd is gone; {CONFIG.parent}, {', '.join(STATE)} and the user aiosd stay")
        say("  make uninstall PURGE=1 removes the directories, userdel aiosd the user")
        return
    for kept in (str(CONFIG.parent), *STATE):
        shutil.rmtree(place.real(kept), ignore_errors=True)
    say("aiosd is gone with its configuration, contexts, models and backups; the user aiosd stays")


def remove_empty(folder: Path) -> None:
    """This directory and those above it, while they are empty and bear our name."""
    while "aiosd" in folder.parts[-2:] and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def run(*command: str) -> str:
    """Run a program; its output.  InstallError with its words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise InstallError(f"{' '.join(command)} failed with {done.returncode}:\n{words}")
    return done.stdout


# ---------------------------------------------------------------- the command


def set_up(venv: Path) -> None:
    """See to it that .venv is what the checkout asks for: as the checkout's owner, not as root."""
    if venv != ROOT / ".venv":
        return  # named by whoever installs: theirs to keep
    python = os.path.realpath(venv / "bin/python")
    command = [python if Path(python).exists() else sys.executable, str(ROOT / "scripts/setup.py")]
    owner = ROOT.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        done = subprocess.run(command, check=False)
    else:
        env = {**os.environ, "HOME": pwd.getpwuid(owner.st_uid).pw_dir}
        done = subprocess.run(
            command, check=False, env=env, user=owner.st_uid, group=owner.st_gid, extra_groups=[]
        )
    if done.returncode != 0:
        raise InstallError("set-up failed: see above")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("install", "uninstall"))
    parser.add_argument("--prefix", default="/usr/local", type=Path)
    parser.add_argument("--destdir", default="")
    parser.add_argument("--venv", default=ROOT / ".venv", type=Path)
    parser.add_argument("--purge", action="store_true")
    chosen = parser.parse_args(arguments)
    place = Place(Path(re.sub("/+$", "", str(chosen.prefix)) or "/"), chosen.destdir.rstrip("/"))
    try:
        place.check()
        if not place.destdir and os.geteuid() != 0:
            raise InstallError(
                f"writing to {place.prefix} and /etc needs root: sudo make {chosen.action}"
            )
        if chosen.action == "uninstall":
            uninstall(place, purge=chosen.purge)
            return 0
        venv = chosen.venv.absolute()
        if not (venv.exists() and venv.samefile(sys.prefix)):
            set_up(venv)
            command = [str(venv / "bin/python"), "-I", __file__]
            return subprocess.run([*command, *(arguments or sys.argv[1:])], check=False).returncode
        install(place, venv)
    except (InstallError, OSError) as error:
        sys.stderr.write(f"{chosen.action}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
