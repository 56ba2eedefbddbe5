"""A daemon of one's own: private socket, private state, gone with the block that made it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

START_TIMEOUT_S = 120.0  # a cold disk and a busy machine; the model itself loads in a second
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
LOG_TAIL_LINES = 20

Flags = Mapping[str, str | int]
"""aiosd's command-line flags, without the dashes in front."""


class DaemonError(Exception):
    """The daemon ended, or never listened; str() says so and ends with the last of its log."""


class PrivateDaemon:
    """`with PrivateDaemon({"slots": 4}) as daemon:` serves at daemon.socket until the block ends.

    environ is the daemon's whole environment; None means this process's own.
    """

    def __init__(self, flags: Flags, environ: Mapping[str, str] | None = None) -> None:
        self._flags = dict(flags)
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._place = Path()

    @property
    def socket(self) -> str:
        return str(self._place / "aiosd.sock")

    def __enter__(self) -> PrivateDaemon:
        self._place = Path(tempfile.mkdtemp(prefix="aiosd-"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def log_tail(self) -> str:
        """The last lines of what the daemon said."""
        try:
            text = self._log_path.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])

    @property
    def _log_path(self) -> Path:
        return self._place / "aiosd.log"

    def _start(self) -> None:
        flags = {"socket": self.socket, "state-dir": str(self._place / "state"), **self._flags}
        command = [sys.executable, "-m", "aiosd"]
        for name, value in flags.items():
            command += [f"--{name}", str(value)]
        with self._log_path.open("wb") as log:
            # A session of its own: Ctrl-C is for us, and we end the daemon in good order.
            self._process = subprocess.Popen(
                command,
                env=None if self._environ is None else dict(self._environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            code = self._process.poll()
            if code is not None:
                raise DaemonError(f"aiosd ended with exit code {code}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                words = f"aiosd did not listen within {START_TIMEOUT_S:.0f} s"
                raise DaemonError(f"{words}:\n{self.log_tail()}")
            time.sleep(POLL_S)  # a socket's first listen can't be waited for in any other way

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
        return True

    def _stop(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._place, ignore_errors=True)
