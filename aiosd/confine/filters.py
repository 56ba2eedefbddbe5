"""The seccomp filter: which system calls a confined process may not make.

A list of what is refused, since programs in any language run under it; files are Landlock's part.
Arguments are compared in ways that the upper half of a register, which the kernel ignores, can't
get around.  Refusals are EPERM, so that programs go on; calls that libraries try and do without
are ENOSYS, as in an older kernel.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import socket
import struct

from aiosd.confine.model import ConfineError

# Looking into others, and changing them.
OTHERS = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "kcmp", "pidfd_getfd", "migrate_pages", "move_pages", "perf_event_open",
)  # fmt: skip
# The kernel's own matters, and large surfaces in it that programs of this kind don't need.
KERNEL = (
    "acct", "add_key", "adjtimex", "bpf", "clock_adjtime", "clock_settime", "delete_module",
    "fanotify_init", "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load",
    "kexec_load", "keyctl", "lookup_dcookie", "nfsservctl", "open_by_handle_at", "quotactl",
    "quotactl_fd", "reboot", "request_key", "sethostname", "setdomainname", "settimeofday",
    "swapoff", "swapon", "syslog", "userfaultfd", "vhangup",
)  # fmt: skip
# Other views of the file system, and namespaces, in which root's doors open again.
VIEWS = (
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
    "open_tree", "open_tree_attr", "pivot_root", "setns", "umount", "umount2", "unshare",
)  # fmt: skip
# What would outlive the process: another session or group, and memory that belongs to nobody.
LEAVING = ("setsid", "setpgid", "shmget", "msgget", "semget", "mq_open")
# What Landlock leaves open to who has the same user, also of files that are granted for reading:
# whose they are, what else they say, and watching their names.
ATTRIBUTES = (
    "chown", "lchown", "fchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
    "removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr",
    "inotify_add_watch",
)  # fmt: skip
# Modes, likewise.  Only 0600 and 0700 are carried out, which open nothing to anybody; other modes
# are accepted without effect, as programs set them often and can't go on otherwise.
MODE_ARGUMENT = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
OPENING_BITS = (0o001, 0o002, 0o004, 0o010, 0o020, 0o040)
NEEDED_BITS = (0o200, 0o400)
SPECIAL_BITS = (0o1000, 0o2000, 0o4000)
ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")  # clone: by its flags

CLONE_NEW = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
CSIGNAL = 0xFF  # clone's low byte is a signal there; CLONE_NEWTIME (0x80) is clone3's alone
TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing for others
LOW_HALF = 0xFFFFFFFF
PR_SET_PDEATHSIG = 1
SOCKET_KIND = 0xF  # beside SOCK_CLOEXEC and SOCK_NONBLOCK
N_FAMILIES = 64  # more than there are; from here on all are refused

# Calls by number that libseccomp may be too old to know; the same on all architectures.
NUMBERS = {
    "mount_setattr": 442, "quotactl_fd": 443, "process_mrelease": 448, "fchmodat2": 452,
    "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469,
}  # fmt: skip
# The calls of Linux 6.18, looked through for this list, end here.  Later ones are absent.
N_CALLS = 470
LOAD, JUMP_IF_GE, RETURN = 0x20, 0x35, 0x06  # BPF
RET_ENOSYS = 0x00050000 | errno.ENOSYS


@functools.cache
def program(is_networked: bool) -> bytes:
    """The filter as BPF code.  Raises ConfineError where there is no libseccomp, which is loaded
    at first (30 ms): call it in a thread."""
    try:
        import pyseccomp as sc  # noqa: PLC0415 - it looks for its library with a subprocess
    except (ImportError, OSError, RuntimeError) as error:
        words = "libseccomp (Debian's libseccomp2) is not installed"
        raise ConfineError(f"{words}, without which nothing can be confined: {error}") from error

    refuse, absent = sc.ERRNO(errno.EPERM), sc.ERRNO(errno.ENOSYS)
    rules = sc.SyscallFilter(sc.ALLOW)
    rules.set_attr(sc.Attr.ACT_BADARCH, sc.KILL_PROCESS)

    def add(action: int, name: str, *args: sc.Arg) -> None:
        number = sc.resolve_syscall(sc.Arch.NATIVE, name)
        if number == -1:  # not known to libseccomp; perhaps so old that the kernel has it no more
            number = NUMBERS.get(name, -1)
        if number != -1:
            rules.add_rule(action, number, *args)

    for name in (*OTHERS, *KERNEL, *VIEWS, *LEAVING, *ATTRIBUTES):
        add(refuse, name)
    for name in ABSENT:
        add(absent, name)
    for name, at in MODE_ARGUMENT.items():
        for bit in OPENING_BITS:
            add(sc.ERRNO(0), name, sc.Arg(at, sc.MASKED_EQ, bit, bit))
        for bit in NEEDED_BITS:
            add(sc.ERRNO(0), name, sc.Arg(at, sc.MASKED_EQ, bit, 0))
        for bit in SPECIAL_BITS:
            add(refuse, name, sc.Arg(at, sc.MASKED_EQ, bit, bit))
    for flag in CLONE_NEW:
        if flag > CSIGNAL:
            add(refuse, "clone", sc.Arg(0, sc.MASKED_EQ, flag, flag))
    for request in TERMINAL_INPUT:
        add(refuse, "ioctl", sc.Arg(1, sc.MASKED_EQ, LOW_HALF, request))
    # That it dies with the daemon may not be taken back; libraries ask for a milder end, too.
    dies_with_us = sc.Arg(0, sc.MASKED_EQ, LOW_HALF, PR_SET_PDEATHSIG)
    add(sc.ERRNO(0), "prctl", dies_with_us, sc.Arg(1, sc.NE, int(signal.SIGKILL)))
    # Of others of the same user: their limits, their priority, their processors.
    add(refuse, "prlimit64", sc.Arg(0, sc.NE, 0))
    for name in ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        add(refuse, name, sc.Arg(0, sc.NE, 0))
    add(refuse, "setpriority", sc.Arg(0, sc.NE, os.PRIO_PROCESS))
    add(refuse, "setpriority", sc.Arg(1, sc.NE, 0))
    add(refuse, "ioprio_set", sc.Arg(0, sc.NE, 1))
    add(refuse, "ioprio_set", sc.Arg(1, sc.NE, 0))

    families = {int(socket.AF_INET), int(socket.AF_INET6)} if is_networked else set()
    for family in set(range(N_FAMILIES)) - families:
        add(refuse, "socket", sc.Arg(0, sc.EQ, family))
    add(refuse, "socket", sc.Arg(0, sc.GE, N_FAMILIES))
    for kind in set(range(16)) - {int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)}:
        add(refuse, "socket", sc.Arg(1, sc.MASKED_EQ, SOCKET_KIND, kind))
    # One end of a datagram pair can send to any socket by its path; of a stream pair it can't.
    for kind in set(range(16)) - {int(socket.SOCK_STREAM), int(socket.SOCK_SEQPACKET)}:
        add(refuse, "socketpair", sc.Arg(1, sc.MASKED_EQ, SOCKET_KIND, kind))

    with open(os.memfd_create("seccomp"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return _older_calls_only() + file.read()


def _older_calls_only() -> bytes:
    """What goes before the filter, which libseccomp can't say: calls from N_CALLS on are ENOSYS."""
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD, 0, 0, 0),  # the number of the call
            (JUMP_IF_GE, 0, 1, N_CALLS),
            (RETURN, 0, 0, RET_ENOSYS),
        )
    )
