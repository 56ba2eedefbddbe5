"""Files between here and the daemon: in parts, with progress for people, and nothing half-written.

Rule 1: a local file appears by a rename when all of it has come, a remote one with its last part.
Rule 2: progress goes to stderr, only to a terminal, only for what takes a while.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from aiosctl import render

if TYPE_CHECKING:
    from aios_sdk.files import FileReader, FileWriter

PART_BYTES = 1024 * 1024
LONG_BYTES = 8 * PART_BYTES  # from there on a person would wonder

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress(what: str, n_bytes: int | None) -> Iterator[Advance]:
    """Call the result with the number of bytes of every part.  n_bytes None: nobody knows."""
    is_short = n_bytes is not None and n_bytes < LONG_BYTES
    if is_short or not render.is_terminal(sys.stderr):
        yield lambda _n: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(render.one_line(what), total=n_bytes)
        yield lambda n: shown.advance(task, n)


def send(source: BinaryIO, target: FileWriter, advance: Advance) -> None:
    """All of an open local file, and make it a version.  Whatever ends it early leaves no trace."""
    with target:
        while data := source.read(PART_BYTES):
            target.write(data)
            advance(len(data))


def receive(source: FileReader, write: Callable[[bytes], object], advance: Advance) -> None:
    """All of an open remote file."""
    while data := source.read(PART_BYTES):
        write(data)
        advance(len(data))


@contextlib.contextmanager
def local_source(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """A local file to read, '-' for standard input; and its size, if that is known."""
    if name == "-":
        if sys.stdin is None:
            raise click.UsageError("standard input is closed: there is nothing to store")
        yield sys.stdin.buffer, None
        return
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        yield file, os.fstat(descriptor).st_size or None


@contextlib.contextmanager
def local_target(path: Path, *, replaces: bool) -> Iterator[BinaryIO]:
    """A local file to write, seen at the end of the block; after an exception it isn't there."""
    if path.exists() and not replaces:
        raise click.UsageError(f"{path} is there already; --force replaces it")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # as any other new file
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
