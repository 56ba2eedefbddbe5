"""What agent.spawn asks for, checked: a name, a program, limits, grants, rights.

Rule 1: what is asked can only be less: than the configuration's limits, than the spawner's rights,
and, where a spawned agent asks, than what it was granted itself.
Rule 2: the daemon's own user may grant what it could reach anyway, others what the configuration
lists: the daemon must not open to them what only it can read.
Functions block on file names for moments: call them in a thread.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aios_sdk.errors import Denied, InvalidParams, TooLarge
from aiosd.confine import Grant
from aiosd.server.life import AgentProcess, search_path
from aiosd.services import access
from aiosd.services.access import Subject
from aiosd.services.processes.model import Limits, Spec
from aiosd.spawn_config import SpawnConfig

MAX_ENV_BYTES = 65536  # and of all arguments; execve takes more, nobody needs it
MAX_NAME = 64
OURS = ("AIOSD_SOCKET", "AIOSD_AGENT")  # the daemon sets these
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def name_below(spawner: AgentProcess | None, name: str) -> str:
    """What the new agent is called: of a spawned one below its own name."""
    if spawner is None or name.startswith(f"{spawner.agent.name}."):
        return name
    full = f"{spawner.agent.name}.{name}"
    if len(full) > MAX_NAME:
        raise InvalidParams(
            f"name: {full} has {len(full)} characters, the most is {MAX_NAME}", field="name"
        )
    return full


def checked(
    params: Mapping[str, Any], config: SpawnConfig, subject: Subject, spawner: AgentProcess | None
) -> Spec:
    """What is to be run.  InvalidParams, Denied, TooLarge: it may not be.

    spawner: the process that asks, if it is one.
    """
    args = params.get("args", ())
    n_bytes = sum(len(os.fsencode(arg)) + 1 for arg in args)
    if n_bytes > MAX_ENV_BYTES:
        raise TooLarge(
            f"args: {n_bytes} bytes, limit is {MAX_ENV_BYTES}", field="args", limit=MAX_ENV_BYTES
        )
    env = _env(params.get("env", {}))
    called, program = _program(params["command"], env.get("PATH", search_path()), config)
    grants = params.get("grants", {})
    read = tuple(dict.fromkeys(map(os.path.realpath, grants.get("read", ()))))
    write = tuple(dict.fromkeys(map(os.path.realpath, grants.get("write", ()))))
    grant = Grant(read, write, grants.get("network", False))
    _check_grants(grant, config, subject, spawner)
    limits = _limits(params.get("limits", {}), config, spawner)
    if params["detach"] and spawner is not None and spawner.left():
        raise Denied(
            f"agent {spawner.agent.name} has limits, which what it detaches would outlive",
            field="detach",
        )
    return Spec(
        program=program,
        argv=(called, *args),
        env=env,
        cwd=params.get("cwd"),
        limits=limits,
        read=read,
        write=write,
        is_networked=grant.is_networked,
        rights=_rights(params.get("rights"), subject),
        restart=params["restart"],
        is_kept=params["detach"],
    )


def check_program(program: str, config: SpawnConfig) -> None:
    """Denied unless the configuration lets the file be run, which is named without links."""
    if not any(fnmatchcase(program, pattern) for pattern in config.commands):
        words = f"{program} is none of the programs that [spawn] commands lists"
        raise Denied(words, path=program)


def _program(command: str, path: str, config: SpawnConfig) -> tuple[str, str]:
    """What it is called, and the file that this is: a link could lead elsewhere later on."""
    found = command if command.startswith("/") else shutil.which(command, path=path)
    if found is None:
        raise InvalidParams(f"command: no program {command!r} on the PATH {path}", field="command")
    real = os.path.realpath(found)
    if not (Path(real).is_file() and os.access(real, os.X_OK)):
        raise InvalidParams(f"command: {found} is no program", field="command")
    check_program(real, config)
    return found, real


def _env(given: Mapping[str, Any]) -> dict[str, str]:
    n_bytes = 0
    for name, value in given.items():
        field = f"env.{name[:128]}"
        if not _VARIABLE.fullmatch(name) or name in OURS:
            raise InvalidParams(f"{field} can't be set: aiosd sets it itself"
                                if name in OURS else f"{field} is no name of a variable",
                                field="env")  # fmt: skip
        if not isinstance(value, str) or "\0" in value:
            raise InvalidParams(f"{field} must be a text without NUL", field=field)
        n_bytes += len(name) + len(os.fsencode(value)) + 2
    if n_bytes > MAX_ENV_BYTES:
        raise TooLarge(
            f"env: {n_bytes} bytes, limit is {MAX_ENV_BYTES}", field="env", limit=MAX_ENV_BYTES
        )
    return dict(given)


def _limits(asked: Mapping[str, int], config: SpawnConfig, spawner: AgentProcess | None) -> Limits:
    for name in (
        "tokens",
        "wall_s",
        "cpu_s",
        "cpu_percent",
        "memory_bytes",
        "n_processes",
        "disk_bytes",
    ):
        most: int = getattr(config, name)
        if most and asked.get(name, 0) > most:
            raise InvalidParams(
                f"limits.{name} is {asked[name]}, the most is {most} ([spawn] {name})",
                field=f"limits.{name}",
                limit=most,
            )
    left = {} if spawner is None else spawner.left()
    for name, n in left.items():
        if asked.get(name, 0) > n:
            raise InvalidParams(
                f"limits.{name} is {asked[name]}, and its spawner has {n} left itself",
                field=f"limits.{name}",
                limit=n,
            )
    return Limits(**{**left, **asked})


def _rights(asked: Iterable[str] | None, subject: Subject) -> tuple[str, ...]:
    held = subject.rights - {"admin"}
    wanted = held if asked is None else frozenset(asked)
    for right in sorted(wanted - held):
        words = "no spawned agent holds it" if right == "admin" else "its spawner doesn't hold it"
        raise Denied(f"the right {right!r} can't be given on: {words}")
    return tuple(right for right in access.RIGHTS if right in wanted)


def _check_grants(
    grant: Grant, config: SpawnConfig, subject: Subject, spawner: AgentProcess | None
) -> None:
    read, write = grant.read, grant.write
    if spawner is not None:
        own = (spawner.own_dir,) if spawner.own_dir else ()
        may_write = (*spawner.spec.write, *own)
        may_read = (*spawner.spec.read, *may_write)
        is_read_allowed = all(_is_below(path, may_read) for path in read)
        is_write_allowed = all(_is_below(path, may_write) for path in write)
        may_network, why = spawner.spec.is_networked, f"agent {spawner.agent.name} wasn't granted"
    elif subject.agent.uid in (0, os.geteuid()):
        return
    else:
        is_read_allowed = all(_is_like(path, (*config.read, *config.write)) for path in read)
        is_write_allowed = all(_is_like(path, config.write) for path in write)
        may_network, why = config.network, "for its uid [spawn] doesn't list"
    if not (is_read_allowed and is_write_allowed):
        paths = ", ".join((*read, *write))
        raise Denied(f"{why} all of these paths, so it can't grant them: {paths}")
    if grant.is_networked and not may_network:
        raise Denied(f"{why} the network, so it can't grant it")


def _is_below(path: str, tops: Iterable[str]) -> bool:
    return any(path == top or path.startswith(top.rstrip("/") + "/") for top in tops)


def _is_like(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
