"""The [storage] table: what agents may store, and how much history is kept of it."""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.settings import GIB, MIB, key


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Quotas are about current files; history is every earlier version, pruned oldest first."""

    agent_bytes: int = key(
        GIB,
        "Current files of one agent, unless it has a limit of its own; past it `quota_exceeded`.",
        low=0,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    agent_files: int = key(
        100_000,
        "Files and directories of one agent; past it `quota_exceeded`.",
        low=0,
        high=10**7,
        reloads=True,
    )
    uid_bytes: int = key(
        8 * GIB,
        "Files and history of all agents of one uid; past it `quota_exceeded`.",
        low=0,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    versions_per_file: int = key(
        100, "Versions kept of one file, the current one included.", low=1, high=10**6, reloads=True
    )
    history_bytes: int = key(
        512 * MIB,
        "Earlier versions of one agent's files, 512 bytes a version added; past it the oldest go.",
        low=0,
        high=1024**5,
        is_bytes=True,
        reloads=True,
    )
    history_s: int = key(
        30 * 86400,
        "How long an earlier version, or what was deleted, is kept at most.",
        low=1,
        high=10**10,
        reloads=True,
    )
    uploads_per_uid: int = key(
        64,
        "Files that one uid may be sending in parts at once; past it `busy`.",
        low=1,
        high=65536,
        reloads=True,
    )
    indexed_parts: int = key(
        50_000,
        "Parts of one agent's text files (of about 700 characters) that can be searched; files "
        "past it aren't.",
        low=0,
        high=10**7,
        reloads=True,
    )
    indexed_bytes: int = key(
        4 * MIB,
        "Text files up to this size can be searched; 0 searches none.",
        low=0,
        high=64 * MIB,
        is_bytes=True,
        reloads=True,
    )
