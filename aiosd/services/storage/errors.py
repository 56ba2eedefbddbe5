"""What the disk refuses, as an error with a code that says what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from aios_sdk.errors import SyscallError, Unavailable

_WORDS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota of the daemon's user is used up; free some space",
    errno.EROFS: "it is on a read-only file system; what is there can be read",
    errno.EACCES: "the daemon's user may not write there",
    errno.EPERM: "the daemon's user may not do that there",
    errno.EIO: "the disk failed",
    errno.EMFILE: "too many files are open; try again",
    errno.ENFILE: "too many files are open; try again",
}


def refusal(error: OSError) -> SyscallError:
    """Unavailable: nothing of the act is kept, reads go on."""
    words = _WORDS.get(error.errno or 0, error.strerror or str(error))
    return Unavailable(f"the daemon's storage refused: {words}")


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """What the disk refuses in the block, as refusal() says it."""
    try:
        yield
    except OSError as error:
        raise refusal(error) from error
