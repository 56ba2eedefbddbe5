"""The doctor's looks at an installation: versions, socket, rights, memory, disk, model.

Rule: every function takes what it needs as values or paths and gives findings; none raises for what
it may find.
"""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiosctl.finding import Finding, State
from aiosctl.units import size

NEEDED_FREE_BYTES = 256 * 2**20  # of a disk; under it the next backup or upgrade won't fit
OK, NOTE, UNKNOWN, PROBLEM = State.OK, State.NOTE, State.UNKNOWN, State.PROBLEM


def versions(of_aiosctl: str, of_sdk: str, of_daemon: str) -> Finding:
    """Client and daemon; those of one installation are the same."""
    found = f"aiosctl {of_aiosctl}, aios-sdk {of_sdk}, daemon {of_daemon}"
    if of_aiosctl == of_daemon:
        return Finding("install", OK, found)
    return Finding(
        "install",
        NOTE,
        f"{found}: they differ; after an upgrade restart the daemon ('systemctl restart aiosd')",
    )


def socket(path: str) -> Finding:
    """The socket's file: whether it is one, and to whom it is open."""
    try:
        status = Path(path).lstat()
    except FileNotFoundError:
        return Finding(
            "socket",
            PROBLEM,
            f"{path} does not exist; start a daemon with 'aiosd &' or 'systemctl start aiosd'",
        )
    except OSError as error:
        return Finding("socket", PROBLEM, f"{path}: {error.strerror}; join the group of its folder")
    if not stat.S_ISSOCK(status.st_mode):
        return Finding("socket", PROBLEM, f"{path} is no socket; remove it, or give --socket")
    mode = stat.S_IMODE(status.st_mode)
    owner, group = _user(status.st_uid), _group(status.st_gid)
    found = f"{path}, mode {mode:04o}, {owner}:{group}"
    if mode & stat.S_IWOTH:
        words = f"{found}: every user of this machine may connect; set socket_mode to 0660 or 0600"
        return Finding("socket", PROBLEM, words)
    who = f"{owner} and group {group}" if mode & stat.S_IWGRP else owner
    return Finding("socket", OK, f"{found}: open to {who}")


def rights(hello: Mapping[str, Any]) -> Finding:
    """What the daemon lets us do."""
    held = [str(right) for right in hello["rights"]]
    found = f"uid {hello['uid']} holds {', '.join(held) or 'nothing'}"
    missing = [right for right in ("llm", "context") if right not in held]
    if missing:
        words = f"{found}; without {', '.join(missing)} an agent can do little"
        return Finding("permissions", PROBLEM, f"{words}: ask an admin for it")
    return Finding("permissions", OK, found)


def memory(status: Mapping[str, Any], available_bytes: int, cgroup_bytes: int | None) -> Finding:
    """Whether what the daemon may still take is there."""
    snapshots = status["cores"][0]["snapshots"]
    rss = int(status["rss_bytes"])
    growth = sum(
        max(
            0, int(snapshots.get(f"{kind}_limit_bytes", 0)) - int(snapshots.get(f"{kind}_bytes", 0))
        )
        for kind in ("ram", "prefix")
    )
    found = (
        f"the daemon has {size(rss)}; parked contexts and prefixes may take {size(growth)} more, "
        f"{size(available_bytes)} are available"
    )
    advice = "lower --snapshot-ram (or --slots, --slot-tokens)"
    if growth > available_bytes:
        return Finding("memory", PROBLEM, f"{found}: {advice}")
    if cgroup_bytes is not None and rss + growth > cgroup_bytes:
        words = (
            f"{found}, but its cgroup ends at {size(cgroup_bytes)}: raise MemoryMax, or {advice}"
        )
        return Finding("memory", PROBLEM, words)
    return Finding("memory", OK, found)


def disk(status: Mapping[str, Any]) -> Finding:
    """Whether what the daemon may still write fits."""
    free = status.get("disk_free_bytes")
    if free is None:
        return Finding("disk", UNKNOWN, "this daemon doesn't tell how much is free")
    snapshots = status["cores"][0]["snapshots"]
    growth = max(0, int(snapshots.get("file_limit_bytes", 0)) - int(snapshots["file_bytes"]))
    found = f"{size(free)} free where the daemon keeps its state"
    if free < NEEDED_FREE_BYTES:
        words = f"{found}: nothing can be kept once it is full; free some space"
        return Finding("disk", PROBLEM, words)
    if growth > free:
        words = (
            f"{found}, snapshot files may take {size(growth)}: those that don't fit are read again"
        )
        return Finding("disk", NOTE, f"{words}; lower --snapshot-files")
    return Finding("disk", OK, found)


def confinement(status: Mapping[str, Any]) -> Finding:
    """What keeps tools and agents that the daemon starts in their bounds."""
    here = status.get("confinement")
    if here is None:
        return Finding("confinement", UNKNOWN, "this daemon doesn't tell what it confines with")
    abi = int(here["landlock_abi"])
    if abi == 0:
        words = "this kernel has no Landlock (5.13 or later, with `landlock` in its lsm= list)"
        return Finding("confinement", PROBLEM, f"{words}: tools and agents are not started")
    if not here["has_seccomp"]:
        words = "libseccomp is missing (apt install libseccomp2)"
        return Finding("confinement", PROBLEM, f"{words}: tools and agents are not started")
    found = (
        f"Landlock ABI {abi}, seccomp; bounds of memory: {here['memory']}, "
        f"of processes: {here['processes']}"
    )
    if abi < 6:
        words = "tools may signal other processes of the daemon's user (Landlock ABI 6 refuses it)"
        return Finding("confinement", NOTE, f"{found}; {words}")
    if here["why_not"]:
        words = "systemd's Delegate=memory pids (the drop-in tools.conf) lets it make groups"
        return Finding("confinement", NOTE, f"{found}; no cgroup: {here['why_not']}; {words}")
    return Finding("confinement", OK, found)


def model(info: Mapping[str, Any], slot_tokens: int) -> list[Finding]:
    """The loaded model: what it is for, how long it may think, if this CPU suits its weights."""
    name = info["name"]
    findings = []
    if info.get("has_chat_template") is False:
        words = f"{name} has no chat template: give a prompt, messages will be put together plainly"
        findings.append(Finding("model", NOTE, words))
    trained = info.get("n_ctx_train")
    if trained is not None and slot_tokens > trained:
        words = f"slots hold {slot_tokens} tokens, {name} was trained for {trained}"
        findings.append(
            Finding(
                "model", PROBLEM, f"{words}: what it says past that is noise; use --slot-tokens"
            )
        )
    if not findings:
        length = (
            "" if trained is None else f", trained for {trained} tokens, slots hold {slot_tokens}"
        )
        findings.append(Finding("model", OK, f"{name}{length}"))
    return [*findings, weights(info)]


def weights(info: Mapping[str, Any]) -> Finding:
    """Whether a batch of several lanes pays here."""
    kind = info.get("weights")
    if kind is None or "has_fast_kernels" not in info:
        return Finding("weights", UNKNOWN, "this daemon doesn't tell what kind they are of")
    found = f"{kind}, {size(info.get('bytes', 0))}"
    if info["has_fast_kernels"]:
        return Finding("weights", OK, found)
    return Finding(
        "weights",
        NOTE,
        f"{found}: this CPU has no fast kernels for them, reading takes about twice as long and "
        "many lanes gain little; 'llama-quantize --allow-requantize' makes Q8_0 of them",
    )


def available_memory() -> int | None:
    """What this machine could give to a process now; None where it doesn't tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def cgroup_limit(pid: int) -> int | None:
    """The memory limit of a process's cgroup (v2); None if there is none, or it can't be seen."""
    try:
        path = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("::")[2]
        return int(Path(f"/sys/fs/cgroup{path}/memory.max").read_text())
    except (OSError, ValueError):
        return None  # "max" is no number either


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
