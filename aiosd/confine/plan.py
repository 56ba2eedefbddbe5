"""What the launcher is to do, worked out in the daemon: the plan, and what is made for it.

Functions block: call them in a thread.
"""

from __future__ import annotations

import functools
import marshal
import os
import pwd
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiosd.confine import cgroups, filters, landlock, paths, private
from aiosd.confine.model import Bounds, ConfineError, Confinement

BOOT = "import sys; sys.path.append(sys.argv[1]); import launcher; launcher.main(sys.argv[2])"
KEPT_ENV = ("LANG", "LC_ALL", "TZ")  # of the daemon's own: how words and times look


@dataclass(slots=True)
class Prepared:
    """A plan, and what was made for it and has to go with the process."""

    plan: dict[str, Any]
    private_dir: Path
    group: cgroups.Group | None

    @property
    def tmp_dir(self) -> str:
        return str(self.private_dir / private.TMP)

    def clear(self) -> None:
        """Remove it all; what still runs in the group is killed."""
        for _ in self.clearing():
            pass

    def clearing(self, within_s: float = 5.0) -> Iterator[None]:
        """The same in steps, of a few milliseconds where nothing runs any more."""
        if self.group is not None:
            self.group.remove(within_s)
        yield from private.removing(self.private_dir)


def prepare(
    argv: Sequence[str],
    confinement: Confinement,
    *,
    cwd: str | None,
    executable: str | None = None,
    uid: int | None = None,
    keep: Sequence[int] = (),
) -> Prepared:
    """Work out the plan.  Raises ConfineError, then nothing is left behind."""
    if not argv or any("\0" in each for each in argv):
        raise ConfineError(f"{list(argv)!r} can't be run: it is no command")
    version = landlock.abi()
    if version == 0 and confinement.needs_landlock:
        raise ConfineError(
            "this kernel has no Landlock (5.13 or later, and `landlock` in its lsm= list), "
            "without which processes can't be kept from files"
        )
    if uid is not None and uid != os.geteuid() and os.geteuid() != 0:
        raise ConfineError(f"only root can run a process as uid {uid}")
    gid = _gid(uid)
    try:
        made = private.make(uid, gid)
    except OSError as error:
        raise ConfineError(f"no private directory could be made: {error}") from error
    prepared = Prepared({}, made, None)
    try:
        tmp = prepared.tmp_dir
        env = _environment(argv[0], confinement.env, tmp)
        if executable is not None:
            executable = paths.resolved(executable, confinement)
        program = paths.find_program(executable or argv[0], cwd or tmp, env)
        rules = list(paths.rules(program, confinement, tmp))
        prepared.group = cgroups.make(confinement.bounds)
        private.write_notes(made)
        prepared.plan = {
            "parent": os.getpid(),
            "argv": list(argv),
            "program": program,
            "env": env,
            "cwd": cwd or tmp,
            "uid": uid,
            "gid": gid,
            "keep": list(keep),
            "status": -1,
            "leader_file": str(made / private.LEADER_FILE),
            "cgroups": prepared.group.procs if prepared.group else [],
            "limits": limits(confinement.bounds),
            "landlock": _landlock(version, confinement, rules),
            "seccomp": filters.program(confinement.grant.is_networked),
        }
    except OSError as error:
        prepared.clear()
        raise ConfineError(f"{argv[0]} could not be confined: {error}") from error
    except BaseException:
        prepared.clear()
        raise
    return prepared


def launch(plan_fd: int) -> list[str]:
    """The command that runs the launcher with the plan that is in a descriptor."""
    here = str(Path(__file__).parent)
    return [_interpreter(), "-I", "-S", "-c", BOOT, here, str(plan_fd)]


def dump(plan: dict[str, Any]) -> bytes:
    """Marshalled, since both ends are one interpreter, and json takes 4 ms to import."""
    return marshal.dumps(plan)


def limits(bounds: Bounds) -> list[tuple[int, int, int]]:
    """Resource limits: (which, soft, hard)."""
    found = [(resource.RLIMIT_CORE, 0, 0)]
    if bounds.memory_bytes is not None:
        # Not RLIMIT_AS: Node and others reserve far more addresses than they use.
        found.append((resource.RLIMIT_DATA, bounds.memory_bytes, bounds.memory_bytes))
    if bounds.n_processes is not None:
        most = bounds.n_processes + _n_tasks()
        found.append((resource.RLIMIT_NPROC, most, most))
    if bounds.n_files is not None:
        found.append((resource.RLIMIT_NOFILE, bounds.n_files, bounds.n_files))
    if bounds.file_bytes is not None:
        found.append((resource.RLIMIT_FSIZE, bounds.file_bytes, bounds.file_bytes))
    if bounds.cpu_s is not None:
        found.append((resource.RLIMIT_CPU, bounds.cpu_s, bounds.cpu_s + 1))
    return found


def _n_tasks() -> int:
    """All processes and threads of the machine.  RLIMIT_NPROC counts all of a user's, ours too,
    and how many those are is slow to find out: this is the next larger number at hand."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _landlock(
    version: int, confinement: Confinement, rules: list[tuple[str, int, bool]]
) -> dict[str, Any] | None:
    if version == 0:
        return None
    return {
        "fs": landlock.handled_fs(version),
        "net": 0 if confinement.grant.is_networked else landlock.handled_net(version),
        "scoped": landlock.scoped(version),
        "attr_bytes": 24 if version >= 6 else 16 if version >= 4 else 8,
        "rules": rules,
    }


def _environment(program: str, given: Mapping[str, str], tmp: str) -> dict[str, str]:
    own_bin = str(Path(sys.prefix) / "bin")
    path = f"{own_bin}:{paths.PATH}" if program.startswith(own_bin) else paths.PATH
    env = {"PATH": path, "LANG": "C.UTF-8", "HOME": tmp, "TMPDIR": tmp}
    env |= {name: os.environ[name] for name in KEPT_ENV if name in os.environ}
    return env | dict(given)


@functools.cache
def _interpreter() -> str:
    """Ours without its environment, which the launcher doesn't need."""
    return os.path.realpath(sys.executable)


def _gid(uid: int | None) -> int:
    if uid is None:
        return os.getegid()
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid
