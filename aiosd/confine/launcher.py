"""The launcher: restricts itself as its plan says, then becomes the program.

A process of its own, started with `python -I -S`: it imports what is quick to import (9 ms in
all, 6 of them the interpreter) and decides nothing.  The plan is marshalled data in a descriptor,
since arguments and environments can be read by others.  Whatever fails, the program is not run:
the words go to the descriptor `status`, which closes when the program begins.

The order matters: the cgroup before anything can be started; paths are opened before rights are
dropped; PDEATHSIG after the change of user, which clears it; seccomp last.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes 3 ms, for its enums
import ctypes
import marshal
import os
import resource
import stat
import sys
from typing import Any

ADD_RULE, RESTRICT_SELF, CREATE_RULESET = 445, 446, 444
FILE_RIGHTS = 0b1100_0000_0000_0111  # of those to files: execute, write, read, truncate, ioctl
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = (
    1, 22, 24, 38, 47,
)  # fmt: skip
CAP_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("n", ctypes.c_ushort), ("code", ctypes.c_void_p))


def checked(what: str, result: int) -> int:
    """A C function's result; its errno as an OSError that says what was tried."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(what: str, option: int, *values: int) -> None:
    args = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    checked(what, libc.prctl(option, *args))


def join_cgroups(paths: list[str]) -> None:
    for path in paths:
        with open(path, "w") as procs:
            procs.write("0")


def limit(limits: list[tuple[int, int, int]]) -> None:
    """Never above the hard limit that we have already."""
    for which, soft, hard in limits:
        _, most = resource.getrlimit(which)
        if most == resource.RLIM_INFINITY:
            resource.setrlimit(which, (soft, hard))
        else:
            resource.setrlimit(which, (min(soft, most), min(hard, most)))


def ruleset(landlock: dict[str, Any]) -> int:
    """A Landlock ruleset with the plan's paths; those that every program has may be missing.

    The others were resolved when the plan was made: none may have become a link since, at which
    who may write beside it could have it lead anywhere.
    """
    attr = (ctypes.c_uint64 * 3)(landlock["fs"], landlock["net"], landlock["scoped"])
    size = ctypes.c_size_t(landlock["attr_bytes"])
    rules = checked("landlock_create_ruleset", libc.syscall(CREATE_RULESET, attr, size, 0))
    for path, rights, is_required in landlock["rules"]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if is_required:
                raise OSError(error.errno, f"granted path {path}: {error.strerror}") from None
            continue
        if is_required and os.readlink(f"/proc/self/fd/{fd}") != path:
            raise OSError(f"granted path {path}: it has become a link")
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        allowed = rights & landlock["fs"] & (~0 if is_directory else FILE_RIGHTS)
        beneath = allowed.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        checked(
            f"landlock_add_rule for {path}",
            libc.syscall(ADD_RULE, rules, 1, ctypes.c_char_p(beneath), 0),
        )
        os.close(fd)
    return rules


def drop_rights(uid: int | None, gid: int) -> None:
    """Another user where one is given, and no capabilities in any case."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAP_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    checked("capget", libc.capget(header, held))
    if any(held):
        for capability in range(64):
            if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
                break  # there are no more, or we may not: no_new_privs keeps them off anyway
        libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0)
        checked("capset", libc.capset(header, (ctypes.c_uint32 * 6)()))


def filter_calls(program: bytes) -> None:
    """Install the seccomp filter, for this process and all that it starts."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = Program(len(program) // 8, ctypes.addressof(code))
    zero = ctypes.c_ulong(0)
    checked("seccomp", libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(fprog), zero, zero))


def close_others(keep: list[int]) -> None:
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 2**31 - 1)


def confine(plan: dict[str, Any]) -> None:
    """Everything between the daemon's child and the program."""
    parent = plan["parent"]
    with open("/proc/self/stat") as file:
        started = file.read().rpartition(")")[2].split()[19]
    with open(plan["leader_file"], "w") as file:
        file.write(f"{os.getpid()} {started}")
    join_cgroups(plan["cgroups"])
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("800")  # when memory runs out, it goes before the daemon
    except OSError:
        pass
    limit(plan["limits"])
    landlock = plan["landlock"]
    rules = ruleset(landlock) if landlock else -1
    drop_rights(plan["uid"], plan["gid"])
    os.chdir(plan["cwd"])
    os.umask(0o077)  # modes that open files to others have no effect anyway (filters.py)
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
    prctl("pdeathsig", PR_SET_PDEATHSIG, int(_signal.SIGKILL))
    if os.getppid() != parent:
        raise OSError(f"its parent, process {parent}, is gone")
    if rules >= 0:
        checked("landlock_restrict_self", libc.syscall(RESTRICT_SELF, rules, 0))
        os.close(rules)
    filter_calls(plan["seccomp"])
    for ignored in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which Python ignores, and exec would keep
        _signal.signal(ignored, _signal.SIG_DFL)


def main(source: str) -> None:
    """source: the number of the descriptor that has the plan."""
    with open(int(source), "rb") as file:
        file.seek(0)
        plan = marshal.loads(file.read())  # noqa: S302 - written by the daemon, for us alone
    status = plan["status"]
    try:
        close_others([*plan["keep"], status])
        os.set_inheritable(status, False)
        confine(plan)
        os.execve(plan["program"], plan["argv"], plan["env"])  # noqa: S606 - no shell is wanted
    except Exception as error:  # whatever it is, the program must not run unconfined
        words = f"{type(error).__name__}: {error}"
        os.write(status, words.encode(errors="replace")[:4000])
        os._exit(126)
