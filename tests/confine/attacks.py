"""What a hostile program tries, run by the confined Python: each attack ends in an OSError, or it
has worked.  Its argument says where the daemon's things are; it prints what became of each.

No part of the tests' process: no imports of ours.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
libc = ctypes.CDLL(None, use_errno=True)


def call(name: int, *args: object) -> int:
    """A system call by number, with whole registers."""
    values = [ctypes.c_ulonglong(a) if isinstance(a, int) else a for a in args]
    done = int(libc.syscall(ctypes.c_long(name), *values))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def read(path: str) -> Callable[[], object]:
    return lambda: Path(path).open("rb").read(1)


def link_out(make: Callable[[str, str], None], path: str) -> Callable[[], object]:
    """A link in the private directory to what lies outside of it, and through it."""

    def attack() -> object:
        name = f"link-{make.__name__}"
        make(path, name)
        return Path(name).open("rb").read(1)

    return attack


def mapped(family: int, kind: int) -> Callable[[], object]:
    return lambda: call(41, family, kind, 0)


def datagram_by_path() -> object:
    """One end of a pair, sent to somebody else's path."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"x", TARGET["datagram"])


def raw_datagram_pair() -> object:
    """SOCK_RAW is SOCK_DGRAM for unix sockets."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
    return one.sendto(b"x", TARGET["datagram"])


def chmod_to_nothing() -> object:
    """Accepted without effect is as good as refused."""
    before = os.stat(TARGET["secret"]).st_mode
    Path(TARGET["secret"]).chmod(0)
    Path(TARGET["secret"]).chmod(0o666)
    if os.stat(TARGET["secret"]).st_mode == before:
        raise PermissionError(errno.EPERM, "no effect")
    return "changed"


def mode_by_number() -> object:
    """fchmodat2, which libraries may not know."""
    before = os.stat(TARGET["secret"]).st_mode
    call(452, -100 & (2**64 - 1), ctypes.c_char_p(TARGET["secret"].encode()), 0o666, 0)
    if os.stat(TARGET["secret"]).st_mode == before:
        raise PermissionError(errno.EPERM, "no effect")
    return "changed"


def mode_of_granted() -> object:
    """Of a file that may be read only."""
    with Path(TARGET["readable"]).open() as file:
        before = os.fstat(file.fileno()).st_mode
        os.fchmod(file.fileno(), 0o777)
        if os.fstat(file.fileno()).st_mode == before:
            raise PermissionError(errno.EPERM, "no effect")
    return "changed"


def owner_of_granted() -> object:
    with Path(TARGET["readable"]).open() as file:
        os.fchown(file.fileno(), -1, os.getgid())
    return "changed"


def call_of_x32() -> object:
    """Refused, or the end of who makes it: systemd's filter kills."""
    child = os.fork()
    if child == 0:
        try:
            call((1 << 30) + 39)
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise PermissionError(errno.EPERM, "refused, or ended")
    return "made"


def setuid_program() -> object:
    """Nothing is gained by one: it can't become root, or shadow's group."""
    done = subprocess.run([TARGET["setuid"]], capture_output=True, text=True, check=False)
    if done.stdout.strip() == "still nobody":
        raise PermissionError(errno.EPERM, "it has no other user than before")
    return done.stdout + done.stderr


def files() -> dict[str, Callable[[], object]]:
    secret, daemon = TARGET["secret"], TARGET["daemon"]
    return {
        "shadow": read("/etc/shadow"),
        "state": read(secret),
        "state by /proc/self/root": read(f"/proc/self/root{secret}"),
        "state by dots": read(f"/usr/../{secret}"),
        "state listed": lambda: os.listdir(os.path.dirname(secret)),
        "state truncated": lambda: os.truncate(secret, 0),
        "state removed": lambda: os.unlink(secret),
        "state renamed": lambda: os.rename(secret, "mine"),
        "state's mode": chmod_to_nothing,
        "state's mode by number": mode_by_number,
        "granted file's mode": mode_of_granted,
        "granted file's owner": owner_of_granted,
        "state's attributes by number": lambda: call(
            463,
            -100 & (2**64 - 1),
            ctypes.c_char_p(secret.encode()),
            0,
            ctypes.c_char_p(b"user.x"),
            ctypes.create_string_buffer(16),
            16,
        ),
        "state's owner": lambda: os.chown(secret, -1, os.getgid()),
        "state's attributes": lambda: os.setxattr(secret, "user.x", b"x"),
        "state watched": lambda: call(254, call(294, 0), ctypes.c_char_p(secret.encode()), 0xFFF),
        "state by symlink": link_out(os.symlink, secret),
        "state by hardlink": link_out(os.link, secret),
        "another's files": read(TARGET["others"]),
        "/tmp listed": lambda: os.listdir("/tmp"),
        "/root listed": lambda: os.listdir("/root"),
        "/home listed": lambda: os.listdir("/home"),
        "/run listed": lambda: os.listdir("/run"),
        "/proc listed": lambda: os.listdir("/proc"),
        "granted file written": lambda: Path(TARGET["readable"]).open("ab"),
        "granted file replaced": lambda: os.rename("/dev/null", TARGET["readable"]),
        "program written": lambda: Path("/usr/bin/evil").write_bytes(b"x"),
        "etc written": lambda: Path("/etc/evil").write_bytes(b"x"),
        "device made": lambda: os.mknod("disk", 0o600 | 0o060000, os.makedev(8, 0)),
        **{
            f"daemon's {what}": read(f"/proc/{daemon}/{what}")
            for what in ("environ", "mem", "maps", "cmdline", "root/etc/shadow", "fd/0")
        },
        "daemon's descriptors": lambda: os.listdir(f"/proc/{daemon}/fd"),
        "daemon's directory": lambda: os.listdir(f"/proc/{daemon}/cwd"),
        "setuid program": setuid_program,
    }


