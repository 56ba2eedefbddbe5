"""What the service manager is told: ready, status, reloading, stopping, and that work moves.

Rule 1: without a manager (no NOTIFY_SOCKET) everything here does nothing.
Rule 2: nothing here blocks or raises: a manager that doesn't read must not stop the daemon.
Rule 3: the watchdog is fed by progress, never by the loop alone: when steps moved since the look
before, or when there is no work.  A daemon that answers while its engine hangs is as good as dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

LOOK_S = 10.0  # how often the status is looked at; more often if the watchdog wants it
LOOKS_PER_WATCHDOG = 4  # so that a look that falls into a long step isn't the last one
MAX_STATUS = 512  # characters


class Notifier:
    """The manager's socket.  Source: sd_notify(3), sd_watchdog_enabled(3).

    Takes its variables out of the environment, so that tools don't speak in the daemon's name.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = address if address.startswith(("/", "@")) else ""
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_for_us = not pid or pid == str(os.getpid())
        self._watchdog_s = int(usec) / 1e6 if usec.isdecimal() and is_for_us else 0.0
        self._said = ""

    @property
    def has_manager(self) -> bool:
        return bool(self._address)

    @property
    def look_s(self) -> float:
        """How long to wait from one look at the progress to the next."""
        if not self._watchdog_s:
            return LOOK_S
        return min(LOOK_S, self._watchdog_s / LOOKS_PER_WATCHDOG)

    def loading(self, words: str) -> None:
        self._send(STATUS=words)

    def ready(self, words: str) -> None:
        """Serving; also the end of a reload."""
        self._said = words
        self._send(READY="1", STATUS=words)

    def status(self, words: str) -> None:
        """A line for `systemctl status`; sent if it is news."""
        if words != self._said:
            self._said = words
            self._send(STATUS=words)

    def reloading(self) -> None:
        self._send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self, words: str) -> None:
        self._send(STOPPING="1", STATUS=words)

    def moved(self) -> None:
        """Feed the watchdog."""
        if self._watchdog_s:
            self._send(WATCHDOG="1")

    def _send(self, **fields: str) -> None:
        if not self._address:
            return
        # A socket for each of these few messages: nothing to close, nothing to inherit.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "".join(f"{k}={' '.join(v.split())[:MAX_STATUS]}\n" for k, v in fields.items())
        with (
            contextlib.suppress(OSError),  # rule 2
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        ):
            sock.sendto(text.encode(), address)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the engine was doing when it was looked at.

    n_steps        steps done so far
    busy_since_ns  when the step or command under way began, 0 if there is none
    has_work       a Run is under way.  Jobs that wait for none of their own (paused, stalled,
                   held back by a limit) are no work: nothing has to move for them
    """

    n_steps: int
    busy_since_ns: int
    has_work: bool


def is_alive(before: Pulse, now: Pulse) -> bool:
    """Whether, since the look before, steps moved, or there was no work and nothing hung."""
    if now.n_steps != before.n_steps:
        return True
    hangs = now.busy_since_ns != 0 and now.busy_since_ns == before.busy_since_ns
    return not (now.has_work or hangs)
