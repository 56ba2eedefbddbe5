"""The figures over HTTP for Prometheus, by prometheus-client's WSGI application on the standard
library's server: on a loopback address or a Unix socket.

Rule: at most MAX_CLIENTS are served at once, each for IO_S at most; more are hung up on.  A scraper
that hangs holds a thread of here and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import Collector

from aiosd.server import listener
from aiosd.server.listener import ListenError

MAX_CLIENTS = 4
IO_S = 5.0
POLL_S = 0.1  # how long close() may wait for the accepting thread to look up


class _Handler(WSGIRequestHandler):
    """One request.  Nothing of it is logged: a scrape every few seconds says nothing new."""

    timeout = IO_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each of a few clients; closing it doesn't wait for them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: Any) -> None:
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # The socket's own timeout is for each read: a byte now and then would hold the thread.
        end = threading.Timer(IO_S, _hang_up, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client hung up, or was too slow: its own concern


class _Server6(_Server):
    address_family = socket.AF_INET6


class _UnixServer(_Server):
    """On a socket that is there and listens already."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def server_activate(self) -> None:
        pass

    def get_request(self) -> tuple[Any, Any]:
        request, _ = self.socket.accept()
        request.settimeout(IO_S)
        return request, ("unix", 0)  # where the library expects a host and a port


class ScrapeServer:
    """Serves the collector's figures from construction until close()."""

    def __init__(
        self, address: tuple[str, int] | Path, collector: Collector, socket_mode: int
    ) -> None:
        """Raises ListenError, which says why it can't serve there."""
        self._path: tuple[Path, int] | None = None
        if isinstance(address, Path):
            sock, inode = listener.listen(address, socket_mode)
            sock.setblocking(True)
            self._path = (address, inode)
            self._server: _Server = _UnixServer(os.fspath(address))
            self._server.socket.close()
            self._server.socket = sock
        else:
            make = _Server6 if ":" in address[0] else _Server
            try:
                self._server = make(address)
            except OSError as error:
                raise ListenError(
                    f"can't serve metrics on {address[0]} port {address[1]}: "
                    f"{error.strerror or error}; choose another metrics.listen"
                ) from error
        self._server.set_app(_patient(make_wsgi_app(collector)))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use, where the one asked for was 0."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(IO_S)
        self._server.server_close()
        if self._path is not None:
            listener.unlink_own(*self._path)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        request.shutdown(socket.SHUT_RDWR)


def _patient(application: Any) -> Any:
    """The application, but for the moments in which the daemon can't tell its figures."""

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        try:
            return application(environ, start_response)
        except (TimeoutError, RuntimeError):  # it goes down, or doesn't come to it
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"aiosd can't tell its figures now\n"]

    return serve