def processes() -> dict[str, Callable[[], object]]:
    daemon, sibling = TARGET["daemon"], TARGET["sibling"]
    space = ctypes.create_string_buffer(64)
    return {
        "trace the daemon": lambda: call(101, 16, daemon, 0, 0),
        "trace a sibling": lambda: call(101, 16, sibling, 0, 0),
        "be traced": lambda: call(101, 0, 0, 0, 0),
        "read its memory": lambda: call(310, daemon, space, 1, space, 1, 0),
        "take its descriptor": lambda: call(438, os.pidfd_open(os.getpid()), 0, 0),
        "kill the daemon": lambda: os.kill(daemon, signal.SIGTERM),
        "stop a sibling": lambda: os.kill(sibling, signal.SIGSTOP),
        "kill by pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(daemon), signal.SIGTERM),
        "its limits": lambda: resource.prlimit(daemon, resource.RLIMIT_NOFILE, (1, 1)),
        "its limits, upper half": lambda: call(302, (1 << 32) | daemon, 7, space, None),
        "its processors": lambda: os.sched_setaffinity(daemon, {0}),
        "its priority": lambda: os.setpriority(os.PRIO_PROCESS, daemon, 19),
        "all of the user's priority": lambda: os.setpriority(os.PRIO_USER, 0, 19),
        "a session": os.setsid,
        "a group": lambda: os.setpgid(0, 0),
        "a namespace": lambda: call(272, 0x10000000),
        "a child in a namespace": lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0),
        "clone3": lambda: call(435, space, 64),
        "another's namespace": lambda: call(308, 0, 0),
        "a mount": lambda: call(165, None, None, None, 0, None),
        "another root": lambda: os.chroot("/usr"),
        "bpf": lambda: call(321, 0, space, 64),
        "keys": lambda: call(250, 0, -3 & (2**64 - 1), 0, 0, 0),
        "perf": lambda: call(298, space, 0, -1 & (2**64 - 1), -1 & (2**64 - 1), 0),
        "userfaultfd": lambda: call(323, 0),
        "io_uring": lambda: call(425, 1, space),
        "kexec": lambda: call(246, 0, 0, None, 0),
        "memory that stays": lambda: call(29, 0, 4096, 0o1600),
        "a call of a later kernel": lambda: call(470, 0, 0, 0, 0, 0),
        "a call of another mode": call_of_x32,
        "typing for others": lambda: call(16, 0, 0x5412, space),
        "typing, upper half": lambda: call(16, 0, (7 << 32) | 0x5412, space),
        "root": lambda: os.setuid(0) if os.getuid() else os.setgroups([1]),
    }


def network() -> dict[str, Callable[[], object]]:
    """Of one that was granted no network."""
    unix, internet = int(socket.AF_UNIX), int(socket.AF_INET)
    stream, datagram = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
    return {
        "tcp": mapped(internet, stream),
        "udp": mapped(internet, datagram),
        "tcp 6": mapped(int(socket.AF_INET6), stream),
        "tcp, upper half": mapped((1 << 32) | internet, stream),
        **always(unix, stream, datagram),
    }


def always(unix: int, stream: int, datagram: int) -> dict[str, Callable[[], object]]:
    """Of any, also with a network."""
    return {
        "the daemon's socket": mapped(unix, stream),
        "a datagram socket": mapped(unix, datagram),
        "unix, upper half": mapped((1 << 32) | unix, stream),
        "datagram by path": datagram_by_path,
        "raw datagram by path": raw_datagram_pair,
        "raw": mapped(int(socket.AF_INET), int(socket.SOCK_RAW)),
        "packets": mapped(17, int(socket.SOCK_RAW)),
        "netlink": mapped(16, int(socket.SOCK_RAW)),
        "vsock": mapped(40, stream),
        "bluetooth": mapped(31, stream),
        "a family that is not there yet": mapped(63, stream),
        "one beyond": mapped(99, stream),
    }


def networked() -> dict[str, Callable[[], object]]:
    return always(int(socket.AF_UNIX), int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM))


def attempt(attack: Callable[[], object]) -> str:
    try:
        found = attack()
    except OSError as error:
        return f"refused: {errno.errorcode.get(error.errno or 0, error)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"WORKED: {found!r}"[:200]


if __name__ == "__main__":
    if "Seccomp:\t2" not in Path("/proc/self/status").read_text():
        sys.exit("these are for confined processes: outside they do harm")
    groups = {"files": files, "processes": processes, "network": network, "networked": networked}
    print(json.dumps({name: attempt(each) for name, each in groups[TARGET["group"]]().items()}))
