"""What a daemon that was killed left behind: processes without their leader, private directories,
control groups.  Blocks: call it in a thread, at start."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import tempfile
from pathlib import Path

from aiosd.confine import cgroups, private
from aiosd.confine.identity import Identity, members


def sweep() -> int:
    """End and remove them; how many directories there were.  Those of daemons that live stay."""
    for group in cgroups.left_behind():
        group.remove(1.0)
    n_swept = 0
    for made in Path(tempfile.gettempdir()).glob(f"{private.PREFIX}*"):
        try:
            status = made.lstat()
        except FileNotFoundError:
            continue  # whose it was has just removed it
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            continue  # somebody else's, who may call a file of theirs what they like
        notes = private.read_notes(made)
        if notes is None or notes.daemon.is_running:
            continue
        if notes.leader is not None:
            _end(notes.leader)
        with contextlib.suppress(OSError):
            private.remove(made)
            n_swept += 1
    return n_swept


def _end(leader: Identity) -> None:
    """What is left of a group.  While it has members, its number is nobody else's: only if
    another process has the number now, none of ours is left."""
    now = Identity.of(leader.pid)
    if now == leader or (now is None and any(members(leader.pid))):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGKILL)
