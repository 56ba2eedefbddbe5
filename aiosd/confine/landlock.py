"""Landlock as numbers: what the kernel at hand can restrict, and which rights a grant is.

Source: linux/landlock.h, Documentation/userspace-api/landlock.rst (the right of each ABI version).
"""

from __future__ import annotations

import ctypes
import functools

CREATE_RULESET = 444  # the same number on every architecture that Python runs on
VERSION_FLAG = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << n for n in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (
    1 << n for n in range(6, 13)
)
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNAL = 1, 2

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM
    | MAKE_SOCK | REFER | TRUNCATE
)  # fmt: skip
DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV

# What each version can do that the one before couldn't, and what therefore isn't refused there.
SINCE = {
    3: "truncating a file that it may read but not write",
    5: "ioctl on devices",
    6: "signals to other processes of its user",
}


@functools.cache
def abi() -> int:
    """The version of Landlock in this kernel, 0 where there is none (or it is turned off)."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)))


def handled_fs(version: int) -> int:
    """Every right to files that this version can withhold."""
    if version >= 5:
        return (1 << 16) - 1
    return (1 << {0: 0, 1: 13, 2: 14}.get(version, 15)) - 1


def handled_net(version: int) -> int:
    return BIND_TCP | CONNECT_TCP if version >= 4 else 0


def scoped(version: int) -> int:
    return SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL if version >= 6 else 0
