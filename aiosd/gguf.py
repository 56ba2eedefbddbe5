"""Reads the head of a GGUF file: what kind of model it is, without loading it.

Rule 1: nothing in the file is believed: every length is checked against the file's size.
Rule 2: arrays (vocabularies of megabytes) are skipped, only their length is kept.

Source: ggml/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
from pathlib import Path

MAGIC = b"GGUF"
MAX_KEYS = 65536  # llama.cpp's own files have under a hundred
_SAMPLES = 64
_SAMPLE_BYTES = 65536

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"} | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str
Head = dict[str, Value]
"""Metadata by key.  An array stands as its length."""


class ModelFileError(Exception):
    """The file isn't a model that can be read; str() says why, with its path."""


def check_is_gguf(path: Path) -> None:
    """ModelFileError: missing, a directory, not readable, empty, or something else altogether."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"{path} is a directory, not a model file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise ModelFileError(f"{path} is not a regular file")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist") from None
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}") from None
    if magic != MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file: it begins with {magic!r}")


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._pos = len(MAGIC)

    def take(self, n_bytes: int) -> int:
        """Step over that many bytes and say where they begin."""
        begin = self._pos
        if n_bytes > len(self._data) - begin:
            raise ModelFileError(
                f"{self._path} is cut short: {n_bytes} bytes wanted at {begin}, "
                f"the file has {len(self._data)}"
            )
        self._pos = begin + n_bytes
        return begin

    def scalar(self, layout: str) -> Value:
        value: Value = struct.unpack_from(layout, self._data, self.take(struct.calcsize(layout)))[0]
        return value

    def count(self) -> int:
        return int(self.scalar("<Q"))

    def string(self) -> str:
        n_bytes = self.count()
        begin = self.take(n_bytes)
        return self._data[begin : begin + n_bytes].decode("utf-8", "replace")

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self.scalar(self._layout(kind))

    def _array(self) -> int:
        kind, n_items = int(self.scalar("<I")), self.count()
        if kind == _STRING:
            for _ in range(n_items):  # bounded: each takes 8 bytes of the file at least
                self.take(self.count())
        else:
            self.take(n_items * struct.calcsize(self._layout(kind)))
        return n_items

    def _layout(self, kind: int) -> str:
        layout = _SCALARS.get(kind)
        if layout is None:
            raise ModelFileError(f"{self._path} holds a value of unknown type {kind}")
        return layout


def read_head(path: Path) -> Head:
    """All metadata of the file."""
    check_is_gguf(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(path, data)
        version = int(reader.scalar("<I"))
        if version not in (2, 3):
            raise ModelFileError(f"{path} is GGUF version {version}, known are 2 and 3")
        reader.count()  # tensors
        n_keys = reader.count()
        if n_keys > MAX_KEYS:
            raise ModelFileError(f"{path} has {n_keys} metadata keys, limit is {MAX_KEYS}")
        head: Head = {}
        for _ in range(n_keys):
            key = reader.string()
            head[key] = reader.value(int(reader.scalar("<I")))
        return head


def is_bidirectional(path: Path) -> bool:
    """Whether attention looks ahead: an embedding model, which can't generate."""
    head = read_head(path)
    return head.get(f"{head.get('general.architecture')}.attention.causal") is False


def content_digest(path: Path) -> str:
    """Tells two model files apart in milliseconds: size and 64 samples spread over the file.

    Not a checksum: a flipped bit between samples goes unnoticed.  Other weights never do.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(max(0, (size - _SAMPLE_BYTES) * i // (_SAMPLES - 1)), os.SEEK_SET)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def digest_of(text: str) -> str:
    """32 hex digits, for fingerprints."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
