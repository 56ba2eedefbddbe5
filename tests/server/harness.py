"""A daemon on a real socket inside the test's process, on the fake model by default."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from aios_sdk import wire
from aiosd import config
from aiosd.engine.base import Model
from aiosd.engine.fake import FakeModel
from aiosd.server.daemon import Daemon
from aiosd.server.embedder import ModelEmbedder
from aiosd.server.notify import Notifier
from tests.server.peers import connect_as


@contextlib.contextmanager
def served(
    tmp_path: Path,
    model: Model | None = None,
    *,
    notifier: Notifier | None = None,
    embedder: ModelEmbedder | None = None,
    **flags: Any,
) -> Iterator[Daemon]:
    """A serving daemon; leaving the block stops it and checks that the kernel is sound."""
    tables = {name: flags.pop(name) for name in config.TABLES if name in flags}
    settings = config.load(
        None,
        {
            "socket": str(tmp_path / "s.sock"),
            "state_dir": str(tmp_path / "state"),
            "slots": 4,
            "slot_tokens": 256,
            **flags,
        },
    )
    settings = dataclasses.replace(settings, **tables)
    Path(settings.state_dir).mkdir(exist_ok=True)
    own = model or FakeModel(n_slots=settings.slots, slot_tokens=settings.slot_tokens)
    started = threading.Event()
    box: list[Daemon] = []
    errors: list[BaseException] = []

    async def run() -> None:
        daemon = await Daemon.open(settings, own, notifier, embedder)
        box.append(daemon)
        await daemon.serve(on_ready=started.set)

    def body() -> None:
        try:
            uvloop.run(run())
        except BaseException as error:
            errors.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=body, name="daemon")
    thread.start()
    try:
        assert started.wait(20)
        if errors:
            raise errors[0]
        yield box[0]
    finally:
        if thread.is_alive():
            box[0].loop.call_soon_threadsafe(box[0].stop)
        thread.join(20)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    box[0].driver.kernel.check()
    assert not box[0].driver.jobs


class RawPeer:
    """A client made of a socket and the codec: says exactly what a test wants said."""

    def __init__(
        self, path: str | socket.socket, agent: str | None = "raw", uid: int | None = None
    ) -> None:
        """path: of the daemon's socket, or a connection that there is already."""
        if isinstance(path, socket.socket):
            self.sock = path
        elif uid is None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(path)
        else:
            self.sock = connect_as(uid, path)
        self.sock.settimeout(10)
        self._decoder = wire.Decoder(wire.Limits())
        self._inbox: list[wire.Message] = []
        self._n = 1000
        if agent is not None:
            try:
                assert self.ask("sys.hello", protocol=1, agent=agent).error is None
            except BaseException:
                self.close()
                raise

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> wire.Message | None:
        """The next message, or None when the daemon has closed the connection."""
        while not self._inbox:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._inbox.extend(self._decoder.feed(data))
        return self._inbox.pop(0)

    def ask(self, method: str, **params: Any) -> wire.Response:
        """One request and its response; anything that comes between is an error."""
        self._n += 1
        self.send(wire.encode_request(self._n, method, params))
        message = self.receive()
        assert isinstance(message, wire.Response), message
        assert message.id == self._n
        return message

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
