"""The blocking client's connection: a socket, its calls, and whichever thread reads for them all.

Rule 1: no thread of its own.  Of the threads that wait, one reads and tells the others.
Rule 2: bytes leave through flush() only, which never waits for a lock: a garbage collection in
the middle of it may end a stream, whose cancel then joins the outbox and leaves a moment later.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from aios_sdk.calls import CONNECT_DELAYS_S, Call, Calls, hello_result, timed_out
from aios_sdk.dialing import dial
from aios_sdk.errors import NoDaemon
from aios_sdk.paths import descriptor_in
from aios_sdk.wire import WireError

READ_BYTES = 256 * 1024
LOOK_UP_S = 1.0
"""A signal that comes in the moment before a thread sleeps in the kernel doesn't wake it: its
handler (a Ctrl-C's cancel) runs when the thread looks up."""
SETTLE_S = 5.0  # to wait for a cancelled call on the same context; a step takes milliseconds


class Link:
    """One connection.  Once it is lost it stays lost; the client makes another."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.calls = Calls()
        self.hello: dict[str, object] = {}
        self.is_lost = False
        self.pid = os.getpid()
        self._sock = sock
        self._path = path
        self._is_given = descriptor_in(path) is not None
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._is_reading = False

    @staticmethod
    def open(path: str, hello: dict[str, object], timeout_s: float | None) -> Link:
        """Connect and say hello.  Raises ClientError, or what the daemon answers to the hello."""
        sock = dial(path)
        for delay_s in CONNECT_DELAYS_S:
            if sock is not None:
                break
            time.sleep(delay_s)
            sock = dial(path)
        if sock is None:
            raise NoDaemon(path, f"it took no connection in {sum(CONNECT_DELAYS_S):.0f} s")
        sock.setblocking(True)
        link = Link(sock, path)
        try:
            call = link.start("sys.hello", hello)
            link.wait(call, lambda: call.is_done, timeout_s)
            link.hello = hello_result(call, path)
        except BaseException:
            link.close("the hello failed")
            raise
        return link

    def start(self, method: str, params: dict[str, object], *, is_stream: bool = False) -> Call:
        """Send a request.  If the context it names is still busy with a call that was left, wait
        until the daemon has ended that one."""
        left_behind = self.calls.in_the_way(params)
        if left_behind is not None:
            self.wait(left_behind, lambda: self.calls.in_the_way(params) is None, SETTLE_S)
        call = self.calls.start(method, params, is_stream=is_stream)
        self.flush()
        if self.is_lost:
            self._fail("it was lost before")
        return call

    def cancel(self, call: Call) -> None:
        self.calls.cancel(call)
        self.flush()

    def abandon(self, call: Call) -> None:
        self.calls.abandon(call)
        self.flush()

    def flush(self) -> None:
        """Send what is in the outbox, unless another thread (or this one, further up) is at it."""
        if self.pid != os.getpid():
            return  # a forked child must not speak on its parent's connection
        outbox = self.calls.outbox
        while outbox and self._sending.acquire(blocking=False):
            try:
                while outbox:
                    data, call = outbox.popleft()
                    self._sock.sendall(data)
                    if call is not None:
                        call.is_sent = True
            except OSError:
                # What the daemon said before it hung up may still be in the socket: let the
                # reader find it, then the end.
                self._shut()
                outbox.clear()
            except BaseException:  # e.g. KeyboardInterrupt: half a frame may have left
                self._shut()
                raise
            finally:
                self._sending.release()

    def wait(self, call: Call, is_ready: Callable[[], bool], timeout_s: float | None) -> None:
        """Until is_ready(), reading the socket if no other thread does.

        Raises DeadlineExceeded after timeout_s; the call is then abandoned.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not is_ready():
                left_s = None if until is None else until - time.monotonic()
                if left_s is not None and left_s <= 0 and timeout_s is not None:
                    self.abandon(call)
                    raise timed_out(call, timeout_s)
                if self._is_reading:
                    self._changed.wait(left_s)
                    continue
                self._is_reading = True
                self._changed.release()
                try:
                    self._read(left_s)
                finally:
                    self._changed.acquire()
                    self._is_reading = False
                    self._changed.notify_all()

    def close(self, reason: str) -> None:
        """Calls under way end with ConnectionLost; the daemon ends them too."""
        if not self._is_given or self._is_reading:
            self._shut()
        # else: one that the daemon gave to our parent, a shell perhaps, is for who comes after us
        self._fail(reason)
        with self._changed:
            if not self._is_reading:  # else the reader, woken by the shutdown, closes it
                self._close()
            self._changed.notify_all()

    def _read(self, timeout_s: float | None) -> None:
        """What has come, or nothing after a while."""
        wait_s = LOOK_UP_S if timeout_s is None else min(timeout_s, LOOK_UP_S)
        try:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if not poll.poll(wait_s * 1000):
                return
            data = self._sock.recv(READ_BYTES)
            if data:
                self.calls.feed(data)
                self.flush()  # an overflowing stream is cancelled
            else:
                self._lose("it was closed by the daemon")
        except OSError as error:
            self._lose(error.strerror or str(error))
        except WireError as error:
            self._lose(f"what it sends is not the protocol: {error}")

    def _lose(self, reason: str) -> None:
        self._fail(reason)
        self._shut()
        self._close()

    def _close(self) -> None:
        with self._sending:  # a sender is woken by the shutdown; its descriptor must not go first
            self._sock.close()

    def _fail(self, reason: str) -> None:
        self.is_lost = True
        self.calls.fail(self._path, reason)

    def _shut(self) -> None:
        if self.pid == os.getpid():  # a shutdown in a forked child would end its parent's too
            with contextlib.suppress(OSError):  # closed already, or the daemon is gone
                self._sock.shutdown(socket.SHUT_RDWR)
