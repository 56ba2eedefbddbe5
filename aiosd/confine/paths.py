"""Which paths a process may touch: what every program needs, what Python needs, what is granted."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from aiosd.confine import landlock
from aiosd.confine.model import ConfineError, Confinement

# Programs, libraries, and what libraries look up.  No home, no /tmp, no /run, no /var, and of
# /etc only what is the same for everybody.
BASE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/ld.so.preload", "/etc/localtime", "/etc/timezone", "/etc/locale.alias",
    "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/mime.types", "/etc/magic",
    "/etc/terminfo", "/etc/inputrc", "/etc/gitconfig", "/etc/os-release", "/etc/debian_version",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/ca-certificates.conf",
    "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust", "/etc/crypto-policies",
    "/sys/devices/system/cpu",
    # Of /proc its own part, and figures of the machine.  /proc at large would show others.
    "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/loadavg", "/proc/uptime",
    "/proc/version", "/proc/filesystems", "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/osrelease", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/random/uuid",
    "/proc/sys/fs/pipe-max-size",
)  # fmt: skip
NETWORK = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
    "/etc/protocols", "/proc/sys/net/core/somaxconn",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PATH = "/usr/local/bin:/usr/bin:/bin"
PACKAGES = ("aiosd", "aios_sdk")


def find_program(name: str, cwd: str, env: Mapping[str, str]) -> str:
    """The file that argv[0] means, after links.  Raises ConfineError where there is none."""
    found = os.path.join(cwd, name) if "/" in name else shutil.which(name, path=env["PATH"])
    if found is None:
        raise ConfineError(f"{name} can't be run: it is not in {env['PATH']}")
    if not os.path.isfile(found):
        raise ConfineError(f"{name} can't be run: {found} is no file")
    return os.path.realpath(found)


def rules(program: str, confinement: Confinement, private: str) -> Iterator[tuple[str, int, bool]]:
    """Path, Landlock's rights, whether it must be there, and without a link on the way to it.

    program: as find_program() gave it.
    """
    grant = confinement.grant
    read = [resolved(path, confinement) for path in grant.read]
    write = [resolved(path, confinement) for path in grant.write]
    for path in BASE:
        yield path, landlock.READ, False
    for path in NETWORK if grant.is_networked else ():
        yield path, landlock.READ, False
    for path in DEVICES:
        yield path, landlock.DEVICE, False
    yield program, landlock.READ, True
    interpreter = _interpreter(program)
    if interpreter:
        _check_hidden(interpreter, interpreter, confinement.hidden)
        yield interpreter, landlock.READ, True
    if any(map(_is_python, filter(None, (program, interpreter)))):
        for path, rights in _python():
            yield path, rights, False
    for path in read:
        yield path, landlock.READ, True
    for path in (*write, os.path.realpath(private)):
        yield path, landlock.WRITE, True


def resolved(path: str, confinement: Confinement) -> str:
    """Where a granted path leads: absolute, and nothing to do with what is hidden."""
    if not os.path.isabs(path):
        raise ConfineError(f"granted path {path!r}: it must be absolute")
    real = os.path.realpath(path)
    if confinement.is_resolved and real != path:
        raise ConfineError(f"granted path {path}: it has become a link, to {real}")
    _check_hidden(path, real, confinement.hidden)
    return real


def _check_hidden(path: str, leads_to: str, hidden: tuple[str, ...]) -> None:
    real = Path(leads_to)
    for each in hidden:
        kept = Path(os.path.realpath(each))
        if real == kept or kept in real.parents:
            raise ConfineError(f"granted path {path}: {each} is the daemon's own")
        if real in kept.parents:
            raise ConfineError(f"granted path {path}: {each} is in it, which is the daemon's own")


def _interpreter(program: str) -> str | None:
    """The program that its first line names, found as the kernel does (fs/binfmt_script.c): a
    file that can be run.  Else who wrote the line would get whatever it names."""
    try:
        fd = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        first = file.readline(512) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    if not first.startswith(b"#!"):
        return None
    name = re.split(rb"[ \t\n\0]", first[2:].lstrip(b" \t"), maxsplit=1)[0]
    real = os.path.realpath(os.fsdecode(name))
    is_program = name.startswith(b"/") and os.path.isfile(real) and os.access(real, os.X_OK)
    return real if is_program else None


def _is_python(path: str) -> bool:
    """Our own interpreter, by whatever name."""
    real = os.path.realpath(path)
    return real == os.path.realpath(sys.executable) or Path(sys.prefix) in Path(path).parents


def _python() -> Iterator[tuple[str, int]]:
    """Its environment, and our own packages where they aren't in it: a checkout.  Of the directory
    they are in only its list of names, which the import system looks at."""
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}:
        yield prefix, landlock.READ
    for name in PACKAGES:
        origin = getattr(sys.modules.get(name), "__file__", None)
        if origin is None:
            continue
        package = Path(origin).parent
        if Path(sys.prefix) not in package.parents:
            yield str(package), landlock.READ
            yield str(package.parent), landlock.READ_DIR
